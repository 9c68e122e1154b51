"""Routers that join, leave, die and are cut off, on a real store: nothing durable is lost.

Inputs: a stream of numbered QoS 1 and QoS 2 messages through one edge, for a durable session that
belongs to another. Observed: the session's queue in the store. All is real but the insides of the
two edges. QoS 0, and clients without durable sessions: test_order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from support.fake_link import FakeOrigin, until
from support.faulting_proxy import FaultingProxy, Upstream
from support.linked import IMPATIENT, WiredEdge, WiredRouter, Wires
from support.store_server import StoreServer, programs
from support.tools import missing
from tidegate.link.interfaces import AttachSession
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AppendReply
from tidegate.store.redis_store import RedisStore

TOPICS = [f"site/{number}" for number in range(8)]
STEP = 25
LIMITS = LimitsConfig(max_queued_messages=100_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    running = StoreServer(program, tmp_path_factory.mktemp("s"), "--appendfsync", "no")
    running.start()
    yield running
    running.stop()


class Origin(FakeOrigin):
    """Publishes on one topic; each message is an exchange of its own."""

    def receipt(self, message: Publish) -> int:
        """No receipts: this publisher's session is not in the store."""
        return -1


class Node:
    """A router with its store, on a place of its own; each start is another instance of it."""

    def __init__(self, harness: Harness, name: str) -> None:
        self.harness = harness
        self.name = name
        self.wired: WiredRouter | None = None
        self._all: list[tuple[Router, RedisStore]] = []
        #: Cleared: what is to be queued does not get to the store.
        self.may_append = asyncio.Event()
        self.may_append.set()
        self.held_back = 0

    async def start(self) -> None:
        """Begin an instance."""
        store = await RedisStore.connect(
            url=self.harness.server.url, limits=LIMITS, store=StoreConfig()
        )
        self._slow_down(store)
        router = Router(
            store,
            LIMITS,
            FeaturesConfig(),
            Counters(),
            self.harness.now_ms,
            alone=False,
            name=self.name,
            on_fenced=self._fenced,
        )
        await router.start()
        self._all.append((router, store))
        self.wired = await self.harness.wires.router(
            self.name, router, listen=self.harness.listens.get(self.name, "127.0.0.1:0")
        )
        self.harness.listens[self.name] = self.wired.address

    def _slow_down(self, store: RedisStore) -> None:
        append = store.append

        async def slow(appends: Sequence[Append], now_ms: int = 0) -> AppendReply:
            self.held_back += not self.may_append.is_set()
            await self.may_append.wait()
            return await append(appends, now_ms)

        store.append = slow  # type: ignore[method-assign]  # the test holds it back

    def _fenced(self) -> None:
        if self.wired is not None:
            self.wired.link_server.fenced()

    async def leave(self) -> None:
        """End as one that is told to."""
        assert self.wired is not None
        await self.wired.leave()
        self.wired = None

    async def lose_its_edges(self) -> None:
        """End for the edges; the router itself goes on with what it was sent."""
        assert self.wired is not None
        await self.wired.stop()
        self.wired = None

    async def end(self) -> None:
        """End every instance."""
        self.may_append.set()
        if self.wired is not None:
            await self.wired.stop()
        for router, store in self._all:
            await router.stop()
            await store.close()


