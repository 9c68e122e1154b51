"""The bundled store's StatefulSet: its volume grows, and its image changes last and alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.brokers import NAMESPACE, UID, spec_of
from support.operator_harness import Harness, harness

CLAIM = "data-demo-redis-0"


def storage(**changes: Any) -> dict[str, Any]:
    return spec_of("minimal", redis={"bundled": {"storage": changes}})


def claim_of(it: Harness) -> dict[str, Any]:
    return it.fake.get("PersistentVolumeClaim", CLAIM)


def requested(it: Harness) -> str:
    """Return the size in the StatefulSet's claim template."""
    spec = it.fake.get("StatefulSet", "demo-redis")["spec"]["volumeClaimTemplates"][0]["spec"]
    return str(spec["resources"]["requests"]["storage"])


def image_of(it: Harness, kind: str, name: str) -> str:
    return str(it.fake.get(kind, name)["spec"]["template"]["spec"]["containers"][0]["image"])


async def with_claim() -> Harness:
    """A broker that serves, with the claim that the StatefulSet's controller has made."""
    it = await harness("minimal")
    await it.settle()
    it.fake.objects["v1", "PersistentVolumeClaim", NAMESPACE, CLAIM] = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": NAMESPACE, "uid": "claim"},
        "spec": {"resources": {"requests": {"storage": "8Gi"}}},
        "status": {"capacity": {"storage": "8Gi"}},
    }
    it.fake.writes.clear()
    return it


async def test_the_volume_grows_and_the_store_runs_on() -> None:
    it = await with_claim()
    it.put_spec(storage(size="20Gi"))
    await it.reconcile()
    assert claim_of(it)["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert requested(it) == "8Gi"
    assert it.conditions()["Progressing"] == ("True", "RollingOut")
    assert f"volume {CLAIM}: 8Gi of 20Gi" in it.message("Progressing")
    assert it.conditions()["ConfigApplied"] == ("False", "Applying")

    claim_of(it)["status"]["capacity"]["storage"] = "20Gi"
    await it.reconcile()
    assert it.cluster.orphaned == ["demo-redis"]
    # It is created again; its controller has not counted the pod yet.
    await it.reconcile()
    assert requested(it) == "20Gi"
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert ("True", "StoreNotReady") not in {one[:2] for one in it.cluster.events}
    it.make_ready()
    await it.reconcile()
    assert it.conditions()["Progressing"] == ("False", "Complete")
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


async def test_what_the_resizing_reports_is_shown() -> None:
    it = await with_claim()
    claim_of(it)["status"]["conditions"] = [
        {"type": "FileSystemResizePending", "status": "True", "message": "waiting for the node"},
        {"type": "Resizing", "status": "False"},
    ]
    it.put_spec(storage(size="20Gi"))
    await it.reconcile()
    found = it.message("Progressing")
    assert "8Gi of 20Gi; FileSystemResizePending: waiting for the node" in found
    assert "Resizing:" not in found


async def test_a_volume_that_an_admin_has_enlarged_needs_no_request() -> None:
    it = await with_claim()
    claim_of(it)["spec"]["resources"]["requests"]["storage"] = "30Gi"
    claim_of(it)["status"]["capacity"]["storage"] = "30Gi"
    it.put_spec(storage(size="20Gi"))
    await it.reconcile()
    assert ("apply", "PersistentVolumeClaim", CLAIM) not in it.fake.writes
    await it.reconcile()
    assert requested(it) == "20Gi"


async def test_a_store_without_a_claim_is_created_again_at_once() -> None:
    it = await with_claim()
    it.fake.delete("PersistentVolumeClaim", CLAIM)
    it.put_spec(storage(size="20Gi"))
    await it.reconcile()
    await it.reconcile()
    assert requested(it) == "20Gi"


async def test_a_class_that_cannot_grow_is_named_and_the_rest_is_applied() -> None:
    it = await with_claim()
    it.fake.refuse[("PersistentVolumeClaim", CLAIM)] = "only some can be resized"
    it.put_spec(storage(size="20Gi") | {"edge": {"replicas": 3}})
    await it.reconcile()
    for condition, status in (("Degraded", "True"), ("ConfigApplied", "False")):
        assert it.conditions()[condition] == (status, "StorageNotApplied")
    assert "only some can be resized" in it.message("Degraded")
    assert "allowVolumeExpansion" in it.message("Degraded")
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 3
    assert it.conditions()["Ready"] == ("True", "Serving")
    # Back to what it was, as if nothing had happened.
    it.put_spec(spec_of("minimal", edge={"replicas": 3}))
    await it.settle()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": "4Gi"}, "a volume cannot shrink from 8Gi to 4Gi"),
        ({"storageClassName": "fast"}, "cannot be changed from the default to fast"),
        ({"storageClassName": "fast", "size": "9Gi"}, "cannot be changed from"),
    ],
)
async def test_what_a_volume_cannot_be_is_named(changes: dict[str, Any], words: str) -> None:
    it = await with_claim()
    it.put_spec(storage(**changes) | {"edge": {"replicas": 3}})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "StorageNotApplied")
    assert words in it.message("Degraded")
    assert requested(it) == "8Gi"
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 3
    assert it.cluster.orphaned == []


