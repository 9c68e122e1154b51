"""Large numbers of things: none of them is cut off silently, and nobody else waits for them.

Input: one raw client that does something in bulk, a neighbour that goes on. Output: everything
arrives, and the neighbour gets its answers meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from support import mqtt_bytes
from support.broker import Server
from support.mqtt_bytes import V5
from support.peers import Peers
from support.raw_client import RawClient

#: How many; 100,000 is the long form.
RETAINED = int(os.environ.get("TIDEGATE_RETAINED", "20000"))


@pytest.fixture
async def peers(broker: Server) -> AsyncIterator[Peers]:
    """Yield the clients of this test, over TCP; all are closed with it."""
    yield Peers(broker, "tcp")
    await RawClient.reset_all()


async def _publish_all(client: RawClient, topic: str, count: int, qos: int) -> None:
    """Publish in bulk, at most 100 unacknowledged (the announced Receive Maximum)."""
    for start in range(0, count, 50):
        packets = [
            mqtt_bytes.publish(
                f"{topic}/{number}",
                b"%d" % number,
                qos=qos,
                packet_id=number % 50 + 1 if qos else None,
                retain=True,
                version=V5,
            )
            for number in range(start, start + 50)
        ]
        await client.send(*packets)
        if qos:
            for _ in packets:
                await client.expect("PUBACK")


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("durable", [False, True], ids=["ephemeral", "durable"])
async def test_every_retained_message_arrives_and_the_neighbour_does_not_wait(
    peers: Peers, qos: int, durable: bool
) -> None:
    prefix = peers.topic("many")
    writer = await peers.connect("writer")
    await _publish_all(writer, prefix, RETAINED, 1)
    neighbour = await peers.connect("neighbour")
    await neighbour.subscribe((peers.topic("side"), 0))
    props = [("session_expiry", 60)] if durable else []
    reader = await peers.connect("reader", clean=True, props=props)
    await reader.subscribe((f"{prefix}/#", qos))
    seen: set[bytes] = set()

    async def read() -> None:
        while len(seen) < RETAINED:
            packet = await reader.expect("PUBLISH", retain=True)
            seen.add(packet.payload)
            await reader.acknowledge(packet)

    reading = asyncio.create_task(read())
    rounds = 0
    while not reading.done():
        await neighbour.send(mqtt_bytes.PINGREQ)
        await neighbour.expect("PINGRESP")
        rounds += 1
    await reading
    assert rounds > 1
    await reader.expect_nothing()
    for client in (reader, writer, neighbour):
        client.close()
