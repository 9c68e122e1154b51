"""Three edges, two routers and a store, hurt at random under load: nothing acknowledged is lost.

Inputs: publishers and durable subscribers of QoS 1 and 2, half of them coming and going; every two
seconds a random process is killed, paused, stopped or cut off. Observed: the recorded history, by
every rule of ``support.history_check``. TIDEGATE_CHAOS_S says how long, TIDEGATE_SEED what.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import pytest

from support.cluster import Cluster
from support.cluster_load import ClusterLoad
from support.faults import Chaos
from support.history_check import Snapshot

CHAOS_S = float(os.environ.get("TIDEGATE_CHAOS_S", "60"))
LIMITS = {"max_queued_messages": 1_000_000}


@pytest.mark.timeout(CHAOS_S * 1.5 + 180)
async def test_random_faults_lose_nothing_and_repeat_nothing(
    start_cluster: Callable[..., Awaitable[Cluster]], seed: int
) -> None:
    """G1 to G4, whatever is killed, paused or cut off."""
    cluster = await start_cluster(proxied=True, limits=LIMITS, store={"operation_timeout_s": 2})
    async with ClusterLoad(cluster, seed, Snapshot(repeats=True)) as harness:
        harness.mixed_load()
        await harness.begin()
        await harness.still_publishing()
        chaos = Chaos(cluster, harness.history, random.Random(seed + 1))
        await chaos.run(CHAOS_S)
        await cluster.heal()
        harness.history.fault("cluster", "all healed")
        settled_s = await harness.settle()
        print(f"{harness.summary()}; settled in {settled_s:.1f} s; {dict(chaos.done)}")
        harness.judge()
        assert harness.checker.acknowledged_count() > CHAOS_S * 5, "there was hardly any load"