class Harness:
    """Three routers, two edges, one durable session, one stream of messages."""

    def __init__(self, wires: Wires, server: StoreServer) -> None:
        self.wires = wires
        self.server = server
        self.listens: dict[str, str] = {}
        self.nodes = {name: Node(self, name) for name in ("r1", "r2", "r3")}
        self.proxies: dict[str, FaultingProxy] = {}
        self.edges: list[WiredEdge] = []
        self.numbers = dict.fromkeys(TOPICS, 0)
        self.origins = {topic: Origin(f"publisher of {topic}") for topic in TOPICS}
        self.incarnation = 0
        self.publishing: asyncio.Task[None] | None = None

    def now_ms(self) -> int:
        """The clock of all routers."""
        return 1_700_000_000_000 + int(asyncio.get_running_loop().time() * 1000)

    async def begin(self) -> None:
        """Start the first two routers, both edges, the session."""
        self.server.command("FLUSHALL")
        for name in self.nodes:
            proxy = self.proxies[name] = FaultingProxy(self._upstream(name))
            await proxy.start()
        for name in ("r1", "r2"):
            await self.nodes[name].start()
        places = [proxy.address for proxy in self.proxies.values()]
        publisher = await self.wires.edge(*places, **IMPATIENT)
        # The subscriber's edge sees no faults.
        subscriber = await self.wires.edge(*self.listens.values())
        self.edges = [publisher, subscriber]
        for edge in self.edges:
            await edge.uses("r1", "r2")
        edge_id = subscriber.edge.edge_id
        session = await subscriber.router_client.attach(edge_id, AttachSession("sub", False, 3600))
        self.incarnation = session.incarnation
        await subscriber.router_client.subscribe(
            edge_id,
            "sub",
            session.epoch,
            session.incarnation,
            [(topic, SubscriptionOptions(2)) for topic in TOPICS],
        )

    def _upstream(self, name: str) -> Upstream:
        def place() -> tuple[str, int] | None:
            address = self.listens.get(name)
            if address is None:
                return None
            host, _, port = address.rpartition(":")
            return host, int(port)

        return place

    def publish(self, topic: str) -> None:
        """Publish the next number on a topic."""
        number = self.numbers[topic]
        self.numbers[topic] = number + 1
        qos = 1 + TOPICS.index(topic) % 2
        message = Publish(topic, b"%d" % number, qos, packet_id=number + 1)
        self.edges[0].router_client.publish(self.origins[topic], message)

    def go(self) -> None:
        """Begin to publish without pause, as long as nobody holds it."""
        self.publishing = asyncio.create_task(self._run())

    async def _run(self) -> None:
        holding = self.edges[0].holding
        while True:
            for topic in TOPICS:
                while holding[-1:] == [True]:
                    await asyncio.sleep(0.001)
                self.publish(topic)
            await asyncio.sleep(0.002)

    async def go_on(self) -> None:
        """Return when more has been published."""
        before = self.numbers[TOPICS[-1]]
        await until(lambda: self.numbers[TOPICS[-1]] >= before + STEP, "publishing goes on")

    async def notices_the_loss_of(self, name: str) -> None:
        """Return when the publisher's edge does not reach a router any more."""
        await until(lambda: name not in self.edges[0].open_to(), f"the loss of {name} is noticed")

    async def all_are_answered(self) -> None:
        """Stop publishing; return when every message has its answer, which is a success."""
        if self.publishing is not None:
            self.publishing.cancel()
            await asyncio.gather(self.publishing, return_exceptions=True)
        await until(
            lambda: all(
                len(self.origins[topic].answers) == self.numbers[topic] for topic in TOPICS
            ),
            "all are answered",
        )
        for origin in self.origins.values():
            assert {code for _, code in origin.answers} <= {0}

    async def queued(self) -> dict[str, list[int]]:
        """What is in the session's queue, by topic, in its order."""
        found: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        after = 0
        while True:
            page = await self.edges[1].router_client.fetch(
                "sub", 0, self.incarnation, after, 500, 1_000_000
            )
            if not page:
                return found
            for seq, message in page:
                assert seq > after
                after = seq
                found[message.topic].append(int(message.payload))

    async def check(self, *, once: bool) -> None:
        """Everything that was acknowledged is there, in order; QoS 2 (and all, if so said) once."""
        await self.all_are_answered()
        for topic, numbers in (await self.queued()).items():
            firsts = list(dict.fromkeys(numbers))
            assert firsts == list(range(self.numbers[topic])), topic
            if once or TOPICS.index(topic) % 2:
                twice = [number for number, count in Counter(numbers).items() if count > 1]
                assert not twice, topic

    async def end(self) -> None:
        """End everything."""
        if self.publishing is not None:
            self.publishing.cancel()
            await asyncio.gather(self.publishing, return_exceptions=True)
        for edge in self.edges:
            await edge.stop()
        for node in self.nodes.values():
            await node.end()
        for proxy in self.proxies.values():
            await proxy.stop()


