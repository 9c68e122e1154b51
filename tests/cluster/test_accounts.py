"""Every copy is accounted for over all processes: published = delivered + queued + dropped (G7)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.cluster import Cluster
from support.cluster_clients import ClusterClients, receive_publish
from support.mqtt_bytes import V311

pytestmark = pytest.mark.cluster


async def _figures(cluster: Cluster) -> Counter[str]:
    """Counters of all processes, added up; drops also by reason."""
    total: Counter[str] = Counter()
    for node in cluster.nodes:
        _, text = await node.admin("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("tidegate_messages_") and sample.name.endswith(
                    ("_total", "_queued")
                ):
                    name = sample.name.removeprefix("tidegate_messages_").removesuffix("_total")
                    total[name] += int(sample.value)
                    if name == "dropped":
                        total[sample.labels["reason"]] += int(sample.value)
    return total


def _unaccounted(figures: Counter[str]) -> int:
    return figures["published"] - figures["delivered"] - figures["queued"] - figures["dropped"]


async def test_all_copies_are_accounted_for_over_all_processes(
    start_cluster: Callable[..., Awaitable[Cluster]],
) -> None:
    cluster = await start_cluster(limits={"max_queued_messages": 10})
    cluster_clients = ClusterClients(cluster)
    topic = cluster_clients.topic()
    durable = await cluster_clients.connect(0, "durable", durable=True)
    await durable.subscribe((topic, 2))
    plain = await cluster_clients.connect(1, "plain", V311)
    await plain.subscribe((topic, 1))
    away = await cluster_clients.connect(2, "away", durable=True)
    await away.subscribe((topic, 1))
    await away.disconnect()
    publisher = await cluster_clients.connect(1, "publisher")
    for number in range(30):
        # QoS 2 would be one delivery too: what matters is that each kind of copy ends somewhere.
        await publisher.deliver(topic, b"%d" % number, qos=1, packet_id=number + 1)
        for client in (durable, plain):
            assert (await receive_publish(client)).payload == b"%d" % number
    await publisher.deliver(cluster_clients.topic("nobody"), b"", qos=1, packet_id=99)
    await publisher.publish(cluster_clients.topic("nobody"), b"")
    end = time.monotonic() + 10
    while True:
        figures = await _figures(cluster)
        if not _unaccounted(figures) and figures["no_subscriber"] >= 2 and figures["queued"] == 10:
            break
        assert time.monotonic() < end, figures
        await asyncio.sleep(0.1)
    assert figures["delivered"] == 60
    assert figures["queue_full"] == 20
