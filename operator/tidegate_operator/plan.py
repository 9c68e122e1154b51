"""From what there should be and what there is to what has to be written. Pure.

Everything is written by server-side apply with a field manager of the operator's own, so fields and
annotations of others survive. Nothing is written without need: an object is left alone if it says
(in an annotation) that just this was applied last, and still has every value of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.render.bundled_store import quantity
from tidegate_operator.render.inputs import Manifest
from tidegate_operator.render.restart_hash import digest

#: Kinds that are looked at, and deleted when they are not wanted any more. Never a volume: a
#: StatefulSet's claims are kept or deleted by its own policy.
MANAGED_KINDS: Final = (
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
)
#: The same, where the cluster knows them.
OPTIONAL_KINDS: Final = (
    ("cert-manager.io/v1", "Certificate"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
)

#: What items of a list are told apart by; items of others in it are theirs.
_LIST_KEYS: Final = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
}
#: Maps that are one value to the server: nobody may add to them.
_WHOLE: Final = frozenset(
    {"selector", "matchLabels", "podSelector", "namespaceSelector", "labelSelector", "nodeSelector"}
)
#: A NetworkPolicy's rules are one value too, with all that is in them: whoever adds a port or a
#: peer opens the broker.
_RULES: Final = frozenset({"ingress", "egress"})
#: What the server fills in there.
_RULE_DEFAULTS: Final = {"protocol": "TCP"}
#: Where amounts stand, which the server writes in its own way.
_AMOUNTS: Final = frozenset({"requests", "limits", "hard", "averageValue", "sizeLimit"})


@dataclass(slots=True, frozen=True, order=True)
class ObjectRef:
    """Names one object of a namespace."""

    api_version: str
    kind: str
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ObjectRef:
        """Return the name of an object."""
        return cls(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(slots=True, frozen=True)
class Plan:
    """What has to be written, in this order: ``apply``, then ``delete``.

    ``foreign`` are objects that are in the way: they have a name that is needed, and belong to
    somebody else. Then nothing is written at all.
    """

    apply: tuple[Manifest, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    foreign: tuple[ObjectRef, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.apply or self.delete)


def plan(
    desired: Sequence[Manifest],
    live: Iterable[Manifest],
    owner_uid: str,
    *,
    delete: bool = True,
) -> Plan:
    """Compare. ``live`` holds whatever is there under the names that are needed, and everything
    that has the broker's labels; ``delete=False`` leaves alone what is not wanted any more."""
    there = {ObjectRef.of(one): one for one in live}
    wanted = {ObjectRef.of(one): one for one in desired}
    foreign = tuple(
        ref
        for ref, one in wanted.items()
        if ref in there and not (belongs_to(there[ref], owner_uid) or _is_lost(there[ref], one))
    )
    if foreign:
        return Plan(foreign=foreign)
    autoscaled = _autoscaled(desired)
    apply = []
    for ref, rendered in wanted.items():
        now = there.get(ref)
        manifest = stamped(keep_replicas(rendered, now) if ref in autoscaled else rendered)
        if now is None or not is_applied(manifest, now):
            apply.append(manifest)
    gone = [
        ref
        for ref, one in there.items()
        if ref not in wanted
        and delete
        and belongs_to(one, owner_uid)
        and _labels(one).get(names.MANAGED_BY_LABEL) == names.FIELD_MANAGER
        and "deletionTimestamp" not in one["metadata"]
    ]
    return Plan(tuple(apply), tuple(sorted(gone)))


def belongs_to(manifest: Mapping[str, Any], owner_uid: str) -> bool:
    """Whether an object is controlled by the broker with this uid."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == owner_uid and owner.get("controller") for owner in owners)


def is_left_over(manifest: Mapping[str, Any], name: str) -> bool:
    """Whether an object belongs to an MqttBroker of this name. If that has another uid, it has been
    deleted, and the object goes too."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return any(
        (owner.get("apiVersion"), owner.get("kind"), owner.get("name"))
        == (names.API_VERSION, names.KIND, name)
        and owner.get("controller")
        for owner in owners
    )


