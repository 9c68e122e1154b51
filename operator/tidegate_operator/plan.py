"""Compares desired objects with live ones: which to apply, which to delete. Pure.

Objects are written by server-side apply, so fields and annotations of other managers are kept. An
object is not written if its annotation says that the same manifest was applied last, and it still
has all values of it. Called by ``reconcile``; ``kube.writer`` executes a ``Plan``.
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

#: Kinds that are listed, watched, and deleted when obsolete. Never volumes: the StatefulSet's
#: retention policy keeps or deletes its claims.
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
    ("batch/v1", "CronJob"),
)
#: The same for kinds whose CRDs may not be installed; of several versions, the first that is.
OPTIONAL_KINDS: Final = (
    ("cert-manager.io/v1", "Certificate"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("gateway.networking.k8s.io/v1", "TLSRoute"),
    ("gateway.networking.k8s.io/v1alpha3", "TLSRoute"),
    ("gateway.networking.k8s.io/v1alpha2", "TLSRoute"),
    ("gateway.networking.k8s.io/v1", "TCPRoute"),
    ("gateway.networking.k8s.io/v1alpha2", "TCPRoute"),
)
#: Kinds that are listed only for brokers that ask for a route, or had one.
ROUTE_KINDS: Final = frozenset({"HTTPRoute", "TLSRoute", "TCPRoute"})

#: Merge keys of lists; items with other keys belong to other managers.
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
#: Atomic maps: additional keys are drift.
_ATOMIC_MAPS: Final = frozenset(
    {"selector", "matchLabels", "podSelector", "namespaceSelector", "labelSelector", "nodeSelector"}
)
#: Rules of a NetworkPolicy are atomic too: an additional port or peer is drift.
_ATOMIC_RULES: Final = frozenset({"ingress", "egress"})
#: Defaults of the API server in these rules.
_RULE_DEFAULTS: Final = {"protocol": "TCP"}
#: Keys of quantities, which the API server normalizes.
_QUANTITY_KEYS: Final = frozenset({"requests", "limits", "hard", "averageValue", "sizeLimit"})


@dataclass(slots=True, frozen=True, order=True)
class ObjectRef:
    """Identifies an object within a namespace."""

    api_version: str
    kind: str
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ObjectRef:
        """Return the reference of an object."""
        return cls(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(slots=True, frozen=True)
class Plan:
    """What to write, in this order: ``release``, ``apply``, then ``delete``.

    ``release``: obsolete Services whose node ports others are to have. ``moved_node_ports``: those
    that a dry run would refuse, because another Service of the broker still has them.

    ``foreign``: objects with a required name that the broker does not own. Then nothing is written.
    """

    apply: tuple[Manifest, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    foreign: tuple[ObjectRef, ...] = ()
    release: tuple[ObjectRef, ...] = ()
    moved_node_ports: frozenset[int] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.release or self.apply or self.delete)


def plan(
    desired: Sequence[Manifest],
    live: Iterable[Manifest],
    owner_uid: str,
    *,
    delete: bool = True,
) -> Plan:
    """Compare. ``live``: all objects with a required name, and all with the broker's labels.
    ``delete=False`` keeps obsolete objects."""
    live_objects = {ObjectRef.of(manifest): manifest for manifest in live}
    desired_objects = {ObjectRef.of(manifest): manifest for manifest in desired}
    foreign = tuple(
        ref
        for ref, manifest in desired_objects.items()
        if ref in live_objects
        and not (
            belongs_to(live_objects[ref], owner_uid) or _is_orphaned(live_objects[ref], manifest)
        )
    )
    if foreign:
        return Plan(foreign=foreign)
    scaled = autoscaled(desired)
    apply = []
    for ref, rendered in desired_objects.items():
        current = live_objects.get(ref)
        manifest = with_applied_hash(
            keep_replicas(rendered, current) if ref in scaled else rendered
        )
        if current is None or not is_applied(manifest, current):
            apply.append(manifest)
    obsolete = [
        ref
        for ref, manifest in live_objects.items()
        if ref not in desired_objects
        and delete
        and belongs_to(manifest, owner_uid)
        and _labels(manifest).get(names.MANAGED_BY_LABEL) == names.FIELD_MANAGER
        and "deletionTimestamp" not in manifest["metadata"]
    ]
    moved = _moved_node_ports(desired, live_objects)
    release = {ref for ref in obsolete if ref in moved.values()}
    # Services that get a node port follow those that give it away.
    apply.sort(key=lambda manifest: bool(moved.keys() & _gained(manifest, live_objects)))
    return Plan(
        apply=tuple(apply),
        delete=tuple(sorted(ref for ref in obsolete if ref not in release)),
        release=tuple(sorted(release)),
        moved_node_ports=frozenset(moved),
    )


def _moved_node_ports(
    desired: Iterable[Manifest], live: Mapping[ObjectRef, Manifest]
) -> dict[int, ObjectRef]:
    """Return node ports that one Service gives to another one, and which Service has them now."""
    wanted = {
        port: ObjectRef.of(manifest) for manifest in desired for port in _node_ports(manifest)
    }
    return {
        port: ref
        for ref, manifest in live.items()
        for port in _node_ports(manifest)
        if wanted.get(port, ref) != ref
    }


def _gained(manifest: Manifest, live: Mapping[ObjectRef, Manifest]) -> set[int]:
    """Return the node ports that a Service does not have yet."""
    current = live.get(ObjectRef.of(manifest))
    return set(_node_ports(manifest)) - set(() if current is None else _node_ports(current))


def _node_ports(manifest: Mapping[str, Any]) -> list[int]:
    """Return the node ports of a Service; none for other kinds."""
    if manifest["kind"] != "Service":
        return []
    return [port["nodePort"] for port in manifest["spec"].get("ports") or () if "nodePort" in port]


def belongs_to(manifest: Mapping[str, Any], owner_uid: str) -> bool:
    """Whether an object is controlled by the broker with this uid."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == owner_uid and owner.get("controller") for owner in owners)


