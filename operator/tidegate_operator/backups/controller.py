"""Reconciles one ``MqttBackup``: makes its Job, and shows in its status what that does.

``handlers`` has a work queue and the watches for it. The MqttBackup of a scheduled backup is made
here, of the Job that the CronJob has made; everything after that is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from pydantic import ValidationError

from tidegate_operator import names
from tidegate_operator.backups import job as jobs
from tidegate_operator.backups import status as statuses
from tidegate_operator.backups.deletion import Deletion, DeletionCluster, is_wanted
from tidegate_operator.backups.job import Place
from tidegate_operator.backups.job_state import job_state, parse_line
from tidegate_operator.backups.status import FIELDS_DROPPED, BackupReason, Outcome
from tidegate_operator.kube.interface import Cluster, Event, KubeError, Listed
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef, belongs_to
from tidegate_operator.render import Broker, Manifest, Settings
from tidegate_operator.render.inputs import decoded
from tidegate_operator.spec.backups import BackupTarget, MqttBackupSpec
from tidegate_operator.spec.dropped import dropped_fields
from tidegate_operator.spec.problems import SpecError, parse
from tidegate_operator.spec.salvage import usable_part

#: How soon a running Job is looked at again: its progress is not watched.
RUNNING_S: Final = 3.0
#: How soon what is missing is looked for again; Secrets and claims are not watched for backups.
MISSING_S: Final = 10.0
_TERMINAL: Final = frozenset({"Complete", "Failed"})


class BackupCluster(DeletionCluster, Protocol):
    """The calls of ``Cluster``, and those about Jobs."""

    async def last_line(self, namespace: str, pod: str) -> str:
        """Return the last line of a pod's log, "" if it cannot be read."""


class BackupIndex:
    """All MqttBackups, as the watch has reported them."""

    def __init__(self) -> None:
        self._backups: dict[BrokerKey, Manifest] = {}

    def replace(self, namespace: str, listed: Listed) -> None:
        """Replace those of one namespace or (with "") of all."""
        for key in [key for key in self._backups if namespace in {"", key[0]}]:
            del self._backups[key]
        for manifest in listed.objects:
            self._backups[_key(manifest)] = manifest

    def apply_event(self, event: Event) -> None:
        """Note that one has changed, or was deleted."""
        if event.is_deleted:
            self._backups.pop(_key(event.manifest), None)
        else:
            self._backups[_key(event.manifest)] = event.manifest

    def of_schedule(self, namespace: str, broker: str) -> list[Manifest]:
        """Return those that a broker's schedule has made."""
        return [
            manifest
            for key, manifest in self._backups.items()
            if key[0] == namespace and schedule_of(manifest) == broker
        ]

    def is_over(self, key: BrokerKey) -> bool:
        """Whether one is there and needs nothing any more."""
        manifest = self._backups.get(key)
        return manifest is not None and not needs_work(manifest)


def needs_work(manifest: Manifest) -> bool:
    """Whether there is anything to do for an MqttBackup: those that have ended stay for long."""
    metadata = manifest["metadata"]
    is_held = names.BACKUP_FINALIZER in (metadata.get("finalizers") or ())
    if "deletionTimestamp" in metadata:
        return is_held
    return _phase(manifest) not in _TERMINAL or is_held != is_wanted(manifest)


@dataclass(slots=True, frozen=True)
class _Backup:
    """One MqttBackup, as it was read."""

    body: Manifest
    spec: MqttBackupSpec
    where: Place

    @property
    def key(self) -> BrokerKey:
        return _key(self.body)

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.body["metadata"]
        return found


