"""What is written: nothing without need, nothing of others, and all that has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.brokers import SPECS, UID, inputs_for, pick, spec_of
from support.fake_cluster import FakeCluster
from tidegate_operator.names import FIELD_MANAGER
from tidegate_operator.plan import (
    MANAGED_KINDS,
    OPTIONAL_KINDS,
    ObjectRef,
    Plan,
    covers,
    is_applied,
    plan,
    with_applied_hash,
)
from tidegate_operator.render import Manifest, render

INPUTS = {name: inputs_for(spec) for name, spec in SPECS.items()}


def manifests(spec: dict[str, Any] | None = None) -> list[Manifest]:
    """Render with the same keys every time."""
    base = INPUTS["minimal"]
    return render(inputs_for(spec or spec_of(), owned_secrets=base.owned_secrets))


def carry_out(cluster: FakeCluster, desired: list[Manifest], **options: bool) -> Plan:
    found = plan(desired, cluster.all(), UID, **options)
    for manifest in found.apply:
        cluster.apply(manifest, manager=FIELD_MANAGER)
    for ref in found.delete:
        cluster.delete(ref.kind, ref.name)
    return found


def names(found: Plan) -> list[str]:
    return [f"{one['kind']} {one['metadata']['name']}" for one in found.apply]


@pytest.mark.parametrize("name", SPECS)
def test_a_second_time_nothing_is_written(name: str) -> None:
    cluster = FakeCluster()
    desired = render(INPUTS[name])
    first = carry_out(cluster, desired)
    assert len(first.apply) == len(desired)
    assert first.delete == ()
    assert carry_out(cluster, desired).is_empty


def test_objects_are_written_in_the_order_in_which_they_are_needed() -> None:
    kinds = [one["kind"] for one in carry_out(FakeCluster(), manifests()).apply]
    assert kinds.index("ServiceAccount") < kinds.index("Deployment")
    assert kinds.index("Secret") < kinds.index("Deployment")
    assert kinds.index("NetworkPolicy") < kinds.index("StatefulSet") < kinds.index("Deployment")
    assert kinds.index("Deployment") < kinds.index("PodDisruptionBudget")


def test_only_what_a_change_concerns_is_written() -> None:
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    assert names(carry_out(cluster, manifests(spec_of(edge={"replicas": 5})))) == [
        "Deployment demo-edge"
    ]
    changed = spec_of(edge={"replicas": 5}, service={"type": "NodePort"})
    assert names(carry_out(cluster, manifests(changed))) == ["Service demo"]
    changed["limits"] = {"maxInFlight": 10}
    assert names(carry_out(cluster, manifests(changed))) == [
        "ConfigMap demo-router",
        "ConfigMap demo-edge",
    ]


def test_what_others_have_changed_in_our_fields_is_put_right() -> None:
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    cluster.get("Service", "demo")["spec"]["ports"][0]["targetPort"] = 1
    cluster.get("Deployment", "demo-router")["spec"]["replicas"] = 9
    del cluster.get("ConfigMap", "demo-edge")["data"]
    assert names(carry_out(cluster, manifests())) == [
        "Service demo",
        "Deployment demo-router",
        "ConfigMap demo-edge",
    ]
    assert cluster.get("Deployment", "demo-router")["spec"]["replicas"] == 2
    assert carry_out(cluster, manifests()).is_empty


def test_fields_of_others_survive() -> None:
    """A load balancer's annotation, a sidecar, somebody's label: none of it is ours."""
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    service = cluster.get("Service", "demo")
    service["metadata"].setdefault("annotations", {})["lb.example/idle-timeout"] = "350"
    service["spec"]["ports"].append({"name": "theirs", "port": 9, "targetPort": 9})
    deployment = cluster.get("Deployment", "demo-edge")
    deployment["metadata"]["labels"]["theirs"] = "1"
    deployment["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"})
    assert carry_out(cluster, manifests()).is_empty
    carry_out(cluster, manifests(spec_of(edge={"replicas": 4}, service={"type": "NodePort"})))
    service, deployment = cluster.get("Service", "demo"), cluster.get("Deployment", "demo-edge")
    assert service["metadata"]["annotations"]["lb.example/idle-timeout"] == "350"
    assert [port["port"] for port in service["spec"]["ports"]] == [1883, 9]
    assert service["spec"]["type"] == "NodePort"
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert [one["name"] for one in containers] == ["tidegate", "sidecar"]
    assert deployment["metadata"]["labels"]["theirs"] == "1"


def test_fields_that_we_do_not_want_any_more_go() -> None:
    cluster = FakeCluster()
    annotated = spec_of(service={"annotations": {"a": "1", "b": "2"}})
    carry_out(cluster, manifests(annotated))
    annotated["service"]["annotations"].pop("a")
    assert names(carry_out(cluster, manifests(annotated))) == ["Service demo"]
    annotations = cluster.get("Service", "demo")["metadata"]["annotations"]
    assert "a" not in annotations
    assert annotations["b"] == "2"


# Deleting


def test_what_is_not_wanted_any_more_goes() -> None:
    cluster = FakeCluster()
    carry_out(cluster, render(INPUTS["everything"]))
    found = carry_out(cluster, manifests())
    assert [str(ref) for ref in found.delete] == [
        "HorizontalPodAutoscaler demo-edge",
        "Certificate demo-web-tls",
    ]


def test_nothing_goes_while_only_a_part_is_known() -> None:
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    assert carry_out(cluster, manifests()[:2], delete=False).is_empty


def test_what_belongs_to_others_stays_even_with_our_labels() -> None:
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    labels = pick(manifests(), "ConfigMap", "demo-edge")["metadata"]["labels"]
    for name, owners in (
        ("nobodys", []),
        ("anothers", [{"uid": "other", "controller": True}]),
        ("not-controlled", [{"uid": UID}]),
    ):
        cluster.put(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
            }
        )
    assert carry_out(cluster, manifests()).is_empty


def test_what_is_ours_without_our_label_stays() -> None:
    """cert-manager's Secret may be owned by the broker, too: it is not for us to delete."""
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "x", "ownerReferences": [{"uid": UID, "controller": True}]},
        }
    )
    assert carry_out(cluster, manifests()).is_empty


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    cluster = FakeCluster()
    carry_out(cluster, render(INPUTS["everything"]))
    for one in cluster.objects.values():
        one["metadata"]["deletionTimestamp"] = "2026-03-01T00:00:00Z"
    assert plan(manifests(), cluster.all(), UID).delete == ()


