"""What a Job of ``job`` has done so far, from the Job, its pods and their last lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from tidegate_operator import live_state
from tidegate_operator.spec.backups import BackupPhase

#: Steps of a command that are shown; others are those of a newer version.
_RUNNING: Final = "Running"


@dataclass(slots=True, frozen=True)
class JobState:
    """See the module's docstring. ``report``: the last line of the pod that ended last."""

    phase: BackupPhase
    started_at: str | None = None
    completed_at: str | None = None
    #: The pod that runs, "" if none does.
    running_pod: str = ""
    #: Why a pod does not start or cannot be created, "" if none is known.
    failure: str = ""
    #: Why the Job has failed, in words of Kubernetes; "" if it has not.
    job_failure: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    #: How many pods have failed.
    failed_pods: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the Job has succeeded or failed."""
        return self.phase in {"Complete", "Failed"}


def job_state(job: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], now: datetime) -> JobState:
    """Return the state of a Job with these pods."""
    status: Mapping[str, Any] = job.get("status") or {}
    ended = {
        one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"
    }
    manifests = list(pods)
    running = [one for one in manifests if _phase_of(one) == _RUNNING]
    waiting = live_state.pods(manifests, now, ())
    phase: BackupPhase = "Running" if running else "Pending"
    end: Mapping[str, Any] = {}
    # SuccessCriteriaMet and FailureTarget come before their pods have ended.
    if "Complete" in ended:
        phase, end = "Complete", ended["Complete"]
    elif "Failed" in ended:
        phase, end = "Failed", ended["Failed"]
    return JobState(
        phase,
        started_at=status.get("startTime"),
        completed_at=status.get("completionTime") or end.get("lastTransitionTime"),
        running_pod="" if end or not running else running[0]["metadata"]["name"],
        failure=next((pod.failure for pod in waiting if pod.failure), ""),
        job_failure=_job_failure(end) if phase == "Failed" else "",
        report=_last_report(manifests, phase),
        failed_pods=status.get("failed", 0),
    )


def _job_failure(condition: Mapping[str, Any]) -> str:
    parts = (condition.get("reason", ""), condition.get("message", ""))
    return ": ".join(str(part) for part in parts if part)


def _phase_of(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _last_report(pods: Iterable[Mapping[str, Any]], phase: str) -> Mapping[str, Any]:
    """Return what the pod that ended last has reported; of a complete Job, that one which did."""
    wanted: Literal["done", "failed"] = "done" if phase == "Complete" else "failed"
    reports = []
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            ended = (container.get("state") or {}).get("terminated") or {}
            report = parse_line(str(ended.get("message", "")))
            if not report and ended:
                report = {"phase": "failed", "message": _exit_text(ended)}
            if report.get("phase") == wanted:
                reports.append((str(ended.get("finishedAt", "")), report))
    return max(reports, key=lambda one: one[0])[1] if reports else {}


def _exit_text(ended: Mapping[str, Any]) -> str:
    words = [f"exit code {ended.get('exitCode')}", str(ended.get("reason", ""))]
    message = str(ended.get("message", "")).strip()
    return ", ".join(word for word in words if word) + (f": {message}" if message else "")


def parse_line(text: str) -> Mapping[str, Any]:
    """Return the last line of a command's output; empty if it is none of ``--json``."""
    lines = text.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