def _is_lost(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an object is one of ours whose owner somebody has taken away: it is adopted."""
    owners = live["metadata"].get("ownerReferences") or []
    return (
        not any(owner.get("controller") for owner in owners)
        and names.APPLIED_HASH in (live["metadata"].get("annotations") or {})
        and all(
            _labels(live).get(label) == _labels(wanted)[label]
            for label in (names.MANAGED_BY_LABEL, names.INSTANCE_LABEL)
        )
    )


def _labels(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = manifest["metadata"].get("labels") or {}
    return labels


# What was applied


def stamped(manifest: Manifest) -> Manifest:
    """Return a manifest with an annotation that says what it is."""
    found = copy.deepcopy(manifest)
    annotations = found["metadata"].setdefault("annotations", {})
    annotations[names.APPLIED_HASH] = digest(manifest)
    return found


def is_applied(manifest: Manifest, live: Mapping[str, Any]) -> bool:
    """Whether an object is as it was applied the last time, and that was this."""
    annotations = live["metadata"].get("annotations") or {}
    wanted = manifest["metadata"]["annotations"][names.APPLIED_HASH]
    return annotations.get(names.APPLIED_HASH) == wanted and covers(live, manifest)


def covers(live: object, wanted: object, key: str = "", above: str = "") -> bool:
    """Whether a value of the API server has everything that is wanted; it may have more.

    Defaults that the server has filled in, and items of keyed lists that others have put there, do
    not count; neither does the way in which an amount is written.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return not wanted and live is None
        if key in _WHOLE and live.keys() != wanted.keys():
            return False
        return all(covers(live.get(name), value, name, key) for name, value in wanted.items())
    if isinstance(wanted, list):
        return _is_same(live, wanted) if key in _RULES else _covers_list(live, wanted, key)
    if live == wanted:
        return True
    if live is None:
        # The server leaves empty values out.
        return not wanted
    return bool({key, above} & _AMOUNTS) and _same_amount(live, wanted)


def _covers_list(live: object, wanted: list[Any], key: str) -> bool:
    if not isinstance(live, list):
        return not wanted and live is None
    if key not in _LIST_KEYS:
        return len(live) == len(wanted) and all(
            covers(one, other, key) for one, other in zip(live, wanted, strict=True)
        )
    found = {_identity(item, key): item for item in live}
    return all(
        _identity(item, key) in found and covers(found[_identity(item, key)], item)
        for item in wanted
    )


def _is_same(live: object, wanted: object) -> bool:
    """Whether a value is just what is wanted, but for defaults and empty values left out."""
    if live is None:
        return not wanted
    if isinstance(wanted, Mapping):
        return (
            isinstance(live, Mapping)
            and all(
                name in wanted or _RULE_DEFAULTS.get(name) == value for name, value in live.items()
            )
            and all(_is_same(live.get(name), value) for name, value in wanted.items())
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(_is_same(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return live == wanted


def _identity(item: object, key: str) -> object:
    if not isinstance(item, Mapping):
        return item
    return next((item[name] for name in _LIST_KEYS[key] if name in item), None)


def _same_amount(one: object, other: object) -> bool:
    try:
        return quantity(str(one)) == quantity(str(other))
    except ValueError:
        return False


# Replicas


def _autoscaled(desired: Sequence[Manifest]) -> set[ObjectRef]:
    """Return what autoscalers set the size of."""
    targets = [
        one["spec"]["scaleTargetRef"] for one in desired if one["kind"] == "HorizontalPodAutoscaler"
    ]
    return {ObjectRef(one["apiVersion"], one["kind"], one["name"]) for one in targets}


def keep_replicas(manifest: Manifest, live: Mapping[str, Any] | None) -> Manifest:
    """Return a manifest that leaves the number of pods to the autoscaler.

    Whoever stops applying a field that nobody else owns sets it back to its default, so the number
    that is there is applied until the autoscaler has written one of its own.
    """
    # At none an autoscaler does nothing, so it would stay there for ever.
    if live is None or not live["spec"].get("replicas", 1):
        return manifest
    found = copy.deepcopy(manifest)
    if _others_own_replicas(live):
        del found["spec"]["replicas"]
    else:
        found["spec"]["replicas"] = live["spec"].get("replicas", 1)
    return found


def _others_own_replicas(live: Mapping[str, Any]) -> bool:
    return any(
        "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in live["metadata"].get("managedFields") or []
        if entry.get("manager") != names.FIELD_MANAGER
    )
