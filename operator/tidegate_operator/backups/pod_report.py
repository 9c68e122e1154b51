"""Runs a command in a Job's pod, and leaves its last line where the kubelet reads it.

``python -m tidegate_operator.backups.pod_report COMMAND…``: the command's output goes to the pod's
log as it comes, and its last line (JSON of ``tidegate backup --json``) becomes the termination
message of the container, which stays in the pod's status when the log is gone. Signals go to the
command, its exit code is the container's.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: terminationMessagePath of containers that do not set it.
TERMINATION_LOG: Final = Path("/dev/termination-log")
#: The kubelet reads no more.
_MAX_BYTES: Final = 4096


@contextlib.contextmanager
def _signals_for(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send signals to a process instead: the kubelet sends them to the first one of the pod."""

    def send(number: int, _: object) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, send) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: list[str], termination_log: Path = TERMINATION_LOG) -> int:
    """Run a command; return its exit code."""
    last = b""
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,  # noqa: S603  # its own
        _signals_for(process),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            last = line.strip() or last
    if last:
        termination_log.write_bytes(last[-_MAX_BYTES:])
    code = process.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
