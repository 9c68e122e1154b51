"""What brokers consist of, as watches tell it: looking at one lists nothing.

``CachedCluster`` is a ``Cluster`` around another one. Every kind that the operator makes, and the
pods, are listed once and then watched, for all brokers together; what is written is known at once,
before its watch tells it. While any watch is down nothing is believed. Kinds of others (those of
cert-manager and Prometheus) are not watched: they are asked for, and remembered for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tidegate_operator import names
from tidegate_operator.kube.interface import Cluster, Event, Listed
from tidegate_operator.plan import OPTIONAL_KINDS, ObjectRef
from tidegate_operator.render import Manifest

#: Namespace and name of a broker.
Key = tuple[str, str]
#: Where an object is: its namespace, and its kind and name.
_Place = tuple[str, ObjectRef]

#: The longest that anything of others' kinds is believed.
LONGEST_S: Final = 600.0
#: Of how many objects it is remembered that they have gone: those to which an answer may be late.
MOST_GONE: Final = 4096
#: Only of these it matters who has set their number of pods (see ``plan.keep_replicas``).
_FIELDS_MATTER: Final = frozenset({"Deployment"})
_REPLICAS: Final = "f:replicas"
#: What is looked at of a pod's spec (see ``observed.pods``).
_OF_PODS: Final = ("terminationGracePeriodSeconds",)
_NOT_WATCHED: Final = frozenset(kind for _, kind in OPTIONAL_KINDS)


class Source(Cluster, Protocol):
    """What is asked when nothing is known."""

    async def optional_children(self, namespace: str, name: str) -> list[Manifest]:
        """Return what has the labels of a broker, of the kinds that are not watched."""


@dataclass(slots=True)
class _Entry:
    """What was read, and when (the loop's clock)."""

    objects: list[Manifest]
    read_s: float


class CachedCluster:
    """See the module's docstring. ``watched`` are the names of all watches that must be up."""

    def __init__(self, cluster: Source, watched: Iterable[str]) -> None:
        self._cluster = cluster
        self._down = set(watched)
        self._are_up = asyncio.Event()
        #: By broker: what belongs to it, its pods included.
        self._objects: dict[Key, dict[ObjectRef, Manifest]] = {}
        #: By place: the broker that what is there belongs to. Labels change, places do not.
        self._owners: dict[_Place, Key] = {}
        #: By uid, oldest first: since which version watches have said that it is nobody's.
        self._gone: dict[str, str] = {}
        self._optional: dict[Key, _Entry] = {}

    # What watches say

    def began(self, watch: str) -> None:
        """A watch is up from now on."""
        self._down.discard(watch)
        if not self._down:
            self._are_up.set()

    def ended(self, watch: str) -> None:
        """A watch is down."""
        self._down.add(watch)
        self._are_up.clear()

    async def until_up(self, deadline_s: float) -> None:
        """Wait until all watches are up, but not for ever: it works without them, slowly."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._are_up.wait()

    def watches_down(self) -> frozenset[str]:
        """Return the names of all watches that are down."""
        return frozenset(self._down)

    def listed(self, kind: str, namespace: str, found: Listed) -> list[Key]:
        """Take in all objects of a kind, of one namespace or (with "") of all; return the brokers
        of which anything is different."""
        there = {_place(one) for one in found.objects}
        gone = [
            place
            for place, key in self._owners.items()
            if place[1].kind == kind
            and namespace in {"", place[0]}
            and place not in there
            # What was written after it was listed cannot be in the list.
            and not _is_newer(self._objects[key][place[1]], found.version)
        ]
        changed: dict[Key, None] = {}
        for place in gone:
            key, one = self._drop(place)
            self._has_gone(one, found.version)
            changed[key] = None
        for one in found.objects:
            changed |= dict.fromkeys(self._take(one))
        return list(changed)

    def happened(self, event: Event) -> list[Key]:
        """Take in what has happened to an object; return the brokers that it belongs to and has
        belonged to, none if that was known: our own writes come back."""
        one = event.manifest
        if not event.is_deleted:
            return self._take(one)
        self._has_gone(one, _version(one))
        place = _place(one)
        changed = [key_of(one)]
        known = self._at(place)
        # One that has only lost its labels is told as deleted too, and may have them again.
        if known is not None and _uid(known) == _uid(one) and not _is_newer(known, _version(one)):
            changed.append(self._drop(place)[0])
        return [key for key in dict.fromkeys(changed) if key is not None]

    def _take(self, one: Manifest) -> list[Key]:
        """Remember an object, unless a newer one is known; return the brokers to which it is news:
        the one it belongs to, and the one it has belonged to."""
        one = slim(one)
        place, owner = _place(one), key_of(one)
        known, before = self._at(place), self._owners.get(place)
        if known is not None and (_is_newer(known, _version(one)) or known == one):
            return []
        if before is not None and before != owner:
            self._drop(place)
        if owner is not None:
            self._owners[place] = owner
            self._objects.setdefault(owner, {})[place[1]] = one
        elif before is not None:
            self._has_gone(one, _version(one))
        return [key for key in dict.fromkeys((before, owner)) if key is not None]

    def _take_answer(self, one: Manifest) -> None:
        """Remember what we have written, unless its watch has told more of it already."""
        version = self._gone.get(_uid(one))
        if version is not None and not _is_newer(one, version):
            return
        if self._owners.get(_place(one), key_of(one)) == key_of(one):
            self._take(one)
        # Else it has been another broker's, which has to learn that: its watch will tell both.

    def _has_gone(self, one: Manifest, version: str) -> None:
        """Remember that an object is nobody's since a version of the cluster."""
        self._gone.pop(_uid(one), None)
        self._gone[_uid(one)] = version
        if len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]

    def _at(self, place: _Place) -> Manifest | None:
        owner = self._owners.get(place)
        return None if owner is None else self._objects[owner][place[1]]

    def _drop(self, place: _Place) -> tuple[Key, Manifest]:
        """Forget what is known at a place; return whose it was, and it."""
        key = self._owners.pop(place)
        objects = self._objects[key]
        one = objects.pop(place[1])
        if not objects:
            del self._objects[key]
        return key, one

    # Cluster

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        if self._down:
            return await self._cluster.children(namespace, name)
        found = [one for one in self._known((namespace, name)) if one["kind"] != "Pod"]
        if not found and await self._has_begun(namespace, name):
            return await self._cluster.children(namespace, name)
        return found + await self._optional_children((namespace, name))

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        if self._down:
            return await self._cluster.pods(namespace, name)
        return [one for one in self._known((namespace, name)) if one["kind"] == "Pod"]

    def _known(self, key: Key) -> Iterator[Manifest]:
        yield from self._objects.get(key, {}).values()

    async def _has_begun(self, namespace: str, name: str) -> bool:
        """Whether a broker that nothing is known of has something after all.

        Its authorities are never made twice, however late a watch is.
        """
        ref = ObjectRef("v1", "Secret", names.authorities_secret(name))
        return await self._cluster.read(ref, namespace) is not None

    async def _optional_children(self, key: Key) -> list[Manifest]:
        if not await self._cluster.optional_kinds():
            return []
        now_s = asyncio.get_running_loop().time()
        entry = self._optional.get(key)
        if entry is None or now_s - entry.read_s > LONGEST_S:
            entry = _Entry(await self._cluster.optional_children(*key), now_s)
            self._optional[key] = entry
        return list(entry.objects)

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """See ``Cluster``."""
        found = await self._cluster.broker(namespace, name)
        if found is None:
            self._optional.pop((namespace, name), None)
        return found

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self._cluster.read(ref, namespace)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """See ``Cluster``."""
        found = await self._cluster.apply(manifest, dry_run=dry_run)
        key = key_of(found)
        if not dry_run and key is not None:
            self._optional.pop(key, None)
            if found["kind"] not in _NOT_WATCHED:
                self._take_answer(found)
        return found

    async def delete(self, ref: ObjectRef, namespace: str, uid: str) -> None:
        """See ``Cluster``."""
        await self._cluster.delete(ref, namespace, uid)
        known = self._at((namespace, ref))
        if known is not None and _uid(known) == uid:
            self._drop((namespace, ref))
        for key in [one for one in self._optional if one[0] == namespace]:
            del self._optional[key]

    async def annotate_pod(self, namespace: str, name: str, uid: str, value: str) -> None:
        """See ``Cluster``."""
        await self._cluster.annotate_pod(namespace, name, uid, value)

    async def set_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """See ``Cluster``."""
        await self._cluster.set_status(namespace, name, status)

    async def say(self, broker: Manifest, kind: str, reason: str, message: str) -> None:
        """See ``Cluster``."""
        await self._cluster.say(broker, kind, reason, message)

    async def optional_kinds(self) -> frozenset[str]:
        """See ``Cluster``."""
        return await self._cluster.optional_kinds()


