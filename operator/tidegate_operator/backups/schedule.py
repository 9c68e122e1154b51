"""A broker's scheduled backups: the CronJob, what is kept, and what the broker's status says. Pure.

Called by ``reconcile``. The CronJob makes the Jobs, also while the operator is away; ``controller``
makes an MqttBackup of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.backups.cron import next_time
from tidegate_operator.backups.job import Place, job_spec, place, store_policy
from tidegate_operator.backups.status import time_text
from tidegate_operator.live_state import timestamp
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render.inputs import Broker, Manifest, Settings
from tidegate_operator.spec.backups import BackupSchedule, BackupTarget, MqttBackupSpec

#: How many failed MqttBackups of a schedule are kept.
KEPT_FAILED: Final = 3
#: Finished Jobs that the CronJob keeps of each outcome: never more than MqttBackups are kept.
_KEPT_JOBS: Final = 1


def manifests(broker: Broker, settings: Settings) -> list[Manifest]:
    """Return the objects of a broker's schedule; none without one."""
    schedule = broker.spec.backup.schedule
    if schedule is None:
        return []
    name = names.backup_schedule(broker.name)
    found = [_cron_job(broker, settings, schedule)]
    if broker.spec.network_policy.enabled and broker.spec.redis.own is not None:
        found.insert(0, store_policy(broker, broker.metadata(f"{name}-store", "backup")))
    return found


def _cron_job(broker: Broker, settings: Settings, schedule: BackupSchedule) -> Manifest:
    where = place(schedule.target, broker.namespace, broker.name, "scheduled")
    labels = names.labels(broker.name, "backup") | {names.SCHEDULE_LABEL: broker.name}
    backup = MqttBackupSpec(
        broker=broker.name, target=_with_path(where), job=schedule.job
    ).model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
    job = job_spec(broker, settings, "backup", where, schedule.job, ["--keep", str(schedule.keep)])
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": broker.metadata(names.backup_schedule(broker.name), "backup"),
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            "suspend": schedule.suspend,
            "startingDeadlineSeconds": schedule.starting_deadline_s,
            # Two at once would be double the load for one result.
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": _KEPT_JOBS,
            "failedJobsHistoryLimit": _KEPT_JOBS,
            "jobTemplate": {
                "metadata": {
                    "labels": labels,
                    "annotations": {names.BACKUP_SPEC: json.dumps(backup, sort_keys=True)},
                },
                "spec": job,
            },
        },
    }


def _with_path(where: Place) -> BackupTarget:
    """Return a target that names its path."""
    target = where.target
    if target.s3 is not None:
        return target.model_copy(update={"s3": target.s3.model_copy(update={"prefix": where.path})})
    assert target.persistent_volume_claim is not None
    claim = target.persistent_volume_claim.model_copy(update={"path": where.path})
    return target.model_copy(update={"persistent_volume_claim": claim})


def obsolete(backups: Iterable[Manifest], keep: int) -> list[tuple[ObjectRef, str]]:
    """Return reference and uid of a schedule's MqttBackups that are beyond what is kept.

    The file of a complete one has been deleted by the Job of a later one.
    """
    newest_first = sorted(backups, key=_created, reverse=True)
    found = []
    for phase, kept in (("Complete", keep), ("Failed", KEPT_FAILED)):
        ended = [one for one in newest_first if _status(one).get("phase") == phase]
        found += [(ObjectRef.of(one), str(one["metadata"]["uid"])) for one in ended[kept:]]
    return found


# Status


@dataclass(slots=True, frozen=True)
class ScheduleState:
    """What a broker's status says of its schedule. ``problem`` is a sentence, "" without one."""

    last_successful: Mapping[str, Any] | None = None
    last_failed: Mapping[str, Any] | None = None
    next_time: str | None = None
    problem: str = ""


