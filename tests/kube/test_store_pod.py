"""The bundled store on a real API server: it must neither be stuck nor restarted without need.

Input: images by which pods cannot start, larger volumes, replicas. Observed: what the real
StatefulSet controller, garbage collector and admission do with pods, their set and claims.
"""

from __future__ import annotations

import pytest

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.fake_kubelet import FakeKubelet
from support.kube.space import Space

CLAIM = "data-demo-redis-0"


def image_of(space: Space) -> str:
    """Return the image of the store's pod; "" while there is none."""
    found = [str(pod["spec"]["containers"][0]["image"]) for pod in space.pods("demo", "redis")]
    return next(iter(found), "")


@pytest.mark.usefixtures("operator")
def test_a_store_that_could_not_start_starts_when_its_spec_is_put_right(
    space: Space, kubelet: FakeKubelet
) -> None:
    """With pods in order, its controller would wait for ever for the one that cannot start."""
    wrong, right = "registry.example/valkey:wrong", "registry.example/valkey:right"
    kubelet.fail(space.name, "demo-redis", "unstarted")
    space.put("demo", spec_of(redis={"bundled": {"image": wrong}}))
    space.until("demo", "Ready", "StoreNotReady")
    space.wait(lambda: image_of(space) == wrong, "a pod that does not start")
    space.put("demo", spec_of(redis={"bundled": {"image": right}}))
    space.wait(lambda: image_of(space) == right, "it is replaced though it was never ready")
    kubelet.heal(space.name, "demo-redis")
    space.until_settled("demo")


@pytest.mark.usefixtures("operator")
def test_a_wrong_image_does_not_reach_the_store(space: Space, kubelet: FakeKubelet) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    before, image = space.pod_uids("demo", "redis"), image_of(space)
    for part in ("edge", "router"):
        kubelet.fail(space.name, f"demo-{part}", "unready")
    space.put("demo", spec_of(image="registry.example/tidegate:typo"))
    found = space.until("demo", "Progressing", "RollingOut", "True")
    assert "the bundled store keeps its image" in found["message"]
    space.wait(lambda: len(space.pods("demo", "router")) > 2, "new routers that do not serve")
    assert (space.pod_uids("demo", "redis"), image_of(space)) == (before, image)
    for part in ("edge", "router"):
        kubelet.heal(space.name, f"demo-{part}")
    # Now they serve; the store is last.
    space.wait(lambda: image_of(space) == "registry.example/tidegate:typo", "the store follows")
    space.until_settled("demo")


@pytest.mark.usefixtures("operator")
def test_one_server_becomes_three_and_one_again(space: Space) -> None:
    """The real controllers: pods that are deleted one by one, volumes that stay."""
    space.put("demo", spec_of())
    space.until_settled("demo")
    (single,) = space.pod_uids("demo", "redis")
    space.put("demo", spec_of(redis={"bundled": {"replicas": 3}}))
    # There is one node only.
    space.until("demo", "StoreReplicated", "SharedNode")
    space.until_settled("demo")
    three = space.pods("demo", "redis")
    assert len(three) == 3
    assert single not in {pod["metadata"]["uid"] for pod in three}
    assert {len(pod["spec"]["containers"]) for pod in three} == {2}
    space.wait(
        lambda: space.get("PodDisruptionBudget", "demo-redis")["status"]["disruptionsAllowed"] == 1,
        "one server may be evicted",
    )
    space.put("demo", spec_of())
    space.wait(lambda: len(space.pods("demo", "redis")) == 1, "two servers have gone")
    space.until_settled("demo")
    (pod,) = space.pods("demo", "redis")
    assert (pod["metadata"]["name"], len(pod["spec"]["containers"])) == ("demo-redis-0", 1)
    assert {one["type"] for one in space.broker("demo")["status"]["conditions"]}.isdisjoint(
        {"StoreReplicated"}
    )
    assert space.get("PersistentVolumeClaim", "data-demo-redis-1")


def growing_class(space: Space) -> str:
    name = f"growing-{space.name}"
    space.api.create(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": "kubernetes.io/host-path",
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": True,
        }
    )
    return name


def stored(**storage: str) -> Object:
    return spec_of(redis={"bundled": {"storage": storage}})


def claim_template(space: Space) -> str:
    (template,) = space.get("StatefulSet", "demo-redis")["spec"]["volumeClaimTemplates"]
    return str(template["spec"]["resources"]["requests"]["storage"])


def owners(space: Space) -> list[str]:
    """Return the uids of the owners of the store's pods."""
    return [
        str(owner["uid"])
        for pod in space.pods("demo", "redis")
        for owner in pod["metadata"].get("ownerReferences") or ()
    ]


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("on_delete", ["retain", "delete"])
def test_the_volume_grows_around_a_running_pod(space: Space, on_delete: str) -> None:
    common = {"storageClassName": growing_class(space), "onDelete": on_delete}
    space.put("demo", stored(**common))
    space.until_settled("demo")
    pod, claim = space.pod_uids("demo", "redis"), space.get("PersistentVolumeClaim", CLAIM)
    old_set = space.get("StatefulSet", "demo-redis")["metadata"]["uid"]

    space.put("demo", stored(**common, size="20Gi"))
    found = space.until("demo", "Progressing", "RollingOut", "True")
    assert "8Gi of 20Gi" in found["message"]
    assert claim_template(space) == "8Gi"
    # What a driver does: the volume has the size.
    space.api.patch(
        "PersistentVolumeClaim",
        CLAIM,
        space.name,
        {"status": {"capacity": {"storage": "20Gi"}}},
        "status",
    )
    space.until_settled("demo")
    assert claim_template(space) == "20Gi"
    new_set = space.get("StatefulSet", "demo-redis")["metadata"]["uid"]
    assert new_set != old_set
    assert space.pod_uids("demo", "redis") == pod
    space.wait(lambda: owners(space) == [new_set], "the pod is adopted")
    assert space.pod_uids("demo", "redis") == pod
    assert space.get("PersistentVolumeClaim", CLAIM)["metadata"]["uid"] == claim["metadata"]["uid"]
    reasons = [one["reason"] for one in space.events("demo")]
    assert reasons.count("StoreNotReady") <= 1, "once, when it was new"

    space.api.delete("MqttBroker", "demo", space.name)
    left = 1 if on_delete == "retain" else 0
    space.wait(lambda: space.children("demo") == [], "everything is gone")
    space.wait(lambda: len(space.listed("PersistentVolumeClaim")) == left, f"{on_delete} holds")


@pytest.mark.usefixtures("operator")
def test_a_class_that_cannot_grow_is_named(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    pod = space.pod_uids("demo", "redis")
    space.put("demo", stored(size="20Gi") | {"edge": {"replicas": 3}})
    found = space.until("demo", "Degraded", "StorageNotApplied", "True")
    assert "allowVolumeExpansion" in found["message"]
    assert space.get("Deployment", "demo-edge")["spec"]["replicas"] == 3
    space.put("demo", spec_of(edge={"replicas": 3}))
    space.until_settled("demo")
    space.put("demo", stored(size="4Gi"))
    found = space.until("demo", "Degraded", "StorageNotApplied", "True")
    assert "cannot shrink from 8Gi to 4Gi" in found["message"]
    space.put("demo", spec_of())
    space.until("demo", "Degraded", "AsExpected")
    space.until_settled("demo")
    assert space.pod_uids("demo", "redis") == pod
