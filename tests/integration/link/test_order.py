"""Routers that join, leave and die under a stream of numbered messages: none lost, in order (G4).

Inputs: two edges, of which one publishes without pause; routers that come and go. Observed: what
reaches the other edge. Here routers are fakes, and clients have no durable sessions; what durable
sessions are promised, on a real store: test_order_durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.fake_link import FakeOrigin, until
from support.linked import WiredEdge, WiredRouter, Wires
from tidegate.mqtt.packets import Publish

TOPICS = [f"site/{number}" for number in range(12)]
#: Messages on each topic between two events.
STEP = 40


class Stream:
    """Publishes numbers on all topics, each topic with one QoS, as long as nobody holds it."""

    def __init__(self, edge: WiredEdge) -> None:
        self.edge = edge
        self.origin = FakeOrigin()
        self.numbers = dict.fromkeys(TOPICS, 0)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            for place, topic in enumerate(TOPICS):
                while self.edge.holding[-1:] == [True]:
                    await asyncio.sleep(0.001)
                number = self.numbers[topic]
                self.numbers[topic] = number + 1
                message = Publish(topic, b"%d" % number, place % 2)
                self.edge.router_client.publish(self.origin, message)
            await asyncio.sleep(0.001)

    async def go_on(self) -> None:
        """Return when more has been published on every topic."""
        before = self.numbers[TOPICS[-1]]
        await until(lambda: self.numbers[TOPICS[-1]] >= before + STEP, "publishing goes on")

    async def end(self) -> None:
        """Stop publishing; return when all is answered."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        with_answer = sum(self.numbers[topic] for topic in TOPICS[1::2])
        await until(lambda: len(self.origin.answers) >= with_answer, "all are answered")


def _arrived(edge: WiredEdge, topic: str) -> list[int]:
    return [int(one.payload) for one in edge.fake.delivered if one.topic == topic]


class Harness:
    """Edges that know the places of three routers, of which r1 is there."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.routers: dict[str, WiredRouter] = {}
        self.edges: list[WiredEdge] = []

    async def begin(self) -> None:
        """Start the first router and both edges; the second subscribes to everything."""
        await self.router("r1")
        places = [self.wires.place(name) for name in ("r1", "r2", "r3")]
        self.edges = [await self.wires.edge(*places) for _ in range(2)]
        await self.use("r1")
        subscriber = self.edges[1]
        for topic in TOPICS:
            subscriber.router_client.add_interest(subscriber.edge.edge_id, [topic])
        await subscriber.router_client.interest_synced()
        self.stream = Stream(self.edges[0])
        await self.stream.go_on()

    async def router(self, name: str) -> None:
        """Start a router."""
        self.routers[name] = await self.wires.router(name)

    async def use(self, *names: str) -> None:
        """Wait until both edges use these."""
        for edge in self.edges:
            await edge.uses(*names)

    async def all_has_come(self) -> None:
        """End the stream; every message arrives once, in order, or the test fails."""
        await self.stream.end()
        numbers, subscriber = self.stream.numbers, self.edges[1]
        await until(lambda: len(subscriber.fake.delivered) >= sum(numbers.values()), "all has come")
        for topic in TOPICS:
            assert _arrived(subscriber, topic) == list(range(numbers[topic])), topic
        for edge in self.edges:
            assert not any(edge.counters.dropped.values())


@pytest.fixture
async def harness(wires: Wires) -> AsyncIterator[Harness]:
    made = Harness(wires)
    await made.begin()
    yield made
    made.stream.task.cancel()
    await asyncio.gather(made.stream.task, return_exceptions=True)


async def test_nothing_is_lost_or_reordered_when_routers_join(harness: Harness) -> None:
    await harness.router("r2")
    await harness.use("r1", "r2")
    await harness.stream.go_on()
    await harness.router("r3")
    await harness.use("r1", "r2", "r3")
    await harness.stream.go_on()
    await harness.all_has_come()
    # All of them have had their share.
    assert all(router.fake.published for router in harness.routers.values())
    assert harness.edges[0].holding == []


async def test_nothing_is_lost_or_reordered_when_routers_leave(harness: Harness) -> None:
    await harness.router("r2")
    await harness.router("r3")
    await harness.use("r1", "r2", "r3")
    await harness.stream.go_on()
    await harness.routers["r1"].leave()
    await harness.use("r2", "r3")
    await harness.stream.go_on()
    await harness.routers["r3"].leave()
    await harness.use("r2")
    await harness.stream.go_on()
    await harness.all_has_come()


async def test_nothing_is_lost_or_reordered_in_a_rolling_restart(harness: Harness) -> None:
    await harness.router("r2")
    await harness.use("r1", "r2")
    for name in ("r1", "r2", "r1"):
        await harness.stream.go_on()
        await harness.routers[name].leave()
        await harness.router(name)  # the same name and place, another instance
        await harness.use("r1", "r2")
    await harness.stream.go_on()
    await harness.all_has_come()
    assert harness.edges[0].holding == []


async def test_an_edge_that_finds_a_new_router_late_misses_nothing(wires: Wires) -> None:
    # The publisher's edge knows of r2 long before the subscriber's does.
    harness = Harness(wires)
    await harness.router("r1")
    first = await wires.edge(wires.place("r1"), wires.place("r2"))
    late = await wires.edge(wires.place("r1"))
    harness.edges = [first, late]
    await harness.use("r1")
    for topic in TOPICS:
        late.router_client.add_interest(late.edge.edge_id, [topic])
    await late.router_client.interest_synced()
    harness.stream = Stream(first)
    await harness.stream.go_on()
    await harness.router("r2")
    await until(lambda: harness.routers["r2"].link_server.edges, "the first edge has come to r2")
    await harness.stream.go_on()
    assert first.open_to() == {"r1"}
    late.look_at(wires.place("r1"), wires.place("r2"))
    await harness.use("r1", "r2")
    await harness.stream.go_on()
    await harness.all_has_come()
    assert first.holding == []


async def test_when_a_router_dies_the_order_is_kept(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.link.edge_end.router_membership.RECONNECT_GRACE_S", 0.1)
    await harness.router("r2")
    await harness.use("r1", "r2")
    await harness.stream.go_on()
    await harness.routers["r2"].stop()
    await harness.use("r1")
    await harness.stream.go_on()
    await harness.stream.end()
    publisher, subscriber = harness.edges
    numbers = harness.stream.numbers
    await until(
        lambda: all(_arrived(subscriber, topic)[-1] == numbers[topic] - 1 for topic in TOPICS),
        "the last ones have come",
    )
    for topic in TOPICS[1::2]:
        # What had no answer was sent again: twice perhaps, and never out of order.
        firsts = list(dict.fromkeys(_arrived(subscriber, topic)))
        assert firsts == sorted(firsts), topic
    lost = 0
    for topic in TOPICS[::2]:
        found = _arrived(subscriber, topic)
        assert found == sorted(set(found)), topic
        lost += numbers[topic] - len(found)
    # QoS 0 that was on its way to the dead router may be lost; no more than is counted.
    assert lost <= publisher.counters.dropped["link_lost"] + STEP
    assert [code for _, code in harness.stream.origin.answers] == [0] * len(
        harness.stream.origin.answers
    )
