"""Notices that files have changed, and has them read again.

Polls, because that is what works for every kind of mount; a Kubernetes volume changes by swapping
the ``..data`` symlink, which shows as another inode behind the same path. The composition root runs
``FileWatch.run`` in its task group and gives ``trigger`` to SIGHUP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate.runtime.telemetry import Counters

log = logging.getLogger(__name__)

#: Device, inode, size and time of change of a file; None while it is missing.
Signature = tuple[int, int, int, int] | None


def signature_of(path: Path) -> Signature:
    """Return what tells one version of a file from another, symlinks followed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FileWatch:
    """Calls ``reload`` when one of ``paths`` has changed.

    ``reload`` raises ValueError or OSError when the new content cannot be used, and then must have
    changed nothing: the last good content stays, one line is logged, and the failure is counted. It
    is tried again when the files change once more (a missing file is waited for in silence).
    """

    __slots__ = ("_counters", "_interval_s", "_name", "_paths", "_reload", "_seen")

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        reload: Callable[[], object],
        counters: Counters,
        *,
        interval_s: float = 5.0,
    ) -> None:
        self._name = name
        self._paths = list(paths)
        self._reload = reload
        self._counters = counters
        self._interval_s = interval_s
        self._seen = self._signatures()

    def check(self) -> bool:
        """Look once; return whether something had changed (and ``reload`` was called)."""
        signatures = self._signatures()
        if signatures == self._seen or None in signatures:
            return False
        self._read_again(signatures)
        return True

    def trigger(self) -> None:
        """Read the files again now, changed or not (SIGHUP)."""
        if self._paths:
            self._read_again(self._signatures())

    async def run(self) -> None:
        """Look every ``interval_s`` for ever; the owner cancels it."""
        while self._paths:
            await asyncio.sleep(self._interval_s)
            self.check()

    def _signatures(self) -> list[Signature]:
        return [signature_of(path) for path in self._paths]

    def _read_again(self, signatures: list[Signature]) -> None:
        # Taken before reading: what is written meanwhile shows as another change next time.
        self._seen = signatures
        try:
            self._reload()
        except (OSError, ValueError) as error:
            self._counters.config_reloads["failed"] += 1
            log.error(  # noqa: TRY400 - the sentence says it all
                "a changed file cannot be used; the last good one stays",
                extra={"what": self._name, "problem": " ".join(str(error).split())},
            )
        else:
            self._counters.config_reloads["ok"] += 1
            log.info("read a changed file", extra={"what": self._name})
