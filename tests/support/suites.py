"""Other people's test suites: run as their authors mean them, against the broker under test.

They come from source distributions (support.tools), are never copied, and run in a pytest process
of their own with their own version of their library. What is changed for them is done from outside,
by a plugin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from support import processes

SUPPORT = Path(__file__).parent


@dataclass(slots=True, frozen=True)
class Verdict:
    """How one of their tests ended: passed, failed, failed as expected, or skipped."""

    outcome: str
    details: str


def run_suite(
    source: Path,
    library: Path,
    tests: list[str],
    results: Path,
    *,
    plugin: str,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    timeout_s: float = 280.0,
) -> dict[str, Verdict]:
    """Run ``tests`` (files or node ids) of the unpacked ``source`` and return their verdicts.

    ``library`` is put first on the path, so that the suite meets the version it belongs to.
    ``plugin`` is a module of tests/support that pytest loads before it.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(source)]
    command += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-p",
        plugin,
        "-o",
        "asyncio_mode=strict",
    ]
    command += [f"--junitxml={results}", *options, *tests]
    path = [str(library), str(source), str(SUPPORT.parent)]
    done = processes.run(
        command,
        timeout_s,
        cwd=source,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        | {"PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
        | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if not results.exists():
        raise AssertionError(f"the suite did not run:\n{done.stdout[-8000:]}")
    return _verdicts(results)


def _verdicts(results: Path) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    for case in ET.parse(results).iter("testcase"):  # our own pytest wrote the file
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        if bad is not None:
            verdicts[name] = Verdict("failed", f"{bad.get('message')}\n{bad.text}")
        elif skipped is not None:
            expected = skipped.get("type") == "pytest.xfail"
            outcome = "failed as expected" if expected else "skipped"
            verdicts[name] = Verdict(outcome, skipped.get("message") or "")
        else:
            verdicts[name] = Verdict("passed", "")
    return verdicts
