"""``$SYS`` in a cluster: one process speaks, for all.

Inputs: two routers and two edges, clients at both; the router that publishes killed. Observed: the
topics that subscribers get.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.cluster_clients import ClusterClients
from support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DEADLINE_S = 30.0
INTERVAL_S = 0.3


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Yield two edges and two routers that publish their figures often."""
    with tempfile.TemporaryDirectory(prefix="tgp-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(
            Path(name).resolve(), edges=2, routers=2, features={"sys_interval_s": INTERVAL_S}
        )
        try:
            await cluster.start()
            yield cluster
        finally:
            for node in cluster.nodes:
                print(f"--- {node.name}\n{node.stderr()[-4000:]}")
            await cluster.stop()


async def _until(client: RawClient, topic: str, value: bytes) -> None:
    """Take what comes until a topic has a value."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            received = await client.expect("PUBLISH")
            if (received.topic, received.payload) == (f"$SYS/broker/{topic}", value):
                return


async def test_figures_are_those_of_all_edges_and_one_router_publishes_them(
    cluster: Cluster,
) -> None:
    cluster_clients = ClusterClients(cluster)
    watcher = await cluster_clients.connect(0, "watcher")
    await watcher.subscribe(("$SYS/broker/clients/+", 0), ("$SYS/broker/uptime", 0))
    others = [await cluster_clients.connect(1, f"other{number}") for number in range(3)]
    await _until(watcher, "clients/connected", b"4")
    await others[0].disconnect()
    await _until(watcher, "clients/connected", b"3")
    # Two publishers would each have an uptime of their own.
    last = -1
    for _ in range(8):
        received = await watcher.expect("PUBLISH")
        if received.topic.endswith("uptime"):
            seconds = int(received.payload.split()[0])
            assert seconds > last
            last = seconds


async def test_another_router_speaks_when_the_one_that_did_is_gone(cluster: Cluster) -> None:
    cluster_clients = ClusterClients(cluster)
    first = await cluster_clients.connect(0, "first")
    await first.subscribe(("$SYS/broker/clients/connected", 0))
    await _until(first, "clients/connected", b"1")
    # The first by name.
    await asyncio.to_thread(cluster.routers[0].kill)
    second = await cluster_clients.connect(1, "second")
    await _until(first, "clients/connected", b"2")
    await second.subscribe(("$SYS/broker/publish/messages/received", 0))
    for number in range(5):
        await second.deliver(cluster_clients.topic(), b"x", qos=0, packet_id=number + 1)
    await _until(second, "publish/messages/received", b"5")
