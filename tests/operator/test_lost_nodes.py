"""Nodes that no longer report: recognised by their pods, and said with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.brokers import NOW, spec_of
from tidegate_operator import names
from tidegate_operator.kube.cache import slim
from tidegate_operator.live_state import Workload, pods
from tidegate_operator.spec.problems import parse
from tidegate_operator.status.broker_state import BrokerState
from tidegate_operator.status.condition_events import changes
from tidegate_operator.status.conditions import status

TWO = Workload(desired=2, ready=1, updated=2, total=2, is_current=True, exists=True)
ONE = Workload(desired=1, ready=1, updated=1, total=1, is_current=True, exists=True)


def pod(
    name: str,
    component: str,
    *,
    ready: str = "False",
    containers: str = "True",
    gates: bool = False,
    ends: bool = False,
    node: str = "node2",
) -> dict[str, Any]:
    """Return a pod of the API, by default of a node that was lost a while ago."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {names.COMPONENT_LABEL: component},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ends else {}),
        },
        "spec": {
            "nodeName": node,
            **({"readinessGates": [{"conditionType": "cloud/target-health"}]} if gates else {}),
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": ready},
                {"type": "ContainersReady", "status": containers},
            ],
            "containerStatuses": [{"ready": True, "state": {"running": {}}}],
        },
    }


def broker(*manifests: dict[str, Any], redis: Workload = ONE) -> BrokerState:
    return BrokerState(
        name="demo",
        generation=2,
        spec=parse("demo", spec_of()),
        edges=TWO,
        routers=TWO,
        redis=redis,
        # What the cache leaves away cannot be seen.
        pods=pods([slim(one) for one in manifests], NOW),
    )


def conditions(state: BrokerState) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in status(state, None, NOW)["conditions"]}


def test_a_lost_node_is_named_with_its_pods_and_what_it_means() -> None:
    found = conditions(broker(pod("e1", "edge"), pod("r1", "router")))
    degraded = found["Degraded"]
    assert (degraded["status"], degraded["reason"]) == ("True", "NodeLost")
    for words in (
        "Node node2 no longer reports",
        "kubectl describe node node2",
        "clients of pod e1 have to reconnect to other edges",
        "work of pod r1 goes to other routers",
        "spec.edge.tolerations",
    ):
        assert words.lower() in degraded["message"].lower()
    assert "store" not in degraded["message"]
    # What is right is to come by itself: nothing has to be corrected in the resource.
    assert (found["Ready"]["status"], found["Stalled"]["status"]) == ("True", "False")


def test_the_lost_node_is_a_warning_event() -> None:
    new = status(broker(pod("e1", "edge")), None, NOW)
    (found,) = [
        (kind, one["reason"]) for kind, one in changes({}, new) if one["type"] == "Degraded"
    ]
    assert found == ("Warning", "NodeLost")


def test_a_lost_store_says_that_no_other_one_starts_and_how_it_does() -> None:
    gone = broker(pod("demo-redis-0", "redis", ends=True), redis=replace(ONE, ready=0))
    found = conditions(gone)
    message = found["Degraded"]["message"]
    assert "Pod demo-redis-0 of the bundled store is not started elsewhere" in message
    assert "new connections are rejected" in message
    assert "kubectl delete node node2" in message
    ready = found["Ready"]["message"]
    assert "demo-redis-0 is on node node2, which is lost, see Degraded" in ready
    assert "Check its pod" not in ready


def test_the_rest_of_a_replicated_store_serves() -> None:
    rest = Workload(desired=3, ready=2, updated=3, total=3, is_current=True, exists=True)
    message = conditions(broker(pod("demo-redis-1", "redis"), redis=rest))["Degraded"]["message"]
    assert "the rest of the bundled store serves" in message
    assert "rejected" not in message


@pytest.mark.parametrize(
    "manifest",
    [
        pod("e1", "edge", ready="True"),
        pod("e1", "edge", containers="False"),
        pod("e1", "edge", gates=True),
        # It has been replaced already.
        pod("e1", "edge", ends=True),
    ],
    ids=["serves", "its own containers fail", "a cloud's readiness gate", "given up"],
)
def test_other_pods_are_not_lost(manifest: dict[str, Any]) -> None:
    assert conditions(broker(manifest))["Degraded"]["reason"] != "NodeLost"


def test_several_nodes_and_many_pods_stay_readable() -> None:
    many = [pod(f"e{number}", "edge", node=f"node{number % 2 + 2}") for number in range(5)]
    message = conditions(broker(*many))["Degraded"]["message"]
    assert message.startswith("Nodes node2 and node3 no longer report to")
    assert "pods e0, e1, e2 and 2 more" in message