def test_volumes_are_never_looked_at() -> None:
    kinds = {kind for _, kind in (*MANAGED_KINDS, *OPTIONAL_KINDS)}
    assert "PersistentVolumeClaim" not in kinds
    rendered = {(one["apiVersion"], one["kind"]) for one in render(INPUTS["everything"])}
    assert rendered <= {*MANAGED_KINDS, *OPTIONAL_KINDS}


# What is in the way


def test_nothing_is_written_over_what_belongs_to_others() -> None:
    cluster = FakeCluster()
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-edge"}, "data": {}}
    cluster.put(copy.deepcopy(theirs))
    found = carry_out(cluster, manifests())
    assert [str(ref) for ref in found.foreign] == ["Secret demo-edge"]
    assert found.is_empty
    assert cluster.writes == []


def test_objects_of_a_broker_of_the_same_name_that_was_deleted_are_in_the_way() -> None:
    """The garbage collector takes them away; until then they are not ours."""
    cluster = FakeCluster()
    carry_out(cluster, manifests())
    assert plan(manifests(), cluster.all(), "another-uid").foreign


# Replicas and autoscalers


def autoscaled() -> list[Manifest]:
    return manifests(spec_of(edge={"autoscaling": {"maxReplicas": 9}}))


def replicas(cluster: FakeCluster) -> int:
    return int(cluster.get("Deployment", "demo-edge")["spec"]["replicas"])


