"""What of the bundled store's StatefulSet can be applied now. Pure.

The claim templates of a StatefulSet are immutable, and its pod may be the only one: so a larger
volume and a new image take several steps, each decided from the live objects alone. Called by
``reconcile``; ``kube.store_volume`` does what needs the API server.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tidegate_operator import live_state, names
from tidegate_operator.plan import ObjectRef, Plan, belongs_to, covers
from tidegate_operator.render import Manifest, Owner
from tidegate_operator.render.bundled_store import CLAIM, quantity

#: Failures of pods that a new image cannot repair.
_UNSCHEDULABLE: Final = "unschedulable"
_IS_HELD: Final = "the bundled store keeps its image until edges and routers have the new one"
_IS_CREATED_AGAIN: Final = "the StatefulSet of the bundled store is created again"


@dataclass(slots=True, frozen=True)
class Claim:
    """Size and class in a claim template."""

    size: str
    storage_class: str | None

    @classmethod
    def of(cls, stateful_set: Mapping[str, Any]) -> Claim:
        """Return what a StatefulSet requests."""
        spec = _claim_spec(stateful_set)
        return cls(str(spec["resources"]["requests"]["storage"]), spec.get("storageClassName"))


@dataclass(slots=True, frozen=True)
class StoreChanges:
    """The desired objects as they can be applied now."""

    manifests: list[Manifest]
    #: Is not written for now, although it differs.
    skipped: ObjectRef | None = None
    #: The size to which the volume is to grow, "" if it has it.
    grow_to: str = ""
    #: Why the spec's volume cannot be had, "" if it can.
    problem: str = ""
    #: What the store waits for, "" if for nothing.
    waits: str = ""

    def applied(self, plan: Plan) -> Plan:
        """Return a plan without what is skipped."""
        apply = tuple(one for one in plan.apply if ObjectRef.of(one) != self.skipped)
        return replace(plan, apply=apply)


def decide(
    owner: Owner,
    manifests: list[Manifest],
    live: Mapping[ObjectRef, Manifest],
    pods: Sequence[live_state.Pod],
    *,
    is_same_password: bool,
) -> StoreChanges:
    """Return what can be applied now. ``is_same_password``: whether the store has it already."""
    broker = owner.name
    ref = ObjectRef("apps/v1", "StatefulSet", names.workload(broker, "redis"))
    desired = {ObjectRef.of(manifest): manifest for manifest in manifests}
    wanted, current = desired.get(ref), live.get(ref)
    if wanted is None or current is None or not belongs_to(current, owner.uid):
        return StoreChanges(manifests)
    if "deletionTimestamp" in current["metadata"]:
        # Its pod runs on.
        return StoreChanges(manifests, skipped=ref, waits=_IS_CREATED_AGAIN)
    fitted, grow_to, problem = _fit_claim(wanted, current)
    if _strategy(wanted) != _strategy(current):
        return _other_strategy(manifests, fitted, current)
    is_held = _is_held(broker, fitted, current, desired, live, pods)
    # Routers have a new password already: then the store must restart, with the image that it has.
    # Routers of a store that becomes a replicated one, or a single server, need that to be ready.
    is_same_kind = _images(fitted).keys() == _images(current).keys()
    is_skipped = (
        is_held and is_same_password and is_same_kind and current["spec"].get("replicas", 1) > 0
    )
    if is_held and not is_skipped:
        fitted = _with_images(fitted, current)
    return StoreChanges(
        [fitted if ObjectRef.of(manifest) == ref else manifest for manifest in manifests],
        ref if is_skipped else None,
        # A StatefulSet that is created again would have the new image.
        "" if is_held else grow_to,
        problem,
        _IS_HELD if is_held else "",
    )


def _strategy(stateful_set: Mapping[str, Any]) -> str:
    strategy: Mapping[str, Any] = stateful_set["spec"].get("updateStrategy") or {}
    return str(strategy.get("type", "RollingUpdate"))


def _other_strategy(
    manifests: list[Manifest], fitted: Manifest, current: Mapping[str, Any]
) -> StoreChanges:
    """Return the changes for a single server that gets replicas, or the other way round.

    The StatefulSet is created again around its pods, as for a larger volume: server-side apply
    cannot remove the settings of a rolling update that the API server has added, and with them
    OnDelete is refused. Until then it replaces and adds no pod.
    """
    passing = copy.deepcopy(fitted)
    spec, count = passing["spec"], current["spec"].get("replicas", 1)
    spec["replicas"] = count
    spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Retain"
    spec["updateStrategy"] = {"type": _strategy(current)}
    if _strategy(current) == "RollingUpdate":
        spec["updateStrategy"]["rollingUpdate"] = {"partition": max(1, count)}
    passing = _with_images(passing, current)
    ref = ObjectRef.of(fitted)
    return StoreChanges(
        [passing if ObjectRef.of(manifest) == ref else manifest for manifest in manifests],
        grow_to=Claim.of(current).size,
        waits=_IS_CREATED_AGAIN,
    )


# The volume


def _fit_claim(wanted: Manifest, current: Mapping[str, Any]) -> tuple[Manifest, str, str]:
    """Return the StatefulSet with the live claim template, the size to grow to, and what cannot
    be had."""
    asked, there = Claim.of(wanted), Claim.of(current)
    change = _compare(asked.size, there.size)
    if not change and asked.storage_class == there.storage_class:
        return wanted, "", ""
    fitted = copy.deepcopy(wanted)
    fitted["spec"]["volumeClaimTemplates"] = [_claim_template(fitted, there)]
    path = "spec.redis.bundled.storage"
    problem = ""
    if asked.storage_class != there.storage_class:
        problem = (
            f"{path}.storageClassName: the volume's class cannot be changed from "
            f"{there.storage_class or 'the default'} to {asked.storage_class or 'the default'}"
        )
    elif change < 0:
        problem = f"{path}.size: a volume cannot shrink from {there.size} to {asked.size}"
    if problem or change <= 0:
        return fitted, "", problem
    # Its claim would be deleted with it, were its owner reference to come late.
    fitted["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Retain"
    return fitted, asked.size, ""


def _compare(one: str, other: str) -> int:
    """Return 1 if a quantity is larger than another one, -1 if it is smaller, else 0."""
    first, second = quantity(one), quantity(other)
    return (first > second) - (first < second)


def _claim_template(stateful_set: Mapping[str, Any], claim: Claim) -> Manifest:
    template: Manifest = copy.deepcopy(stateful_set["spec"]["volumeClaimTemplates"][0])
    spec = template["spec"]
    spec["resources"]["requests"]["storage"] = claim.size
    spec.pop("storageClassName", None)
    if claim.storage_class is not None:
        spec["storageClassName"] = claim.storage_class
    return template


def _claim_spec(stateful_set: Mapping[str, Any]) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = stateful_set["spec"]["volumeClaimTemplates"][0]["spec"]
    return spec


def claim_names(stateful_set: Mapping[str, Any]) -> list[str]:
    """Return the PersistentVolumeClaims of the store's pods."""
    name, count = stateful_set["metadata"]["name"], stateful_set["spec"].get("replicas", 1)
    # A single server at 0 replicas has its volume all the same.
    return [f"{CLAIM}-{name}-{number}" for number in range(max(1, count))]


