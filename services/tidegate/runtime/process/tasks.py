"""Background tasks: a failure is logged and counted, ``stop`` cancels what runs.

Each end of the link and each router has a ``Tasks``, and hands it to its parts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)


class Tasks:
    """See the module's docstring."""

    __slots__ = ("_counters", "_running", "_stopped")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work in the background; after ``stop`` none is started."""
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._counters.internal_errors += 1
            log.error("background task failed", exc_info=task.exception())

    def __len__(self) -> int:
        return len(self._running)

    async def idle(self) -> None:
        """Return when nothing runs."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def stop(self, *others: asyncio.Task[None]) -> None:
        """Cancel all tasks, and ``others`` with them; return when they have ended."""
        self._stopped = True
        tasks = [*self._running, *others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
