"""A cache of the objects of brokers, filled by watches: reconciling a broker lists nothing.

``CachedCluster`` wraps another ``Cluster``. All kinds that the operator creates, and pods, are
listed once and then watched by ``handlers``, for all brokers together; written objects are in the
cache at once. While any watch is down the cache is bypassed. Optional kinds (of cert-manager and
Prometheus) are not watched: they are listed, and cached for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tidegate_operator import names
from tidegate_operator.kube.interface import Cluster, Event, Listed
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import OPTIONAL_KINDS, ObjectRef
from tidegate_operator.render import Manifest

#: Namespace and reference of an object.
_Location = tuple[str, ObjectRef]

#: How long objects of optional kinds are cached.
OPTIONAL_TTL_S: Final = 600.0
#: The same for a broker with routes: their status is of interest.
ROUTES_TTL_S: Final = 20.0
#: How many deleted objects are remembered: a response to an earlier write of them may be late.
MAX_DELETED: Final = 4096
#: Kinds whose managed fields are kept (see ``plan.keep_replicas``).
_KINDS_WITH_MANAGED_FIELDS: Final = frozenset({"Deployment"})
_REPLICAS: Final = "f:replicas"
#: Fields of a pod's spec that are kept (see ``live_state.pods``).
_POD_SPEC_FIELDS: Final = ("terminationGracePeriodSeconds", "nodeName", "readinessGates")
#: Jobs are watched, and read when they are needed: no list of a broker's objects has them.
_NOT_WATCHED: Final = frozenset(kind for _, kind in OPTIONAL_KINDS) | {"Job"}


class UncachedCluster(Cluster, Protocol):
    """The cluster that the cache reads from."""

    async def optional_children(
        self, namespace: str, name: str, *, routes: bool = True
    ) -> list[Manifest]:
        """Return the objects of optional kinds with the labels of a broker."""


@dataclass(slots=True)
class _Entry:
    """Objects, and when they were read (the loop's clock)."""

    objects: list[Manifest]
    read_s: float


class CachedCluster:
    """See the module's docstring. ``watched`` are the names of all watches that must be up."""

    def __init__(self, cluster: UncachedCluster, watched: Iterable[str]) -> None:
        self._cluster = cluster
        self._watches_down = set(watched)
        self._all_watching = asyncio.Event()
        #: Objects by broker, including pods.
        self._objects: dict[BrokerKey, dict[ObjectRef, Manifest]] = {}
        #: The broker of each object by location: labels may change, locations do not.
        self._owners: dict[_Location, BrokerKey] = {}
        #: Deleted objects by uid, oldest first: the resource version of the deletion.
        self._deleted: dict[str, str] = {}
        self._optional: dict[BrokerKey, _Entry] = {}
        #: Brokers that ask for routes, or had some.
        self._routed: set[BrokerKey] = set()

    # Watches

    def watch_started(self, watch: str) -> None:
        """Note that a watch is up."""
        self._watches_down.discard(watch)
        if not self._watches_down:
            self._all_watching.set()

    def watch_ended(self, watch: str) -> None:
        """Note that a watch is down."""
        self._watches_down.add(watch)
        self._all_watching.clear()

    def fleet(self) -> Mapping[BrokerKey, Mapping[ObjectRef, Manifest]] | None:
        """Return the objects of all brokers; None while any watch is down."""
        return None if self._watches_down else self._objects

    async def wait_until_watching(self, deadline_s: float) -> None:
        """Wait until all watches are up, at most ``deadline_s``; without them every read lists."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._all_watching.wait()

    def watches_down(self) -> frozenset[str]:
        """Return the names of all watches that are down."""
        return frozenset(self._watches_down)

    def replace(self, kind: str, namespace: str, listed: Listed) -> list[BrokerKey]:
        """Replace all objects of a kind, of one namespace or (with "") of all; return the brokers
        whose objects have changed."""
        listed_locations = {_location(manifest) for manifest in listed.objects}
        removed = [
            location
            for location, key in self._owners.items()
            if location[1].kind == kind
            and namespace in {"", location[0]}
            and location not in listed_locations
            # Objects written after the list are not in it.
            and not _is_newer(self._objects[key][location[1]], listed.version)
        ]
        changed: dict[BrokerKey, None] = {}
        for location in removed:
            key, manifest = self._forget(location)
            self._mark_deleted(manifest, listed.version)
            changed[key] = None
        for manifest in listed.objects:
            changed |= dict.fromkeys(self._store(manifest))
        return list(changed)

    def apply_event(self, event: Event) -> list[BrokerKey]:
        """Apply an event; return the current and previous broker of the object, none if the event
        is known already: the operator's own writes are watched too."""
        manifest = event.manifest
        if not event.is_deleted:
            return self._store(manifest)
        self._mark_deleted(manifest, _version(manifest))
        location = _location(manifest)
        changed = [broker_of(manifest)]
        known = self._lookup(location)
        # An object that loses its labels is reported as deleted, and may get them back.
        if (
            known is not None
            and _uid(known) == _uid(manifest)
            and not _is_newer(known, _version(manifest))
        ):
            changed.append(self._forget(location)[0])
        return [key for key in dict.fromkeys(changed) if key is not None]

    def _store(self, manifest: Manifest) -> list[BrokerKey]:
        """Store an object, unless a newer one is known; return its current and previous broker if
        it has changed."""
        manifest = slim(manifest)
        location, owner = _location(manifest), broker_of(manifest)
        known, previous_owner = self._lookup(location), self._owners.get(location)
        if known is not None and (_is_newer(known, _version(manifest)) or known == manifest):
            return []
        if previous_owner is not None and previous_owner != owner:
            self._forget(location)
        if owner is not None:
            self._owners[location] = owner
            self._objects.setdefault(owner, {})[location[1]] = manifest
        elif previous_owner is not None:
            self._mark_deleted(manifest, _version(manifest))
        return [key for key in dict.fromkeys((previous_owner, owner)) if key is not None]

    def _store_written(self, manifest: Manifest) -> None:
        """Store a written object, unless its watch has reported a newer version already."""
        version = self._deleted.get(_uid(manifest))
        if version is not None and not _is_newer(manifest, version):
            return
        if self._owners.get(_location(manifest), broker_of(manifest)) == broker_of(manifest):
            self._store(manifest)
        # Else it belonged to another broker, which has to be requeued: the watch's event does that.

    def _mark_deleted(self, manifest: Manifest, version: str) -> None:
        """Remember that an object belongs to no broker since a resource version."""
        self._deleted.pop(_uid(manifest), None)
        self._deleted[_uid(manifest)] = version
        if len(self._deleted) > MAX_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def _lookup(self, location: _Location) -> Manifest | None:
        owner = self._owners.get(location)
        return None if owner is None else self._objects[owner][location[1]]

    def _forget(self, location: _Location) -> tuple[BrokerKey, Manifest]:
        """Remove the object at a location; return its broker and the object."""
        key = self._owners.pop(location)
        objects = self._objects[key]
        manifest = objects.pop(location[1])
        if not objects:
            del self._objects[key]
        return key, manifest

    # Cluster

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        if self._watches_down:
            return await self._cluster.children(namespace, name)
        manifests = [
            manifest for manifest in self._known((namespace, name)) if manifest["kind"] != "Pod"
        ]
        if not manifests and await self._has_authorities(namespace, name):
            return await self._cluster.children(namespace, name)
        return manifests + await self._optional_children((namespace, name))

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        if self._watches_down:
            return await self._cluster.pods(namespace, name)
        return [
            manifest for manifest in self._known((namespace, name)) if manifest["kind"] == "Pod"
        ]

    def _known(self, key: BrokerKey) -> Iterator[Manifest]:
        yield from self._objects.get(key, {}).values()

    async def _has_authorities(self, namespace: str, name: str) -> bool:
        """Whether a broker without cached objects has a Secret with authorities after all.

        They must never be created twice, however late a watch is.
        """
        ref = ObjectRef("v1", "Secret", names.authorities_secret(name))
        return await self._cluster.read(ref, namespace) is not None

    async def _optional_children(self, key: BrokerKey) -> list[Manifest]:
        if not await self._cluster.optional_kinds():
            return []
        now_s = asyncio.get_running_loop().time()
        entry, routes = self._optional.get(key), key in self._routed
        ttl_s = ROUTES_TTL_S if routes else OPTIONAL_TTL_S
        if entry is None or now_s - entry.read_s > ttl_s:
            found = await self._cluster.optional_children(*key, routes=routes)
            entry = _Entry(found, now_s)
            self._optional[key] = entry
        return list(entry.objects)

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """See ``Cluster``."""
        manifest = await self._cluster.broker(namespace, name)
        key = (namespace, name)
        if manifest is None:
            self._optional.pop(key, None)
        is_routed = manifest is not None and _has_routes(manifest)
        if is_routed and key not in self._routed:
            self._optional.pop(key, None)
            self._routed.add(key)
        elif not is_routed:
            self._routed.discard(key)
        return manifest

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self._cluster.read(ref, namespace)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """See ``Cluster``."""
        applied = await self._cluster.apply(manifest, dry_run=dry_run)
        key = broker_of(applied)
        if not dry_run and key is not None:
            self._optional.pop(key, None)
            if applied["kind"] not in _NOT_WATCHED:
                self._store_written(applied)
        return applied

    async def delete(
        self, ref: ObjectRef, namespace: str, uid: str, *, orphan: bool = False
    ) -> None:
        """See ``Cluster``."""
        await self._cluster.delete(ref, namespace, uid, orphan=orphan)
        if orphan:
            # Its watch reports when it has gone.
            return
        known = self._lookup((namespace, ref))
        if known is not None and _uid(known) == uid:
            self._forget((namespace, ref))
        for key in [broker for broker in self._optional if broker[0] == namespace]:
            del self._optional[key]

    async def annotate_pod(
        self,
        namespace: str,
        name: str,
        uid: str,
        value: str,
        annotation: str = names.CONFIGURATION,
    ) -> None:
        """See ``Cluster``."""
        await self._cluster.annotate_pod(namespace, name, uid, value, annotation)

    async def set_status(
        self, namespace: str, name: str, status: Mapping[str, Any], kind: str = names.KIND
    ) -> None:
        """See ``Cluster``."""
        await self._cluster.set_status(namespace, name, status, kind)

    async def record_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        """See ``Cluster``."""
        await self._cluster.record_event(about, kind, reason, message)

    async def creation_failure(self, namespace: str, stateful_set: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self._cluster.creation_failure(namespace, stateful_set)

    async def optional_kinds(self) -> Mapping[str, str]:
        """See ``Cluster``."""
        return await self._cluster.optional_kinds()


def broker_of(manifest: Mapping[str, Any]) -> BrokerKey | None:
    """Return the broker in an object's labels, None without them."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    broker = labels.get(names.INSTANCE_LABEL)
    if not broker or labels.get(names.MANAGED_BY_LABEL) != names.FIELD_MANAGER:
        return None
    return metadata["namespace"], broker


def _has_routes(broker: Mapping[str, Any]) -> bool:
    """Whether a broker asks for routes of the Gateway API, or its status shows some."""
    parts: list[Mapping[str, Any]] = []
    for section in (broker.get("spec") or {}, broker.get("status") or {}):
        parts += [*(section.get("listeners") or []), section.get("console") or {}]
    return any("gateway" in one or "route" in one for one in parts)


def _location(manifest: Mapping[str, Any]) -> _Location:
    return manifest["metadata"]["namespace"], ObjectRef.of(manifest)


def _uid(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"].get("uid", ""))


def slim(manifest: Manifest) -> Manifest:
    """Return an object without unused fields, which are most of its size."""
    metadata = manifest["metadata"]
    managed_fields = metadata.get("managedFields")
    if managed_fields is not None:
        metadata = {key: value for key, value in metadata.items() if key != "managedFields"}
        if manifest["kind"] in _KINDS_WITH_MANAGED_FIELDS:
            metadata["managedFields"] = [
                {"manager": entry.get("manager"), "fieldsV1": {"f:spec": {_REPLICAS: {}}}}
                for entry in managed_fields
                if _REPLICAS in entry.get("fieldsV1", {}).get("f:spec", {})
            ]
    slimmed = manifest | {"metadata": metadata}
    if manifest["kind"] == "Pod":
        spec = manifest.get("spec") or {}
        slimmed["spec"] = {key: spec[key] for key in _POD_SPEC_FIELDS if key in spec}
    return slimmed


def _version(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"].get("resourceVersion", ""))


def _is_newer(manifest: Mapping[str, Any], version: str) -> bool:
    """Whether an object is newer than a resource version; versions are increasing numbers."""
    own = _version(manifest)
    return own.isdecimal() and version.isdecimal() and int(own) > int(version)
