"""The load generator: mqload is compiled from bench/mqload.c and run against one broker."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from measure.running import Running
from measure.scenarios import Scenario

SOURCE: Final = Path(__file__).resolve().parents[1] / "mqload.c"
#: More than mqload's own limits (connecting, playing, waiting until the broker is quiet).
TIMEOUT_S: Final = 300.0

Result = dict[str, Any]


class BuildError(Exception):
    """mqload does not compile; the message is the compiler's."""


def compile_mqload(directory: Path) -> tuple[Path, bool]:
    """Compile mqload into ``directory``; return it, and whether it has TLS (OpenSSL's headers)."""
    target = directory / "mqload"
    plain: list[str | Path] = ["cc", "-O2", "-o", target, SOURCE]
    for command, has_tls in (([*plain, "-DMQLOAD_TLS", "-lssl", "-lcrypto"], True), (plain, False)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return target, has_tls
    raise BuildError(done.stderr[-1000:])


def play(
    mqload: Path, scenario: Scenario, scale: float, start: Callable[[Path], Running]
) -> Result:
    """Start a broker, play a scenario, end the broker; return mqload's figures.

    With ``failed`` in it the figures do not count: something was lost, or mqload says why.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        running = start(Path(directory))
        try:
            return _run(mqload, scenario.words(scale), running, scenario.listener)
        finally:
            running.stop()


def _run(mqload: Path, words: Sequence[str], running: Running, listener: str) -> Result:
    pids = ",".join(map(str, running.pids))
    command = [str(mqload), "-p", str(running.ports[listener]), "-k", pids, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    result = parsed(done.stdout)
    if done.returncode or "error" in result:
        reason = result.get("error") or done.stderr[-200:] or "not all of it arrived"
        result["failed"] = " ".join([reason, *running.last_lines()])
    return result


def parsed(printed: str) -> Result:
    """Read mqload's line; "failed" is the word for a play, so its count gets another name."""
    try:
        result: Result = json.loads(printed)
    except ValueError:
        return {"error": f"mqload printed {printed[-200:]!r}"}
    if "failed" in result:
        result["failed_connections"] = result.pop("failed")
    return result
