"""What users and clusters do to a broker while clients publish: nothing acknowledged is lost.

Inputs: publishers and durable subscribers of QoS 1 and 2 at the address of the Service, over TLS;
then scaling, rolling updates, changes, new certificates, pods that are deleted by force. Observed:
the history by every rule of ``support.history_check``, and which pods were restarted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from support.kube.node_load import away, lost_connections, under_load
from support.kube.node_product import Broker, same

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

ALL = ("edge", "router", "redis")


async def changed(broker: Broker, spec: dict[str, Any]) -> None:
    """Change the spec, and wait until that has happened."""
    await away(broker.change, spec)
    await away(broker.wait_until_settled)


async def test_scaling_edges_and_routers_loses_nothing(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    async with under_load(broker, seed, kept_logs) as harness:
        since = time.monotonic()
        before = await away(broker.seen, *ALL)
        await away(
            broker.node.kubectl,
            *("scale", "mqb/demo", "--replicas=3", "--namespace", broker.namespace),
        )
        await away(broker.wait_until_settled)
        assert len(await away(broker.pods, "edge")) == 3
        await changed(broker, {"router": {"replicas": 2}})
        same(before, await away(broker.seen, *ALL))
        assert lost_connections(harness, since) == []
        await harness.still_publishing()
        await changed(broker, {"edge": {"replicas": 1}})
        assert len(await away(broker.pods, "edge")) == 1
        others = await away(broker.seen, "router", "redis")
        same({pod for pod in before if "-edge-" not in pod.name}, others)


async def test_a_rolling_update_loses_nothing(broker: Broker, seed: int, kept_logs: Path) -> None:
    async with under_load(broker, seed, kept_logs):
        before = await away(broker.seen, *ALL)
        await changed(broker, {"link": {"heartbeatSeconds": 2}})
        after = await away(broker.seen, *ALL)
        store = {pod for pod in before if "-redis-" in pod.name}
        assert store
        assert before & after == store, "edges and routers are to be replaced, the store is not"
        place = ("--namespace", broker.namespace)
        await away(broker.node.kubectl, "rollout", "restart", "deployment/demo-edge", *place)
        await away(broker.node.kubectl, "rollout", "status", "deployment/demo-edge", *place)
        await away(broker.wait_until_settled)
        assert {pod for pod in after if "-edge-" not in pod.name} == after & await away(
            broker.seen, *ALL
        )
