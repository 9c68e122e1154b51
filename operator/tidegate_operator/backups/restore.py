"""A new broker that begins with a backup: what to restore, with which Job, and what came of it.

``reconcile`` makes no edges and routers before ``RestoreState.is_over``. Pure, except ``Restore``,
which reads the cluster and makes the Job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tidegate_operator import live_state, names
from tidegate_operator.backups import job as jobs
from tidegate_operator.backups.controller import missing_target
from tidegate_operator.backups.job import Place
from tidegate_operator.backups.job_state import JobState, job_state
from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.live_objects import LiveObjects
from tidegate_operator.live_state import Pod
from tidegate_operator.plan import ObjectRef, belongs_to
from tidegate_operator.render.inputs import Broker, Manifest, Settings
from tidegate_operator.spec.backups import BackupTarget, RestoreFrom, RestorePhase

#: Kinds that serve clients, or belong to what does: they are made after the restore.
_SERVING: Final = frozenset(
    {
        "Deployment",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "ServiceMonitor",
        "CronJob",
    }
)
_LATEST: Final = "latest"

#: What to do, by the reason that the command reports.
_HINTS: Final = {
    "store_not_empty": "the store has data of a broker, and is unchanged. Give the MqttBroker "
    "another name, or empty the store; of a bundled one, delete the MqttBroker and the "
    "PersistentVolumeClaims of its store (data-{name}-redis-0), which are kept, and create it "
    "again",
    "store_in_use": "another broker uses the store, which is unchanged. Use another store",
    "restore_unfinished": "the store has the beginning of another backup's restore: empty it",
    "unsupported_format": "nothing was changed. Set spec.image to the version that wrote it",
    "damaged": "nothing was changed. Restore another backup",
    "not_found": "nothing was changed. Correct restoreFrom in a new MqttBroker",
    "credentials": "correct the Secret with the credentials",
}

_ANEW: Final = (
    "Nothing serves: restoreFrom cannot be changed, so delete the MqttBroker, and create it anew "
    "with another backup."
)


@dataclass(slots=True, frozen=True)
class RestoreState:
    """What a broker's status says of its restore."""

    phase: RestorePhase
    message: str
    report: Mapping[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether edges and routers may be made."""
        return self.phase == "Complete"

    def shown(self) -> dict[str, Any]:
        """Return the fields of the broker's status."""
        counts = (
            ("sessions", "sessions"),
            ("queuedMessages", "queued_messages"),
            ("retainedMessages", "retained"),
        )
        found = {name: self.report[key] for name, key in counts if key in self.report}
        return {
            "phase": self.phase,
            "message": self.message[:4096],
            "name": str(self.report.get("name", "")),
            **found,
        }


def of_status(status: Mapping[str, Any] | None) -> RestoreState | None:
    """Return what a status says of a restore that is complete; None of another one."""
    found = (status or {}).get("restore") or {}
    if found.get("phase") != "Complete":
        return None
    report = {
        "name": found.get("name", ""),
        "sessions": found.get("sessions", 0),
        "queued_messages": found.get("queuedMessages", 0),
        "retained": found.get("retainedMessages", 0),
    }
    return RestoreState("Complete", found.get("message", ""), report)


def before_it(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return what of a broker is made before it is restored: the store, and all that it needs."""
    return [one for one in manifests if one["kind"] not in _SERVING]


def policy(broker: Broker) -> list[Manifest]:
    """Return the NetworkPolicy for the Job, if there is one to make."""
    if broker.spec.restore_from is None or broker.spec.redis.own is None:
        return []
    if not broker.spec.network_policy.enabled:
        return []
    name = f"{names.restore_job(broker.name)}-store"
    return [jobs.store_policy(broker, broker.metadata(name, "restore"))]


def of_job(broker: Broker, job: JobState) -> RestoreState:
    """Return the state of a restore by its Job."""
    name = names.restore_job(broker.name)
    if job.phase == "Complete":
        report = job.report
        text = (
            f"Restored {report.get('sessions', 0)} sessions, {report.get('queued_messages', 0)} "
            f"queued and {report.get('retained', 0)} retained messages as of "
            f"{report.get('taken_at', 'unknown')}."
        )
        return RestoreState("Complete", text if report else "Restored.", report)
    if job.phase == "Failed":
        return RestoreState("Failed", _failed(broker, job), job.report)
    text = f"Job {name} restores the backup; edges and routers are made when it is complete."
    if job.failure:
        text = f"The pod of Job {name} does not start: {job.failure}. Nothing serves until it does."
    elif job.failed_pods:
        why = str(job.report.get("message", "")).rstrip(".")
        text = f"Attempt {job.failed_pods} of Job {name} failed: {why}; it is retried."
    return RestoreState("Running" if job.phase == "Running" else "Waiting", text, {})


def _failed(broker: Broker, job: JobState) -> str:
    why = str(job.report.get("message", "")).rstrip(".") or job.job_failure
    hint = _HINTS.get(str(job.report.get("reason", "")), "").format(name=broker.name)
    name = names.restore_job(broker.name)
    return (
        f"The backup cannot be restored: {why}{f'; {hint}' if hint else ''}. No edges and routers "
        "are made, so nothing serves. When the cause is corrected, delete Job "
        f"{name}: it is made again. restoreFrom cannot be changed: for another backup, or for an "
        "empty store, delete the MqttBroker and create it anew."
    )


class Restore:
    """Makes the Job of a restore when everything that it needs is there."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings

    async def advance(
        self,
        broker: Broker,
        live: LiveObjects,
        before: Mapping[str, Any] | None,
        pods: Sequence[Pod],
        now: datetime,
        *,
        is_paused: bool,
    ) -> RestoreState | None:
        """Look at the Job, or make it; return the state, None for a broker that is not restored.

        One that has edges or routers, or has been restored by its status ``before``, is never
        restored again. ``live``: its objects. Raises KubeError and KubeUnavailable.
        """
        if broker.spec.restore_from is None:
            return None
        done = of_status(before)
        is_serving = any(live.deployment(process) is not None for process in names.PROCESSES)
        if done is not None or is_serving:
            return done or RestoreState("Complete", "", {})
        store = live_state.bundled_store(live.store(), pods)
        is_ready = broker.spec.redis.own is None or store.ready > 0
        config = ObjectRef("v1", "ConfigMap", names.workload(broker.name, "router"))
        can_start = is_ready and config in live.objects
        return await self._look(broker, now, is_paused=is_paused, can_start=can_start)

    async def _look(
        self, broker: Broker, now: datetime, *, is_paused: bool, can_start: bool
    ) -> RestoreState:
        restore_from = broker.spec.restore_from
        assert restore_from is not None
        name = names.restore_job(broker.name)
        job = await self._cluster.read(ObjectRef("batch/v1", "Job", name), broker.namespace)
        if job is not None:
            if not belongs_to(job, broker.uid):
                text = f"There is a Job {name} that is not of this MqttBroker: delete it."
                return _waiting(text)
            pods = await self._cluster.pods(broker.namespace, broker.name)
            return of_job(broker, job_state(job, _of_restore(pods), now))
        source = await self._source(broker, restore_from)
        if isinstance(source, RestoreState):
            return source
        if is_paused:
            return _waiting("Reconciliation is paused (spec.paused is true).")
        if not can_start:
            text = "The store is being started; then the backup is restored."
            return _waiting(text)
        return await self._start(broker, restore_from, source, now)

    async def _start(
        self,
        broker: Broker,
        restore_from: RestoreFrom,
        source: tuple[Place, str],
        now: datetime,
    ) -> RestoreState:
        where, backup = source
        spec = jobs.job_spec(
            broker, self._settings, "restore", where, restore_from.job, ["--name", backup]
        )
        manifest = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": broker.metadata(names.restore_job(broker.name), "restore"),
            "spec": spec,
        }
        try:
            made = await self._cluster.apply(manifest)
        except KubeError as error:
            if not error.is_rejection:
                raise
            text = f"The API server rejects the Job that restores the backup: {error}."
            return _waiting(text)
        return of_job(broker, job_state(made, (), now))

    async def _source(
        self, broker: Broker, restore_from: RestoreFrom
    ) -> tuple[Place, str] | RestoreState:
        """Return where the backup is, and its name; or what is missing."""
        target, name = restore_from.target, restore_from.name or _LATEST
        origin = broker.namespace, broker.name
        if target is None:
            found = await self._referenced(broker, restore_from)
            if isinstance(found, RestoreState):
                return found
            target, name, origin = found
        missing = await missing_target(self._cluster, target, broker.namespace)
        if missing is not None:
            return _waiting(f"{missing.message} Nothing serves until then.")
        return jobs.place(target, *origin), name

    async def _referenced(
        self, broker: Broker, restore_from: RestoreFrom
    ) -> tuple[BackupTarget, str, tuple[str, str]] | RestoreState:
        """Return target, name and broker of an MqttBackup; or why it cannot be used (yet)."""
        reference = restore_from.backup
        assert reference is not None
        namespace = reference.namespace or broker.namespace
        what = f"MqttBackup {reference.name} in namespace {namespace}"
        ref = ObjectRef(names.API_VERSION, names.BACKUP_KIND, reference.name)
        try:
            backup = await self._cluster.read(ref, namespace)
        except KubeError as error:
            if not error.is_rejection:
                raise
            text = f"{what} cannot be read: {error}. Name its target in restoreFrom.target instead."
            return _waiting(text)
        if backup is None:
            return _waiting(f"There is no {what}: nothing serves until there is one.")
        status = backup.get("status") or {}
        phase = status.get("phase", "not observed")
        if phase == "Failed":
            return RestoreState("Failed", f"{what} has failed, so there is no backup. {_ANEW}", {})
        if phase != "Complete" or not status.get("name"):
            return _waiting(f"{what} is {phase}, not Complete: nothing serves until it is.")
        target = BackupTarget.model_validate(backup["spec"]["target"])
        if target.s3 is None and namespace != broker.namespace:
            text = (
                f"{what} is on a volume, which cannot be used in namespace {broker.namespace}. "
                "Back up to a bucket, or restore in that namespace: delete this MqttBroker."
            )
            return RestoreState("Failed", text, {})
        return target, str(status["name"]), (namespace, str(backup["spec"]["broker"]))


def _waiting(text: str) -> RestoreState:
    return RestoreState("Waiting", text, {})


def _of_restore(pods: Iterable[Manifest]) -> list[Manifest]:
    return [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL) == "restore"
    ]
