"""Work of the router that nobody waits for, until the router ends: then it is waited for.

The router has one, and hands it to its parts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """See the module's docstring."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let work run beside."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a router task failed", exc_info=task.exception())

    async def idle(self) -> None:
        """Return when nothing runs."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
