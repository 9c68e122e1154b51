"""Pods that are deleted by force under load: nothing acknowledged is lost, nothing comes twice.

Inputs: publishers and durable subscribers of QoS 1 and 2 at the address of the Service, over TLS,
while pods go as with ``kubectl delete pod --force --grace-period=0``. Observed: the history by
every rule of ``support.history_check``, and that everything else runs on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster_load import ClusterLoad
from support.kube.node import Node
from support.kube.node_api import is_ready
from support.kube.node_load import away, under_load
from support.kube.node_product import SYSTEM, Broker, Operator, same
from support.waiting import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

ALL = ("edge", "router", "redis")


async def killed(broker: Broker, harness: ClusterLoad, component: str) -> None:
    """Kill a pod, and wait until messages pass again and another pod has taken its place."""
    before = await away(broker.seen, *ALL)
    name = await away(broker.kill_pod, component)
    harness.history.fault(name, "deleted by force")
    await harness.still_publishing(30, 60)
    await away(replaced, broker, component, name)
    same(before, await away(broker.seen, *ALL), but=[name])


def replaced(broker: Broker, component: str, name: str) -> None:
    """Wait until the broker is whole again, without the pod of that uid."""
    broker.wait_until_settled()
    wait_for(
        lambda: all(is_ready(pod) for pod in broker.pods(component)), 60, f"{component} is whole"
    )


async def test_edges_and_routers_that_are_killed_lose_nothing(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    await away(broker.change, {"edge": {"replicas": 2}, "router": {"replicas": 2}})
    await away(broker.wait_until_settled)
    async with under_load(broker, seed, kept_logs) as harness:
        for component in ("edge", "router", "edge", "router"):
            await killed(broker, harness, component)


async def test_the_only_router_and_the_only_edge_that_are_killed_lose_nothing(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    async with under_load(broker, seed, kept_logs) as harness:
        for component in ("router", "edge"):
            await killed(broker, harness, component)


async def test_everything_that_is_killed_at_once_loses_nothing(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    async with under_load(broker, seed, kept_logs) as harness:
        names = [
            await away(broker.kill_pod, component) for component in ("redis", "router", "edge")
        ]
        harness.history.fault(", ".join(names), "deleted by force")
        await harness.still_publishing(30, 60)
        await away(broker.wait_until_settled)


async def test_a_store_that_is_killed_loses_nothing(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    async with under_load(broker, seed, kept_logs) as harness:
        await killed(broker, harness, "redis")


async def test_an_operator_that_is_killed_is_not_missed(
    node: Node, operator: Operator, broker: Broker, seed: int, kept_logs: Path
) -> None:
    async with under_load(broker, seed, kept_logs):
        before = await away(broker.seen, *ALL)
        (pod,) = await away(operator.pods)
        name = pod["metadata"]["name"]
        await away(
            node.kubectl,
            *("delete", "pod", name, "--namespace", SYSTEM, "--force", "--grace-period=0"),
        )
        await away(broker.change, {"edge": {"replicas": 2}})
        await away(broker.wait_until_settled)
        assert len(await away(broker.pods, "edge")) == 2
        same(before, await away(broker.seen, *ALL))
