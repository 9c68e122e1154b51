"""Programs from outside that a test needs: found, or the test is skipped by the tool's name.

With ``CI`` set a missing tool fails the test instead, so that a silent skip cannot pass for a
proof. Everything fetched from a registry goes to one cache directory outside the tree, keyed by
version.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

# Debian keeps daemons where an ordinary user's PATH does not look.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def in_ci() -> bool:
    """Tell whether a missing tool is an error."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(what: str) -> NoReturn:
    """Skip the test and name what is missing; fail it in CI."""
    if in_ci():
        pytest.fail(f"{what} is missing, and CI must not skip", pytrace=False)
    pytest.skip(f"{what} is missing")


def find(tool: str) -> str | None:
    """Return the path of ``tool``, or None."""
    return shutil.which(tool, path=_SEARCH_PATH)


def require(tool: str) -> str:
    """Return the path of ``tool``; without it skip by name (CI: fail)."""
    return find(tool) or missing(tool)


def cache_directory() -> Path:
    """Return the directory for things fetched at test time; it is never inside the tree."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(root) / "tidegate-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Be the only process that makes the cache entry ``name``."""
    with (cache_directory() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache entry ``name``, made by ``make(directory)`` if it is not there.

    Safe between processes; an entry that was begun and not finished is made again.
    """
    entry = cache_directory() / name
    with locked(name):
        finished = entry / ".finished"
        if not finished.exists():
            shutil.rmtree(entry, ignore_errors=True)
            entry.mkdir(parents=True)
            make(entry)
            finished.touch()
    return entry


def fetch_source_distribution(package: str, version: str) -> Path:
    """Return the unpacked source distribution of a PyPI package; skip without a registry."""

    def make(directory: Path) -> None:
        run_or_missing(
            f"the source distribution of {package} {version}",
            [
                *(
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                ),
                *("--no-binary", ":all:", "--no-deps", "--dest", str(directory)),
                f"{package}=={version}",
            ],
        )
        (archive,) = directory.glob("*.tar.gz")
        shutil.unpack_archive(archive, directory, filter="data")

    entry = cached(f"sdist-{package}-{version}", make)
    (source,) = (path for path in entry.iterdir() if path.is_dir())
    return source


def run_or_missing(what: str, command: list[str], cwd: Path | None = None) -> None:
    """Run an installation step; if it fails, ``what`` is missing."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        missing(f"{what} ({error})")
    if done.returncode != 0:
        missing(f"{what} ({(done.stderr or done.stdout).strip()[-400:]})")
