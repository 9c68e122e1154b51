"""The status of an ``MqttBackup``: phase, result, conditions, and what to do about them. Pure.

Called by ``controller``; docs/kubernetes-backups.md lists the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from tidegate_operator.backups.job import Place
from tidegate_operator.backups.job_state import JobState
from tidegate_operator.spec.backups import (
    BackupCondition,
    BackupConditionType,
    BackupPhase,
    BackupProgress,
    MqttBackupStatus,
)

#: Reason of the event for a manifest with fields that do not exist.
FIELDS_DROPPED: Final = "FieldsDropped"
_MAX_MESSAGE: Final = 4096
_STEPS: Final = frozenset({"waiting", "reading", "writing", "verifying", "deleting"})


class BackupReason(StrEnum):
    """Reasons of an MqttBackup's conditions; docs/kubernetes-backups.md says what to do."""

    # Pending
    BROKER_MISSING = "BrokerMissing"
    TARGET_MISSING = "TargetMissing"
    CREDENTIALS_MISSING = "CredentialsMissing"
    NAME_TAKEN = "NameTaken"
    APPLY_REFUSED = "ApplyRefused"
    STARTING = "Starting"
    POD_FAILING = "PodFailing"
    # Running
    RUNNING = "Running"
    RETRYING = "Retrying"
    # Complete
    COMPLETE = "Complete"
    # Failed
    BACKUP_FAILED = "BackupFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    JOB_DELETED = "JobDeleted"
    INVALID_SPEC = "InvalidSpec"
    # What is not the case
    AS_EXPECTED = "AsExpected"


#: Reasons that end only when somebody changes something.
_LASTING: Final = frozenset(
    {
        BackupReason.BROKER_MISSING,
        BackupReason.TARGET_MISSING,
        BackupReason.CREDENTIALS_MISSING,
        BackupReason.NAME_TAKEN,
        BackupReason.APPLY_REFUSED,
    }
)


@dataclass(slots=True, frozen=True)
class Outcome:
    """What an MqttBackup is up to. ``job``: None before there is one."""

    phase: BackupPhase
    reason: BackupReason
    message: str
    job: JobState | None = None


def with_dropped(outcome: Outcome, dropped: Sequence[str]) -> Outcome:
    """Say in the message which fields of the manifest are not in effect."""
    if not dropped:
        return outcome
    return replace(outcome, message=f"{outcome.message} {dropped_text(dropped)}")


def dropped_text(dropped: Sequence[str]) -> str:
    """Say which fields of the manifest are not in effect, and what to do."""
    return (
        "The manifest has fields that do not exist, and the API server has dropped them: "
        f"{'; '.join(dropped)}. The backup is made without them: if it needs them, make another "
        "MqttBackup with the right names."
    )


def of_job(job: JobState) -> Outcome:
    """Return the outcome of a Job."""
    if job.phase == "Complete":
        return Outcome("Complete", BackupReason.COMPLETE, _complete(job.report), job)
    if job.phase == "Failed":
        return _failed(job)
    if job.phase == "Running":
        retry = f" (attempt {job.failed_pods + 1})" if job.failed_pods else ""
        reason = BackupReason.RETRYING if job.failed_pods else BackupReason.RUNNING
        return Outcome("Running", reason, f"The backup is being made{retry}.", job)
    if job.failure:
        message = (
            f"The pod of the Job does not start: {job.failure}. No backup is made until it does: "
            "correct what is named, or delete the MqttBackup."
        )
        return Outcome("Pending", BackupReason.POD_FAILING, message, job)
    if job.failed_pods:
        return Outcome("Pending", BackupReason.RETRYING, f"{_attempt(job)}; it is retried.", job)
    return Outcome("Pending", BackupReason.STARTING, "The pod of the Job is being started.", job)


def _attempt(job: JobState) -> str:
    text = str(job.report.get("message", "")).rstrip(".")
    return f"Attempt {job.failed_pods} failed" + (f": {text}" if text else "")


def _complete(report: Mapping[str, Any]) -> str:
    if not report:
        return (
            "The Job was successful, but its pod was deleted before it was read what it has "
            "written: `tidegate restore SOURCE --list` shows it."
        )
    return (
        f"{report.get('sessions', 0)} sessions, {report.get('queued_messages', 0)} queued and "
        f"{report.get('retained', 0)} retained messages as of {report.get('taken_at', 'unknown')}."
    )


