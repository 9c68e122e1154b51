"""``kill -9`` of the broker, again and again, under QoS 1 and QoS 2: what was acknowledged arrives.

Input: a writer and a reader with durable sessions, both coming back after every kill and going on
where their session says; random moments of death (the seed is in every failure). Output: the
history of both, checked for loss, for QoS 2 duplicates and for order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.peers import let_pass
from support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

KILLS = int(os.environ.get("TIDEGATE_KILLS", "5"))
DURABLE = [("session_expiry", 3600)]
GONE = (AssertionError, OSError, asyncio.IncompleteReadError)


async def _session(broker: Tidegate, name: str) -> RawClient:
    """Connect as long as it takes."""
    while True:
        address = broker.address("tcp")
        with contextlib.suppress(*GONE):
            client = await RawClient.open(f"tcp://{address.host}:{address.port}")
            await client.connect(name, clean=False, props=DURABLE)
            return client
        await asyncio.sleep(0.01)


class Writer:
    """Publishes numbers, one exchange at a time; ``acknowledged`` is what the broker owes."""

    def __init__(self, broker: Tidegate, qos: int) -> None:
        self._broker = broker
        self._qos = qos
        self.acknowledged = 0
        self.ended = False

    async def run(self) -> None:
        """Go on until told to end; after a loss, the exchange under way is taken up again."""
        number, released, again = 1, False, False
        while not self.ended:
            client = await _session(self._broker, f"writer{self._qos}")
            with contextlib.suppress(*GONE):
                while not self.ended:
                    packet_id = number % 200 + 1
                    if not released:
                        await client.publish(
                            f"chaos/{self._qos}",
                            b"%d" % number,
                            qos=self._qos,
                            packet_id=packet_id,
                            dup=again,
                        )
                        again = True
                        kind = "PUBACK" if self._qos == 1 else "PUBREC"
                        await client.expect(kind, packet_id=packet_id)
                        self.acknowledged = number
                        released = self._qos == 2
                    if released:
                        await client.send(mqtt_bytes.acknowledge("PUBREL", packet_id))
                        await client.expect("PUBCOMP", packet_id=packet_id)
                    number, released, again = number + 1, False, False
            client.close()


class Reader:
    """Receives everything, with the state that a client keeps of its QoS 2 exchanges."""

    def __init__(self, broker: Tidegate) -> None:
        self._broker = broker
        self._held: set[int] = set()
        self.received: dict[str, list[int]] = {"chaos/1": [], "chaos/2": []}

    async def run(self) -> None:
        """Receive for ever; the test cancels it."""
        while True:
            client = await _session(self._broker, "reader")
            with contextlib.suppress(*GONE):
                while True:
                    await self._take(client, await client.receive())
            client.close()

    async def _take(self, client: RawClient, packet: mqtt_bytes.Packet) -> None:
        if packet.kind == "PUBREL":
            self._held.discard(packet.packet_id)
            await client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
            return
        assert packet.kind == "PUBLISH"
        numbers = self.received[str(packet.topic)]
        if packet.qos == 1:
            numbers.append(int(packet.payload))
            await client.send(mqtt_bytes.acknowledge("PUBACK", packet.packet_id))
            return
        if packet.packet_id not in self._held:
            self._held.add(packet.packet_id)
            numbers.append(int(packet.payload))
        await client.send(mqtt_bytes.acknowledge("PUBREC", packet.packet_id))


async def test_kills_lose_nothing_and_repeat_no_qos_2_message(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G1, G2, G4 under repeated crashes of edge, router and connections at once."""
    seed = int(os.environ.get("TIDEGATE_SEED", random.randrange(10**6)))
    chance = random.Random(seed)
    broker = start_broker(
        store={"data_dir": str(tmp_path_factory.mktemp("data")), "edge_lease_s": 1.0},
        limits={"max_queued_messages": 100_000},
    )
    reader = Reader(broker)
    first = await _session(broker, "reader")
    await first.subscribe(("chaos/1", 1), ("chaos/2", 2))
    await first.disconnect()
    writers = [Writer(broker, 1), Writer(broker, 2)]
    reading = asyncio.create_task(reader.run())
    writing = [asyncio.create_task(writer.run()) for writer in writers]
    for _ in range(KILLS):
        await let_pass(chance.uniform(0.2, 0.8))
        broker.kill()
        await asyncio.to_thread(broker.start)
    await let_pass(0.5)
    for writer in writers:
        writer.ended = True
    await asyncio.gather(*writing)

    def missing() -> list[int]:
        return [
            number
            for writer, topic in zip(writers, ("chaos/1", "chaos/2"), strict=True)
            for number in range(1, writer.acknowledged + 1)
            if number not in set(reader.received[topic])
        ]

    async with asyncio.timeout(20):
        while missing():
            await asyncio.sleep(0.1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    once, exact = reader.received["chaos/1"], reader.received["chaos/2"]
    assert len(exact) == len(set(exact)), f"seed {seed}: a QoS 2 message came twice"
    assert exact == sorted(exact), f"seed {seed}: QoS 2 out of order"
    firsts = list(dict.fromkeys(once))
    assert firsts == sorted(firsts), f"seed {seed}: QoS 1 out of order"
    assert min(writer.acknowledged for writer in writers) > KILLS * 10, f"seed {seed}: no load"
