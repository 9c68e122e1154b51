"""Deletes a backup's file with its MqttBackup (``spec.deletionPolicy: Delete``).

A finalizer keeps the MqttBackup until a Job has ended. Where the file cannot be deleted (its
namespace is being deleted, its target has gone, the Job fails), the MqttBackup goes all the same,
and a Warning event names the file that stays: nothing hangs. Called by ``controller``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol

from tidegate_operator import names
from tidegate_operator.backups import job as jobs
from tidegate_operator.backups.job import Place
from tidegate_operator.backups.job_state import job_state
from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Broker, Manifest, Settings
from tidegate_operator.spec.backups import MqttBackupSpec

#: Reasons of events.
FILE_DELETED: Final = "FileDeleted"
FILE_KEPT: Final = "FileKept"


class DeletionCluster(Cluster, Protocol):
    """The calls of ``Cluster``, and those about Jobs and finalizers."""

    async def pods_of_job(self, namespace: str, job: str) -> list[Manifest]:
        """Return the pods of a Job, those that have ended too."""

    async def set_finalizers(self, manifest: Manifest, finalizers: list[str]) -> None:
        """Replace an object's finalizers, unless it has changed since it was read."""


def is_wanted(body: Manifest) -> bool:
    """Whether the file of an MqttBackup is to be deleted with it."""
    status = body.get("status") or {}
    policy = (body.get("spec") or {}).get("deletionPolicy")
    return policy == "Delete" and status.get("phase") == "Complete" and bool(status.get("name"))


def _finalizers(body: Manifest) -> list[str]:
    return list(body["metadata"].get("finalizers") or [])


class Deletion:
    """See the module's docstring."""

    def __init__(
        self, cluster: DeletionCluster, settings: Settings, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._now = now

    async def keep_finalizer(self, body: Manifest) -> None:
        """Add or remove the finalizer of an MqttBackup that is not being deleted."""
        there = _finalizers(body)
        if is_wanted(body) == (names.BACKUP_FINALIZER in there):
            return
        others = [one for one in there if one != names.BACKUP_FINALIZER]
        own = [names.BACKUP_FINALIZER] if is_wanted(body) else []
        await self._cluster.set_finalizers(body, [*others, *own])

    async def advance(self, body: Manifest, broker: Broker | None, missing: str) -> bool:
        """Do what is next for an MqttBackup that is being deleted; return whether all is done.

        ``missing``: what of its target does not exist. Raises KubeError and KubeUnavailable.
        """
        if names.BACKUP_FINALIZER not in _finalizers(body):
            return True
        if not is_wanted(body):
            await self._release(body)
            return True
        namespace = body["metadata"]["namespace"]
        name = f"mqbk-delete-{body['metadata']['uid']}"
        job = await self._cluster.read(ObjectRef("batch/v1", "Job", name), namespace)
        if job is None:
            kept = missing or await self._start(body, broker, name)
        else:
            pods = await self._cluster.pods_of_job(namespace, name)
            state = job_state(job, pods, self._now())
            if state.phase == "Complete":
                text = f"Deleted {_location(body)}."
                await self._cluster.record_event(body, "Normal", FILE_DELETED, text)
                await self._release(body)
                return True
            message = str(state.report.get("message", "")) or state.job_failure
            kept = message if state.phase == "Failed" else ""
        if not kept:
            return False
        text = f"The file {_location(body)} stays, delete it by hand: {kept}"
        await self._cluster.record_event(body, "Warning", FILE_KEPT, text)
        await self._release(body)
        return True

    async def _start(self, body: Manifest, broker: Broker | None, name: str) -> str:
        """Make the Job; return why it is rejected, "" if it is not."""
        spec = MqttBackupSpec.model_validate(body["spec"])
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": body["metadata"]["namespace"],
            "labels": names.labels(spec.broker, "backup"),
        }
        where: Place = jobs.place(spec.target, metadata["namespace"], spec.broker)
        backup = str(body["status"]["name"])
        try:
            await self._cluster.apply(
                jobs.delete_job(broker, self._settings, metadata, where, backup)
            )
        except KubeError as error:
            if not error.is_rejection:
                raise
            return f"the API server rejects the Job: {error}"
        return ""

    async def _release(self, body: Manifest) -> None:
        rest = [one for one in _finalizers(body) if one != names.BACKUP_FINALIZER]
        await self._cluster.set_finalizers(body, rest)


def _location(body: Manifest) -> str:
    return str(body["status"].get("location") or body["status"]["name"])