def _failed(job: JobState) -> Outcome:
    why = str(job.report.get("message", "")).rstrip(".") or job.job_failure
    is_late = "DeadlineExceeded" in job.job_failure
    reason = BackupReason.DEADLINE_EXCEEDED if is_late else BackupReason.BACKUP_FAILED
    if is_late:
        why = f"it took longer than spec.job.deadlineSeconds ({why})"
    pods = f" in {job.failed_pods} attempts" if job.failed_pods > 1 else ""
    message = (
        f"The backup has failed{pods}: {why}. Clients are not affected, and earlier backups are as "
        "they were. Correct what is named and make another MqttBackup; the log is that of the "
        "Job's pod, as long as the Job exists."
    )
    return Outcome("Failed", reason, message, job)


def status(
    outcome: Outcome,
    before: Mapping[str, Any] | None,
    *,
    generation: int,
    job_name: str,
    where: Place | None,
    progress: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """Return the new status. What is known of a finished Job stays when the Job has gone."""
    old = {condition["type"]: condition for condition in (before or {}).get("conditions") or []}
    job = outcome.job
    report = job.report if job is not None and outcome.phase == "Complete" else {}
    name = str(report.get("name", ""))
    values: dict[str, Any] = {
        "observedGeneration": generation,
        "phase": outcome.phase,
        "message": _truncated(outcome.message),
        "job": job_name if job is not None else "",
        "startedAt": None if job is None else job.started_at,
        "completedAt": None if job is None else job.completed_at,
        "name": name,
        "location": where.location(name) if where is not None and name else "",
        "bytes": _number(report, "bytes"),
        "sha256": str(report.get("sha256", "")),
        "sessions": _number(report, "sessions"),
        "queuedMessages": _number(report, "queued_messages"),
        "retainedMessages": _number(report, "retained"),
        "format": _number(report, "format"),
        "version": str(report.get("version", "")),
        "takenAt": _time(report.get("taken_at")),
        "conditions": [
            _condition(kind, value, outcome, old.get(kind, {}), generation, now)
            for kind, value in _values(outcome).items()
        ],
    }
    if outcome.phase == "Running":
        values["progress"] = _progress(progress)
    found = MqttBackupStatus.model_validate(values)
    return found.model_dump(by_alias=True, exclude_none=True)


def _number(report: Mapping[str, Any], key: str) -> int | None:
    value = report.get(key)
    return value if isinstance(value, int) else None


def _time(value: object) -> str | None:
    """Return a time as the API server takes it, None if it is none."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return time_text(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))


def _progress(line: Mapping[str, Any]) -> dict[str, Any] | None:
    step = line.get("phase")
    if step not in _STEPS:
        return None
    found = {"step": step, "keys": _number(line, "keys"), "bytes": _number(line, "bytes")}
    return BackupProgress.model_validate(
        {key: value for key, value in found.items() if value is not None}
    ).model_dump(by_alias=True)


def _values(outcome: Outcome) -> dict[BackupConditionType, bool]:
    is_lasting = outcome.reason in _LASTING or outcome.phase == "Failed"
    is_finished = outcome.phase in {"Complete", "Failed"}
    return {
        "Complete": outcome.phase == "Complete",
        "Failed": outcome.phase == "Failed",
        "Reconciling": not is_finished and not is_lasting,
        "Stalled": is_lasting,
    }


def _condition(
    kind: BackupConditionType,
    value: bool,
    outcome: Outcome,
    last: Mapping[str, Any],
    generation: int,
    now: datetime,
) -> dict[str, Any]:
    state = "True" if value else "False"
    is_shown = value or kind == "Complete"
    is_same = last.get("status") == state and last.get("lastTransitionTime")
    return BackupCondition.model_validate(
        {
            "type": kind,
            "status": state,
            "reason": (outcome.reason if is_shown else BackupReason.AS_EXPECTED).value,
            "message": _truncated(outcome.message) if is_shown else "",
            "lastTransitionTime": last["lastTransitionTime"] if is_same else time_text(now),
            "observedGeneration": generation,
        }
    ).model_dump(by_alias=True)


def _truncated(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 1]}…"


def time_text(moment: datetime) -> str:
    """Return a time as the API server writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