def missing_size(claim: Mapping[str, Any], size: str) -> bool:
    """Whether a claim requests less than a size."""
    requested = claim["spec"]["resources"]["requests"]["storage"]
    return _compare(str(requested), size) < 0


def missing_capacity(claim: Mapping[str, Any], size: str) -> str:
    """Return the capacity of a claim and what its resizing reports, "" if it has the size."""
    status: Mapping[str, Any] = claim.get("status") or {}
    capacity = str((status.get("capacity") or {}).get("storage", "0"))
    if _compare(capacity, size) >= 0:
        return ""
    reports = [
        f"{condition.get('type')}: {condition.get('message', '')}".rstrip(": ")
        for condition in status.get("conditions") or []
        if condition.get("status") == "True"
    ]
    return "; ".join([f"{capacity} of {size}", *reports])


# The image


def _is_held(
    broker: str,
    wanted: Mapping[str, Any],
    current: Mapping[str, Any],
    desired: Mapping[ObjectRef, Manifest],
    live: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> bool:
    """Whether the store has to wait with a new image, or with where and when it is pulled, until
    edges and routers serve with theirs.

    A store whose container fails has nothing to lose.
    """
    if _is_pulled_alike(wanted, current):
        return False
    own = [pod for pod in pods if pod.component == "redis" and not pod.is_terminating]
    if any(pod.failure and not pod.failure.startswith(_UNSCHEDULABLE) for pod in own):
        return False
    is_serving = any(pod.is_ready for pod in own)
    return not are_rolled_out(broker, desired, live, is_serving=is_serving)


def are_rolled_out(
    broker: str,
    desired: Mapping[ObjectRef, Manifest],
    live: Mapping[ObjectRef, Manifest],
    *,
    is_serving: bool,
) -> bool:
    """Whether edges and routers serve with what they are to have (``is_serving``: the store)."""
    refs = [
        ObjectRef("apps/v1", "Deployment", names.workload(broker, process))
        for process in names.PROCESSES
    ]
    return all(
        _is_rolled_out(desired[ref], live.get(ref), is_serving=is_serving)
        for ref in refs
        if ref in desired
    )


def _is_rolled_out(
    wanted: Mapping[str, Any], current: Mapping[str, Any] | None, *, is_serving: bool
) -> bool:
    """Whether all pods of a Deployment have the desired template, and one is ready at least.

    Without a store (``is_serving``) no pod is ready: then the template is enough.
    """
    if current is None or not covers(current["spec"]["template"], wanted["spec"]["template"]):
        return False
    state = live_state.workload(current)
    return state.is_replaced and (state.ready > 0 or not state.desired or not is_serving)


def _is_pulled_alike(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether the images are the same, and where and when they are pulled. A policy that is not
    set is the API server's."""
    pods = [one["spec"]["template"]["spec"] for one in (wanted, current)]
    if pods[0].get("imagePullSecrets", []) != pods[1].get("imagePullSecrets", []):
        return False
    there = {one["name"]: one for one in pods[1]["containers"]}
    return all(
        one.get(key, before) == before
        for one in pods[0]["containers"]
        if one["name"] in there
        for key in ("image", "imagePullPolicy")
        for before in (there[one["name"]].get(key),)
    )


def _images(stateful_set: Mapping[str, Any]) -> dict[str, str]:
    """Return the images by container."""
    containers = stateful_set["spec"]["template"]["spec"]["containers"]
    return {one["name"]: str(one.get("image", "")) for one in containers}


def _with_images(stateful_set: Manifest, current: Mapping[str, Any]) -> Manifest:
    """Return it with the images of containers that are in both, pulled as they were."""
    changed = copy.deepcopy(stateful_set)
    pod, there = changed["spec"]["template"]["spec"], current["spec"]["template"]["spec"]
    before = {one["name"]: one for one in there["containers"]}
    for one in pod["containers"]:
        _keep(one, before.get(one["name"], one), "image", "imagePullPolicy")
    _keep(pod, there, "imagePullSecrets")
    return changed


def _keep(manifest: Manifest, before: Mapping[str, Any], *keys: str) -> None:
    """Give a part of a manifest the values that it had before."""
    for key in keys:
        if key in before:
            manifest[key] = before[key]
        else:
            manifest.pop(key, None)
