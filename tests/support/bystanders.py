"""A pair of well-behaved clients whose traffic must not suffer from what others do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from support import mqtt_bytes
from support.peers import Peers
from support.raw_client import DEADLINE_S
from support.waiting import wait_for_async


class Bystanders:
    """Exchange QoS 1 messages, one after the other, and note how long each took."""

    def __init__(self) -> None:
        self.delivered = 0
        self.slowest_s = 0.0
        self.stopping = False

    async def run(self, peers: Peers) -> None:
        """Publish and receive until told to stop; every message must come once, in order."""
        topic = peers.topic("neighbours")
        subscriber = await peers.connect("neighbour-subscriber")
        await subscriber.subscribe((topic, 1))
        publisher = await peers.connect("neighbour-publisher")
        while not self.stopping:
            began = time.monotonic()
            payload = b"%d" % self.delivered
            await publisher.deliver(topic, payload, packet_id=self.delivered % 65_535 + 1)
            received = await subscriber.expect("PUBLISH", payload=payload, qos=1, dup=False)
            await subscriber.send(mqtt_bytes.acknowledge("PUBACK", received.packet_id))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.delivered += 1
            # Neighbours are there to be disturbed, not to load the machine.
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def undisturbed(peers: Peers, *, slowest_s: float = 5.0) -> AsyncIterator[Bystanders]:
    """Run a pair of neighbours around a block; no exchange may take longer than ``slowest_s``."""
    bystanders = Bystanders()
    task = asyncio.create_task(bystanders.run(peers))
    try:
        await wait_for_async(
            lambda: bystanders.delivered or task.done(), DEADLINE_S, "the neighbours have begun"
        )
        yield bystanders
    finally:
        bystanders.stopping = True
        await task
    assert bystanders.delivered > 0
    assert bystanders.slowest_s < slowest_s, f"a neighbour waited {bystanders.slowest_s:.1f} s"
