"""The raw results of a run: what was played, with which versions, on which machine.

What is a table or a picture is made of this, and can be made again of the file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import peers
from measure.scenarios import Figure


@dataclass(slots=True)
class Results:
    """Everything that one run has found; ``columns`` are names and titles of brokers."""

    about: dict[str, Any]
    columns: dict[str, str]
    #: Of each entry: scenario, broker, round, result of mqload.
    runs: list[dict[str, Any]] = field(default_factory=list)
    #: Columns that are compared in paired rounds: ours, the other checkout's.
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def add(self, scenario: str, broker: str, number: int, result: dict[str, Any]) -> None:
        """Note the result of one play."""
        self.runs.append(
            {"scenario": scenario, "broker": broker, "round": number, "result": result}
        )

    def scenarios(self) -> list[str]:
        """Return the names of the scenarios that were played, in order."""
        return list(dict.fromkeys(run["scenario"] for run in self.runs))

    def by_round(self, scenario: str, broker: str, figure: Figure) -> list[float | None]:
        """Return a figure of each round, None of one that failed or was not played."""
        rounds: int = self.about["rounds"]
        values: list[float | None] = [None] * rounds
        for run in self.runs:
            if run["scenario"] == scenario and run["broker"] == broker:
                values[run["round"]] = _value(run["result"], figure)
        return values

    def values(self, scenario: str, broker: str, figure: Figure) -> list[float]:
        """Return a figure of the rounds that succeeded."""
        return [v for v in self.by_round(scenario, broker, figure) if v is not None]

    def was_played(self, scenario: str, broker: str) -> bool:
        """Say whether a broker was to play a scenario."""
        return any(r["scenario"] == scenario and r["broker"] == broker for r in self.runs)

    def failures(self) -> list[str]:
        """Return a line for each play that failed."""
        return [
            f"{run['scenario']}, {self.columns[run['broker']]}: {run['result']['failed']}".strip()
            for run in self.runs
            if "failed" in run["result"]
        ]

    def write(self, file: Path) -> None:
        """Write all of it, a run a line."""
        content = {"about": self.about, "columns": self.columns, "pairs": self.pairs}
        head = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
        lines = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in self.runs)
        file.write_text(f'{head},\n "runs": [\n  {lines}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Results:
        """Read what ``write`` has written."""
        content = json.loads(file.read_text(encoding="utf-8"))
        pairs = [(mine, other) for mine, other in content["pairs"]]
        return cls(content["about"], content["columns"], content["runs"], pairs)


def _value(result: dict[str, Any], figure: Figure) -> float | None:
    if "failed" in result or figure.key not in result:
        return None
    return float(result[figure.key]) * figure.factor


def about(
    command: Sequence[str], checkouts: dict[str, Path], programs: Sequence[str]
) -> dict[str, Any]:
    """Say what the figures belong to: command, commits, versions, machine."""
    return {
        "command": " ".join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkouts": {name: _checkout(root) for name, root in checkouts.items()},
        "versions": {program: _version(peers.find(program) or program) for program in programs},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load": list(os.getloadavg()),
        },
    }


def _checkout(root: Path) -> dict[str, Any]:
    python = root / ".venv" / "bin" / "python"
    code = "import sys, uvloop; print(sys.version.split()[0], uvloop.__version__)"
    python_version, _, uvloop = _output(str(python), "-P", "-c", code).partition(" ")
    return {
        "commit": _output("git", "-C", str(root), "rev-parse", "--short", "HEAD"),
        "changed": bool(_output("git", "-C", str(root), "status", "--porcelain", "--", "services")),
        "python": python_version,
        "uvloop": uvloop,
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def _version(program: str) -> str:
    said = _output(program, "-h" if program.endswith("mosquitto") else "--version")
    found = re.search(r"\d+(\.\d+)+", said)
    return found.group() if found else "unknown"


def _processor() -> str:
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*: (.*)$", said, re.MULTILINE)
    return found.group(1) if found else platform.machine()
