"""How a change reaches pods that run, on a real API server: told, confirmed, or refused by them."""

from __future__ import annotations

import pytest

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.fake_kubelet import FakeKubelet
from support.kube.looks import writes_of_a_look
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from tidegate_operator import names

pytestmark = pytest.mark.usefixtures("operator")


def told(space: Space) -> set[str]:
    """Return which configurations pods were told to look at ("": none)."""
    found: list[Object] = [*space.pods("demo", "edge"), *space.pods("demo", "router")]
    return {
        (one["metadata"].get("annotations") or {}).get(names.CONFIGURATION, "") for one in found
    }


def test_pods_that_lag_behind_are_told_and_named(
    space: Space, kubelet: FakeKubelet, operator: OperatorProcess
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    uids = space.pod_uids("demo", "edge") | space.pod_uids("demo", "router")
    # Pods that have just started have what is newest: nobody tells them.
    assert told(space) == {""}
    kubelet.hold_mounts(space.name)
    space.put("demo", spec_of(limits={"maxInFlight": 10}, log={"level": "debug"}))
    found = space.until("demo", "ConfigApplied", "Applying")
    assert "still uses the old configuration" in found["message"]
    space.wait(lambda: "" not in told(space), "all pods are told")
    assert len(told(space)) == 2  # what edges shall find, and what routers shall find
    pod = space.pods("demo", "edge")[0]
    owners = {one["manager"] for one in pod["metadata"]["managedFields"]}
    assert names.POD_FIELD_MANAGER in owners
    kubelet.release_mounts(space.name)
    status = space.until_settled("demo")["status"]
    assert status["edges"]["configured"] == status["routers"]["configured"] == 2
    assert space.pod_uids("demo", "edge") | space.pod_uids("demo", "router") == uids
    # And then there is nothing left to say.
    assert writes_of_a_look(operator, space.name, "demo") == []


def test_pods_that_go_while_the_configuration_changes_hold_nothing_up(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    for pod in space.pods("demo", "edge"):
        space.api.delete("Pod", pod["metadata"]["name"], space.name)
    space.put("demo", spec_of(limits={"maxInFlight": 11}))
    space.until_settled("demo")
    assert len(space.pods("demo", "edge")) == 2


def test_pods_say_why_they_cannot_use_it(space: Space, kubelet: FakeKubelet) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    kubelet.report(space.name, "demo-edge", "port 1884 is taken")
    space.put("demo", spec_of(limits={"maxInFlight": 12}))
    space.wait(
        lambda: (
            "rejects it: port 1884 is taken"
            in space.condition("demo", "ConfigApplied").get("message", "")
        ),
        "the pods' own words",
    )
    assert space.condition("demo", "Ready")["status"] == "True"
    kubelet.report(space.name, "demo-edge", "")
    space.until_settled("demo")


def test_a_pod_that_does_not_answer_is_said_to(space: Space, kubelet: FakeKubelet) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    kubelet.fail(space.name, "demo-router", "silent")
    space.put("demo", spec_of(limits={"maxInFlight": 12}))
    space.wait(
        lambda: (
            "does not respond to the operator on port 18083"
            in space.condition("demo", "ConfigApplied").get("message", "")
        ),
        "it is said",
    )
    kubelet.heal(space.name, "demo-router")
    space.until_settled("demo")


def test_an_edge_with_far_too_many_clients_is_told_to_let_some_go(
    space: Space, kubelet: FakeKubelet
) -> None:
    rebalance = {"enabled": True, "stabilizationSeconds": 0}
    space.put("demo", spec_of(edge={"replicas": 2, "rebalance": rebalance}))
    space.until_settled("demo")
    full = space.pods("demo", "edge")[0]["metadata"]["name"]
    kubelet.connect(space.name, full, 1000)
    # A change is a reason to ask all of them now.
    space.put(
        "demo", spec_of(edge={"replicas": 2, "rebalance": rebalance}, limits={"maxInFlight": 9})
    )
    event = space.wait(
        lambda: next((one for one in space.events("demo") if one["reason"] == "Rebalancing"), None),
        "it is said",
    )
    assert event["message"] == (
        f"Rebalancing connections (mean 500 per edge): {full} disconnects 500 clients."
    )