def schedule_state(
    broker: str,
    schedule: BackupSchedule | None,
    backups: Sequence[Manifest],
    cron_job: Mapping[str, Any] | None,
    missing: str,
    now: datetime,
) -> ScheduleState | None:
    """Return the state of a schedule; None without one, and without any backup of an earlier one.

    ``backups``: the MqttBackups that it has made. ``missing``: what its target lacks, "" if
    nothing; it is not worth waiting for the first Job that fails.
    """
    complete, failed = (_last(backups, phase) for phase in ("Complete", "Failed"))
    if schedule is None:
        return ScheduleState(_shown(complete), _shown(failed)) if complete or failed else None
    due = None
    if not schedule.suspend:
        due = next_time(schedule.cron, schedule.time_zone, now)
    problem = (
        _missing(complete, missing)
        or _failure(broker, complete, failed)
        or _overdue(broker, schedule, complete, cron_job, now)
    )
    return ScheduleState(
        _shown(complete),
        _shown(failed),
        None if due is None else time_text(due),
        problem,
    )


def _missing(complete: Manifest | None, missing: str) -> str:
    if not missing:
        return ""
    return f"Scheduled backups cannot be made: {missing} Until then, {_since(complete)}"


def _failure(broker: str, complete: Manifest | None, failed: Manifest | None) -> str:
    if failed is None or (complete is not None and _created(complete) > _created(failed)):
        return ""
    name, status = failed["metadata"]["name"], _status(failed)
    return (
        f"The last scheduled backup has failed (MqttBackup {name}); {_since(complete)} "
        f"{status.get('message', '')} The next one is made on schedule: this ends when it is "
        f"complete (try it with: kubectl create job --from=cronjob/{names.backup_schedule(broker)} "
        "NAME)."
    )


def _overdue(
    broker: str,
    schedule: BackupSchedule,
    complete: Manifest | None,
    cron_job: Mapping[str, Any] | None,
    now: datetime,
) -> str:
    """Return a sentence if two backups were due since the last one, or since there is a CronJob."""
    begun = timestamp((cron_job or {}).get("metadata", {}).get("creationTimestamp"))
    ended = None if complete is None else timestamp(_status(complete).get("completedAt"))
    since = max((one for one in (begun, ended) if one is not None), default=None)
    if since is None or schedule.suspend:
        return ""
    first = next_time(schedule.cron, schedule.time_zone, since)
    second = None if first is None else next_time(schedule.cron, schedule.time_zone, first)
    if second is None or now < second + timedelta(seconds=schedule.starting_deadline_s):
        return ""
    name = names.backup_schedule(broker)
    return (
        f"Scheduled backups are not made: two were due since {time_text(since)}; "
        f"{_since(complete)} Check CronJob {name} and its Jobs: kubectl describe cronjob {name}."
    )


def _since(complete: Manifest | None) -> str:
    if complete is None:
        return (
            "there is no successful one yet. Clients are served; what is in the store would be "
            "lost with it."
        )
    taken = _status(complete).get("takenAt") or _status(complete).get("completedAt", "")
    return (
        f"the last successful one is {complete['metadata']['name']}, of {taken}. Clients are "
        "served; what has changed since would be lost with the store."
    )


def _shown(backup: Manifest | None) -> dict[str, Any] | None:
    if backup is None:
        return None
    status = _status(backup)
    shown = {"name": backup["metadata"]["name"], "completedAt": status.get("completedAt")}
    key = "location" if status.get("phase") == "Complete" else "message"
    return shown | {key: str(status.get(key, ""))[:1024]}


def _last(backups: Sequence[Manifest], phase: str) -> Manifest | None:
    ended = [one for one in backups if _status(one).get("phase") == phase]
    return max(ended, key=_created, default=None)


def _created(backup: Mapping[str, Any]) -> tuple[str, str]:
    metadata = backup["metadata"]
    return str(metadata.get("creationTimestamp", "")), str(metadata["name"])


def _status(backup: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = backup.get("status") or {}
    return found
