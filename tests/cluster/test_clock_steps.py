"""The wall clock of one edge, or of one router, steps: nothing ends early, nothing late.

Inputs: a cluster in which an edge and a router have clocks of their own (libfaketime), which step
forward or back; everything that ends by time. Observed: what clients get, and which processes
report their clock. One process, with and without its store, is in tests/integration.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.cluster import Cluster, Node
from support.timed_state import TimedState
from support.wall_clock import WallClock

from .conftest import StartCluster

REPORT_S = 10.0


async def _until_it_says(node: Node, text: str) -> None:
    async with asyncio.timeout(REPORT_S):
        while (await node.admin("/readyz")) != (200, text):
            await asyncio.sleep(0.05)


def _edge(cluster: Cluster, number: int) -> str:
    host, port = cluster.edges[number].mqtt
    return f"tcp://{host}:{port}"


@pytest.mark.parametrize("steps_s", [(30, -30), (3600, -3600)], ids=str)
@pytest.mark.parametrize("stepped", ["edge-0", "router-0"])
@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.3.2-5")
async def test_a_step_of_one_clock_ends_nothing(
    start_cluster: StartCluster, tmp_path: Path, stepped: str, steps_s: tuple[int, int]
) -> None:
    """The clients are at the edge with that clock, and at the other one."""
    clock = WallClock(tmp_path)
    cluster = await start_cluster(edges=2, environments={stepped: clock.environment})
    for step_s in steps_s:
        state = await TimedState.lay_out(_edge(cluster, 0), _edge(cluster, 1), f"step{step_s}")
        clock.step(step_s)
        await state.check()
        side = "ahead of" if step_s > 0 else "behind"
        for node in cluster.nodes:
            text = f"ready; wall clock {abs(step_s)} s {side} the broker's"
            await _until_it_says(node, f"{text}\n" if node.name == stepped else "ready\n")
        clock.step(0)
        for node in cluster.nodes:
            await _until_it_says(node, "ready\n")
    assert cluster.unexpected_errors() == []


async def test_processes_that_start_with_a_wrong_clock_have_the_right_time(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    clock = WallClock(tmp_path)
    names = ("edge-0", "router-0")
    cluster = await start_cluster(edges=2, environments=dict.fromkeys(names, clock.environment))
    clock.step(3600)
    for node in (cluster.routers[0], cluster.edges[0]):
        await asyncio.to_thread(node.restart)
    await cluster.until_ready()
    state = await TimedState.lay_out(_edge(cluster, 0), _edge(cluster, 1), "restarted")
    await state.check()
    for node in cluster.nodes:
        note = "; wall clock 3600 s ahead of the broker's" if node.name in names else ""
        await _until_it_says(node, f"ready{note}\n")


async def test_a_step_of_the_stores_clock_ends_nothing(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Also for a router that starts after it."""
    clock = WallClock(tmp_path)
    cluster = await start_cluster(edges=2, environments={"store": clock.environment})
    for step_s in (3600, -3600):
        state = await TimedState.lay_out(_edge(cluster, 0), _edge(cluster, 1), f"step{step_s}")
        clock.step(step_s)
        restarting = asyncio.create_task(asyncio.to_thread(cluster.routers[1].restart))
        await state.check()
        await restarting
    assert cluster.unexpected_errors() == []
