"""The example of a ValidatingAdmissionPolicy: brokers without pods of the users' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.brokers import spec_of
from support.kube.api import Object, Refused
from support.kube.control_plane import ControlPlane
from support.kube.kubectl import Kubectl
from support.kube.space import DEADLINE_S, Space
from support.waiting import wait_for

FILE = Path(__file__).parents[2] / "examples" / "admission" / "no-pod-templates.yaml"
TEMPLATE = {"metadata": {"labels": {"a": "b"}}}
MAIN = spec_of(edge={"podTemplate": TEMPLATE})

# Brokers here are only written, and nothing reconciles them.
pytestmark = pytest.mark.usefixtures("operator_away")


def refusal(space: Space, spec: Object) -> str:
    """Return why the server refuses a new broker; empty: it takes it."""
    try:
        space.api.apply(space.broker_of("tried", spec), dry_run=True)
    except Refused as refused:
        return str(refused)
    return ""


@pytest.fixture(scope="module")
def policed(plane: ControlPlane) -> Iterator[Space]:
    """A namespace with the policy in force, and a broker from the time before it."""
    space = Space(plane.api, "policed")
    space.put("old", MAIN)
    policy, binding = yaml.safe_load_all(FILE.read_text())
    for one in (policy, binding):
        plane.api.create(one)
    wait_for(lambda: refusal(space, MAIN), DEADLINE_S, "the policy is in force")
    yield space
    for one in (binding, policy):
        plane.api.delete(one["kind"], one["metadata"]["name"])
    wait_for(lambda: not refusal(space, MAIN), DEADLINE_S, "the policy is not in force any more")
    space.delete()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (MAIN, "podTemplate is not allowed"),
        (spec_of(router={"podTemplate": TEMPLATE}), "podTemplate is not allowed"),
        (spec_of(redis={"bundled": {"podTemplate": TEMPLATE}}), "podTemplate is not allowed"),
        (spec_of(console={"podTemplate": TEMPLATE}), "podTemplate is not allowed"),
        (spec_of(edge={"serviceAccountName": "x"}), "serviceAccountName is not allowed"),
        (spec_of(router={"serviceAccountName": "x"}), "serviceAccountName is not allowed"),
        (
            spec_of(redis={"bundled": {"serviceAccountName": "x"}}),
            "serviceAccountName is not allowed",
        ),
        (spec_of(console={"serviceAccountName": "x"}), "serviceAccountName is not allowed"),
        (spec_of(image="mine"), "image is not allowed"),
        (spec_of(redis={"bundled": {"image": "mine"}}), "image is not allowed"),
    ],
)
def test_what_would_run_something_else_is_refused(policed: Space, spec: Object, words: str) -> None:
    assert words in refusal(policed, spec)


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(),
        spec_of(edge={"replicas": 3}, router={"replicas": 2}, redis={"durability": "always"}),
        spec_of(redis={"bundled": {"storage": {"size": "2Gi"}}}, edge={"nodeSelector": {"a": "b"}}),
        spec_of(redis={"external": {"url": "redis://elsewhere:6379"}}),
        spec_of(console={"enabled": True}),
    ],
)
def test_everything_else_is_accepted(policed: Space, spec: Object) -> None:
    assert refusal(policed, spec) == ""


def test_the_server_finds_no_fault_in_its_expressions(policed: Space) -> None:
    """It compiles them against the definition's schema, and writes warnings into the status."""
    name = yaml.safe_load(FILE.read_text().partition("\n---\n")[0])["metadata"]["name"]

    def checked() -> Object | None:
        policy = policed.api.get("ValidatingAdmissionPolicy", name)
        assert policy is not None
        status: Object = policy.get("status", {})
        return status if "observedGeneration" in status else None

    status = policed.wait(checked, "the policy has been checked")
    assert not status.get("typeChecking", {}).get("expressionWarnings")


def test_a_broker_of_the_time_before_is_scaled_and_deleted(
    policed: Space, kubectl: Kubectl
) -> None:
    with pytest.raises(Refused, match="podTemplate is not allowed"):
        policed.put("old", MAIN | {"limits": {"maxPacketSizeBytes": 4096}})
    policed.api.patch("MqttBroker", "old", policed.name, {"status": {"address": "x"}}, "status")
    kubectl("scale", "mqb/old", "--replicas=3", "-n", policed.name)
    # Its finalizer is removed by an update, at the end.
    kubectl("delete", "mqb/old", "--cascade=foreground", "--timeout=30s", "-n", policed.name)
    assert policed.api.get("MqttBroker", "old", policed.name) is None


def test_a_namespace_may_be_left_out(policed: Space, plane: ControlPlane) -> None:
    (_, binding) = yaml.safe_load_all(FILE.read_text())
    (rule,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    name = rule["values"][0]
    if plane.api.get("Namespace", name) is None:
        plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    broker = policed.broker_of("tried", MAIN)
    broker["metadata"]["namespace"] = name
    assert plane.api.apply(broker, dry_run=True)