async def test_another_notation_is_the_same_size() -> None:
    it = await with_claim()
    it.put_spec(storage(size="8192Mi"))
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.cluster.orphaned == []


async def test_a_claim_that_would_go_with_its_statefulset_loses_its_owner_first() -> None:
    it = await with_claim()
    claim = claim_of(it)
    claim["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "uid": "x"}]
    claim["status"]["capacity"]["storage"] = "20Gi"
    it.put_spec(storage(size="20Gi", onDelete="delete"))
    await it.reconcile()
    live = it.fake.get("StatefulSet", "demo-redis")
    assert live["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert it.cluster.orphaned == []
    del claim_of(it)["metadata"]["ownerReferences"]
    await it.reconcile()
    await it.reconcile()
    live = it.fake.get("StatefulSet", "demo-redis")
    assert live["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


async def test_a_statefulset_that_is_being_deleted_is_not_written() -> None:
    it = await with_claim()
    metadata = it.fake.get("StatefulSet", "demo-redis")["metadata"]
    metadata["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    it.put_spec(storage(size="20Gi"))
    await it.reconcile()
    assert ("apply", "StatefulSet", "demo-redis") not in it.fake.writes
    assert it.cluster.orphaned == []
    assert it.conditions()["Ready"] == ("True", "Serving")
    # Not complete before it exists again.
    assert it.conditions()["Progressing"] == ("True", "RollingOut")
    assert it.conditions()["ConfigApplied"] == ("False", "Applying")


async def test_a_statefulset_of_somebody_else_is_not_looked_into() -> None:
    it = await harness("minimal")
    it.fake.objects["apps/v1", "StatefulSet", NAMESPACE, "demo-redis"] = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "demo-redis", "namespace": NAMESPACE, "uid": f"not-{UID}"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": []}}},
    }
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "NameTaken")


# The image

NEW = "registry.example/tidegate:2"


async def serving() -> Harness:
    it = await harness("minimal")
    await it.settle()
    it.fake.writes.clear()
    return it


def roll(it: Harness, name: str, *, updated: int, ready: int = 2) -> None:
    """Let a Deployment's controller have replaced some pods."""
    one = it.fake.get("Deployment", name)
    one["status"] = {
        "observedGeneration": one["metadata"]["generation"],
        "replicas": 2,
        "readyReplicas": ready,
        "updatedReplicas": updated,
    }


async def test_the_store_gets_a_new_image_last() -> None:
    it = await serving()
    old = image_of(it, "StatefulSet", "demo-redis")
    it.put_spec(spec_of("minimal", image=NEW))
    await it.reconcile()
    assert image_of(it, "Deployment", "demo-edge") == NEW
    assert image_of(it, "StatefulSet", "demo-redis") == old
    assert it.conditions()["Progressing"] == ("True", "RollingOut")
    assert "the bundled store keeps its image" in it.message("Progressing")
    for edges, routers in ((2, 1), (1, 2)):
        roll(it, "demo-edge", updated=edges)
        roll(it, "demo-router", updated=routers)
        await it.reconcile()
        assert image_of(it, "StatefulSet", "demo-redis") == old
        assert it.conditions()["ConfigApplied"][0] == "False"
    roll(it, "demo-edge", updated=2)
    roll(it, "demo-router", updated=2)
    await it.reconcile()
    assert image_of(it, "StatefulSet", "demo-redis") == NEW


async def test_a_wrong_image_does_not_reach_the_store() -> None:
    it = await serving()
    old = image_of(it, "StatefulSet", "demo-redis")
    it.put_spec(spec_of("minimal", image="registry.example/typo:1"))
    for _ in range(3):
        await it.reconcile()
        roll(it, "demo-edge", updated=1)
        roll(it, "demo-router", updated=1)
        it.pass_time(900)
    # Not even while the store's pod is moved to another node.
    store = next(one for one in it.cluster.pods_there if "redis" in one["metadata"]["name"])
    store["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
        {"type": "Ready", "status": "False"},
    ]
    await it.reconcile()
    assert image_of(it, "StatefulSet", "demo-redis") == old
    it.put_spec(spec_of("minimal"))
    it.fake.writes.clear()
    await it.reconcile()
    assert ("apply", "StatefulSet", "demo-redis") not in it.fake.writes


@pytest.mark.parametrize(
    "changes",
    [
        {"imagePullPolicy": "Always"},
        {"imagePullSecrets": [{"name": "typo"}]},
        {"imagePullSecrets": [{"name": "typo"}], "image": NEW},
    ],
)
async def test_how_an_image_is_pulled_reaches_the_store_last_too(changes: dict[str, Any]) -> None:
    """Wrong credentials, and a registry that is away, are as bad as a wrong image."""
    it = await serving()
    before = copy.deepcopy(it.fake.get("StatefulSet", "demo-redis")["spec"])
    it.put_spec(spec_of("minimal", **changes))
    await it.reconcile()
    assert it.fake.get("StatefulSet", "demo-redis")["spec"] == before
    assert "the bundled store keeps its image" in it.message("Progressing")
    # Routers have a password that the store has to get, with the image that it has.
    it.fake.delete("Secret", "demo-redis")
    it.fake.delete("Secret", "demo-router")
    await it.reconcile()
    after = copy.deepcopy(it.fake.get("StatefulSet", "demo-redis")["spec"])
    assert after != before
    for one in (before, after):
        one["template"]["metadata"].pop("annotations")
    assert after == before
    roll(it, "demo-edge", updated=2)
    roll(it, "demo-router", updated=2)
    await it.reconcile()
    store = it.fake.get("StatefulSet", "demo-redis")["spec"]["template"]["spec"]
    assert store.get("imagePullSecrets", []) == changes.get("imagePullSecrets", [])
    assert store["containers"][0].get("imagePullPolicy") == changes.get("imagePullPolicy")


async def test_an_image_of_the_stores_own_is_not_that_of_the_brokers() -> None:
    own = "registry.example/valkey:8"
    it = await harness("minimal", redis={"bundled": {"image": own}})
    await it.settle()
    it.fake.writes.clear()
    it.put_spec(spec_of("minimal", redis={"bundled": {"image": own}}, image=NEW))
    await it.reconcile()
    assert ("apply", "StatefulSet", "demo-redis") not in it.fake.writes
    assert "keeps its image" not in it.message("Progressing")
    it.make_ready()
    it.put_spec(spec_of("minimal", redis={"bundled": {"image": f"{own}.1"}}, image=NEW))
    await it.reconcile()
    assert image_of(it, "StatefulSet", "demo-redis") == f"{own}.1"


async def test_a_store_that_cannot_start_gets_the_next_image_at_once() -> None:
    it = await serving()
    store = next(one for one in it.cluster.pods_there if "redis" in one["metadata"]["name"])
    store["status"] = {
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
    }
    it.put_spec(spec_of("minimal", image=NEW))
    await it.reconcile()
    assert image_of(it, "StatefulSet", "demo-redis") == NEW


async def test_a_store_that_is_not_ready_does_not_wait_for_ready_routers() -> None:
    it = await serving()
    for one in it.cluster.pods_there:
        one["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    roll(it, "demo-edge", updated=2, ready=0)
    roll(it, "demo-router", updated=2, ready=0)
    it.put_spec(spec_of("minimal", redis={"bundled": {"image": NEW}}))
    await it.reconcile()
    assert image_of(it, "StatefulSet", "demo-redis") == NEW


async def test_a_store_at_zero_replicas_is_repaired_during_a_rollout() -> None:
    it = await serving()
    old = image_of(it, "StatefulSet", "demo-redis")
    it.put_spec(spec_of("minimal", image=NEW))
    await it.reconcile()
    it.fake.get("StatefulSet", "demo-redis")["spec"]["replicas"] = 0
    await it.reconcile()
    live = it.fake.get("StatefulSet", "demo-redis")
    assert (live["spec"]["replicas"], image_of(it, "StatefulSet", "demo-redis")) == (1, old)


async def test_the_volume_grows_after_edges_and_routers_have_a_new_image() -> None:
    """The StatefulSet that is created again would have it too."""
    it = await with_claim()
    old = image_of(it, "StatefulSet", "demo-redis")
    claim_of(it)["status"]["capacity"]["storage"] = "20Gi"
    it.put_spec(storage(size="20Gi") | {"image": NEW})
    for _ in range(3):
        await it.reconcile()
    assert (image_of(it, "StatefulSet", "demo-redis"), it.cluster.orphaned) == (old, [])
    roll(it, "demo-edge", updated=2)
    roll(it, "demo-router", updated=2)
    await it.reconcile()
    assert it.cluster.orphaned == ["demo-redis"]
    await it.reconcile()
    assert (image_of(it, "StatefulSet", "demo-redis"), requested(it)) == (NEW, "20Gi")


async def test_a_statefulset_that_gets_replicas_touches_no_pod_until_it_is_created_again() -> None:
    it = await with_claim()
    claim_of(it)["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "uid": "x"}]
    it.put_spec(spec_of("minimal", redis={"bundled": {"replicas": 3}}))
    await it.reconcile()
    spec = it.fake.get("StatefulSet", "demo-redis")["spec"]
    assert (spec["replicas"], spec["updateStrategy"]["rollingUpdate"]) == (1, {"partition": 1})
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert it.cluster.orphaned == []
    assert "is created again" in it.message("Progressing")


async def test_the_volumes_of_three_servers_grow_together() -> None:
    it = await harness("minimal", redis={"bundled": {"replicas": 3}})
    await it.settle()
    for number in range(3):
        name = f"data-demo-redis-{number}"
        it.fake.objects["v1", "PersistentVolumeClaim", NAMESPACE, name] = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": name},
            "spec": {"resources": {"requests": {"storage": "8Gi"}}},
            # One has been enlarged by hand.
            "status": {"capacity": {"storage": "20Gi" if number == 1 else "8Gi"}},
        }
    it.put_spec(spec_of("minimal", redis={"bundled": {"replicas": 3, "storage": {"size": "20Gi"}}}))
    await it.reconcile()
    for number in range(3):
        claim = it.fake.get("PersistentVolumeClaim", f"data-demo-redis-{number}")
        assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
        claim["status"]["capacity"]["storage"] = "20Gi"
    said = it.message("Progressing")
    assert "data-demo-redis-0: 8Gi of 20Gi; volume data-demo-redis-2: 8Gi of 20Gi" in said
    assert it.cluster.orphaned == []
    await it.reconcile()
    assert it.cluster.orphaned == ["demo-redis"]
