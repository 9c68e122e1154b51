"""The fuzz targets run, and find nothing in a few thousand inputs; the seed is fixed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes
from support.tools import missing

RUNS = 8000


@pytest.mark.parametrize("target", ["fuzz_codec.py"])
def test_a_fuzz_target_finds_nothing_at_once(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        missing("atheris (PyPI)")
    done = processes.run(
        [sys.executable, str(Path(__file__).with_name(target)), f"-runs={RUNS}", "-seed=7"],
        60,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert ran is not None, done.stderr[-4000:]
    assert int(ran[1]) >= RUNS
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
