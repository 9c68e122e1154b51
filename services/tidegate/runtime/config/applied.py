"""What a process has taken of its configuration and of the files that it names.

One object per process, the only place that knows. Those who read files tell it, ``/status`` and
``/metrics`` ask it. A digest is that of the bytes in use: when newer ones cannot be used, it stays,
and ``problem`` says why.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tidegate.runtime.telemetry.metrics import Readings

#: Hex digits of a SHA-256 that are shown.
DIGEST_DIGITS: Final = 16


class NotTaken(Exception):
    """A changed configuration is valid and cannot be used now; nothing of it is in use.

    ``disturbs``: the attempt was felt by clients, so that the next one had better wait.
    """

    def __init__(self, problem: str, *, disturbs: bool = False) -> None:
        super().__init__(problem)
        self.disturbs = disturbs


@dataclass(slots=True)
class _File:
    digest: str = ""
    problem: str = ""


def digest_of(content: bytes) -> str:
    """The digest that is shown of a file's content."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def sentence_of(error: BaseException) -> str:
    """An exception's text as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def was_unreadable(error: BaseException) -> bool:
    """Whether a file could not be read, whatever is in it: that may end without a change of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    found = {}
    for path in paths:
        try:
            found[path] = digest_of(path.read_bytes())
        except OSError:
            found[path] = ""
    return found


class Reading:
    """The bytes of some files while somebody else reads them by their names.

    Made before they are read. What was the same before and after is what was read.
    """

    __slots__ = ("_before",)

    def __init__(self, paths: Iterable[Path]) -> None:
        self._before = _digests_of(paths)

    def digests(self) -> dict[Path, str]:
        """The digests of what was read; files that have changed meanwhile are left out."""
        after = _digests_of(self._before)
        return {path: one for path, one in self._before.items() if one and after[path] == one}


class Applied:
    """See the module's docstring. ``digest``, ``problem`` and ``restart_needed`` are the file's."""

    __slots__ = ("_files", "digest", "problem", "restart_needed")

    def __init__(self) -> None:
        self.digest = ""
        self.problem = ""
        self.restart_needed: list[str] = []
        self._files: dict[Path, _File] = {}

    def took(self, digests: Mapping[Path, str]) -> None:
        """These bytes are in use from now on."""
        for path, digest in digests.items():
            self._files[path] = _File(digest)

    def refused(self, paths: Iterable[Path], problem: str) -> None:
        """What is in these files now, together, cannot be used; what is in use stays."""
        now = _digests_of(paths)
        files = {path: self._files.setdefault(path, _File()) for path in now}
        changed = [path for path, digest in now.items() if digest != files[path].digest]
        for path in changed or now:
            files[path].problem = problem

    def only(self, paths: Iterable[Path]) -> None:
        """These are named by the configuration now; others are forgotten."""
        wanted = set(paths)
        self._files = {path: one for path, one in self._files.items() if path in wanted}

    def status(self) -> dict[str, Any]:
        """What /status says."""
        return {
            "digest": self.digest,
            "problem": self.problem,
            "restart_needed": list(self.restart_needed),
            "files": {
                str(path): {"digest": one.digest, "problem": one.problem}
                for path, one in sorted(self._files.items())
            },
        }

    def readings(self) -> Readings:
        """What /metrics says."""
        return Readings(
            (
                (
                    "configuration_problem",
                    "1 while the configuration file on disk is not in use.",
                    [],
                    lambda: [([], int(bool(self.problem)))],
                ),
                (
                    "configuration_files_problem",
                    "Files named by the configuration whose content on disk is not in use.",
                    [],
                    lambda: [([], sum(bool(one.problem) for one in self._files.values()))],
                ),
                (
                    "configuration_restart_needed",
                    "Changed keys of the configuration that count only from the next start on.",
                    [],
                    lambda: [([], len(self.restart_needed))],
                ),
            )
        )
