"""The work that bench/counted.py counts is not more than what bench/counted.json says.

The counts do not depend on time, load or machine: a test that fails has found a change of the code.
One that is wanted is written down with ``python bench/counted.py --write``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tidegate.core import window

ROOT: Final = Path(__file__).parents[3]
#: What a piece of work may take more than is written down: less than an instruction a message.
TOLERANCE: Final = 1.005
VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

Figures = dict[str, dict[str, int]]


def known() -> Figures:
    """Return the committed figures of this Python."""
    figures: dict[str, Figures] = json.loads((ROOT / "bench" / "counted.json").read_text())
    if VERSION not in figures:
        pytest.skip(f"bench/counted.json has no figures of Python {VERSION}")
    return figures[VERSION]


@pytest.fixture(scope="module")
def counted() -> Figures:
    """Count in a process of its own, which nothing else traces."""
    if not (window.__file__ or "").endswith(".py"):
        pytest.skip("compiled code executes no bytecode")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "counted.py")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures: Figures = json.loads(done.stdout)
    return figures


def test_no_work_has_grown(counted: Figures) -> None:
    grown = [
        f"{name}: {count} {what}, {known()[name][what]} are written down"
        for name, figures in counted.items()
        for what, count in figures.items()
        if count > known()[name][what] * TOLERANCE
    ]
    assert not grown, "\n".join([*grown, "if this is wanted: python bench/counted.py --write"])


def test_figures_of_every_work_are_written_down(counted: Figures) -> None:
    assert set(counted) == set(known())
    assert {name.partition(":")[0] for name in counted} == {"codec", "topic index", "window"}
    assert all(count > 0 for figures in counted.values() for count in figures.values())
