"""Silence, cuts and large things on the wire between an edge and its routers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from support.fake_link import FakeEdge, FakeOrigin, FakeService, until
from support.faulting_proxy import FaultingProxy
from support.linked import IMPATIENT, WiredRouter, Wires, every_carrier
from tidegate.link.edge_end.router_membership import RouterMembership
from tidegate.link.edge_end.router_peer import RouterPeer, State
from tidegate.link.interfaces import Origin
from tidegate.link.outbox import FRAME_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge
from tidegate.link.router_end.edge_frames import EdgeFrameHandler
from tidegate.link.v1.link_pb2 import EdgeFrame, Welcome
from tidegate.mqtt.packets import Publish, SubscriptionOptions


@contextlib.asynccontextmanager
async def between(router: WiredRouter) -> AsyncIterator[FaultingProxy]:
    """Yield a proxy in front of a router."""
    host, _, port = router.address.rpartition(":")
    proxy = FaultingProxy(lambda: (host, int(port)))
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


# Silence


async def test_a_router_that_goes_silent_is_lost_within_the_timeout(wires: Wires) -> None:
    router = await wires.router("r1", listen="127.0.0.1:0", **IMPATIENT)
    async with between(router) as proxy:
        edge = await wires.edge(proxy.address, **IMPATIENT)
        await edge.uses("r1")
        origin = FakeOrigin()
        proxy.blackhole()
        began_s = asyncio.get_running_loop().time()
        edge.router_client.publish(origin, Publish("t", b"into the hole", 1))
        await until(
            lambda: edge.router_client.routers.members["r1"].state is State.DOWN, "the edge notices"
        )
        assert asyncio.get_running_loop().time() - began_s >= 0.2
        await until(lambda: not router.link_server.edges, "the router notices")
        assert edge.holding == [True]
        proxy.heal()
        await edge.uses("r1")
        await until(lambda: origin.answers == [(b"into the hole", 0)], "it is sent again")
        assert edge.holding == [True, False]


async def test_peers_that_only_live_are_not_lost(wires: Wires) -> None:
    router = await wires.router("r1", **IMPATIENT)
    edge = await wires.edge(router.address, **IMPATIENT)
    await edge.uses("r1")
    channel, (peer,) = edge.router_client.routers.members["r1"], router.link_server.edges
    frames = channel.frames_received, peer.frames_received
    await until(
        lambda: channel.frames_received > frames[0] + 10 and peer.frames_received > frames[1] + 10,
        "heartbeats go both ways for longer than the timeout",
    )
    assert edge.open_to() == {"r1"}
    assert len(router.fake.named("attach_edge")) == 1


@every_carrier
async def test_a_cut_is_noticed_at_once_and_repaired(wires: Wires) -> None:
    router = await wires.router("r1", listen="127.0.0.1:0")
    async with between(router) as proxy:
        edge = await wires.edge(proxy.address)
        await edge.uses("r1")
        edge.router_client.add_interest(edge.edge.edge_id, ["t"])
        origin = FakeOrigin()
        for number in range(5):
            proxy.cut()
            edge.router_client.publish(origin, Publish("t", b"%d" % number, 1))
            await until(lambda: not router.link_server.edges, "the router notices")
            proxy.heal()
            await until(lambda: router.link_server.edges, "the edge is back")
        await until(lambda: len(origin.answers) == 5, "all are answered")
        firsts = list(dict.fromkeys(router.fake.payloads))
        assert firsts == [b"0", b"1", b"2", b"3", b"4"]
        await until(lambda: edge.fake.payloads[-1:] == [b"4"], "interest was sent again")


@every_carrier
async def test_an_edge_that_is_sent_away_comes_again_at_once(wires: Wires) -> None:
    # As after a fence: what it has no answer for is for the router's next instance.
    router = await wires.router("r1", heartbeat_s=30.0, timeout_s=60.0)
    edge = await wires.edge(router.address, heartbeat_s=30.0, timeout_s=60.0)
    await edge.uses("r1")
    router.fake.answers_late = True
    origin = FakeOrigin()
    edge.router_client.publish(origin, Publish("t", b"x", 1))
    await until(lambda: router.fake.open, "it has arrived")
    old = router.fake.instance
    router.fake.instance, router.fake.answers_late = "r1.next", False
    router.link_server.fenced()
    await until(lambda: origin.answers, "it is answered by the next instance")
    assert [one for name, one in router.fake.calls if name == "fence"] == [(old,)]
    assert router.fake.payloads == [b"x", b"x"]


@every_carrier
async def test_a_fault_in_one_delivery_is_not_the_end_of_the_others(wires: Wires) -> None:
    class Faulty(FakeEdge):
        def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
            if message.payload == b"poison":
                raise ZeroDivisionError
            super().deliver(message, publisher_id, identity)

    router = await wires.router("r1")
    edge = await wires.edge(router.address, edge=Faulty())
    await edge.uses("r1")
    edge.router_client.add_interest(edge.edge.edge_id, ["t"])
    await edge.router_client.interest_synced()
    for payload in (b"before", b"poison", b"after"):
        edge.router_client.publish(FakeOrigin(), Publish("t", payload))
    await until(lambda: edge.fake.payloads == [b"before", b"after"], "the others arrive")
    assert edge.counters.internal_errors == 1
    assert len(router.fake.named("attach_edge")) == 1


@every_carrier
async def test_a_fault_in_one_publish_is_answered_and_not_the_end_of_the_others(
    wires: Wires,
) -> None:
    class Faulty(FakeService):
        def publish(self, origin: Origin, message: Publish) -> int | None:
            if message.payload == b"poison":
                raise ZeroDivisionError
            return super().publish(origin, message)

    router = await wires.router("r1", Faulty())
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    origin = FakeOrigin()
    for payload in (b"before", b"poison", b"after"):
        edge.router_client.publish(origin, Publish("t", payload, 1))
    await until(lambda: len(origin.answers) == 3, "all are answered")
    assert origin.answers == [(b"before", 0), (b"poison", 0x83), (b"after", 0)]
    assert router.counters.internal_errors == 1
    assert len(router.fake.named("attach_edge")) == 1


@every_carrier
async def test_an_unexpected_end_of_a_stream_is_not_the_last_attempt(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await wires.router("r1")
    failures = [ZeroDivisionError(), RuntimeError("who would have thought")]
    connected = RouterMembership.connected

    def fail_first(self: RouterMembership, address: str, welcome: Welcome) -> RouterPeer:
        if failures:
            raise failures.pop()
        return connected(self, address, welcome)

    monkeypatch.setattr(RouterMembership, "connected", fail_first)
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    assert edge.counters.internal_errors == 2


# Large


@every_carrier
async def test_a_message_of_twenty_megabytes_passes(wires: Wires) -> None:
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    edge.router_client.add_interest(edge.edge.edge_id, ["t"])
    await edge.router_client.interest_synced()
    origin = FakeOrigin()
    payload = bytes(range(256)) * (20 * 4096)
    edge.router_client.publish(origin, Publish("t", payload, 1))
    # It is more than the credit: others wait, until it is settled.
    assert edge.holding == [True]
    await until(lambda: origin.answers and edge.fake.delivered, "it has come back")
    same = edge.fake.delivered[0].payload == payload
    assert same
    await until(lambda: edge.holding == [True, False], "others may go on")
    edge.router_client.publish(origin, Publish("t", b"small", 1))
    await until(lambda: len(edge.fake.delivered) == 2, "the next one passes")


@every_carrier
async def test_a_snapshot_of_a_hundred_thousand_filters_arrives_whole(wires: Wires) -> None:
    router = await wires.router("r1")
    edge = await wires.edge()
    count = 100_000
    for number in range(count):
        edge.router_client.add_interest(edge.edge.edge_id, [f"site/{number}/temperature"])
    edge.look_at(router.address)
    await edge.uses("r1")
    # By the time it is used the router knows every one of them.
    assert len(router.fake.interest[edge.edge.edge_id]) == count
    assert f"site/{count - 1}/temperature" in router.fake.interest[edge.edge.edge_id]


@every_carrier
async def test_a_slow_router_slows_publishers_and_grows_nothing(wires: Wires) -> None:
    credit_bytes = 65_536
    router = await wires.router("r1", credit_bytes=credit_bytes)
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    router.fake.answers_late = True
    origin, sent = FakeOrigin(), 0

    def holds() -> bool:
        return edge.holding[-1:] == [True]

    async def publish_until_held() -> int:
        count = 0
        while not holds():
            edge.router_client.publish(origin, Publish("t", b"x" * 1000, 1))
            count += 1
            await asyncio.sleep(0)
        await until(lambda: len(router.fake.open) == count, "all that was taken arrives")
        return count

    for _ in range(5):
        sent += await publish_until_held()
        assert edge.router_client.routers.members["r1"].outstanding_bytes <= credit_bytes + 1200
        router.fake.answer()
        await until(lambda: not holds(), "publishers go on")
    assert edge.holding == [True, False] * 5
    assert len(origin.answers) == sent


@every_carrier
async def test_frames_are_bounded_also_when_much_waits(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    act = EdgeFrameHandler.receive

    def receive(self: EdgeFrameHandler, attached: AttachedEdge, frame: EdgeFrame) -> None:
        sizes.append(frame.ByteSize())
        act(self, attached, frame)

    monkeypatch.setattr(EdgeFrameHandler, "receive", receive)
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    channel = edge.router_client.routers.members["r1"]
    outbox = channel.outbox
    assert outbox is not None
    for number in range(300):
        edge.router_client.publish(FakeOrigin(), Publish("t", b"%05d" % number * 2000))
    await until(lambda: len(router.fake.published) == 300, "all arrive")
    assert max(sizes) < FRAME_BYTES + 11_000
    assert len(router.fake.published) == 300


# Shared subscriptions, end to end


@every_carrier
async def test_a_shared_message_is_done_over_the_wire(wires: Wires) -> None:
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    (peer,) = router.link_server.edges
    options = SubscriptionOptions(1)
    for payload in (b"kept", b"given back"):
        assert peer.deliver_shared("c", 1, Publish("t", payload, 1), "$share/g/t", options)
    await until(lambda: len(edge.fake.receipts) == 2, "both have come")
    edge.fake.receipts[0].done()
    edge.fake.receipts[1].returned()
    await until(lambda: not peer.shared, "both are settled")
    ((group, message),) = router.fake.named("redispatch")
    assert (group, message.payload) == ("$share/g/t", b"given back")
