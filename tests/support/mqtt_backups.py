"""MqttBackups for tests, and Jobs and pods as Kubernetes reports them."""

from __future__ import annotations

import copy
import json
from typing import Any

from support.brokers import NAMESPACE
from tidegate_operator import names

CLAIM: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "backups"}}
S3: dict[str, Any] = {
    "s3": {
        "endpoint": "http://minio.store.svc:9000",
        "bucket": "backups",
        "credentialsSecret": {"name": "bucket"},
    }
}
KEYS = {"AWS_ACCESS_KEY_ID": b"key", "AWS_SECRET_ACCESS_KEY": b"secret"}
DONE: dict[str, Any] = {
    "phase": "done",
    "name": "20261129T230000Z",
    "bytes": 4096,
    "sha256": "ab" * 32,
    "sessions": 3,
    "queued_messages": 70,
    "retained": 5,
    "format": 1,
    "version": "0.1.0",
    "taken_at": "2026-11-29T23:00:00Z",
}
FAILED: dict[str, Any] = {
    "phase": "failed",
    "reason": "target_full",
    "message": "The target is full.",
}


def backup_of(
    name: str = "now", broker: str = "demo", namespace: str = NAMESPACE, **spec: Any
) -> dict[str, Any]:
    """Return an MqttBackup. Its uid is for clusters that give none."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.BACKUP_KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-of-{name}",
            "generation": 1,
        },
        "spec": {"broker": broker, "target": copy.deepcopy(CLAIM)} | spec,
    }


def pod_of(
    job: str, number: int = 0, report: dict[str, Any] | str | None = None, **status: Any
) -> dict[str, Any]:
    """Return a pod of a Job: one that has ended if it has reported."""
    found: dict[str, Any] = {"phase": "Running"} | status
    if report is not None:
        message = report if isinstance(report, str) else json.dumps(report)
        is_done = isinstance(report, dict) and report["phase"] == "done"
        found["phase"] = "Succeeded" if is_done else "Failed"
        ended = {
            "exitCode": int(not is_done),
            "reason": "Completed" if is_done else "Error",
            "message": message,
            "finishedAt": f"2026-11-29T23:0{number}:00Z",
        }
        found["containerStatuses"] = [{"name": "tidegate", "state": {"terminated": ended}}]
    return {
        "metadata": {
            "name": f"{job}-{number}",
            "namespace": NAMESPACE,
            "labels": names.labels("demo", "backup"),
        },
        "status": found,
    }


def complete_job(**status: Any) -> dict[str, Any]:
    """Return the status of a Job that was successful."""
    return {
        "startTime": "2026-11-29T22:59:00Z",
        "completionTime": "2026-11-29T23:00:30Z",
        "succeeded": 1,
        "conditions": [{"type": "Complete", "status": "True"}],
    } | status


def failed_job(reason: str = "BackoffLimitExceeded", failed: int = 3) -> dict[str, Any]:
    """Return the status of a Job that has failed."""
    return {
        "startTime": "2026-11-29T22:59:00Z",
        "failed": failed,
        "conditions": [
            {
                "type": "Failed",
                "status": "True",
                "reason": reason,
                "message": "Job has reached the specified backoff limit",
                "lastTransitionTime": "2026-11-29T23:05:00Z",
            }
        ],
    }
