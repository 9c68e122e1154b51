"""Writes the objects of a plan: dry run, apply, delete, with back-off.

``reconcile`` decides what to write, and calls it once per reconcile. A rejection by the API server
is part of the result; what a retry may mend is raised. Never decides what is desired.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.kube.write_backoff import WriteBackoff
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef, Plan
from tidegate_operator.render import Manifest

log = logging.getLogger(__name__)

#: How many rejections are quoted.
_MAX_NAMED: Final = 3

#: Kinds whose content a spec cannot make invalid: for a new broker they need no dry run.
_UNVALIDATED_KINDS: Final = frozenset({"Secret", "ConfigMap", "ServiceAccount"})


@dataclass(slots=True)
class WriteResult:
    """What was written, and what was not."""

    applied: int = 0
    deleted: int = 0
    #: Whether other objects may have been written before the rejection.
    is_partial: bool = False
    #: In how many seconds an object in back-off may be written; 0: none is in back-off.
    backoff_s: float = 0.0
    #: Obsolete objects that were kept because they are in use.
    kept: frozenset[ObjectRef] = frozenset()
    #: Why the API server has rejected objects, one text each.
    errors: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """Why objects were rejected, "" if all were accepted; the first ones if there are many."""
        more = len(self.errors) - _MAX_NAMED
        return "; ".join(self.errors[:_MAX_NAMED]) + (f" (and {more} more)" if more > 0 else "")

    def refuse(self, error: str) -> None:
        """Note why an object was rejected."""
        if error not in self.errors:
            self.errors.append(error)


class ObjectWriter:
    """See the module's docstring. Plans of different brokers may be written at the same time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._backoff = WriteBackoff()

    def forget(self, broker: BrokerKey) -> None:
        """Remove a deleted broker."""
        self._backoff.forget(*broker)

    async def write(
        self,
        plan: Plan,
        namespace: str,
        live: dict[ObjectRef, Manifest],
        in_use: Callable[[Plan], frozenset[ObjectRef]],
        now: datetime,
        *,
        is_new: bool,
    ) -> WriteResult:
        """Write a plan, and update ``live``. Raises KubeError and KubeUnavailable.

        ``in_use`` is called after everything is applied; it returns obsolete objects to keep.
        ``is_new``: the broker has no objects yet.
        """
        plan, backoff_s = self._without_backoff(plan, now)
        result = WriteResult(backoff_s=backoff_s)
        await self._dry_run(plan, result, is_new=is_new)
        if result.errors:
            return result
        try:
            await self._delete(plan.release, namespace, live, result)
            await self._apply(plan.apply, live, result, now)
            result.kept = in_use(plan)
            obsolete = (ref for ref in plan.delete if ref not in result.kept)
            await self._delete(obsolete, namespace, live, result)
        except _Rejected as rejected:
            result.refuse(str(rejected))
            result.is_partial = len(plan.release) + len(plan.apply) + len(plan.delete) > 1
        return result

    async def write_each(
        self,
        plan: Plan,
        live: dict[ObjectRef, Manifest],
        result: WriteResult,
        now: datetime,
        *,
        indispensable: ObjectRef,
    ) -> None:
        """Apply each object by itself, although others are refused; add to ``result``.

        Without the ``indispensable`` one the others are useless: nothing after it is written.
        """
        plan, backoff_s = self._without_backoff(plan, now)
        result.backoff_s = max(result.backoff_s, backoff_s)
        for manifest in plan.apply:
            try:
                await self._apply([manifest], live, result, now)
            except _Rejected as rejected:
                result.refuse(str(rejected))
                if ObjectRef.of(manifest) == indispensable:
                    return

    def _without_backoff(self, plan: Plan, now: datetime) -> tuple[Plan, float]:
        """Return the plan without objects in back-off, and when the first of them is due."""
        waits = [(manifest, self._backoff.wait_s(manifest, now)) for manifest in plan.apply]
        due = tuple(manifest for manifest, wait_s in waits if not wait_s)
        return replace(plan, apply=due), min((wait_s for _, wait_s in waits if wait_s), default=0.0)

    async def _dry_run(self, plan: Plan, result: WriteResult, *, is_new: bool) -> None:
        """Validate all objects first, so that an invalid spec changes nothing; note each rejection.

        A single write needs no dry run. For a new broker only objects with content of the spec are
        validated: an object too many does no harm then.
        """
        if len(plan.apply) == 1 and not (plan.delete or plan.release):
            return
        for manifest in plan.apply:
            if is_new and manifest["kind"] in _UNVALIDATED_KINDS:
                continue
            try:
                with _rejections(ObjectRef.of(manifest)):
                    await self._validate(_without_node_ports(manifest, plan.moved_node_ports))
            except _Rejected as rejected:
                result.refuse(str(rejected))

    async def _validate(self, manifest: Manifest) -> None:
        try:
            await self._cluster.apply(manifest, dry_run=True)
        except KubeError as error:
            if not error.is_unsupported_dry_run:
                raise

    async def _apply(
        self,
        manifests: Iterable[Manifest],
        live: dict[ObjectRef, Manifest],
        result: WriteResult,
        now: datetime,
    ) -> None:
        for manifest in manifests:
            ref = ObjectRef.of(manifest)
            with _rejections(ref):
                live[ref] = await self._cluster.apply(manifest)
            result.applied += 1
            if self._backoff.record(manifest, now):
                log.warning(
                    "object is repeatedly changed by another writer, backing off",
                    extra={"namespace": manifest["metadata"]["namespace"], "object": str(ref)},
                )

    async def _delete(
        self,
        refs: Iterable[ObjectRef],
        namespace: str,
        live: dict[ObjectRef, Manifest],
        result: WriteResult,
    ) -> None:
        for ref in refs:
            with _rejections(ref):
                await self._cluster.delete(ref, namespace, live[ref]["metadata"]["uid"])
            del live[ref]
            result.deleted += 1


def _without_node_ports(manifest: Manifest, ports: frozenset[int]) -> Manifest:
    """Return a manifest as it can be validated before these node ports are free."""
    if manifest["kind"] != "Service" or not ports:
        return manifest
    validated = copy.deepcopy(manifest)
    for port in validated["spec"]["ports"]:
        if port.get("nodePort") in ports:
            del port["nodePort"]
    return validated


class _Rejected(Exception):
    """The API server rejects an object; the message names it."""


@contextlib.contextmanager
def _rejections(ref: ObjectRef) -> Iterator[None]:
    """Turn rejections of an object into _Rejected; other errors are raised as they are."""
    try:
        yield
    except KubeError as error:
        if not error.is_rejection:
            raise
        raise _Rejected(f"{ref}: {error}") from error
