"""Files of one kind, each of which is reloaded when it changes, whatever becomes of the others.

Used by ``roles`` for password and ACL files, whose number changes with the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tidegate.runtime.config.file_version import Signature
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.file_watch import INTERVAL_S, FileWatch
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)


class FileWatches:
    """Calls ``reload`` with a file that has changed: a `FileWatch` for each."""

    __slots__ = (
        "_changed",
        "_config_status",
        "_counters",
        "_interval_s",
        "_name",
        "_reload",
        "_watches",
    )

    def __init__(
        self,
        name: str,
        reload: Callable[[Path], object],
        counters: Counters,
        config_status: ConfigStatus,
    ) -> None:
        self._name = name
        self._reload = reload
        self._counters = counters
        self._config_status = config_status
        self._interval_s = INTERVAL_S
        self._watches: dict[Path, FileWatch] = {}
        self._changed = asyncio.Event()

    def watch(self, files: Mapping[Path, Signature], interval_s: float) -> None:
        """Watch these files from now on; their signatures were taken before they were read."""
        self._watches = {
            path: self._watches.get(path) or self._new(path, signature)
            for path, signature in files.items()
        }
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._changed.set()

    def _new(self, path: Path, signature: Signature) -> FileWatch:
        watch = FileWatch(
            self._name,
            [],
            partial(self._reload, path),
            self._counters,
            config_status=self._config_status,
        )
        watch.watch([path], INTERVAL_S, [signature])
        return watch

    def trigger(self) -> None:
        """Reload all files now, changed or not (SIGHUP)."""
        for watch in self._watches.values():
            watch.trigger()

    async def run(self) -> None:
        """Check every ``interval_s`` for ever; the owner cancels it."""
        while True:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()
                    continue
            for watch in list(self._watches.values()):
                try:
                    watch.check()
                except Exception:  # the next change has to be detected all the same
                    self._counters.internal_errors += 1
                    log.exception("file check failed", extra={"what": self._name})
