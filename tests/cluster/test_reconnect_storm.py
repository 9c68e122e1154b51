"""Thousands of idle clients lose their edge at once and come back to the others.

Inputs: TIDEGATE_IDLE connections with durable sessions over three edges, and the end of one edge.
Observed: the time until everybody is connected again, with the session; refusals.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections.abc import Awaitable, Callable

import pytest

from support.cluster import Cluster
from support.cluster_clients import ClusterClients
from support.idle_clients import Crowd

COUNT = int(os.environ.get("TIDEGATE_IDLE", "1500"))
START_S = 30 + COUNT / 100
RECOVERY_S = 10 + COUNT / 150


@pytest.mark.timeout(60 + START_S + RECOVERY_S)
async def test_everybody_is_back_soon_after_an_edge_died(
    start_cluster: Callable[..., Awaitable[Cluster]], seed: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = COUNT + 500
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, needed), hard))
    cluster = await start_cluster()
    chance = random.Random(seed)

    def choose(_: int) -> tuple[str, int]:
        return chance.choice([edge for edge in cluster.edges if edge.running]).mqtt

    crowd = Crowd("idle", COUNT, choose)
    try:
        began_s = await crowd.start(START_S)
        assert crowd.present == 0
        victim = cluster.edges[0]
        died = time.monotonic()
        await asyncio.to_thread(victim.kill)
        while not crowd.lost:
            await asyncio.sleep(0)
        recovered_s = await crowd.all_online(died, RECOVERY_S)
        print(
            f"{COUNT} connections in {began_s:.1f} s; {crowd.lost} lost with an edge,"
            f" all back in {recovered_s:.1f} s ({crowd.lost / recovered_s:.0f}/s);"
            f" refused: {dict(crowd.refused)}; seed {seed}"
        )
        assert crowd.lost > COUNT / 6
        assert crowd.present == crowd.lost, "a session was not found again"
        assert not crowd.heard, "an idle client was told something"
        guest = await ClusterClients(cluster).connect(1, "after")
        await guest.expect_nothing()
    finally:
        await crowd.stop()
