"""One message for many clients: each copy is accounted for."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.virtual_time import turns
from tidegate.mqtt.packets import Publish


async def test_copies_that_have_expired_are_counted_as_published_and_dropped() -> None:
    async with LoneEdge() as alone:
        clients = [await alone.connect(f"c{number}") for number in range(3)]
        for client in clients:
            client.send(mqtt_bytes.subscribe(1, [("t", 0)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"in time", expires_at_ms=1000), "")
        alone.now_ms = 1000
        alone.edge.deliver(Publish("t", b"too late", expires_at_ms=1000), "")
        for client in clients:
            (packet,) = client.received()
            assert (packet.payload, packet.get("message_expiry")) == (b"in time", 1)
        counters = alone.counters
        assert (counters.published, counters.delivered) == (6, 3)
        assert counters.dropped["expired"] == 3


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_a_message_that_comes_again_goes_to_those_who_have_not_had_it(qos: int) -> None:
    """Its first router has died. Who has subscribed meanwhile may get it from the second one."""
    async with LoneEdge() as alone:
        early = [await alone.connect(f"early{granted}") for granted in range(3)]
        for granted, client in enumerate(early):
            client.send(mqtt_bytes.subscribe(1, [("t", granted), ("#", granted)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"once", qos), "p", "p|1|7|0")
        late = await alone.connect("late")
        late.send(mqtt_bytes.subscribe(1, [("t", 2)]))
        await turns()
        late.received()
        for _ in range(2):
            alone.edge.deliver(Publish("t", b"once", qos), "p", "p|1|7|0")
        alone.edge.deliver(Publish("t", b"other", qos), "p", "p|1|7|1")
        for granted, client in enumerate([*early, late]):
            got = [(packet.payload, packet.qos) for packet in client.received()]
            served = min(qos, granted, 2)
            assert got == [(b"once", served), (b"other", served)]


@pytest.mark.parametrize("qos", [0, 2])
async def test_a_message_that_comes_again_is_for_no_durable_session(qos: int) -> None:
    """It may have had it at another edge; what it lacks at QoS 1 and 2 is in its queue."""
    async with LoneEdge() as alone:
        alone.edge.deliver(Publish("t", b"once", qos), "p", "will|7:p")
        early = await alone.connect("early")
        alone.router.incarnation = 7
        moved = [await alone.connect(f"moved{granted}") for granted in (0, 2)]
        for granted, client in zip((0, 0, 2), (early, *moved), strict=True):
            client.send(mqtt_bytes.subscribe(1, [("t", granted)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"once", qos), "p", "will|7:p")
        assert [packet.payload for packet in early.received()] == [b"once"]
        assert [client.received() for client in moved] == [[], []]


async def test_messages_without_identity_are_messages_of_their_own() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.subscribe(1, [("t", 1)]))
        await turns()
        client.received()
        for _ in range(2):
            alone.edge.deliver(Publish("t", b"same", 1), "p")
        assert [packet.payload for packet in client.received()] == [b"same", b"same"]


async def test_a_fence_ends_the_older_connection_only() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        epoch = alone.edge.clients["c"].epoch
        alone.edge.fence("c", epoch)
        assert "c" in alone.edge.clients
        alone.edge.fence("c", epoch + 1)
        (packet,) = client.received()
        assert (packet.kind, packet.reason) == ("DISCONNECT", 0x8E)
        await turns()
        (detached,) = alone.router.detached
        # Its will is the business of who has the session.
        assert (detached.publish_will, detached.is_superseded) == (False, True)
