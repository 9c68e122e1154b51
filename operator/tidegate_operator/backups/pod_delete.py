"""Deletes the file of a backup, in the pod of a Job.

``python -m tidegate_operator.backups.pod_delete TARGET NAME``: the output is a line of JSON, as
that of ``tidegate backup --json``. A file that has gone already is no failure.
"""

from __future__ import annotations

import json
import sys

from tidegate.backup.failure import BackupFailed
from tidegate.backup.opening import open_target


def delete(target: str, name: str) -> int:
    """Delete a backup; return the exit code."""
    try:
        open_target(target).delete(name)
    except BackupFailed as error:
        report = {"phase": "failed", "reason": error.reason.value, "message": str(error)}
    else:
        report = {"phase": "done", "name": name}
    sys.stdout.write(json.dumps(report) + "\n")
    return int(report["phase"] == "failed")


if __name__ == "__main__":
    sys.exit(delete(*sys.argv[1:]))