def scale(cluster: FakeCluster, count: int) -> None:
    """Do what an autoscaler does."""
    deployment = cluster.get("Deployment", "demo-edge")
    body = {key: deployment[key] for key in ("apiVersion", "kind")}
    metadata = {key: deployment["metadata"][key] for key in ("name", "namespace")}
    cluster.put(body | {"metadata": metadata, "spec": {"replicas": count}}, manager="hpa")


def test_an_autoscaler_that_comes_finds_the_number_of_pods_that_there_was() -> None:
    cluster = FakeCluster()
    carry_out(cluster, manifests(spec_of(edge={"replicas": 6})))
    carry_out(cluster, autoscaled())
    assert replicas(cluster) == 6
    assert carry_out(cluster, autoscaled()).is_empty


def test_what_an_autoscaler_has_set_is_never_set_back() -> None:
    cluster = FakeCluster()
    carry_out(cluster, autoscaled())
    assert replicas(cluster) == 2
    for count in (7, 3):
        scale(cluster, count)
        carry_out(cluster, autoscaled())
        assert replicas(cluster) == count
        assert carry_out(cluster, autoscaled()).is_empty


@pytest.mark.parametrize("is_of_the_spec", [True, False])
def test_an_autoscaler_that_finds_no_pod_gets_the_fewest(is_of_the_spec: bool) -> None:
    """It leaves alone what is scaled to zero: that would last for ever."""
    cluster = FakeCluster()
    carry_out(cluster, manifests(spec_of(edge={"replicas": 0})) if is_of_the_spec else autoscaled())
    if not is_of_the_spec:
        scale(cluster, 0)
    assert replicas(cluster) == 0
    carry_out(cluster, autoscaled())
    assert replicas(cluster) == 2
    assert carry_out(cluster, autoscaled()).is_empty


def test_without_the_autoscaler_the_number_is_the_specs_again() -> None:
    cluster = FakeCluster()
    carry_out(cluster, autoscaled())
    scale(cluster, 7)
    carry_out(cluster, autoscaled())
    carry_out(cluster, manifests(spec_of(edge={"replicas": 4})))
    assert replicas(cluster) == 4


# Comparing

PORTS = [{"port": 1, "protocol": "TCP"}]
PEER: dict[str, Any] = {"podSelector": {"matchLabels": {"a": "b"}}}


def rules(**changes: Any) -> dict[str, Any]:
    """Return the one rule of a NetworkPolicy; None takes something away."""
    rule = {"ports": PORTS, "from": [PEER]} | changes
    return {"ingress": [{key: value for key, value in rule.items() if value is not None}]}


RULES = rules()


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": {}}, True),
        ({}, {"a": []}, True),
        ({}, {"a": False}, True),
        ({}, {"a": True}, False),
        ({"a": 5}, {"a": {"b": 1}}, False),
        ({"a": 5}, {"a": [1]}, False),
        ({"args": ["a", "b"]}, {"args": ["a"]}, False),
        ({"args": [{"a": 1, "b": 2}]}, {"args": [{"a": 1}]}, True),
        ({"env": [{"name": "B"}, {"name": "A"}]}, {"env": [{"name": "A"}]}, True),
        ({"env": [{"name": "B"}]}, {"env": [{"name": "A"}]}, False),
        ({"ports": [{"port": 1, "protocol": "TCP"}]}, {"ports": [{"port": 1}]}, True),
        ({"imagePullSecrets": ["x"]}, {"imagePullSecrets": ["x"]}, True),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}, True),
        ({"limits": {"cpu": "2"}}, {"limits": {"cpu": "1000m"}}, False),
        ({"limits": {"cpu": "2"}}, {"limits": {"cpu": "x"}}, False),
        ({"sizeLimit": "1Gi"}, {"sizeLimit": "1024Mi"}, True),
        ({"version": "1"}, {"version": "1000m"}, False),
        # A NetworkPolicy's rules are one value to the server.
        (RULES | {"x": 1}, RULES, True),
        (RULES, {"ingress": [{"ports": [{"port": 1}], "from": [PEER]}]}, True),
        (rules(ports=[*PORTS, {"port": 2, "protocol": "TCP"}]), RULES, False),
        (rules(ports=[{"port": 1, "endPort": 9, "protocol": "TCP"}]), RULES, False),
        (rules(ports=[{"port": 1, "protocol": "UDP"}]), RULES, False),
        (rules(ports=None), RULES, False),
        (rules(**{"from": [PEER, {"ipBlock": {"cidr": "0.0.0.0/0"}}]}), RULES, False),
        (rules(**{"from": [PEER | {"namespaceSelector": {}}]}), RULES, False),
        (rules(**{"from": None}), RULES, False),
        (RULES, rules(**{"from": None}), False),
        ({"ingress": [*RULES["ingress"], {}]}, RULES, False),
        ({}, RULES, False),
        ({}, {"egress": []}, True),
        ({"egress": [{}]}, {"egress": []}, False),
        (RULES, rules(x=[], y={}), True),
        ({"ingress": ["x"]}, RULES, False),
    ],
)
def test_an_object_covers_what_is_wanted(live: object, wanted: object, same: bool) -> None:
    assert covers(live, wanted) is same


