"""A load at the address of a Service, with the history and the judgement of the cluster's tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.cluster_load import ClusterLoad
from support.history import Event, Key, Kind
from support.history_check import Snapshot
from support.kube.node_product import CLIENT_PORT, Broker, ends_of_containers
from support.session_client import Patience

T = TypeVar("T")
ANNOUNCED = Snapshot(repeats=True)
#: Sessions of an earlier load are still there.
_number = itertools.count(1)


@dataclass(slots=True, frozen=True)
class ServiceAddress:
    """The one address behind which all edges are."""

    mqtt: tuple[str, int]


class ServiceTarget:
    """Clients of a broker that only know its address."""

    def __init__(self, broker: Broker, address: str, logs: Path) -> None:
        self._broker = broker
        self._place = ServiceAddress((address, CLIENT_PORT))
        self._logs = logs

    @property
    def edges(self) -> Sequence[ServiceAddress]:
        """The one place that there is."""
        return [self._place]

    def keep_logs(self) -> Path:
        """Keep the logs of all pods."""
        self._broker.keep_logs(self._logs)
        return self._logs


@contextlib.asynccontextmanager
async def under_load(
    broker: Broker,
    seed: int,
    logs: Path,
    *,
    rate: float = 15.0,
    are_killed: bool = False,
) -> AsyncIterator[ClusterLoad]:
    """Put a load on the broker over TLS; at the end everything must have arrived, in order.

    ``are_killed``: containers may end anyhow, as on a node that is switched off.
    """
    target = ServiceTarget(broker, await away(broker.address), logs)
    # A machine that runs a whole cluster answers late now and then.
    patience = Patience(connack_s=5.0, silence_s=6.0)
    load = ClusterLoad(target, seed, ANNOUNCED, patience)
    load.loses_machines = are_killed
    async with contextlib.AsyncExitStack() as stack:
        codes = stack.enter_context(ends_of_containers(broker))
        await stack.enter_async_context(load)
        load.tls = await away(broker.client_tls)
        load.mixed_load(rate=rate, suffix=f"-{next(_number)}")
        await load.begin()
        await load.still_publishing()
        yield load
        await load.still_publishing()
        settled_s = await load.settle()
        print(
            f"{load.summary()}; settled in {settled_s:.1f} s; "
            f"the longest wait for an answer was {longest_wait_s(load):.1f} s"
        )
        load.judge()
        ended = await away(codes)
        assert are_killed or not any(ended.values()), f"containers that did not end well: {ended}"


async def away(work: Callable[..., T], *arguments: Any) -> T:
    """Do something that blocks while the clients go on."""
    return await asyncio.to_thread(work, *arguments)


def longest_wait_s(load: ClusterLoad) -> float:
    """Return the seconds from the first PUBLISH of a message to its answer, at worst."""
    sent: dict[Key, float] = {}
    longest = 0.0
    for event in load.history.of(Kind.SENT, Kind.ANSWERED):
        assert event.key is not None
        began = sent.setdefault(event.key, event.at)
        if event.kind is Kind.ANSWERED:
            longest = max(longest, event.at - began)
    return longest


def lost_connections(load: ClusterLoad, since: float) -> list[Event]:
    """Return the ends of connections, from a time on, that the client did not want."""
    own = {"left", "left with DISCONNECT", "the test is over"}
    return [
        event
        for event in load.history.of(Kind.ENDED)
        if event.at > since and event.note not in own and not _was_taken_over(event)
    ]


def _was_taken_over(event: Event) -> bool:
    """Whether the client itself has opened a newer connection (0x8E, or 3.1.1's plain end)."""
    return event.client.startswith("move-")
