"""Which pod templates would change, because of whom, and how they are kept as they are. Pure.

Two hashes on each workload tell a change of the spec from one that the operator makes by itself (a
new default image, another rendering): one of the part of the spec that reaches pods, and one of the
template that was applied last. Called by ``gate``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tidegate_operator import live_state, names
from tidegate_operator.plan import ObjectRef, belongs_to, covers
from tidegate_operator.render import Manifest
from tidegate_operator.render.restart_hash import digest
from tidegate_operator.spec.broker import MqttBrokerSpec

#: Sections of the spec that reach neither pod templates nor configurations.
_OUTSIDE_PODS: Final = frozenset(
    {
        "service",
        "network_policy",
        "certificates",
        "maintenance",
        "paused",
        "backup",
        "restore_from",
    }
)
#: Sections that processes reload: they are in configurations, and in no pod template.
_RELOADED: Final = frozenset({"listeners", "acl", "auth", "limits", "features", "log", "record"})
#: Of edges, routers and the console: what changes pods by no new template.
_SCALING: Final = frozenset(
    {
        "replicas",
        "autoscaling",
        "disruption_budget",
        "rebalance",
        "service",
        "network_policy_peers",
    }
)
_DEPLOYMENTS: Final[tuple[names.Component, ...]] = (*names.PROCESSES, "console")
_COMPONENTS: Final = frozenset({*names.PROCESSES, "redis", "console"})
_WORKLOADS: Final = frozenset({"Deployment", "StatefulSet"})


def is_workload(manifest: Mapping[str, Any]) -> bool:
    """Whether an object has a pod template."""
    return manifest["kind"] in _WORKLOADS


def is_configuration(manifest: Mapping[str, Any]) -> bool:
    """Whether an object is the configuration of pods."""
    return manifest["kind"] == "ConfigMap" and _component(manifest) in _COMPONENTS


def stamped(
    manifests: Sequence[Manifest],
    live: Mapping[ObjectRef, Manifest],
    spec: MqttBrokerSpec,
    step: Sequence[object] = (),
) -> list[Manifest]:
    """Return manifests with the hashes by which later changes are told apart.

    ``step``: what tells apart the steps of one change of the spec, which are all the user's.
    """
    given = _given(spec)
    files = sorted(
        f"{one['metadata']['name']}/{key}"
        for one in manifests
        if one["kind"] == "Secret"
        for key in one.get("data") or {}
    )
    configuration = digest([given, files, *step])
    result = []
    for manifest in manifests:
        if is_workload(manifest):
            marks = {
                names.SPEC_HASH: digest([_reaching(given, _component(manifest)), *step]),
                names.TEMPLATE_HASH: digest(manifest["spec"]["template"]),
            }
        elif is_configuration(manifest):
            current = live.get(ObjectRef.of(manifest), {"metadata": {}})
            is_same = current.get("data") == manifest["data"]
            applied = _annotation(current, names.SPEC_HASH)
            marks = {names.SPEC_HASH: (applied if is_same else "") or configuration}
        else:
            marks = {}
        result.append(_annotated(manifest, marks))
    return result


def _given(spec: MqttBrokerSpec) -> dict[str, Any]:
    """Return what a spec sets otherwise than by default, and that reaches pods."""
    given = spec.model_dump(mode="json", exclude_defaults=True, exclude=set(_OUTSIDE_PODS))
    for process in _DEPLOYMENTS:
        section = given.pop(process, {})
        kept = {key: value for key, value in section.items() if key not in _SCALING}
        if kept:
            given[process] = kept
    return given


def _reaching(given: Mapping[str, Any], component: str) -> dict[str, Any]:
    """Return the part of a spec that the pod template of a component is made of."""
    if component == "console":
        sections = ("console", "redis", "telemetry", "log", "image")
        return {key: given.get(key) for key in sections} | {"pull": _pull(given)}
    found = {key: value for key, value in given.items() if key not in _RELOADED}
    found.pop("console", None)
    if component not in names.PROCESSES:
        own = found.get("redis", {})
        image = "" if (own.get("bundled") or {}).get("image") else found.get("image", "")
        return {"redis": own, "image": image, "pull": _pull(found)}
    for process in names.PROCESSES:
        if process != component:
            found.pop(process, None)
    return found


def _pull(given: Mapping[str, Any]) -> list[Any]:
    return [given.get("image_pull_policy"), given.get("image_pull_secrets")]


def _component(manifest: Mapping[str, Any]) -> str:
    labels: Mapping[str, str] = manifest["metadata"]["labels"]
    return labels.get(names.COMPONENT_LABEL, "")


def _annotated(manifest: Manifest, marks: Mapping[str, str]) -> Manifest:
    if not marks:
        return manifest
    annotations = {**(manifest["metadata"].get("annotations") or {}), **marks}
    return manifest | {"metadata": manifest["metadata"] | {"annotations": annotations}}


def changed(
    manifests: Iterable[Manifest], live: Mapping[ObjectRef, Manifest], uid: str
) -> list[tuple[Manifest, Manifest]]:
    """Return the workloads whose pods would be replaced, each with the live one."""
    return [
        (wanted, current)
        for wanted in manifests
        if is_workload(wanted)
        and (current := live.get(ObjectRef.of(wanted))) is not None
        and belongs_to(current, uid)
        and _has_other_template(wanted, current)
    ]


def _has_other_template(wanted: Manifest, current: Manifest) -> bool:
    applied = _annotation(current, names.TEMPLATE_HASH)
    if applied:
        return applied != _annotation(wanted, names.TEMPLATE_HASH)
    # Applied by an operator that left no hash.
    return not covers(current["spec"]["template"], wanted["spec"]["template"])


def is_same_spec(wanted: Manifest, current: Manifest, *, was_observed: bool) -> bool:
    """Whether an object was made from the same spec. ``was_observed``: whether this generation had
    a status before, which decides for objects without a hash."""
    applied = _annotation(current, names.SPEC_HASH)
    return applied == _annotation(wanted, names.SPEC_HASH) if applied else was_observed


def hold(
    manifests: Sequence[Manifest],
    live: Mapping[ObjectRef, Manifest],
    held: Iterable[ObjectRef],
    *,
    was_observed: bool,
) -> tuple[list[Manifest], frozenset[ObjectRef]]:
    """Return manifests in which ``held`` workloads keep their template, and which objects are not
    written at all.

    A ConfigMap of the same spec stays, too: running pods may not understand one of another version.
    """
    kept: list[Manifest] = []
    skipped: set[ObjectRef] = set()
    held = frozenset(held)
    for manifest in manifests:
        ref = ObjectRef.of(manifest)
        current = live.get(ref)
        if current is None:
            kept.append(manifest)
        elif ref in held:
            kept.append(_with_live_template(manifest, current))
            if covers(current, kept[-1]):
                skipped.add(ref)
        else:
            kept.append(manifest)
            is_same = is_same_spec(manifest, current, was_observed=was_observed)
            if is_configuration(manifest) and is_same:
                skipped.add(ref)
    return kept, frozenset(skipped)


def _with_live_template(wanted: Manifest, current: Manifest) -> Manifest:
    template = copy.deepcopy(current["spec"]["template"])
    if template["metadata"].get("creationTimestamp", "") is None:
        del template["metadata"]["creationTimestamp"]
    kept = wanted | {"spec": wanted["spec"] | {"template": template}}
    marks = {
        names.SPEC_HASH: _annotation(current, names.SPEC_HASH)
        or _annotation(wanted, names.SPEC_HASH)
    }
    applied = _annotation(current, names.TEMPLATE_HASH)
    kept = _annotated(kept, marks | ({names.TEMPLATE_HASH: applied} if applied else {}))
    if not applied:
        del kept["metadata"]["annotations"][names.TEMPLATE_HASH]
    return kept


# The mark of a rollout


def edge_ref(broker: str) -> ObjectRef:
    """Return the object that has the mark of a rollout."""
    return ObjectRef("apps/v1", "Deployment", names.workload(broker, "edge"))


def rolling_since(broker: str, live: Mapping[ObjectRef, Manifest]) -> datetime | None:
    """Return when the operator began the rollout in progress, None if there is none."""
    current = live.get(edge_ref(broker))
    text = "" if current is None else _annotation(current, names.ROLLING_SINCE)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def with_rolling_since(
    manifests: Iterable[Manifest], broker: str, since: datetime | None
) -> list[Manifest]:
    """Return manifests with the mark of a rollout; None: without one."""
    if since is None:
        return list(manifests)
    marks = {names.ROLLING_SINCE: since.isoformat(timespec="seconds")}
    ref = edge_ref(broker)
    return [
        _annotated(manifest, marks) if ObjectRef.of(manifest) == ref else manifest
        for manifest in manifests
    ]


def is_stuck(broker: str, live: Mapping[ObjectRef, Manifest]) -> bool:
    """Whether a rollout, but for the store's, has exceeded its progress deadline."""
    refs = (ObjectRef("apps/v1", "Deployment", names.workload(broker, one)) for one in _DEPLOYMENTS)
    states = (live_state.workload(live.get(ref)) for ref in refs)
    return any(state.is_current and state.is_stuck for state in states)


def is_complete(manifests: Iterable[Manifest], live: Mapping[ObjectRef, Manifest]) -> bool:
    """Whether all workloads have exactly the desired pods, and these are ready."""
    return all(
        live_state.workload(live.get(ObjectRef.of(one))).is_complete
        for one in manifests
        if is_workload(one)
    )


def _annotation(manifest: Mapping[str, Any], name: str) -> str:
    return str((manifest["metadata"].get("annotations") or {}).get(name, ""))
