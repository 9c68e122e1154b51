"""bench/run.py plays a scenario, small, against real processes, and leaves what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.tools import require

ROOT = Path(__file__).parents[2]


def run(out: Path, *options: str) -> dict[str, Any]:
    """Run it; return the raw results."""
    require("cc")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "run.py"), "--out", str(out), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(file.suffix for file in out.iterdir()) == [".json", ".md", ".svg"]
    results: dict[str, Any] = json.loads(next(out.glob("*.json")).read_text())
    return results


SMALL = ("--rounds", "1", "--scale", "0.001")


@pytest.mark.parametrize(("broker", "scenarios"), [("one", "A,AT"), ("mtls", "A")])
def test_a_broker_delivers_everything(tmp_path: Path, broker: str, scenarios: str) -> None:
    runs = run(tmp_path, "--brokers", broker, "--scenarios", scenarios, *SMALL)["runs"]
    # Without OpenSSL's headers AT is left out by name.
    assert runs[0]["scenario"] == "A"
    assert all(entry["result"]["received"] == 200 for entry in runs)


def test_what_is_queued_is_drained_and_every_filter_is_granted(tmp_path: Path) -> None:
    options = ["--brokers", "one", "--scenarios", "DR,SU", "--rounds", "1", "--scale", "0.01"]
    drain, subscribe = run(tmp_path, *options)["runs"]
    assert drain["result"]["received"] == drain["result"]["acked"] == 1000
    assert subscribe["result"]["granted"] == subscribe["result"]["filters"] == 1000
