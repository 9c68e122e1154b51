"""Takes a changed configuration file up while the process runs, or says why not.

Run by the process. A file that has changed is read and checked whole; then the process is asked to
take it. Whatever is wrong with it, the last good configuration stays, one line is logged, the
failure is counted, and /status has the reason. What cannot be read now, or is valid and cannot be
used now (a port that somebody else has, a file that is not there yet), is tried again at every
look; where clients feel the attempt, after pauses that grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tidegate.runtime.config.config_file import ConfigError, Unreadable
from tidegate.runtime.config.file_version import signature_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import Loaded
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.reload.file_watch import INTERVAL_S
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: A file is read when it has not changed for so long: an editor may be writing it.
SETTLED_S: Final = 0.2
#: How often that is waited for.
MOST_WAITS: Final = 10
#: Pause before what clients have felt is tried again; it doubles up to the longest.
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0


class ConfigReload:
    """See the module's docstring. ``take`` raises NotTaken, and then has changed nothing."""

    __slots__ = (
        "_config_status",
        "_counters",
        "_path",
        "_pause_s",
        "_retry",
        "_retry_at",
        "_seen",
        "_source",
        "_take",
        "_wake",
    )

    def __init__(
        self,
        loaded: Loaded,
        take: Callable[[Config], Awaitable[None]],
        config_status: ConfigStatus,
        counters: Counters,
    ) -> None:
        """``loaded`` is what the process has read for its start, from a file."""
        source = loaded.source
        assert source.path is not None
        self._source = source
        self._path: Path = source.path
        self._seen = loaded.signature
        self._take = take
        self._config_status = config_status
        self._counters = counters
        self._wake = asyncio.Event()
        #: Whether what is on disk could not be read, or is valid and could not be used yet.
        self._retry = False
        #: When it is tried again, by the loop's clock.
        self._retry_at = 0.0
        self._pause_s = 0.0

    def trigger(self) -> None:
        """Read the file now, changed or not (SIGHUP)."""
        self._wake.set()

    async def run(self) -> None:
        """Look for ever; the owner cancels it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._wake.wait()
            asked = self._wake.is_set()
            self._wake.clear()
            await self._look(asked=asked)

    async def _look(self, *, asked: bool) -> None:
        signature = signature_of(self._path)
        if signature != self._seen:
            for _ in range(MOST_WAITS):
                await asyncio.sleep(SETTLED_S)
                before, signature = signature, signature_of(self._path)
                if signature == before:
                    break
        elif not asked and not (self._retry and self._time() >= self._retry_at):
            return
        is_new = signature != self._seen or asked
        self._seen = signature
        if is_new:
            self._pause_s = 0.0
        try:
            loaded = await asyncio.to_thread(self._source.load_again)
        except ConfigError as error:
            self._retry = isinstance(error, Unreadable)
            self._retry_at = self._time()
            self._failed("; ".join(error.problems), again=not is_new)
            return
        except Exception as error:
            # Whatever a file does to its reader: the next one is read all the same.
            self._retry = False
            self._counters.internal_errors += 1
            log.exception("reading a configuration failed")
            self._failed(f"{self._path}: cannot be read: {error_text(error)}", again=False)
            return
        try:
            await self._take(loaded.config)
        except NotApplied as error:
            self._retry = True
            self._retry_at = self._time()
            if error.disturbs:
                longer = max(FIRST_PAUSE_S, 2 * self._pause_s)
                self._pause_s = min(longer, LONGEST_PAUSE_S)
                self._retry_at += self._pause_s
            self._failed(error_text(error), again=not is_new)
            return
        except Exception as error:
            self._retry = False
            self._counters.internal_errors += 1
            log.exception("taking a configuration failed")
            self._failed(f"an internal error: {error_text(error)}", again=False)
            return
        self._retry = False
        self._config_status.digest = loaded.digest
        self._config_status.problem = ""
        self._counters.config_reloads["ok"] += 1
        restart = self._config_status.restart_needed
        log.info(
            "the configuration is in use",
            extra={"file": str(self._path), "digest": loaded.digest}
            | ({"restart_needed": ", ".join(restart)} if restart else {}),
        )

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    def _failed(self, problem: str, *, again: bool) -> None:
        if again and problem == self._config_status.problem:
            return
        self._config_status.problem = problem
        self._counters.config_reloads["failed"] += 1
        log.error(
            "the configuration file cannot be used; the last good one stays",
            extra={"file": str(self._path), "problem": problem},
        )
