"""The operator's pod as the chart makes it: its arguments, who it runs as, its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import openshift
from support.brokers import pick
from support.chart import VALUES, VALUES_IDS, made, operator, values
from tidegate_operator import __main__ as command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("file", [None, *VALUES], ids=["defaults", *VALUES_IDS])
def test_the_operator_understands_its_arguments(home: Path, file: Path | None) -> None:
    (container,) = operator(made(home, file))["containers"]
    assert container["command"] == ["python", "-m", "tidegate_operator"]
    given = command.parser().parse_args(container["args"])
    assert given.namespace == "$(POD_NAMESPACE)"
    if file is not None and file.stem == "namespaces":
        assert given.watch == ["iot", "factory"]
        assert given.no_crd_upgrade
        assert (given.log_level, given.log_format) == ("debug", "text")


def test_who_collects_metrics_is_said_once_for_all_brokers(home: Path) -> None:
    found = made(home, values("everything"))
    (container,) = operator(found)["containers"]
    given = command.parser().parse_args(container["args"])
    (rule,) = pick(found, "NetworkPolicy", "tidegate")["spec"]["ingress"]
    assert given.metrics_peers == rule["from"][1:] != []
    (container,) = operator(made(home))["containers"]
    assert command.parser().parse_args(container["args"]).metrics_peers == []


@pytest.mark.parametrize("peers", ["{}", "[1]", "monitoring"])
def test_peers_that_are_none_are_refused(peers: str) -> None:
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--image=x", f"--metrics-peers={peers}"])


def test_rollouts_are_limited_and_have_windows_as_the_values_say(home: Path) -> None:
    file = home / "values.yaml"
    file.write_text(
        "rollout: {maxConcurrent: 7}\n"
        "maintenance: {windows: [{schedule: 0 2 * * sun, timeZone: Europe/Berlin}]}\n"
    )
    for chosen, limit, schedules in ((None, 3, []), (file, 7, ["0 2 * * sun"])):
        (container,) = operator(made(home, chosen))["containers"]
        given = command.parser().parse_args(container["args"])
        assert given.rollout_max_concurrent == limit
        assert [one.schedule for one in given.maintenance_windows] == schedules


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ('--maintenance-windows=[{"schedule": "0 25 * * *"}]', "'25' is no hour"),
        ('--maintenance-windows=[{"schedule": "0 2 * * *", "timeZone": "Mars"}]', "timeZone: "),
        ("--rollout-max-concurrent=-1", "invalid"),
    ],
)
def test_windows_and_limits_that_are_none_are_refused(
    argument: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--image=x", argument])
    assert wrong in capsys.readouterr().err


def test_brokers_get_the_operators_image_or_one_of_their_own(home: Path) -> None:
    (container,) = operator(made(home))["containers"]
    assert f"--image={container['image']}" in container["args"]
    (container,) = operator(made(home, values("broker")))["containers"]
    assert container["image"].startswith("registry.example/mqtt@sha256:")
    assert "--image=registry.example/mqtt:other" in container["args"]


@pytest.mark.parametrize("file", [None, *VALUES], ids=["defaults", *VALUES_IDS])
def test_the_pod_is_restricted(home: Path, file: Path | None) -> None:
    pod = operator(made(home, file))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("file", [None, *VALUES], ids=["defaults", *VALUES_IDS])
def test_openshift_admits_its_pods_and_chooses_their_user(home: Path, file: Path | None) -> None:
    found = made(home, file)
    for pod in (operator(found), pick(found, "Pod", "tidegate-test")["spec"]):
        assert openshift.problems(pod) == []
        assert set(pod["securityContext"]) == {"runAsNonRoot", "seccompProfile"}


def test_security_contexts_are_values(home: Path) -> None:
    settings = ("podSecurityContext.runAsUser=1000", "securityContext.readOnlyRootFilesystem=null")
    found = made(home, None, *(part for one in settings for part in ("--set", one)))
    for pod in (operator(found), pick(found, "Pod", "tidegate-test")["spec"]):
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert set(container["securityContext"]) == {"allowPrivilegeEscalation", "capabilities"}


@pytest.mark.parametrize("file", [None, values("everything")], ids=["defaults", "everything"])
def test_health_and_metrics_are_where_the_service_says(home: Path, file: Path | None) -> None:
    found = made(home, file)
    (container,) = operator(found)["containers"]
    given = command.parser().parse_args(container["args"])
    (port,) = container["ports"]
    assert port["containerPort"] == given.admin_port
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    service = pick(found, "Service", "tidegate")["spec"]
    assert service["ports"][0] | {"protocol": "TCP"} == {
        "name": port["name"],
        "port": given.admin_port,
        "targetPort": port["name"],
        "protocol": "TCP",
    }
    labels = pick(found, "Deployment", "tidegate")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_probes_keep_their_path_and_have_the_times_of_the_values(home: Path) -> None:
    (container,) = operator(made(home, values("everything")))["containers"]
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/livez", "port": "admin"},
        "initialDelaySeconds": 5,
        "periodSeconds": 20,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }
    assert container["readinessProbe"]["periodSeconds"] == 15
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_pods_are_spread_by_the_release_or_by_a_selector_of_the_users(home: Path) -> None:
    found = made(home, values("everything"))
    first, second = operator(found)["topologySpreadConstraints"]
    assert first["topologyKey"] == "topology.kubernetes.io/zone"
    deployment = pick(found, "Deployment", "tidegate")["spec"]
    assert first["labelSelector"] == deployment["selector"]
    assert second["labelSelector"] == {"matchLabels": {"a": "b"}}
    assert "topologySpreadConstraints" not in operator(made(home))


def test_its_disruption_budget_is_made_on_request(home: Path) -> None:
    found = made(home, values("everything"))
    budget = pick(found, "PodDisruptionBudget", "tidegate")["spec"]
    assert budget["maxUnavailable"] == 0
    assert budget["selector"] == pick(found, "Deployment", "tidegate")["spec"]["selector"]
    found = made(home, None, "--set", "podDisruptionBudget.create=true")
    assert pick(found, "PodDisruptionBudget", "tidegate")["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget" not in {one["kind"] for one in made(home)}
