"""Which version of the configuration, and of the files that it names, is in use.

One object per process. Written by whoever reads files, read by ``/status`` and ``/metrics``. A
digest is that of the bytes in use: when newer ones cannot be used, it stays, and ``problem`` says
why. Never reads a file to use it.
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
        """Note that these versions are in use from now on."""
        for path, digest in digests.items():
            self._files[path] = _File(digest)

    def mark_rejected(self, paths: Iterable[Path], problem: str) -> None:
        """Note that the present content of these files cannot be used; what is in use stays."""
        on_disk = digests_of(paths)
        files = {path: self._files.setdefault(path, _File()) for path in on_disk}
        changed = [path for path, digest in on_disk.items() if digest != files[path].digest]
        for path in changed or on_disk:
            files[path].problem = problem

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget files that the configuration does not name any more."""
        named = set(paths)
        self._files = {path: file for path, file in self._files.items() if path in named}

    def status(self) -> dict[str, Any]:
        """Return the section ``configuration`` of /status."""
        return {
            "digest": self.digest,
            "problem": self.problem,
            "restart_needed": list(self.restart_needed),
            "files": {
                str(path): {"digest": file.digest, "problem": file.problem}
                for path, file in sorted(self._files.items())
            },
        }

    def metrics(self) -> CallbackMetrics:
        """Return the metrics of the configuration."""
        return CallbackMetrics(
            (
                (
                    "configuration_problem",
                    "1 while the configuration file on disk is not in use because of a problem.",
                    [],
                    lambda: [([], int(bool(self.problem)))],
                ),
                (
                    "configuration_files_problem",
                    "Named files whose content on disk is not in use because of a problem.",
                    [],
                    lambda: [([], sum(bool(file.problem) for file in self._files.values()))],
                ),
                (
                    "configuration_restart_needed",
                    "Changed keys of the configuration that need a restart.",
                    [],
                    lambda: [([], len(self.restart_needed))],
                ),
            )
        )
