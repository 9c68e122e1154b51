"""Lets the volume of the bundled store grow, step by step, without ending its pod.

The claim is changed first. When the volume has the size, the StatefulSet, whose claim template is
immutable, is deleted without its pod; ``reconcile`` creates it again with the new size, and it
adopts the pod. Every step is decided from what the API server has, so any of them can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_operator import store_changes
from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest


@dataclass(slots=True, frozen=True)
class Growth:
    """``progress``: what is being waited for; ``problem``: why the volume does not grow."""

    progress: str = ""
    problem: str = ""


async def grow(cluster: Cluster, stateful_set: Manifest, size: str) -> Growth:
    """Do the next step towards ``size``. Raises KubeUnavailable, and KubeError for conflicts."""
    namespace = stateful_set["metadata"]["namespace"]
    waits: list[str] = []
    for name in store_changes.claim_names(stateful_set):
        found = await _grow_claim(cluster, namespace, name, size)
        if found.problem:
            return found
        if found.progress:
            waits.append(found.progress)
    if waits:
        return Growth("; ".join(waits))
    await cluster.delete(
        ObjectRef.of(stateful_set), namespace, stateful_set["metadata"]["uid"], orphan=True
    )
    return Growth("volumes have grown: their StatefulSet is created again")


async def _grow_claim(cluster: Cluster, namespace: str, name: str, size: str) -> Growth:
    """Request the size for a claim that exists; empty if it has the size."""
    claim = await cluster.read(ObjectRef("v1", "PersistentVolumeClaim", name), namespace)
    if claim is None:
        return Growth()
    if store_changes.missing_size(claim, size):
        try:
            claim = await cluster.apply(_request(claim, size))
        except KubeError as error:
            if not error.is_rejection:
                raise
            return Growth(problem=_refused(name, size, error))
    missing = store_changes.missing_capacity(claim, size)
    if missing:
        return Growth(f"volume {name}: {missing}")
    if claim["metadata"].get("ownerReferences"):
        return Growth(f"volume {name}: it still has an owner")
    return Growth()


def _request(claim: Manifest, size: str) -> Manifest:
    """Return what is applied. With its uid, a deleted claim is a conflict and not created."""
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
        "spec": {"resources": {"requests": {"storage": size}}},
    }


def _refused(name: str, size: str, error: KubeError) -> str:
    return (
        f"spec.redis.bundled.storage.size: PersistentVolumeClaim {name} cannot grow to {size}: "
        f"{error}. Its StorageClass needs allowVolumeExpansion: true"
    )
