"""A broker's life: it comes, serves, changes in all its parts, and goes."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.looks import until_at_rest
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from tidegate_operator import names

pytestmark = pytest.mark.usefixtures("operator")

HEADLINE = spec_of(
    listeners=[{"name": "mqtt", "protocol": "auto", "tls": {"selfSigned": True}}],
    service={"type": "LoadBalancer"},
)
EXPECTED = {
    ("ConfigMap", "demo-ca"),
    ("ConfigMap", "demo-edge"),
    ("ConfigMap", "demo-redis"),
    ("ConfigMap", "demo-router"),
    ("Deployment", "demo-edge"),
    ("Deployment", "demo-router"),
    ("NetworkPolicy", "demo-edge"),
    ("NetworkPolicy", "demo-redis"),
    ("NetworkPolicy", "demo-router"),
    ("PodDisruptionBudget", "demo-edge"),
    ("PodDisruptionBudget", "demo-router"),
    ("Secret", "demo-admin"),
    ("Secret", "demo-authorities"),
    ("Secret", "demo-edge"),
    ("Secret", "demo-last-applied"),
    ("Secret", "demo-redis"),
    ("Secret", "demo-router"),
    ("Service", "demo"),
    ("Service", "demo-metrics"),
    ("Service", "demo-redis"),
    ("Service", "demo-routers"),
    ("ServiceAccount", "demo-edge"),
    ("ServiceAccount", "demo-redis"),
    ("ServiceAccount", "demo-router"),
    ("StatefulSet", "demo-redis"),
}


def made(space: Space, broker: str = "demo") -> set[tuple[str, str]]:
    return {one for one in space.children(broker) if one[0] not in {"Pod", "ReplicaSet"}}


def test_a_broker_comes_to_serve(space: Space, kubectl: Kubectl) -> None:
    space.put("demo", HEADLINE)
    status = space.until_settled("demo")["status"]
    assert made(space) == EXPECTED
    assert status["address"].startswith("203.0.113.")
    assert status["address"].endswith(":443")
    assert status["edges"]["ready"] == status["edges"]["desired"] == 2
    assert status["routers"]["ready"] == 2
    assert space.condition("demo", "CertificatesReady")["reason"] == "Issued"
    assert space.condition("demo", "Degraded")["status"] == "False"
    assert status["listeners"][0]["certificateNotAfter"]
    row = kubectl("get", "mqb", "demo", "-n", space.name, "--no-headers").split()
    assert row[:5] == ["demo", "True", "False", "2", "2"]
    # The event is written after the status.
    space.wait(lambda: {one["reason"] for one in space.events("demo")} >= {"Serving"}, "it is told")
    waited = kubectl("wait", "mqb/demo", "--for=condition=Ready", "-n", space.name)
    assert "condition met" in waited


def test_everything_belongs_to_the_broker(space: Space) -> None:
    uid = space.put("demo", HEADLINE)["metadata"]["uid"]
    space.until_settled("demo")
    for kind, name in made(space):
        (owner,) = space.get(kind, name)["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True), (kind, name)
    broker = space.broker("demo")
    assert "finalizers" not in broker["metadata"]
    assert "annotations" not in broker["metadata"]


def test_a_deleted_broker_leaves_nothing_but_its_volume(space: Space) -> None:
    space.put("demo", HEADLINE)
    space.until_settled("demo")
    space.api.delete("MqttBroker", "demo", space.name)
    space.wait(lambda: space.children("demo") == [], "everything is gone")
    (claim,) = space.listed("PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "data-demo-redis-0"
    assert claim["status"]["phase"] == "Bound"


def test_the_volume_goes_too_if_that_is_wanted(space: Space) -> None:
    space.put("demo", spec_of(redis={"bundled": {"storage": {"onDelete": "delete"}}}))
    space.until_settled("demo")
    space.api.delete("MqttBroker", "demo", space.name)
    space.wait(
        lambda: not space.children("demo") and not space.listed("PersistentVolumeClaim"),
        "everything is gone",
    )


def test_a_broker_that_comes_again_finds_its_volume(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    (before,) = space.listed("PersistentVolumeClaim")
    space.api.delete("MqttBroker", "demo", space.name)
    space.wait(lambda: space.children("demo") == [], "everything is gone")
    space.put("demo", spec_of())
    space.until_settled("demo")
    (after,) = space.listed("PersistentVolumeClaim")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_broker_that_is_replaced_at_once_gets_objects_of_its_own(space: Space) -> None:
    first = space.put("demo", spec_of())["metadata"]["uid"]
    space.until_settled("demo")
    space.api.delete("MqttBroker", "demo", space.name)
    second = space.put("demo", spec_of())["metadata"]["uid"]
    assert first != second
    space.until_settled("demo")
    owners = {
        space.get(kind, name)["metadata"]["ownerReferences"][0]["uid"] for kind, name in made(space)
    }
    assert owners == {second}


def test_a_namespace_with_brokers_can_be_deleted(space: Space) -> None:
    # The namespace's controller comes again after half of the longest time that pods may take.
    quick = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 1}}}
    hasty = HEADLINE | {"edge": quick, "router": quick, "redis": {"bundled": quick}}
    space.put("one", hasty)
    space.put("two", hasty)
    space.until_settled("one")
    space.delete()
    space.wait(lambda: space.api.get("Namespace", space.name) is None, "the namespace is gone")


def test_brokers_of_one_namespace_and_of_one_name_stay_apart(
    operator: OperatorProcess, space: Space, other_space: Space
) -> None:
    space.put("one", HEADLINE)
    space.put("two", spec_of(edge={"replicas": 1}))
    other_space.put("one", spec_of(edge={"replicas": 3}))
    for where, name in ((space, "one"), (space, "two")):
        where.until_settled(name)
    until_at_rest(operator, other_space, "one")
    assert len(space.pods("one", "edge")) == 2
    assert len(space.pods("two", "edge")) == 1
    assert len(other_space.pods("one", "edge")) == 3
    tokens = {
        where.get("Secret", name)["data"]["token"]
        for where, name in (
            (space, "one-admin"),
            (space, "two-admin"),
            (other_space, "one-admin"),
        )
    }
    assert len(tokens) == 3
    # One goes, and nobody else notices.
    mark = other_space.broker("one")["metadata"]["resourceVersion"]
    space.api.delete("MqttBroker", "one", space.name)
    space.wait(lambda: not space.children("one"), "one is gone")
    assert made(space, "two")
    assert other_space.broker("one")["metadata"]["resourceVersion"] == mark


def test_edges_are_scaled_by_kubectl(space: Space, kubectl: Kubectl) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    kept = space.pod_uids("demo", "edge")
    routers = space.pod_uids("demo", "router")
    kubectl("scale", "mqb/demo", "--replicas=5", "-n", space.name)
    space.wait(lambda: space.broker("demo")["status"]["edges"]["ready"] == 5, "five edges")
    assert kept < space.pod_uids("demo", "edge")
    kubectl("scale", "mqb/demo", "--replicas=0", "-n", space.name)
    space.until("demo", "Ready", "ScaledToZero")
    kubectl("scale", "mqb/demo", "--replicas=1", "-n", space.name)
    space.until_settled("demo")
    assert space.pod_uids("demo", "router") == routers


def test_an_autoscaler_scales_the_broker(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    reference = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "demo"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "mine", "namespace": space.name},
        "spec": {
            "scaleTargetRef": reference,
            "minReplicas": 4,
            "maxReplicas": 6,
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }
    space.api.create(autoscaler)
    space.wait(lambda: space.broker("demo")["spec"]["edge"]["replicas"] == 4, "four are wanted")
    space.until_settled("demo")
    assert len(space.pods("demo", "edge")) == 4

    def said() -> dict[str, str]:
        found = space.get("HorizontalPodAutoscaler", "mine").get("status", {})
        return {one["type"]: one["reason"] for one in found.get("conditions") or []}

    # It reads the scale and finds the pods by its selector; here, nobody measures them.
    space.wait(lambda: said().get("ScalingActive") == "FailedGetResourceMetric", "it has looked")
    assert said()["AbleToScale"] == "SucceededGetScale"


def test_an_autoscaler_of_the_broker_keeps_the_number(space: Space) -> None:
    space.put("demo", spec_of(edge={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}))
    space.until_settled("demo")
    space.api.patch("Deployment", "demo-edge", space.name, {"spec": {"replicas": 3}}, "scale")
    space.wait(lambda: len(space.pods("demo", "edge")) == 3, "three edges")
    space.put("demo", spec_of(edge={"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}))
    space.until_settled("demo")
    assert len(space.pods("demo", "edge")) == 3
    assert space.get("HorizontalPodAutoscaler", "demo-edge")["spec"]["maxReplicas"] == 5
    # An autoscaler leaves alone what is scaled to zero, so somebody else must not.
    space.api.patch("Deployment", "demo-edge", space.name, {"spec": {"replicas": 0}}, "scale")
    space.wait(lambda: len(space.pods("demo", "edge")) == 2, "the fewest")
    space.until_settled("demo")
    # Without it the number of the spec counts again.
    space.put("demo", spec_of(edge={"replicas": 1}))
    space.until_settled("demo")
    assert len(space.pods("demo", "edge")) == 1
    assert space.api.get("HorizontalPodAutoscaler", "demo-edge", space.name) is None


def data(space: Space, kind: str, name: str, key: str) -> str:
    found = space.get(kind, name)["data"].get(key, "")
    return base64.b64decode(found).decode() if kind == "Secret" else str(found)


def config(space: Space, component: str) -> Any:
    return yaml.safe_load(data(space, "ConfigMap", f"demo-{component}", names.CONFIG_FILE))


def container(space: Space, workload: str, kind: str = "Deployment") -> Object:
    found: Object = space.get(kind, workload)["spec"]["template"]["spec"]["containers"][0]
    return found


#: What is changed, and how it shows. `edge`, `router`: whose pods have to be new ones.
Check = Callable[[Space], bool]
UPDATES: list[tuple[str, Object, Check, set[str]]] = [
    (
        "limits",
        {"limits": {"maxPacketSizeBytes": 4096}},
        lambda it: config(it, "edge").get("limits") == {"max_packet_size_bytes": 4096},
        set(),
    ),
    (
        "log level",
        {"log": {"level": "debug"}},
        lambda it: config(it, "router")["log"].get("level") == "debug",
        set(),
    ),
    (
        "access rules",
        {"acl": {"rules": "topic read a/#\n"}},
        lambda it: data(it, "Secret", "demo-edge", "acl") == "topic read a/#\n",
        set(),
    ),
    (
        "listeners",
        {"listeners": [{"name": "mqtt"}, {"name": "web", "protocol": "ws"}]},
        lambda it: (
            [one["port"] for one in it.get("Service", "demo")["spec"]["ports"]] == [1883, 8083]
        ),
        set(),
    ),
    (
        "kind of the Service",
        {"service": {"type": "NodePort", "annotations": {"a.example/b": "c"}}},
        lambda it: (
            it.get("Service", "demo")["spec"]["type"] == "NodePort"
            and it.broker("demo")["status"]["address"].startswith("NODE:3")
        ),
        set(),
    ),
    (
        "image",
        {"image": "registry.example/tidegate:2"},
        lambda it: container(it, "demo-edge")["image"] == "registry.example/tidegate:2",
        {"edge", "router", "redis"},
    ),
    (
        "resources of edges",
        {"edge": {"resources": {"requests": {"cpu": "1000m", "memory": "1Gi"}}}},
        lambda it: (
            container(it, "demo-edge")["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}}
        ),
        {"edge"},
    ),
    (
        "placement of routers",
        {"router": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]}},
        lambda it: (
            "nodeSelector" in it.get("Deployment", "demo-router")["spec"]["template"]["spec"]
        ),
        {"router"},
    ),
    (
        "telemetry",
        {"telemetry": {"otlpEndpoint": "http://collector:4318"}},
        lambda it: "collector" in str(config(it, "edge").get("telemetry")),
        {"edge", "router"},
    ),
    (
        "network policies",
        {"networkPolicy": {"enabled": False}},
        lambda it: not it.listed("NetworkPolicy", "demo"),
        set(),
    ),
    (
        "budget",
        {"edge": {"disruptionBudget": {"minAvailable": "50%"}}},
        lambda it: (
            it.get("PodDisruptionBudget", "demo-edge")["spec"].get("minAvailable") == "50%"
            and "maxUnavailable" not in it.get("PodDisruptionBudget", "demo-edge")["spec"]
        ),
        set(),
    ),
    (
        "memory of the store",
        {"redis": {"bundled": {"resources": {"limits": {"memory": "1Gi"}}}}},
        lambda it: "maxmemory 751619276" in str(it.get("ConfigMap", "demo-redis")["data"]),
        {"redis"},
    ),
]


@pytest.fixture(scope="module")
def settled(plane: ControlPlane, installed: OperatorProcess) -> Any:
    """A broker that the updates are tried on, one after the other."""
    if not installed.is_running:
        installed.start()
    space = Space(plane.api, "updates")
    space.put("demo", spec_of())
    space.until_settled("demo")
    yield space
    space.delete()


@pytest.mark.parametrize(
    ("what", "changes", "check", "replaced"), UPDATES, ids=[one[0] for one in UPDATES]
)
def test_an_update_of(
    what: str, changes: Object, check: Check, replaced: set[str], settled: Space
) -> None:
    space = settled
    # From where the test before has left it, back to the beginning, and then the change.
    space.put("demo", spec_of())
    space.until_settled("demo")
    parts = ("edge", "router", "redis")
    before = {part: space.pod_uids("demo", part) for part in parts}
    space.put("demo", spec_of() | copy.deepcopy(changes))
    space.wait(lambda: check(space), what)
    space.until_settled("demo")
    after = {part: space.pod_uids("demo", part) for part in parts}
    assert {part for part in parts if before[part] != after[part]} == replaced


def test_the_store_can_be_moved_outside(space: Space, kubelet: FakeKubelet) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    space.put("demo", spec_of(redis={"external": {"url": "redis://elsewhere:6379"}}))
    space.until_settled("demo")
    space.wait(
        lambda: not {one for one in made(space) if "redis" in one[1]}, "the old store has gone"
    )
    assert config(space, "router")["store"] == {"url": "redis://elsewhere:6379"}
    # What has been stored is not ours to throw away.
    assert len(space.listed("PersistentVolumeClaim")) == 1


def test_a_store_that_cannot_be_reached_does_not_cost_the_old_one(
    space: Space, kubelet: FakeKubelet
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    before = {one for one in made(space) if "redis" in one[1]}
    parts = ("edge", "router", "redis")
    pods = {part: space.pod_uids("demo", part) for part in parts}
    kubelet.hold_starts(space.name)
    mistaken = space.put("demo", spec_of(redis={"external": {"url": "redis://elsewere:6379"}}))
    space.wait(lambda: len(space.pod_uids("demo", "router")) > len(pods["router"]), "a new router")
    space.wait(
        lambda: (
            space.broker("demo")["status"]["observedGeneration"]
            >= mistaken["metadata"]["generation"]
        ),
        "it is said how it goes",
    )
    assert {one for one in made(space) if "redis" in one[1]} == before
    kubelet.release_starts(space.name)
    space.put("demo", spec_of())
    space.until_settled("demo")
    assert {one for one in made(space) if "redis" in one[1]} == before
    assert space.pod_uids("demo", "redis") == pods["redis"]


def test_an_address_is_waited_for(space: Space, kubelet: FakeKubelet) -> None:
    kubelet.hold_addresses(space.name)
    space.put("demo", HEADLINE)
    space.until("demo", "Ready", "AddressPending")
    assert (
        "address" not in space.broker("demo")["status"]
        or not space.broker("demo")["status"]["address"]
    )
    kubelet.give_addresses(space.name)
    space.until_settled("demo")
    assert space.broker("demo")["status"]["address"].startswith("203.0.113.")
