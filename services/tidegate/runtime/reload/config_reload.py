"""Applies a changed configuration file while the process runs, or says why not.

Run by the process. A file that has changed is read and checked whole; then the process applies it.
If anything is wrong with it, the previous configuration stays, one line is logged, the failure is
counted, and /status has the reason. A file that cannot be read now, or is valid and cannot be
applied now (a port in use, a file that does not exist yet), is tried again at every check; where
the attempt interrupts clients, after pauses that grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tidegate.runtime.config.config_file import ConfigError, UnreadableFile
from tidegate.runtime.config.file_version import signature_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.reload.file_watch import INTERVAL_S
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: A file is read when it has not changed for so long: an editor may be writing it.
UNCHANGED_S: Final = 0.2
#: How often that is waited for at most.
MAX_WAITS: Final = 10
#: Pause before an attempt that interrupts clients is repeated; it doubles up to the longest.
MIN_BACKOFF_S: Final = 5.0
MAX_BACKOFF_S: Final = 60.0


class ConfigReload:
    """See the module's docstring. ``apply`` raises NotApplied, and then has changed nothing."""

    __slots__ = (
        "_apply",
        "_backoff_s",
        "_config_status",
        "_counters",
        "_path",
        "_retry",
        "_retry_at",
        "_seen",
        "_source",
        "_wake",
    )

    def __init__(
        self,
        loaded: LoadedConfig,
        apply: Callable[[Config], Awaitable[None]],
        config_status: ConfigStatus,
        counters: Counters,
    ) -> None:
        """``loaded`` is what the process has read for its start, from a file."""
        source = loaded.source
        assert source.path is not None
        self._source = source
        self._path: Path = source.path
        self._seen = loaded.signature
        self._apply = apply
        self._config_status = config_status
        self._counters = counters
        self._wake = asyncio.Event()
        #: Whether what is on disk could not be read, or is valid and could not be applied yet.
        self._retry = False
        #: When it is tried again, by the loop's clock.
        self._retry_at = 0.0
        self._backoff_s = 0.0

    def trigger(self) -> None:
        """Read the file now, changed or not (SIGHUP)."""
        self._wake.set()

    async def run(self) -> None:
        """Check for ever; the owner cancels it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._wake.wait()
            triggered = self._wake.is_set()
            self._wake.clear()
            await self._check(triggered=triggered)

    async def _check(self, *, triggered: bool) -> None:
        signature = signature_of(self._path)
        if signature != self._seen:
            for _ in range(MAX_WAITS):
                await asyncio.sleep(UNCHANGED_S)
                before, signature = signature, signature_of(self._path)
                if signature == before:
                    break
        elif not triggered and not (self._retry and self._time() >= self._retry_at):
            return
        is_new = signature != self._seen or triggered
        self._seen = signature
        if is_new:
            self._backoff_s = 0.0
        try:
            loaded = await asyncio.to_thread(self._source.load_again)
        except ConfigError as error:
            self._retry = isinstance(error, UnreadableFile)
            self._retry_at = self._time()
            self._failed("; ".join(error.problems), repeated=not is_new)
            return
        except Exception as error:
            # Whatever a file does to its parser: the next one has to be read all the same.
            self._retry = False
            self._counters.internal_errors += 1
            log.exception("configuration could not be read")
            self._failed(f"{self._path}: cannot be read: {error_text(error)}", repeated=False)
            return
        try:
            await self._apply(loaded.config)
        except NotApplied as error:
            self._retry = True
            self._retry_at = self._time()
            if error.disturbs:
                longer = max(MIN_BACKOFF_S, 2 * self._backoff_s)
                self._backoff_s = min(longer, MAX_BACKOFF_S)
                self._retry_at += self._backoff_s
            self._failed(error_text(error), repeated=not is_new)
            return
        except Exception as error:
            self._retry = False
            self._counters.internal_errors += 1
            log.exception("configuration could not be applied")
            self._failed(f"internal error: {error_text(error)}", repeated=False)
            return
        self._retry = False
        self._config_status.digest = loaded.digest
        self._config_status.problem = ""
        self._counters.config_reloads["ok"] += 1
        restart = self._config_status.restart_needed
        log.info(
            "configuration applied",
            extra={"file": str(self._path), "digest": loaded.digest}
            | ({"restart_needed": ", ".join(restart)} if restart else {}),
        )

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    def _failed(self, problem: str, *, repeated: bool) -> None:
        if repeated and problem == self._config_status.problem:
            return
        self._config_status.problem = problem
        self._counters.config_reloads["failed"] += 1
        log.error(
            "configuration not applied, the previous one stays in use",
            extra={"file": str(self._path), "problem": problem},
        )
