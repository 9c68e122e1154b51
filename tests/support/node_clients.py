"""The JavaScript clients of tests/support/node: npm puts them into the cache, Node runs them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import processes
from support.tools import cached, require, run_or_missing

_SOURCES = Path(__file__).with_name("node")


def installed() -> Path:
    """Return a directory with our scripts beside the packages they import."""
    npm = require("npm")
    package = (_SOURCES / "package.json").read_bytes()
    scripts = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".mjs", ".html"})
    everything = package + b"".join(path.read_bytes() for path in scripts)

    def install(directory: Path) -> None:
        (directory / "package.json").write_bytes(package)
        run_or_missing(
            "the npm packages of tests/support/node",
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
            cwd=directory,
        )

    packages = cached(f"node-{hashlib.sha256(package).hexdigest()[:12]}", install)

    def assemble(directory: Path) -> None:
        (directory / "node_modules").symlink_to(packages / "node_modules")
        for script in scripts:
            shutil.copy(script, directory)

    return cached(f"scripts-{hashlib.sha256(everything).hexdigest()[:12]}", assemble)


def run_script(script: str, job: dict[str, Any], timeout_s: float = 100.0) -> Any:
    """Run one of our scripts with ``job`` and return the JSON that it prints."""
    try:
        done = processes.run(
            [require("node"), script, json.dumps(job)],
            timeout_s,
            cwd=installed(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired as error:
        late = f"{script} took more than {timeout_s:.0f} s; it said:\n{error.stderr!s}"
        raise AssertionError(late) from None
    print(done.stderr, end="")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
