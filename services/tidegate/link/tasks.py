"""The tasks of one end of the link: ended together, and reported when they fail.

A fleet and a hub each have one, and hand it to their parts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from tidegate.runtime.telemetry import Counters

log = logging.getLogger(__name__)


class Tasks:
    """See the module's docstring."""

    __slots__ = ("_counters", "_running", "_stopped")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work run beside; after ``stop`` none begins."""
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._counters.internal_errors += 1
            log.error("a task of the link failed", exc_info=task.exception())

    def __len__(self) -> int:
        return len(self._running)

    async def stop(self, *others: asyncio.Task[None]) -> None:
        """Cancel all tasks, and ``others`` with them; return when they have ended."""
        self._stopped = True
        tasks = [*self._running, *others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
