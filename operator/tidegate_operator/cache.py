"""What a broker consists of, remembered until a watch says that something has changed.

``CachedCluster`` is a ``Cluster`` around another one. As long as every kind is watched, looking at
a broker that nobody has touched costs one request (and one for each Secret that its spec refers
to). While any watch is down nothing is believed, and what is old is asked for again in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegate_operator.kube import Cluster
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest

#: Namespace and name of a broker.
Key = tuple[str, str]

#: The longest that anything is believed; kinds of others are not watched.
LONGEST_S: Final = 600.0


@dataclass(slots=True)
class _Entry:
    """What was read, and when (the loop's clock)."""

    objects: list[Manifest]
    read_s: float


class CachedCluster:
    """See the module's docstring. ``watched`` are the names of all watches that must be up."""

    def __init__(self, cluster: Cluster, watched: Iterable[str]) -> None:
        self._cluster = cluster
        self._down = set(watched)
        self._children: dict[Key, _Entry] = {}
        self._pods: dict[Key, _Entry] = {}
        #: How often anything was forgotten: tells a list that began before it.
        self._changes = 0

    # What watches say

    def began(self, watch: str) -> None:
        """A watch is up from now on; what was known before may be old."""
        self._down.discard(watch)
        self.forget_all()

    def ended(self, watch: str) -> None:
        """A watch is down."""
        self._down.add(watch)

    def watches_down(self) -> frozenset[str]:
        """Return the names of all watches that are down."""
        return frozenset(self._down)

    def changed(self, key: Key) -> None:
        """Something of a broker has changed."""
        self._changes += 1
        self._children.pop(key, None)
        self._pods.pop(key, None)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._changes += 1
        self._children.clear()
        self._pods.clear()

    # Cluster

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        key = (namespace, name)
        known = self._known(self._children, key)
        if known is None:
            before = self._changes
            known = await self._cluster.children(namespace, name)
            self._keep(self._children, key, known, before)
        return list(known)

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        key = (namespace, name)
        known = self._known(self._pods, key)
        if known is None:
            before = self._changes
            known = await self._cluster.pods(namespace, name)
            self._keep(self._pods, key, known, before)
        return list(known)

    def _known(self, entries: Mapping[Key, _Entry], key: Key) -> list[Manifest] | None:
        entry = entries.get(key)
        if entry is None or self._down:
            return None
        is_old = asyncio.get_running_loop().time() - entry.read_s > LONGEST_S
        return None if is_old else entry.objects

    def _keep(
        self, entries: dict[Key, _Entry], key: Key, objects: list[Manifest], before: int
    ) -> None:
        # What has changed while it was read may or may not be in it.
        if before == self._changes:
            entries[key] = _Entry(objects, asyncio.get_running_loop().time())

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """See ``Cluster``."""
        found = await self._cluster.broker(namespace, name)
        if found is None:
            self.changed((namespace, name))
        return found

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self._cluster.read(ref, namespace)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """See ``Cluster``."""
        if not dry_run:
            self._written(manifest)
        return await self._cluster.apply(manifest, dry_run=dry_run)

    async def delete(self, ref: ObjectRef, namespace: str, uid: str) -> None:
        """See ``Cluster``."""
        self.forget_all()
        await self._cluster.delete(ref, namespace, uid)

    def _written(self, manifest: Manifest) -> None:
        metadata: Mapping[str, Any] = manifest["metadata"]
        for owner in metadata.get("ownerReferences") or []:
            self.changed((metadata["namespace"], owner["name"]))

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
