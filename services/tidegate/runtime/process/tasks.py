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

    __slots__ = ("_counters", "_loop", "_running", "is_stopped")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: set[asyncio.Future[Any]] = set()
        #: Whether ``stop`` was called.
        self.is_stopped = False
        #: The loop of the first task: to look it up costs a system call until Python 3.12.
        self._loop: asyncio.AbstractEventLoop | None = None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work in the background; after ``stop`` none is started."""
        if self.is_stopped:
            work.close()
            return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def hold(self, future: asyncio.Future[Any]) -> None:
        """Treat a future as a task that runs, until ``release``; its outcome is the caller's."""
        self._running.add(future)

    def release(self, future: asyncio.Future[Any]) -> None:
        """Note that it has ended."""
        self._running.discard(future)

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
        self.is_stopped = True
        tasks = [*self._running, *others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
