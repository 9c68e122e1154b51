"""What the operator does about what others do: drift, pauses, names that are taken, and nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from support.brokers import SPECS, spec_of
from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.looks import whole_look
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from tidegate_operator.names import selector
from tidegate_operator.secrets.certificates import CertificateProblem, check_pair

RICH = spec_of(
    listeners=[{"name": "mqtt", "protocol": "auto", "tls": {"selfSigned": True}}],
    edge={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}},
    service={"type": "LoadBalancer", "annotations": {"ours.example/a": "1"}},
)


@pytest.fixture(scope="module")
def settled(plane: ControlPlane, installed: OperatorProcess) -> Iterator[Space]:
    """A broker that serves, and whose objects are damaged by one test after the other."""
    if not installed.is_running:
        installed.start()
    space = Space(plane.api, "repair")
    space.put("demo", RICH)
    space.until_settled("demo")
    yield space
    space.delete()


CHILDREN = [
    ("ConfigMap", "demo-ca"),
    ("ConfigMap", "demo-edge"),
    ("Deployment", "demo-router"),
    ("HorizontalPodAutoscaler", "demo-edge"),
    ("NetworkPolicy", "demo-redis"),
    ("PodDisruptionBudget", "demo-edge"),
    ("Secret", "demo-admin"),
    ("Secret", "demo-authorities"),
    ("Secret", "demo-redis"),
    ("Service", "demo"),
    ("Service", "demo-routers"),
    ("ServiceAccount", "demo-edge"),
    ("StatefulSet", "demo-redis"),
]


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
@pytest.mark.usefixtures("operator")
def test_what_somebody_deletes_comes_again(kind: str, name: str, settled: Space) -> None:
    uid = settled.get(kind, name)["metadata"]["uid"]
    settled.api.delete(kind, name, settled.name)

    def is_new() -> bool:
        found = settled.api.get(kind, name, settled.name)
        return found is not None and found["metadata"]["uid"] != uid

    settled.wait(is_new, f"{kind} {name} is there again")
    settled.until_settled("demo")


#: The routers' rules, and somebody's port beside ours.
OPENED: list[Object] = [
    {
        "ports": [{"port": 7000, "protocol": "TCP"}, {"port": 22, "protocol": "TCP"}],
        "from": [{"podSelector": {"matchLabels": selector("demo", "edge")}}],
    },
    {"ports": [{"port": 18083, "protocol": "TCP"}]},
]

#: What somebody changes, and where it shows.
EDITS: list[tuple[str, str, Object, tuple[str, ...]]] = [
    ("ConfigMap", "demo-edge", {"data": {"tidegate.yaml": "{}"}}, ("data", "tidegate.yaml")),
    ("ConfigMap", "demo-redis", {"data": None}, ("data",)),
    ("Secret", "demo-router", {"data": {"admin-token": "YQ=="}}, ("data", "admin-token")),
    ("Service", "demo", {"spec": {"type": "ClusterIP"}}, ("spec", "type")),
    ("Service", "demo-metrics", {"spec": {"selector": {"a": "b"}}}, ("spec", "selector")),
    ("Deployment", "demo-router", {"spec": {"replicas": 7}}, ("spec", "replicas")),
    (
        "Deployment",
        "demo-edge",
        {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}},
        ("spec", "template", "spec", "terminationGracePeriodSeconds"),
    ),
    ("StatefulSet", "demo-redis", {"spec": {"replicas": 0}}, ("spec", "replicas")),
    ("HorizontalPodAutoscaler", "demo-edge", {"spec": {"maxReplicas": 9}}, ("spec", "maxReplicas")),
    ("NetworkPolicy", "demo-router", {"spec": {"ingress": []}}, ("spec", "ingress")),
    ("NetworkPolicy", "demo-router", {"spec": {"ingress": OPENED}}, ("spec", "ingress")),
    (
        "PodDisruptionBudget",
        "demo-router",
        {"spec": {"maxUnavailable": 5}},
        ("spec", "maxUnavailable"),
    ),
    (
        "ServiceAccount",
        "demo-edge",
        {"automountServiceAccountToken": True},
        ("automountServiceAccountToken",),
    ),
    ("Service", "demo", {"metadata": {"annotations": {"ours.example/a": "2"}}}, ("metadata",)),
    (
        "ConfigMap",
        "demo-ca",
        {"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}},
        ("metadata",),
    ),
    ("Secret", "demo-admin", {"metadata": {"ownerReferences": []}}, ("metadata",)),
]


def value_at(one: Object, path: tuple[str, ...]) -> object:
    """Return what is at a path; of the metadata what people write."""
    found: object = one
    for part in path:
        assert isinstance(found, dict)
        found = found.get(part)
    if path == ("metadata",):
        assert isinstance(found, dict)
        return {key: found.get(key) for key in ("annotations", "labels", "ownerReferences")}
    return found


@pytest.mark.parametrize(
    ("kind", "name", "change", "path"), EDITS, ids=[f"{one[0]} {one[3][-1]}" for one in EDITS]
)
@pytest.mark.usefixtures("operator")
def test_what_somebody_changes_is_set_back(
    kind: str, name: str, change: Object, path: tuple[str, ...], settled: Space
) -> None:
    before = value_at(settled.get(kind, name), path)
    damaged = settled.api.patch(kind, name, settled.name, change)
    assert value_at(damaged, path) != before
    settled.wait(
        lambda: value_at(settled.get(kind, name), path) == before, f"{kind} {name} is as before"
    )
    settled.until_settled("demo")


@pytest.mark.usefixtures("operator")
def test_a_key_that_somebody_has_damaged_is_made_anew(settled: Space) -> None:
    settled.api.patch("Secret", "demo-router", settled.name, {"data": {"link.key": "YQ=="}})

    def is_good() -> bool:
        data = settled.get("Secret", "demo-router")["data"]
        files = [base64.b64decode(data[name]) for name in ("link.crt", "link.key")]
        return files[1] != b"a" and not problem_of(*files)

    settled.wait(is_good, "a key that belongs to its certificate")
    settled.until_settled("demo")


def problem_of(certificate: bytes, key: bytes) -> str:
    try:
        check_pair(certificate, key)
    except CertificateProblem as problem:
        return str(problem)
    return ""


@pytest.mark.usefixtures("operator")
def test_what_belongs_to_others_stays(settled: Space) -> None:
    annotation = {"others.example/idle-timeout": "350"}
    changes: Object = {
        "metadata": {"annotations": annotation, "labels": {"others.example/team": "net"}},
        "spec": {"sessionAffinity": "ClientIP", "healthCheckNodePort": None},
    }
    settled.api.patch("Service", "demo", settled.name, changes)
    restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    sidecar = {"name": "sidecar", "image": "sidecar:1"}
    template: Object = {
        "metadata": {"annotations": restarted},
        "spec": {"containers": [sidecar]},
    }
    settled.api.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "demo-edge", "namespace": settled.name},
            "spec": {"template": template},
        },
        "injector",
    )
    # The operator writes both objects once more.
    spec = spec_of() | RICH | {"service": {"type": "LoadBalancer"}, "image": "other:1"}
    settled.put("demo", spec)
    settled.wait(
        lambda: "ours.example/a" not in settled.get("Service", "demo")["metadata"]["annotations"],
        "our annotation has gone",
    )
    settled.until_settled("demo")
    service = settled.get("Service", "demo")
    assert service["metadata"]["annotations"].items() >= annotation.items()
    assert service["metadata"]["labels"]["others.example/team"] == "net"
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    pod = settled.get("Deployment", "demo-edge")["spec"]["template"]
    assert pod["metadata"]["annotations"].items() >= restarted.items()
    images = {one["name"]: one["image"] for one in pod["spec"]["containers"]}
    assert images == {"tidegate": "other:1", "sidecar": "sidecar:1"}
    settled.put("demo", RICH)
    settled.until_settled("demo")


@pytest.mark.usefixtures("operator")
def test_kubectl_rollout_restart_replaces_pods_once(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    before = space.pod_uids("demo", "edge")
    stamp = {"kubectl.kubernetes.io/restartedAt": "2026-02-02T00:00:00Z"}
    change = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
    space.api.patch("Deployment", "demo-edge", space.name, change)
    space.wait(lambda: not before & space.pod_uids("demo", "edge"), "all edges are new")
    space.until_settled("demo")
    after = space.pod_uids("demo", "edge")
    space.put("demo", spec_of(service={"type": "NodePort"}))
    space.until_settled("demo")
    assert space.pod_uids("demo", "edge") == after


def test_nothing_is_changed_while_a_broker_is_paused(
    operator: OperatorProcess, space: Space
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    space.put("demo", spec_of(edge={"replicas": 4}, paused=True))
    space.until("demo", "Progressing", "Paused")
    space.api.delete("PodDisruptionBudget", "demo-edge", space.name)
    space.api.patch("Service", "demo", space.name, {"spec": {"type": "NodePort"}})
    mark = operator.plane.audit.mark()
    space.put("demo", spec_of(edge={"replicas": 5}, paused=True))
    space.until("demo", "Progressing", "Paused")
    written = operator.plane.audit.writes(mark, user=operator.user, namespace=space.name)
    assert {one.split()[1] for one in written} <= {"mqttbrokers/status", "events"}
    assert len(space.pods("demo", "edge")) == 2
    assert space.api.get("PodDisruptionBudget", "demo-edge", space.name) is None

    space.put("demo", spec_of(edge={"replicas": 5}))
    space.until_settled("demo")
    assert len(space.pods("demo", "edge")) == 5
    assert space.get("Service", "demo")["spec"]["type"] == "ClusterIP"
    assert space.get("PodDisruptionBudget", "demo-edge")


@pytest.mark.usefixtures("operator")
def test_names_that_are_taken_are_said_and_left_alone(space: Space) -> None:
    theirs: list[tuple[str, str, Object]] = [
        ("ConfigMap", "demo-edge", {"data": {"mine": "yes"}}),
        ("Secret", "demo-router", {"stringData": {"mine": "yes"}}),
        ("Service", "demo", {"spec": {"ports": [{"port": 80}]}}),
    ]
    before = {}
    for kind, name, content in theirs:
        metadata = {"name": name, "namespace": space.name}
        mine = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        before[kind] = space.api.create(mine | content)["metadata"]
    space.put("demo", spec_of())
    found = space.until("demo", "Degraded", "NameTaken", "True")
    for kind, name, _ in theirs:
        assert f"{kind} {name}" in found["message"]
        assert space.get(kind, name)["metadata"] == before[kind]
    assert space.children("demo") == []
    for kind, name, _ in theirs:
        space.api.delete(kind, name, space.name)
    space.until_settled("demo")


@pytest.mark.usefixtures("operator")
def test_two_brokers_whose_objects_would_be_called_the_same_do_not_fight(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    # Its Service would be called as the Deployment's neighbours are: demo-routers.
    space.put("demo-routers", spec_of())
    found = space.until("demo-routers", "Degraded", "NameTaken", "True")
    assert "Service demo-routers" in found["message"]
    space.until_settled("demo")
    assert space.condition("demo", "Degraded")["status"] == "False"


# Idempotence


def test_unchanged_brokers_are_not_written_again(operator: OperatorProcess, space: Space) -> None:
    """Whatever the server makes of what was applied: amounts, defaults, lists that are empty."""
    for name, spec in SPECS.items():
        space.provide(spec, name)
        space.put(name, spec)
    for name in SPECS:
        space.until_settled(name)
        # Everything is read anew and compared, because somebody has touched it.
        for kind, child in space.children(name):
            if kind not in {"Pod", "ReplicaSet"}:
                touched: Object = {"metadata": {"annotations": {"a.example/b": "c"}}}
                space.api.patch(kind, child, space.name, touched)
    asked = whole_look([operator], space.name, list(SPECS))
    assert [str(one) for one in asked if one.is_write] == []
    # Looking costs the broker and what it refers to, nothing else, and asks for no dry run.
    assert {(one.verb, one.resource) for one in asked} <= {
        ("get", "mqttbrokers"),
        ("get", "secrets"),
        ("get", "configmaps"),
    }
