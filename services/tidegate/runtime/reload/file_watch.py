"""Detects that files have changed, and calls what reloads them.

Polls, because that works for every kind of mount; a Kubernetes volume changes by swapping the
``..data`` symlink, which shows as another inode behind the same path. The process runs
``FileWatch.run`` and calls ``trigger`` at SIGHUP. A check costs one stat per file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tidegate.runtime.config.file_version import FileDigests, Signature, signature_of
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import error_text, is_read_error
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Interval of checks of files that have no setting of their own for it.
INTERVAL_S: Final = 2.0


class FileWatch:
    """Calls ``reload`` when one of ``paths`` has changed.

    ``reload`` raises ValueError or OSError when the new content cannot be used, and then must have
    changed nothing: the last good content stays, one line is logged, and the failure is counted. It
    is repeated when the files change again, and at every check while they cannot be read or are
    missing, without another line. The outcome is written to ``config_status``.
    """

    __slots__ = (
        "_changed",
        "_config_status",
        "_counters",
        "_interval_s",
        "_missing",
        "_name",
        "_paths",
        "_problem",
        "_reload",
        "_seen",
        "_unreadable",
    )

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        reload: Callable[[], object],
        counters: Counters,
        *,
        interval_s: float = INTERVAL_S,
        config_status: ConfigStatus | None = None,
    ) -> None:
        self._name = name
        self._reload = reload
        self._counters = counters
        self._config_status = config_status or ConfigStatus()
        self._paths = list(paths)
        self._interval_s = interval_s
        self._missing = False
        #: Whether the last reload failed because a file could not be read, and the last problem.
        self._unreadable = False
        self._problem = ""
        self._seen = self._signatures()
        self._changed = asyncio.Event()

    def watch(
        self, paths: Sequence[Path], interval_s: float, signatures: Sequence[Signature]
    ) -> None:
        """Watch these files from now on; ``signatures``: taken before they were read."""
        if list(paths) != self._paths:
            self._paths = list(paths)
            self._missing = self._unreadable = False
            self._problem = ""
            self._seen = list(signatures)
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._changed.set()

    def check(self) -> bool:
        """Check once; return whether something had changed (and ``reload`` was called)."""
        signatures = self._signatures()
        if None in signatures:
            self._missing = True
            for path, signature in zip(self._paths, signatures, strict=True):
                if signature is None:
                    self._config_status.mark_rejected([path], f"{path} is missing")
            return False
        if signatures == self._seen and not self._missing and not self._unreadable:
            return False
        self._reload_files(signatures)
        return True

    def trigger(self) -> None:
        """Reload the files now, changed or not (SIGHUP)."""
        if self._paths:
            self._unreadable = False  # who asks gets the line again
            self._reload_files(self._signatures())

    async def run(self) -> None:
        """Check every ``interval_s`` for ever; the owner cancels it."""
        while True:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()
                    continue
            try:
                self.check()
            except Exception:  # the next change has to be detected all the same
                self._counters.internal_errors += 1
                log.exception("file check failed", extra={"what": self._name})

    def _signatures(self) -> list[Signature]:
        return [signature_of(path) for path in self._paths]

    def _reload_files(self, signatures: list[Signature]) -> None:
        repeated = self._unreadable and signatures == self._seen
        # Taken before reading: what is written meanwhile shows as another change at the next check.
        self._seen = signatures
        self._unreadable = False
        self._missing = None in signatures
        digests = FileDigests(self._paths)
        try:
            self._reload()
        except (OSError, ValueError) as error:
            self._unreadable = is_read_error(error)
            self._failed(error_text(error), repeated=repeated)
        except Exception as error:
            self._counters.internal_errors += 1
            log.exception("reload failed", extra={"what": self._name})
            self._failed(f"internal error: {error_text(error)}", repeated=False)
        else:
            self._config_status.mark_applied(digests.unchanged())
            self._counters.config_reloads["ok"] += 1
            log.info("file reloaded", extra={"what": self._name})

    def _failed(self, problem: str, *, repeated: bool) -> None:
        if repeated and problem == self._problem:
            return
        self._problem = problem
        self._config_status.mark_rejected(self._paths, problem)
        self._counters.config_reloads["failed"] += 1
        log.error(
            "file not reloaded, the previous version stays in use",
            extra={"what": self._name, "problem": problem},
        )
