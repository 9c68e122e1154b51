"""One message for many clients: each copy is accounted for."""

from __future__ import annotations

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
