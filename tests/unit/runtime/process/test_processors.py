"""How many processors a process may use.

Inputs: a directory in the place of the container's cgroup. Output: the number.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.process.processors import available_processors


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("nonsense", None)],
)
def test_the_limit_of_the_container_counts(tmp_path: Path, limit: str, allowed: int | None) -> None:
    machine = available_processors(tmp_path)
    assert machine >= 1
    (tmp_path / "cpu.max").write_text(limit)
    assert available_processors(tmp_path) == (allowed or machine)
    (tmp_path / "cpu.max").write_text(f"{10**9} 100000")
    assert available_processors(tmp_path) == machine