class BackupController:
    """See the module's docstring. Different MqttBackups may be reconciled at the same time."""

    def __init__(
        self, cluster: BackupCluster, settings: Settings, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._now = now
        self._deletion = Deletion(cluster, settings, now)

    async def reconcile(self, key: BrokerKey) -> float | None:
        """Reconcile one; return when it is due again, None for never.

        Raises KubeUnavailable, and KubeError if reading is rejected.
        """
        namespace, name = key
        body = await self._cluster.read(_ref(name), namespace)
        if body is None:
            body = await self._record(namespace, name)
        if body is None:
            return None
        if "deletionTimestamp" in body["metadata"]:
            return await self._delete(body)
        await self._deletion.keep_finalizer(body)
        if _phase(body) in _TERMINAL:
            return None
        try:
            spec = MqttBackupSpec.model_validate(body.get("spec") or {})
        except ValidationError as error:
            text = "; ".join(f"spec.{_path(one['loc'])}: {one['msg']}" for one in error.errors())
            outcome = Outcome("Failed", BackupReason.INVALID_SPEC, f"Invalid spec: {text}.")
            await self._show(body, outcome, None, {})
            return None
        backup = _Backup(body, spec, jobs.place(spec.target, namespace, spec.broker))
        outcome, progress = await self._advance(backup)
        await self._show(body, outcome, backup.where, progress)
        if outcome.phase in _TERMINAL:
            return None
        return RUNNING_S if outcome.job is not None else MISSING_S

    async def _delete(self, body: Manifest) -> float | None:
        """Delete the file, if it goes with the MqttBackup."""
        if names.BACKUP_FINALIZER not in (body["metadata"].get("finalizers") or ()):
            return None
        namespace, _ = _key(body)
        spec = MqttBackupSpec.model_validate(body["spec"])
        found = await self._cluster.broker(namespace, spec.broker)
        missing = await missing_target(self._cluster, spec.target, namespace)
        is_done = await self._deletion.advance(
            body,
            None if found is None else broker_of(found),
            "" if missing is None else missing.message,
        )
        return None if is_done else RUNNING_S

    async def _record(self, namespace: str, name: str) -> Manifest | None:
        """Make the MqttBackup of a Job that a schedule has made; None if it is no such Job."""
        job = await self._cluster.read(ObjectRef("batch/v1", "Job", name), namespace)
        if job is None or not schedule_of(job):
            return None
        text = (job["metadata"].get("annotations") or {}).get(names.BACKUP_SPEC, "")
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.BACKUP_KIND,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": names.labels(schedule_of(job), "backup")
                | {names.SCHEDULE_LABEL: schedule_of(job)},
            },
            "spec": json.loads(text),
        }
        return await self._cluster.apply(manifest)

    # What is next

    async def _advance(self, backup: _Backup) -> tuple[Outcome, Mapping[str, Any]]:
        """Make the Job, or look at it; return the outcome, and the last line of its log."""
        namespace, name = backup.key
        job = await self._cluster.read(ObjectRef("batch/v1", "Job", name), namespace)
        if job is None:
            return await self._without_job(backup), {}
        uid = backup.metadata["uid"]
        if not (belongs_to(job, uid) or schedule_of(job) == schedule_of(backup.body) != ""):
            message = (
                f"There is a Job {name} that does not belong to this MqttBackup: delete it, or "
                "give the MqttBackup another name."
            )
            return Outcome("Pending", BackupReason.NAME_TAKEN, message), {}
        pods = await self._cluster.pods_of_job(namespace, name)
        state = job_state(job, pods, self._now())
        line = ""
        if state.running_pod:
            line = await self._cluster.last_line(namespace, state.running_pod)
        return statuses.of_job(state), parse_line(line)

    async def _without_job(self, backup: _Backup) -> Outcome:
        if (backup.body.get("status") or {}).get("job") or schedule_of(backup.body):
            message = (
                "Its Job was deleted before it had ended, so it is not known whether there is a "
                "backup: `tidegate restore SOURCE --list` shows it. Make another MqttBackup."
            )
            return Outcome("Failed", BackupReason.JOB_DELETED, message)
        broker, missing = await self._broker(backup)
        missing = missing or await missing_target(self._cluster, backup.spec.target, backup.key[0])
        if broker is None or missing is not None:
            assert missing is not None
            return missing
        return await self._start(backup, broker)

    async def _broker(self, backup: _Backup) -> tuple[Broker | None, Outcome | None]:
        """Return the broker, None if it does not run, and why."""
        namespace, name = backup.key[0], backup.spec.broker
        body = await self._cluster.broker(namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            message = (
                f"There is no MqttBroker {name} in namespace {namespace}: the backup is made when "
                "there is one. Delete the MqttBackup if the name is wrong."
            )
            return None, Outcome("Pending", BackupReason.BROKER_MISSING, message)
        config = ObjectRef("v1", "ConfigMap", names.workload(name, "router"))
        if await self._cluster.read(config, namespace) is None:
            message = (
                f"MqttBroker {name} has not been created yet: see its conditions (kubectl "
                f"describe mqb {name}). The backup is made as soon as it has."
            )
            return None, Outcome("Pending", BackupReason.BROKER_MISSING, message)
        return broker_of(body), None

    async def _start(self, backup: _Backup, broker: Broker) -> Outcome:
        namespace, name = backup.key
        metadata = {
            "name": name,
            "namespace": namespace,
            "labels": names.labels(broker.name, "backup"),
            "ownerReferences": [_owner(backup.body)],
        }
        spec = backup.spec
        manifests = [
            jobs.store_policy(broker, metadata | {"name": f"{name}-store"}),
            jobs.backup_job(
                broker, self._settings, metadata, backup.where, spec.job, spec.keep_job_s
            ),
        ]
        if not broker.spec.network_policy.enabled or broker.spec.redis.own is None:
            del manifests[0]
        try:
            for manifest in manifests:
                made = await self._cluster.apply(manifest)
        except KubeError as error:
            if not error.is_rejection:
                raise
            message = (
                f"The API server rejects the Job: {error}. Correct what it names; it is tried "
                "again until the MqttBackup is deleted."
            )
            return Outcome("Pending", BackupReason.APPLY_REFUSED, message)
        return statuses.of_job(job_state(made, (), self._now()))

    async def _show(
        self,
        body: Manifest,
        outcome: Outcome,
        where: Place | None,
        progress: Mapping[str, Any],
    ) -> None:
        """Write the status if it has changed, and record an event for each new reason."""
        before = body.get("status")
        namespace, name = _key(body)
        dropped = dropped_fields(body, MqttBackupSpec)
        status = statuses.status(
            statuses.with_dropped(outcome, dropped),
            before,
            generation=body["metadata"].get("generation", 0),
            job_name=name,
            where=where,
            progress=progress,
            now=self._now(),
        )
        if status == before:
            return
        await self._cluster.set_status(namespace, name, status, names.BACKUP_KIND)
        if _reason(status) != _reason(before or {}):
            is_stalled = any(
                one["type"] == "Stalled" and one["status"] == "True" for one in status["conditions"]
            )
            is_warning = is_stalled or outcome.reason is BackupReason.POD_FAILING
            kind = "Warning" if is_warning else "Normal"
            await self._cluster.record_event(body, kind, outcome.reason, outcome.message)
        # The definition's default is the status of one that no operator has seen.
        if dropped and "phase" not in (before or {}):
            message = statuses.dropped_text(dropped)
            await self._cluster.record_event(body, "Warning", FIELDS_DROPPED, message)


async def missing_target(cluster: Cluster, target: BackupTarget, namespace: str) -> Outcome | None:
    """Return what of a target does not exist; None if all of it does."""
    if target.s3 is None:
        assert target.persistent_volume_claim is not None
        claim = target.persistent_volume_claim.claim_name
        ref = ObjectRef("v1", "PersistentVolumeClaim", claim)
        if await cluster.read(ref, namespace) is not None:
            return None
        message = (
            f"There is no PersistentVolumeClaim {claim} in namespace {namespace}: create it, it is "
            "used as soon as it exists."
        )
        return Outcome("Pending", BackupReason.TARGET_MISSING, message)
    secret = target.s3.credentials_secret.name
    found = await cluster.read(ObjectRef("v1", "Secret", secret), namespace)
    keys = sorted(jobs.CREDENTIAL_KEYS - decoded(found).keys())
    if not keys:
        return None
    message = (
        f"There is no Secret {secret} in namespace {namespace}: create it"
        if found is None
        else f"Secret {secret} lacks {' and '.join(keys)}: add what is missing"
    ) + ", it is used as soon as it is there."
    return Outcome("Pending", BackupReason.CREDENTIALS_MISSING, message)


def broker_of(body: Manifest) -> Broker:
    """Return a broker with its spec, or with what is usable of an invalid one."""
    metadata, raw = body["metadata"], body.get("spec") or {}
    try:
        spec = parse(metadata["name"], raw)
    except SpecError:
        spec = usable_part(raw)
    return Broker(metadata["name"], metadata["namespace"], metadata["uid"], spec)


def schedule_of(manifest: Mapping[str, Any]) -> str:
    """Return the broker whose schedule has made an object, "" if none has."""
    return str((manifest["metadata"].get("labels") or {}).get(names.SCHEDULE_LABEL, ""))


def _owner(backup: Manifest) -> Manifest:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.BACKUP_KIND,
        "name": backup["metadata"]["name"],
        "uid": backup["metadata"]["uid"],
        "controller": True,
    }


def _ref(name: str) -> ObjectRef:
    return ObjectRef(names.API_VERSION, names.BACKUP_KIND, name)


def _key(manifest: Mapping[str, Any]) -> BrokerKey:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _phase(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("status") or {}).get("phase", ""))


def _reason(status: Mapping[str, Any]) -> str:
    """Return the reason of a status: that of Complete, which has it whatever the phase."""
    found = [one for one in status.get("conditions") or [] if one["type"] == "Complete"]
    return str(found[0]["reason"]) if found else ""


def _path(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in location)