def awaits_garbage_collection(manifest: Mapping[str, Any], name: str) -> bool:
    """Whether an object is owned by an MqttBroker of this name. If the owner has another uid, it
    has been deleted, and Kubernetes will delete the object."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return any(
        (owner.get("apiVersion"), owner.get("kind"), owner.get("name"))
        == (names.API_VERSION, names.KIND, name)
        and owner.get("controller")
        for owner in owners
    )


def _is_orphaned(live: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Whether an object of the operator has lost its owner reference: it is adopted."""
    owners = live["metadata"].get("ownerReferences") or []
    return (
        not any(owner.get("controller") for owner in owners)
        and names.APPLIED_HASH in (live["metadata"].get("annotations") or {})
        and all(
            _labels(live).get(label) == _labels(desired)[label]
            for label in (names.MANAGED_BY_LABEL, names.INSTANCE_LABEL)
        )
    )


def _labels(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = manifest["metadata"].get("labels") or {}
    return labels


# Drift


def with_applied_hash(manifest: Manifest) -> Manifest:
    """Return a manifest with the annotation of its own hash."""
    stamped = copy.deepcopy(manifest)
    annotations = stamped["metadata"].setdefault("annotations", {})
    annotations[names.APPLIED_HASH] = digest(manifest)
    return stamped


def is_applied(manifest: Manifest, live: Mapping[str, Any]) -> bool:
    """Whether a manifest was applied last, and the object has not drifted since."""
    annotations = live["metadata"].get("annotations") or {}
    expected = manifest["metadata"]["annotations"][names.APPLIED_HASH]
    return annotations.get(names.APPLIED_HASH) == expected and covers(live, manifest)


def covers(live: object, desired: object, key: str = "", parent: str = "") -> bool:
    """Whether a live value has all desired values; it may have more.

    Defaults of the API server, items of other managers in keyed lists, and the notation of
    quantities are ignored.
    """
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return not desired and live is None
        if key in _ATOMIC_MAPS and live.keys() != desired.keys():
            return False
        return all(covers(live.get(name), value, name, key) for name, value in desired.items())
    if isinstance(desired, list):
        return (
            _is_equal(live, desired) if key in _ATOMIC_RULES else _covers_list(live, desired, key)
        )
    if live == desired:
        return True
    if live is None:
        # The API server omits empty values.
        return not desired
    return bool({key, parent} & _QUANTITY_KEYS) and _same_quantity(live, desired)


def _covers_list(live: object, desired: list[Any], key: str) -> bool:
    if not isinstance(live, list):
        return not desired and live is None
    if key not in _LIST_KEYS:
        return len(live) == len(desired) and all(
            covers(live_item, desired_item, key)
            for live_item, desired_item in zip(live, desired, strict=True)
        )
    by_identity = {_identity(item, key): item for item in live}
    return all(
        _identity(item, key) in by_identity and covers(by_identity[_identity(item, key)], item)
        for item in desired
    )


def _is_equal(live: object, desired: object) -> bool:
    """Whether a live value equals the desired one, except for defaults and omitted empty values."""
    if live is None:
        return not desired
    if isinstance(desired, Mapping):
        return (
            isinstance(live, Mapping)
            and all(
                name in desired or _RULE_DEFAULTS.get(name) == value for name, value in live.items()
            )
            and all(_is_equal(live.get(name), value) for name, value in desired.items())
        )
    if isinstance(desired, list):
        return (
            isinstance(live, list)
            and len(live) == len(desired)
            and all(
                _is_equal(live_item, desired_item)
                for live_item, desired_item in zip(live, desired, strict=True)
            )
        )
    return live == desired


def _identity(item: object, key: str) -> object:
    if not isinstance(item, Mapping):
        return item
    return next((item[name] for name in _LIST_KEYS[key] if name in item), None)


def _same_quantity(one: object, other: object) -> bool:
    try:
        return quantity(str(one)) == quantity(str(other))
    except ValueError:
        return False


# Replicas


def autoscaled(desired: Sequence[Manifest]) -> set[ObjectRef]:
    """Return the targets of autoscalers."""
    targets = [
        manifest["spec"]["scaleTargetRef"]
        for manifest in desired
        if manifest["kind"] == "HorizontalPodAutoscaler"
    ]
    return {
        ObjectRef(manifest["apiVersion"], manifest["kind"], manifest["name"])
        for manifest in targets
    }


def keep_replicas(manifest: Manifest, live: Mapping[str, Any] | None) -> Manifest:
    """Return a manifest that leaves the number of replicas to the autoscaler.

    A field that is no longer applied and has no other manager is reset to its default, so the live
    number is applied until the autoscaler has written the field.
    """
    # An autoscaler is disabled at 0 replicas, so it would never scale up.
    if live is None or not live["spec"].get("replicas", 1):
        return manifest
    kept = copy.deepcopy(manifest)
    if _others_own_replicas(live):
        del kept["spec"]["replicas"]
    else:
        kept["spec"]["replicas"] = live["spec"].get("replicas", 1)
    return kept


def _others_own_replicas(live: Mapping[str, Any]) -> bool:
    return any(
        "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in live["metadata"].get("managedFields") or []
        if entry.get("manager") != names.FIELD_MANAGER
    )
