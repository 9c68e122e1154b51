"""What `helm test` makes: a pod that may do nothing but look, and is gone afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import helm
from support.brokers import pick
from tidegate_operator import names, smoke

CHART = Path(__file__).parents[2] / "charts" / "tidegate"
HOOK = "helm.sh/hook"
WITH_BROKER = ("--set", "broker.create=true", "--set", "broker.name=first")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def hooks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if HOOK in (one["metadata"].get("annotations") or {})]


@pytest.mark.parametrize("values", [(), WITH_BROKER], ids=["alone", "broker"])
def test_its_arguments_are_understood_and_name_the_services(
    home: Path, values: tuple[str, ...]
) -> None:
    found = helm.rendered(home, CHART, *values)
    (container,) = pick(found, "Pod", "tidegate-test")["spec"]["containers"]
    assert container["command"] == ["python", "-m", "tidegate_operator.smoke"]
    given = smoke.parser().parse_args(container["args"])
    service = pick(found, "Service", "tidegate")
    port = service["spec"]["ports"][0]["port"]
    assert given.operator == f"http://tidegate.system.svc:{port}"
    assert given.broker == ("first" if values else "")
    assert given.namespace == ("system" if values else "default")
    (operator,) = pick(found, "Deployment", "tidegate")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == operator["image"]


def test_without_a_broker_it_has_no_rights_and_no_token(home: Path) -> None:
    (pod,) = hooks(helm.rendered(home, CHART))
    assert pod["kind"] == "Pod"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]


def test_its_rights_are_to_read_what_it_looks_at(home: Path) -> None:
    found = hooks(helm.rendered(home, CHART, *WITH_BROKER))
    assert [one["kind"] for one in found] == ["ServiceAccount", "Role", "RoleBinding", "Pod"]
    rules = pick(found, "Role", "tidegate-test")["rules"]
    assert [(rule["resources"], rule["resourceNames"], rule["verbs"]) for rule in rules] == [
        ([names.PLURAL], ["first"], ["get"]),
        (["configmaps"], [names.authorities_map("first")], ["get"]),
    ]
    (subject,) = pick(found, "RoleBinding", "tidegate-test")["subjects"]
    assert subject["name"] == pick(found, "Pod", "tidegate-test")["spec"]["serviceAccountName"]


def test_nothing_of_it_stays(home: Path) -> None:
    for one in hooks(helm.rendered(home, CHART, *WITH_BROKER)):
        annotations = one["metadata"]["annotations"]
        assert annotations[HOOK] == "test"
        policies = annotations["helm.sh/hook-delete-policy"].split(",")
        assert {"before-hook-creation", "hook-succeeded"} <= set(policies)
        # What the pod needs is there before it.
        weight = int(annotations.get("helm.sh/hook-weight", "0"))
        assert (weight < 0) == (one["kind"] != "Pod")


def test_no_service_and_no_policy_takes_it_for_the_operator(home: Path) -> None:
    found = helm.rendered(home, CHART, "--set", "networkPolicy.create=true")
    labels = pick(found, "Pod", "tidegate-test")["metadata"]["labels"]
    assert labels[names.COMPONENT_LABEL] == "test"
    for selector in (
        pick(found, "Service", "tidegate")["spec"]["selector"],
        pick(found, "NetworkPolicy", "tidegate")["spec"]["podSelector"]["matchLabels"],
        pick(found, "Deployment", "tidegate")["spec"]["selector"]["matchLabels"],
    ):
        assert not selector.items() <= labels.items()


def test_its_pod_is_restricted(home: Path) -> None:
    pod = pick(helm.rendered(home, CHART), "Pod", "tidegate-test")["spec"]
    operator = pick(helm.rendered(home, CHART), "Deployment", "tidegate")["spec"]["template"]
    assert pod["securityContext"] == operator["spec"]["securityContext"]
    (container,), (other,) = pod["containers"], operator["spec"]["containers"]
    assert container["securityContext"] == other["securityContext"]