@pytest.fixture
async def harness(
    wires: Wires, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    monkeypatch.setattr("tidegate.link.edge_end.router_membership.RECONNECT_GRACE_S", 0.1)
    made = Harness(wires, server)
    try:
        await made.begin()
        yield made
    finally:
        await made.end()


async def test_planned_changes_of_routers_leave_each_message_once_in_order(
    harness: Harness,
) -> None:
    publisher = harness.edges[0]
    harness.go()
    await harness.go_on()
    await harness.nodes["r3"].start()
    harness.edges[1].look_at(*harness.listens.values())
    await publisher.uses("r1", "r2", "r3")
    await harness.go_on()
    for name in ("r1", "r2"):
        await harness.nodes[name].leave()
        await harness.go_on()
        await harness.nodes[name].start()
        await publisher.uses("r1", "r2", "r3")
        await harness.go_on()
    await harness.check(once=True)


async def test_a_router_that_was_given_up_queues_nothing_more(harness: Harness) -> None:
    # It has what the edge sent it, and is only slow: the store must refuse it (fence before move).
    node, publisher = harness.nodes["r2"], harness.edges[0]
    node.may_append.clear()
    for _ in range(5):
        for topic in TOPICS:
            harness.publish(topic)
    find_owner = publisher.router_client.routers.owner
    moved = [
        topic for topic in TOPICS if (peer := find_owner(topic)) is not None and peer.name == "r2"
    ]
    assert moved
    await until(
        lambda: (
            node.held_back
            and all(harness.origins[topic].answers for topic in set(TOPICS) - set(moved))
        ),
        "only what r2 has is not answered",
    )
    await node.lose_its_edges()
    await publisher.uses("r1")
    for topic in TOPICS:
        harness.publish(topic)
    await harness.all_are_answered()
    router, _ = node._all[0]
    old = router.instance
    node.may_append.set()
    await until(lambda: router.instance != old, "it finds out, and begins a new instance")
    await harness.check(once=True)


async def test_an_edge_cut_off_from_one_router_goes_on_in_order_through_another(
    harness: Harness,
) -> None:
    publisher = harness.edges[0]
    harness.go()
    await harness.go_on()
    for name, fault in (("r2", "cut"), ("r1", "blackhole")):
        proxy = harness.proxies[name]
        getattr(proxy, fault)()
        (other,) = {"r1", "r2"} - {name}
        await publisher.uses(other)
        await harness.go_on()
        proxy.heal()
        await publisher.uses("r1", "r2")
        await harness.go_on()
    await harness.check(once=False)


async def test_a_new_instance_of_a_router_does_not_repeat_what_the_old_one_did(
    harness: Harness,
) -> None:
    harness.go()
    await harness.go_on()
    for name in ("r1", "r2"):
        await harness.nodes[name].lose_its_edges()
        await harness.nodes[name].start()
        await harness.edges[0].uses("r1", "r2")
        await harness.go_on()
    await harness.check(once=False)


async def test_all_routers_gone_and_back_lose_nothing(harness: Harness) -> None:
    harness.go()
    await harness.go_on()
    for name in ("r1", "r2"):
        await harness.nodes[name].lose_its_edges()
    await until(lambda: harness.edges[0].holding[-1:] == [True], "publishers wait")
    for name in ("r2", "r1"):
        await harness.nodes[name].start()
    await harness.edges[0].uses("r1", "r2")
    await harness.go_on()
    await harness.check(once=False)


async def test_any_sequence_of_faults_loses_nothing(harness: Harness) -> None:
    seed = random.randrange(1_000_000)
    chosen = random.Random(seed)
    publisher = harness.edges[0]
    harness.go()
    story: list[str] = []
    try:
        for _ in range(6):
            await harness.go_on()
            name = chosen.choice(["r1", "r2"])
            fault = chosen.choice(["leave", "lose", "cut", "blackhole", "flap"])
            story.append(f"{fault} {name}")
            node, proxy = harness.nodes[name], harness.proxies[name]
            if fault == "leave":
                await node.leave()
                await node.start()
            elif fault == "lose":
                await node.lose_its_edges()
                await node.start()
            else:
                proxy.blackhole() if fault == "blackhole" else proxy.cut()
                if fault != "flap":
                    await harness.notices_the_loss_of(name)
                proxy.heal()
            if chosen.random() < 0.5:
                await publisher.uses("r1", "r2")
        await publisher.uses("r1", "r2")
        await harness.check(once=False)
    except BaseException:
        print(f"seed {seed}: {', '.join(story)}")
        raise
