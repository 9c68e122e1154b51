"""A flood with nowhere to go stays in its sockets: no process grows, neighbours go on (G6).

Inputs: publishers that send as fast as they can while the store hangs, or while the subscribers'
edge is paused. Observed: resident memory of every process, and a pair of neighbours.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from support import mqtt_bytes
from support.cluster import Cluster
from support.cluster_clients import ClusterClients
from support.raw_client import RawClient

MIB = 1024 * 1024
PAYLOAD = b"x" * 16_384
FLOOD_S = 4.0
#: Bytes per second of a QoS 0 flood, which nothing else holds back: copies are dropped, not kept.
QOS0_RATE = 40 * MIB
#: Growth of any one process. The configuration bounds the link's mailboxes (8 MiB for each edge),
#: credits (4 MiB for each pair) and each client's share; allocators round up.
GROWTH_BYTES = 64 * MIB
NEIGHBOUR_S = 1.0


class Flood:
    """Publishes as fast as it may: within the Receive Maximum, or (QoS 0) at ``QOS0_RATE``."""

    def __init__(self, client: RawClient, topic: str, qos: int) -> None:
        self._client = client
        self._topic = topic
        self._qos = qos
        self.sent_bytes = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        assert self._client.connack is not None
        window = self._client.connack.number("receive_maximum", 65_535) if self._qos else 1 << 40
        acknowledged = 0
        for number in itertools.count():
            packet_id = number % 65_535 + 1 if self._qos else None
            packet = mqtt_bytes.publish(self._topic, PAYLOAD, qos=self._qos, packet_id=packet_id)
            await self._client.send(packet)
            if not self._qos:
                await asyncio.sleep(len(packet) / QOS0_RATE)
            self.sent_bytes += len(packet)
            acknowledged += self._take()
            while number + 1 - acknowledged >= window:
                if await self._client.receive_or_end(3600) is None:
                    return
                acknowledged += 1

    def _take(self) -> int:
        taken = 0
        while mqtt_bytes.split(self._client.pipe.buffer) is not None:
            taken += 1
        return taken


async def _watch_memory(cluster: Cluster, seconds: float) -> dict[str, int]:
    """The highest resident memory of each process within so many seconds."""
    highest: dict[str, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, size in cluster.memory_bytes().items():
            highest[name] = max(size, highest.get(name, 0))
        await asyncio.sleep(0.05)
    return highest


class Bystanders:
    """A publisher and a subscriber of QoS 0 who want to be left alone."""

    def __init__(self, publisher: RawClient, subscriber: RawClient, topic: str) -> None:
        self._publisher = publisher
        self._subscriber = subscriber
        self._topic = topic
        self.slowest_s = 0.0
        self.count = 0

    async def talk(self) -> None:
        """Send and receive until cancelled."""
        while True:
            started = time.monotonic()
            await self._publisher.publish(self._topic, b"%d" % self.count)
            assert (await self._subscriber.expect("PUBLISH")).payload == b"%d" % self.count
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            self.count += 1
            await asyncio.sleep(0.02)


async def _pair(cluster_clients: ClusterClients, sender: int, receiver: int) -> Bystanders:
    topic = cluster_clients.topic("neighbours")
    subscriber = await cluster_clients.connect(receiver, "neighbour-in")
    await subscriber.subscribe((topic, 0))
    return Bystanders(await cluster_clients.connect(sender, "neighbour-out"), subscriber, topic)


def _judge(before: dict[str, int], after: dict[str, int], floods: list[Flood]) -> None:
    growth = {name: (size - before[name]) / MIB for name, size in after.items()}
    sent = sum(flood.sent_bytes for flood in floods) / MIB
    print(f"{sent:.0f} MiB sent; growth in MiB: { {k: round(v) for k, v in growth.items()} }")
    assert max(growth.values()) * MIB < GROWTH_BYTES


@pytest.mark.parametrize("stuck", ["store", "edge"])
async def test_a_flood_that_cannot_be_stored_or_delivered_grows_nothing(
    start_cluster: Callable[..., Awaitable[Cluster]], stuck: str
) -> None:
    cluster = await start_cluster(
        store={"operation_timeout_s": 2}, limits={"max_queued_bytes": MIB}
    )
    cluster_clients = ClusterClients(cluster)
    topic = cluster_clients.topic("flood")
    # The subscribers are all at edge 2; the flood comes in at edge 0.
    for number in range(3):
        durable = await cluster_clients.connect(2, f"durable{number}", durable=True)
        await durable.subscribe((topic, 1))
        plain = await cluster_clients.connect(2, f"plain{number}")
        await plain.subscribe((topic, 0))
        plain.pause()
    bystanders = await _pair(cluster_clients, 1, 1)
    talk = asyncio.create_task(bystanders.talk())
    flooders = [await cluster_clients.connect(0, f"flooder{number}") for number in range(4)]
    before = cluster.memory_bytes()
    if stuck == "store":
        cluster.store.pause()
    else:
        cluster_clients.edge(2).pause()
    floods = [Flood(client, topic, 1 - number % 2) for number, client in enumerate(flooders)]
    try:
        after = await _watch_memory(cluster, FLOOD_S)
        assert not talk.done(), talk.exception()
        talk.cancel()
    finally:
        cluster.store.resume()
        if cluster_clients.edge(2).paused:
            cluster_clients.edge(2).resume()
        for flood in floods:
            flood.task.cancel()
        await asyncio.gather(talk, *(flood.task for flood in floods), return_exceptions=True)
    print(f"{bystanders.count} messages between neighbours, slowest {bystanders.slowest_s:.3f} s")
    _judge(before, after, floods)
    assert bystanders.count > 10
    assert bystanders.slowest_s < NEIGHBOUR_S
