"""Notices that files have changed, and has them read again.

Polls, because that is what works for every kind of mount; a Kubernetes volume changes by swapping
the ``..data`` symlink, which shows as another inode behind the same path. The process runs
``FileWatch.run`` and gives ``trigger`` to SIGHUP. A look costs one stat per file.
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

#: How often files are looked at that have no setting of their own for it.
INTERVAL_S: Final = 2.0


class FileWatch:
    """Calls ``reload`` when one of ``paths`` has changed.

    ``reload`` raises ValueError or OSError when the new content cannot be used, and then must have
    changed nothing: the last good content stays, one line is logged, and the failure is counted. It
    is tried again when the files change once more, and at every look while they cannot be read, in
    silence; so is a missing file waited for.
    ``config_status`` hears what was taken and what was not.
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
        #: Whether the last reading failed for a reason that is not in the files; what was said.
        self._unreadable = False
        self._problem = ""
        self._seen = self._signatures()
        self._changed = asyncio.Event()

    def watch(
        self, paths: Sequence[Path], interval_s: float, signatures: Sequence[Signature]
    ) -> None:
        """Watch these files from now on, so often; ``signatures``: taken before they were read."""
        if list(paths) != self._paths:
            self._paths = list(paths)
            self._missing = self._unreadable = False
            self._problem = ""
            self._seen = list(signatures)
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._changed.set()

    def check(self) -> bool:
        """Look once; return whether something had changed (and ``reload`` was called)."""
        signatures = self._signatures()
        if None in signatures:
            self._missing = True
            for path, signature in zip(self._paths, signatures, strict=True):
                if signature is None:
                    self._config_status.mark_rejected([path], f"{path} is missing")
            return False
        if signatures == self._seen and not self._missing and not self._unreadable:
            return False
        self._read_again(signatures)
        return True

    def trigger(self) -> None:
        """Read the files again now, changed or not (SIGHUP)."""
        if self._paths:
            self._unreadable = False  # whoever asks is told again
            self._read_again(self._signatures())

    async def run(self) -> None:
        """Look every ``interval_s`` for ever; the owner cancels it."""
        while True:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()
                    continue
            try:
                self.check()
            except Exception:  # the next change is to be noticed all the same
                self._counters.internal_errors += 1
                log.exception("looking at a file failed", extra={"what": self._name})

    def _signatures(self) -> list[Signature]:
        return [signature_of(path) for path in self._paths]

    def _read_again(self, signatures: list[Signature]) -> None:
        again = self._unreadable and signatures == self._seen
        # Taken before reading: what is written meanwhile shows as another change next time.
        self._seen = signatures
        self._unreadable = False
        self._missing = None in signatures
        reading = FileDigests(self._paths)
        try:
            self._reload()
        except (OSError, ValueError) as error:
            self._unreadable = is_read_error(error)
            self._failed(error_text(error), again=again)
        except Exception as error:
            self._counters.internal_errors += 1
            log.exception("reading a changed file failed", extra={"what": self._name})
            self._failed(f"an internal error: {error_text(error)}", again=False)
        else:
            self._config_status.mark_applied(reading.unchanged())
            self._counters.config_reloads["ok"] += 1
            log.info("read a changed file", extra={"what": self._name})

    def _failed(self, problem: str, *, again: bool) -> None:
        if again and problem == self._problem:
            return
        self._problem = problem
        self._config_status.mark_rejected(self._paths, problem)
        self._counters.config_reloads["failed"] += 1
        log.error(
            "a changed file cannot be used; the last good one stays",
            extra={"what": self._name, "problem": problem},
        )
