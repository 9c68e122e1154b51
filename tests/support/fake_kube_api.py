"""``Cluster`` in memory: the seam that ``KubeApi`` is the other side of."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from support.brokers import ALL_OPTIONAL
from support.fake_cluster import FakeCluster, Refused
from tidegate_operator import names
from tidegate_operator.kube.interface import KubeError, KubeUnavailable
from tidegate_operator.names import FIELD_MANAGER
from tidegate_operator.plan import ROUTE_KINDS, ObjectRef
from tidegate_operator.render import Manifest


class FakeKubeApi:
    """Counts what is asked of it; ``down`` makes it unreachable."""

    def __init__(self) -> None:
        self.fake = FakeCluster()
        self.kinds = ALL_OPTIONAL
        self.events: list[tuple[str, str, str]] = []
        self.status_writes = 0
        self.reads = 0
        self.pods_there: list[Manifest] = []
        self.down = False
        #: Pods that were told to look at their configuration, and at which; or why not.
        self.told: list[tuple[str, str]] = []
        #: Pods that were given conditions, and these.
        self.shown: list[tuple[str, str]] = []
        self.pod_refusal = 0
        #: The status of what ``fake.refuse`` refuses.
        self.refusal = 422
        #: What was deleted without what it owns.
        self.orphaned: list[str] = []
        #: Pods of Jobs, and the last lines of their logs by name.
        self.pods_of_jobs: dict[str, list[Manifest]] = {}
        self.lines: dict[str, str] = {}
        #: The newest event about a pod that cannot be created, by StatefulSet.
        self.creation_failures: dict[str, Manifest] = {}

    def _reached(self) -> None:
        self.reads += 1
        if self.down:
            raise KubeUnavailable("no connection")

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        return await self.read(ObjectRef(names.API_VERSION, names.KIND, name), namespace)

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        self._reached()
        wanted = {names.INSTANCE_LABEL: name, names.MANAGED_BY_LABEL: FIELD_MANAGER}.items()
        return [
            one
            for one in self.fake.all()
            if wanted <= (one["metadata"].get("labels") or {}).items()
            and one["metadata"]["namespace"] == namespace
        ]

    async def optional_children(
        self, namespace: str, name: str, *, routes: bool = True
    ) -> list[Manifest]:
        return [
            one
            for one in await self.children(namespace, name)
            if one["kind"] in self.kinds and (routes or one["kind"] not in ROUTE_KINDS)
        ]

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        self._reached()
        return copy.deepcopy(self.pods_there)

    async def pods_of_job(self, namespace: str, job: str) -> list[Manifest]:
        self._reached()
        return copy.deepcopy(self.pods_of_jobs.get(job, []))

    async def set_finalizers(self, manifest: Manifest, finalizers: list[str]) -> None:
        self._reached()
        there = self.fake.get(manifest["kind"], manifest["metadata"]["name"])["metadata"]
        there["finalizers"] = list(finalizers)
        if not finalizers and "deletionTimestamp" in there:
            self.fake.delete(manifest["kind"], there["name"])

    async def last_line(self, namespace: str, pod: str) -> str:
        return self.lines.get(pod, "")

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        self._reached()
        found = self.fake.objects.get((ref.api_version, ref.kind, namespace, ref.name))
        return copy.deepcopy(found)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        self._reached()
        try:
            return self.fake.apply(manifest, manager=FIELD_MANAGER, dry_run=dry_run)
        except Refused as refused:
            raise KubeError(self.refusal, str(refused)) from refused

    async def delete(
        self, ref: ObjectRef, namespace: str, uid: str, *, orphan: bool = False
    ) -> None:
        self._reached()
        assert uid
        if orphan:
            self.orphaned.append(ref.name)
        self.fake.delete(ref.kind, ref.name)

    async def annotate_pod(
        self,
        namespace: str,
        name: str,
        uid: str,
        value: str,
        annotation: str = names.CONFIGURATION,
    ) -> None:
        self._reached()
        if self.pod_refusal:
            raise KubeError(self.pod_refusal, "not this pod")
        (self.told if annotation == names.CONFIGURATION else self.shown).append((name, value))
        for one in self.pods_there:
            if one["metadata"]["uid"] == uid:
                one["metadata"].setdefault("annotations", {})[annotation] = value

    async def set_status(
        self, namespace: str, name: str, status: Mapping[str, Any], kind: str = names.KIND
    ) -> None:
        self.status_writes += 1
        self.fake.get(kind, name)["status"] = copy.deepcopy(dict(status))

    async def record_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        self.events.append((kind, reason, message))

    async def creation_failure(self, namespace: str, stateful_set: str) -> Manifest | None:
        self._reached()
        return self.creation_failures.get(stateful_set)

    async def optional_kinds(self) -> Mapping[str, str]:
        return self.kinds
