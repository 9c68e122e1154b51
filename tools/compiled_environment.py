"""Builds the compiled wheel, and a virtual environment that runs it: ``make compiled``.

The environment has the wheel and nothing else of its own: all other packages are those of the
environment that runs this program, so that the tests of both builds differ in the build alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SWITCH: Final = {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}


def build_wheel(directory: Path) -> Path:
    """Build the compiled wheel into a directory, which has nothing else afterwards."""
    shutil.rmtree(directory, ignore_errors=True)
    command = [*("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory))]
    _run(sys.executable, *command, str(ROOT), environment=os.environ | SWITCH)
    (wheel,) = directory.glob("*.whl")
    return wheel


def make_environment(directory: Path, wheel: Path) -> None:
    """Make an environment with the wheel, and with this one's other packages behind it."""
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "venv", "--without-pip", str(directory))
    python = str(directory / "bin" / "python")
    here = sysconfig.get_paths()["purelib"]
    (site,) = directory.glob("lib/python*/site-packages")
    # A path in such a file comes after the directory itself, and editable packages behind it are
    # not looked at.
    (site / "packages.pth").write_text(f"{here}\n", encoding="utf-8")
    pip = ("-m", "pip", "--python", python)
    _run(sys.executable, *pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel))


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    make_environment(target / "venv", build_wheel(target / "dist"))
