"""A load on a cluster with its history and its judgement: what the tests of data safety share."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

from support.history import History, Kind
from support.history_check import Checker, Snapshot, Violation
from support.load import Publisher, Subscriber, come_and_go
from support.mqtt_bytes import V5, V311
from support.session_client import ChooseEdge, Patience, SessionClient
from support.waiting import wait_for_async

T = TypeVar("T")
P = TypeVar("P", bound=Publisher)

START_DEADLINE_S: Final = 20.0
#: From the healing of the last fault until everything has arrived.
SETTLE_DEADLINE_S: Final = 45.0
#: Stories of each kind of violation.
_SHOWN: Final = 2


class Edge(Protocol):
    """Where clients connect."""

    @property
    def mqtt(self) -> tuple[str, int]:
        """Host and port."""


class Target(Protocol):
    """What a load is put on: a cluster of processes, or one behind the address of a Service."""

    @property
    def edges(self) -> Sequence[Edge]:
        """Where clients may go."""

    def keep_logs(self) -> Path:
        """Keep what there is for whoever looks into a failure; where that is."""


class ClusterLoad:
    """Clients on a cluster. Use it as ``async with``; their tasks end with it."""

    def __init__(
        self,
        cluster: Target,
        seed: int,
        announced: Snapshot | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.cluster = cluster
        self.seed = seed
        self.chance = random.Random(seed)
        self.history = History()
        self.checker = Checker(self.history.events, announced)
        self.patience = patience
        #: Whoever is added from now on connects with TLS.
        self.tls: ssl.SSLContext | None = None
        #: Whether edges may vanish with their machines: old connections to these stay open.
        self.loses_machines = False
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self._running: list[asyncio.Task[None]] = []
        self._wandering: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._wandering, *self._publishing, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- clients ------------------------------------------------------------------------------

    def any_edge(self) -> tuple[str, int]:
        """Where a client goes that knows of all edges."""
        return self.chance.choice(self.cluster.edges).mqtt

    def publisher(
        self,
        name: str,
        topics: dict[str, int],
        *,
        rate: float = 20.0,
        version: int = V5,
        edge: ChooseEdge | None = None,
        **more: Any,
    ) -> Publisher:
        """Add a publisher; it connects at once and publishes when told."""
        more = {"patience": self.patience} | more
        made = Publisher(
            name,
            version,
            edge or self.any_edge,
            self.history,
            self.own_chance(),
            topics=topics,
            rate=rate,
            **more,
        )
        return self.add_publisher(made)

    def add_publisher(self, made: P) -> P:
        """Take care of a publisher of any kind."""
        self.publishers.append(made)
        self._run(made)
        return made

    def subscriber(
        self,
        name: str,
        filters: dict[str, int],
        *,
        version: int = V5,
        edge: ChooseEdge | None = None,
        wanders: bool = False,
        **more: Any,
    ) -> Subscriber:
        """Add a durable subscriber; one that ``wanders`` comes and goes once it has subscribed."""
        more = {"patience": self.patience} | more
        chance = self.own_chance()
        made = Subscriber(
            name, version, edge or self.any_edge, self.history, chance, filters=filters, **more
        )
        self.subscribers.append(made)
        self._run(made)
        if wanders:

            async def wander() -> None:
                await made.subscribed.wait()
                await come_and_go(made, chance)

            self.wander(wander())
        return made

    def mixed_load(self, *, rate: float = 15.0, suffix: str = "") -> None:
        """Add publishers and subscribers of both versions and both qualities of service.

        Half of the subscribers come and go; one answers late, one has a small Receive Maximum. A
        ``suffix`` keeps names and topics apart from those of another load on the same cluster.
        """
        root = f"load{suffix}"
        for index, version in enumerate((V5, V311, V5, V311)):
            name = f"pub-{index}{suffix}"
            topics = {f"{root}/{name}/one": 1, f"{root}/{name}/two": 2}
            self.publisher(name, topics, rate=rate, version=version)
        for index, version in enumerate((V5, V311)):
            own = f"{index}{suffix}"
            self.subscriber(f"stay-two-{own}", {f"{root}/#": 2}, version=version)
            self.subscriber(f"move-two-{own}", {f"{root}/#": 2}, version=version, wanders=True)
            self.subscriber(f"move-one-{own}", {f"{root}/+/one": 1}, version=version, wanders=True)
        self.subscriber(f"stay-late{suffix}", {f"{root}/pub-0{suffix}/+": 2}, answer_delay_s=0.05)
        both = {f"{root}/+/one": 1, f"{root}/+/two": 1}
        self.subscriber(f"stay-narrow{suffix}", both, receive_maximum=3)

    def wander(self, course: Coroutine[Any, Any, None]) -> None:
        """Let somebody come and go until the load settles."""
        self._wandering.append(asyncio.create_task(course))

    def own_chance(self) -> random.Random:
        return random.Random(self.chance.random())

    def _run(self, client: SessionClient) -> None:
        client.tls = self.tls
        self._running.append(asyncio.create_task(client.run()))

    # --- course -------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Wait until everybody has subscribed, then start publishing."""
        for subscriber in self.subscribers:
            await _within(START_DEADLINE_S, subscriber.subscribed.wait(), subscriber.client_id)
        for publisher in self.publishers:
            self._publishing.append(asyncio.create_task(publisher.publish_steadily()))

    async def still_publishing(self, count: int = 50, deadline_s: float = 20.0) -> None:
        """Wait until ``count`` more messages have been acknowledged."""
        wanted = self.checker.acknowledged_count() + count
        await wait_for_async(
            lambda: self.checker.acknowledged_count() >= wanted,
            deadline_s,
            f"{count} more acknowledged messages",
        )

    async def settle(self, deadline_s: float = SETTLE_DEADLINE_S) -> float:
        """Stop publishing, bring everybody back, and wait until all has arrived; seconds taken."""
        started = time.monotonic()
        for publisher in self.publishers:
            publisher.ended = True
        for task in self._wandering:
            task.cancel()
        await asyncio.gather(*self._wandering, return_exceptions=True)
        for client in self.clients:
            client.wanted.set()
        end = started + deadline_s
        pause_s = 0.05
        while time.monotonic() < end:
            for client in self.clients:  # one may have been about to leave
                client.wanted.set()
            if not self._open_exchanges() and not self.checker.missing() and not self._strays():
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 1.0)
        return time.monotonic() - started

    @property
    def clients(self) -> Sequence[SessionClient]:
        """Everybody."""
        return [*self.publishers, *self.subscribers]

    def _open_exchanges(self) -> list[str]:
        return [
            f"{publisher.client_id}: {len(publisher.open)} exchanges are not complete"
            for publisher in self.publishers
            if publisher.open
        ]

    def _strays(self) -> list[str]:
        """Connections that a newer one of the same client has replaced, still open."""
        if self.loses_machines:
            return []  # nobody ends a connection to a machine that is gone
        return [
            f"{client.client_id}: connection {wire.number} is still open, the session"
            f" is on {client.current.number if client.current else 'none'}"
            for client in self.clients
            for wire in client.wires
            if wire is not client.current
        ]

    # --- judgement ----------------------------------------------------------------------------

    def judge(self, logs: Path | None = None) -> None:
        """Fail with the story of the first violations, the seed, and where everything is kept."""
        problems: list[Violation] = [*self.checker.violations(), *self.checker.missing()]
        others = [*self._open_exchanges(), *self._strays()]
        if not problems and not others:
            return
        kept = logs or self.cluster.keep_logs()
        self.history.save(kept / "history.jsonl")
        lines = [f"TIDEGATE_SEED={self.seed}; history and logs are in {kept}", *others]
        lines.append(f"violations: {dict(Counter(problem.rule for problem in problems))}")
        told: Counter[str] = Counter()
        for problem in problems:
            told[problem.rule] += 1
            if told[problem.rule] <= _SHOWN:
                lines += ["", str(problem), self.history.story(problem.key, problem.client)]
        raise AssertionError("\n".join(lines))

    def summary(self) -> str:
        """What happened, in one line."""
        history = self.history
        return (
            f"{self.checker.acknowledged_count()} messages acknowledged, "
            f"{history.count(Kind.RECEIVED)} received, "
            f"{history.count(Kind.CONNECTED)} connections, {history.count(Kind.FAULT)} faults,"
            f" {self.checker.repeated_count} QoS 1 copies too many, seed {self.seed}"
        )


async def _within(seconds: float, awaitable: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


async def repeat(work: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> None:
    """Do something again and again until cancelled."""
    while True:
        await work()
        await asyncio.sleep(pause_s)
