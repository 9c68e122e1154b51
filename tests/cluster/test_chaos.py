"""Three edges, two routers and a store, hurt at random under load: every promise is kept.

Inputs: the load of ``support.wide_load``; every few seconds a random process is killed, paused,
stopped or cut off; in the long form clocks step, too. Observed: the recorded history, by every rule
of ``support.history_check``.
TIDEGATE_CHAOS_S says how long, TIDEGATE_CHAOS_RUNS how often, TIDEGATE_CHAOS_PROFILE with which
leases and timeouts, TIDEGATE_SEED what (the first run; each later one takes the next number).
TIDEGATE_CHAOS_NO_FAULTS leaves the faults out: then the load itself is tried.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.faults import Chaos
from support.profiles import chosen
from support.wall_clock import WallClock
from support.wide_load import WideLoad

CHAOS_S = float(os.environ.get("TIDEGATE_CHAOS_S", "60"))
RUNS = int(os.environ.get("TIDEGATE_CHAOS_RUNS", "1"))
FAULTS = not os.environ.get("TIDEGATE_CHAOS_NO_FAULTS")
#: Those that get a wall clock of their own.
PROCESSES = ["edge-0", "edge-1", "edge-2", "router-0", "router-1"]
LIMITS = {"max_queued_messages": 1_000_000}


@pytest.mark.timeout(CHAOS_S * 1.5 + 300)
@pytest.mark.parametrize("run", range(RUNS))
async def test_random_faults_lose_nothing_and_repeat_nothing(
    start_cluster: Callable[..., Awaitable[Cluster]], tmp_path: Path, seed: int, run: int
) -> None:
    """G1 to G5, whatever is killed, paused or cut off."""
    seed += run
    profile = chosen()
    stepping = PROCESSES if profile.everything and FAULTS else []
    clocks = {name: WallClock(tmp_path, name) for name in stepping}
    cluster = await start_cluster(
        proxied=True,
        quick=profile.quick,
        environments={name: clock.environment for name, clock in clocks.items()},
        limits=LIMITS,
        **profile.settings,
    )
    async with WideLoad(cluster, seed, profile, repeats=FAULTS) as harness:
        harness.play_all()
        await harness.begin()
        await harness.still_publishing()
        chaos = Chaos(cluster, harness.history, random.Random(seed + 1), profile, clocks)
        if FAULTS:
            await chaos.run(CHAOS_S)
        else:
            await asyncio.sleep(CHAOS_S)
        await cluster.heal()
        harness.history.healed("cluster", "all healed")
        settled_s = await harness.settle(profile.settle_s)
        await harness.read_at_the_end()
        print(f"{harness.report(chaos.done)}; settled in {settled_s:.1f} s")
        harness.judge()
        harness.judge_amount(CHAOS_S)
