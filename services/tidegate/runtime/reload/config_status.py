"""What a process has taken of its configuration and of the files that it names.

One object per process, the only place that knows. Those who read files tell it, ``/status`` and
``/metrics`` ask it. A digest is that of the bytes in use: when newer ones cannot be used, it stays,
and ``problem`` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.runtime.config.file_version import digests_of
from tidegate.runtime.telemetry.metrics import CallbackMetrics


@dataclass(slots=True)
class _File:
    digest: str = ""
    problem: str = ""


class ConfigStatus:
    """See the module's docstring. ``digest``, ``problem`` and ``restart_needed`` are the file's."""

    __slots__ = ("_files", "digest", "problem", "restart_needed")

    def __init__(self) -> None:
        self.digest = ""
        self.problem = ""
        self.restart_needed: list[str] = []
        self._files: dict[Path, _File] = {}

    def mark_applied(self, digests: Mapping[Path, str]) -> None:
        """These bytes are in use from now on."""
        for path, digest in digests.items():
            self._files[path] = _File(digest)

    def mark_rejected(self, paths: Iterable[Path], problem: str) -> None:
        """What is in these files now, together, cannot be used; what is in use stays."""
        now = digests_of(paths)
        files = {path: self._files.setdefault(path, _File()) for path in now}
        changed = [path for path, digest in now.items() if digest != files[path].digest]
        for path in changed or now:
            files[path].problem = problem

    def keep_only(self, paths: Iterable[Path]) -> None:
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

    def metrics(self) -> CallbackMetrics:
        """What /metrics says."""
        return CallbackMetrics(
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
