"""Every process is restarted, one after the other, under load: invisible to data (G9).

Inputs: publishers and durable subscribers; SIGTERM to each edge and router in turn. Observed: the
history by every rule, and the reason codes that MQTT 5 clients see.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from support.cluster import Cluster, ended
from support.cluster_load import ClusterLoad
from support.history import NO_CODE, Kind
from support.history_check import Snapshot
from support.mqtt_bytes import V5, V311

ANNOUNCED = Snapshot(disconnect=frozenset({0x8B, 0x8E, 0x9C}), connack=frozenset({0x88}))
STOP_S = 20.0


@pytest.mark.timeout(180)
async def test_a_rolling_restart_is_invisible_to_data(
    start_cluster: Callable[..., Awaitable[Cluster]], seed: int
) -> None:
    cluster = await start_cluster(limits={"max_queued_messages": 1_000_000})
    async with ClusterLoad(cluster, seed, ANNOUNCED) as harness:
        harness.mixed_load()
        await harness.begin()
        await harness.still_publishing()
        for node in [*cluster.routers, *cluster.edges]:
            harness.history.fault(node.name, "SIGTERM")
            started = time.monotonic()
            node.terminate()
            code = await ended(node, STOP_S)
            stopped_s = time.monotonic() - started
            assert code == 0, f"{node.name} ended with {code}"
            await asyncio.to_thread(node.start)
            harness.history.fault(node.name, "started again")
            await cluster.until_ready()
            print(f"{node.name}: gone in {stopped_s:.1f} s")
            await harness.still_publishing(30)
        settled_s = await harness.settle()
        codes = Counter(
            f"0x{event.code:02x}"
            for event in harness.history.of(Kind.ENDED)
            if event.code != NO_CODE
        )
        refusals = Counter(event.code for event in harness.history.of(Kind.REFUSED))
        print(f"{harness.summary()}; settled in {settled_s:.1f} s")
        print(f"DISCONNECT: {dict(codes)}; refused: {dict(refusals)}")
        harness.judge()
        assert codes["0x8b"] + codes["0x9c"] > 0, "no MQTT 5 client was told why"


@pytest.mark.timeout(120)
async def test_restarts_of_routers_cost_connected_clients_nothing(
    start_cluster: Callable[..., Awaitable[Cluster]], seed: int
) -> None:
    """Also those without a durable session: their connections stay, and so does what they get."""
    cluster = await start_cluster(limits={"max_queued_messages": 1_000_000})
    async with ClusterLoad(cluster, seed, ANNOUNCED) as harness:
        for number, edge in enumerate(cluster.edges):
            topics = {f"load/{number}/one": 1, f"load/{number}/two": 2}
            harness.publisher(f"pub-{number}", topics, rate=60, edge=edge.place)
            for version in (V311, V5):
                harness.subscriber(
                    f"plain-{number}-{version}",
                    {"load/+/one": 1, "load/+/two": 2},
                    version=version,
                    edge=edge.place,
                    durable=False,
                )
        await harness.begin()
        await harness.still_publishing()
        for router in cluster.routers * 2:
            harness.history.fault(router.name, "SIGTERM")
            router.terminate()
            await ended(router, STOP_S)
            await harness.still_publishing(20)
            await asyncio.to_thread(router.start)
            harness.history.fault(router.name, "started again")
            await harness.still_publishing(100)
        settled_s = await harness.settle(10)
        print(f"{harness.summary()}; settled in {settled_s:.1f} s")
        harness.judge()
        assert {client.connections for client in harness.clients} == {1}