def test_an_object_that_was_applied_differently_is_applied_again() -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
    live = with_applied_hash(manifest)
    assert is_applied(with_applied_hash(manifest), live)
    assert not is_applied(with_applied_hash(manifest | {"data": {"x": "1"}}), live)
    assert not is_applied(with_applied_hash(manifest), manifest)
    assert "annotations" not in manifest["metadata"]


def test_references_say_what_they_name() -> None:
    assert str(ObjectRef.of(pick(manifests(), "Secret", "demo-edge"))) == "Secret demo-edge"


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("Service", "demo", ("spec", "selector")),
        ("NetworkPolicy", "demo-edge", ("spec", "podSelector", "matchLabels")),
        ("PodDisruptionBudget", "demo-edge", ("spec", "selector", "matchLabels")),
    ],
)
def test_what_is_added_to_a_selector_is_put_right(
    kind: str, name: str, path: tuple[str, ...]
) -> None:
    """A selector is one value to the server: what is added to it selects fewer pods, or none."""
    cluster = FakeCluster()
    desired = manifests()
    carry_out(cluster, desired)
    found = cluster.get(kind, name)
    for part in path:
        found = found[part]
    found["somebody"] = "else"
    assert names(plan(desired, cluster.all(), UID)) == [f"{kind} {name}"]


@pytest.mark.parametrize("opened", ["ports", "from"])
def test_what_is_added_to_a_rule_of_a_network_policy_is_put_right(opened: str) -> None:
    cluster = FakeCluster()
    desired = manifests()
    carry_out(cluster, desired)
    rule = cluster.get("NetworkPolicy", "demo-router")["spec"]["ingress"][0]
    more = {"ports": {"port": 22, "protocol": "TCP"}, "from": {"namespaceSelector": {}}}
    rule[opened].append(more[opened])
    assert names(carry_out(cluster, desired)) == ["NetworkPolicy demo-router"]
    rule = cluster.get("NetworkPolicy", "demo-router")["spec"]["ingress"][0]
    assert more[opened] not in rule[opened]
    assert carry_out(cluster, desired).is_empty


def test_what_has_lost_its_owner_is_adopted() -> None:
    cluster = FakeCluster()
    desired = manifests()
    carry_out(cluster, desired)
    metadata = cluster.get("Secret", "demo-admin")["metadata"]
    del metadata["ownerReferences"]
    found = plan(desired, cluster.all(), UID)
    assert found.foreign == ()
    assert names(found) == ["Secret demo-admin"]
    # Another owner, another broker's label, or nothing that says that we have made it: not ours.
    changes: tuple[dict[str, Any], ...] = (
        {"ownerReferences": [{"uid": "other", "controller": True}]},
        {"labels": metadata["labels"] | {"app.kubernetes.io/instance": "other"}},
        {"annotations": {}},
    )
    for change in changes:
        cluster.get("Secret", "demo-admin")["metadata"] = metadata | change
        assert [str(ref) for ref in plan(desired, cluster.all(), UID).foreign] == [
            "Secret demo-admin"
        ]