def key_of(one: Mapping[str, Any]) -> Key | None:
    """Return the broker whose labels an object has, None if it has none."""
    metadata = one["metadata"]
    labels = metadata.get("labels") or {}
    broker = labels.get(names.INSTANCE_LABEL)
    if not broker or labels.get(names.MANAGED_BY_LABEL) != names.FIELD_MANAGER:
        return None
    return metadata["namespace"], broker


def _place(one: Mapping[str, Any]) -> _Place:
    return one["metadata"]["namespace"], ObjectRef.of(one)


def _uid(one: Mapping[str, Any]) -> str:
    return str(one["metadata"].get("uid", ""))


def slim(one: Manifest) -> Manifest:
    """Return an object without what nobody looks at: most of what a cluster of many brokers is."""
    metadata = one["metadata"]
    managed = metadata.get("managedFields")
    if managed is not None:
        metadata = {key: value for key, value in metadata.items() if key != "managedFields"}
        if one["kind"] in _FIELDS_MATTER:
            metadata["managedFields"] = [
                {"manager": entry.get("manager"), "fieldsV1": {"f:spec": {_REPLICAS: {}}}}
                for entry in managed
                if _REPLICAS in entry.get("fieldsV1", {}).get("f:spec", {})
            ]
    found = one | {"metadata": metadata}
    if one["kind"] == "Pod":
        spec = one.get("spec") or {}
        found["spec"] = {key: spec[key] for key in _OF_PODS if key in spec}
    return found


def _version(one: Mapping[str, Any]) -> str:
    return str(one["metadata"].get("resourceVersion", ""))


def _is_newer(one: Mapping[str, Any], version: str) -> bool:
    """Whether an object is newer than a version of the cluster; versions are numbers that grow."""
    own = _version(one)
    return own.isdecimal() and version.isdecimal() and int(own) > int(version)
