"""Bans, as a router hands them to its edges: read from the store when they have changed.

Owns the bans that were read last. Looks every ``POLL_S`` whether there is something new, so that a
ban is in force at every edge within a second; an edge that attaches is given them at once. While
the store is away everything stays as it is. Called by edges with bans of flapping clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tidegate.bans.ban import Ban
from tidegate.link.interfaces import EdgeLink
from tidegate.router.failure_log import FailureLog
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Store, StoreUnavailable

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
#: Bans that have ended are deleted so often.
CLEAN_S: Final = 60.0
#: Bans of edges that wait for the store at the same time; others are left to the edge that made it.
MAX_WAITING: Final = 100


class Bans:
    """See the module's docstring. ``start``, then ``stop``."""

    __slots__ = (
        "_edges",
        "_failures",
        "_now_ms",
        "_store",
        "_task",
        "_tasks",
        "_version",
        "current",
    )

    def __init__(
        self,
        store: Store,
        edges: Mapping[str, EdgeLink],
        counters: Counters,
        now_ms: Callable[[], int],
    ) -> None:
        """``edges`` are those that are attached, by identifier."""
        self._store = store
        self._edges = edges
        self._now_ms = now_ms
        self._tasks = Tasks(counters)
        self._failures = FailureLog(log, "reading bans")
        self._task: asyncio.Task[None] | None = None
        self._version: bytes = b""
        #: As they are stored.
        self.current: Sequence[bytes] = ()

    async def start(self) -> None:
        """Read the bans, and begin to look for changes. Raises StoreUnavailable."""
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._tasks.stop()

    def attached(self, edge: EdgeLink) -> None:
        """Give the bans to an edge that has been attached; it may have others from before."""
        if self._version:
            edge.set_bans(self.current)

    def add(self, stored: bytes) -> None:
        """Store a ban of a flapping client (see RouterLink)."""
        ban = Ban.decode(stored)
        if ban is not None and len(self._tasks) < MAX_WAITING:
            self._tasks.spawn(self._add(ban))

    async def _add(self, ban: Ban) -> None:
        try:
            await self._store.add_ban(ban)
        except Exception as error:  # it is in force at the edge that has made it
            log.warning("ban not stored", extra={"client_id": ban.value, "reason": str(error)})
            return
        await self.look()

    async def look(self) -> None:
        """Read the bans if they have changed, and give them to every edge."""
        version = await self._store.bans_version()
        if version == self._version:
            return
        self.current = await self._store.stored_bans()
        self._version = version
        for edge in list(self._edges.values()):
            edge.set_bans(self.current)

    async def _run(self) -> None:
        clean_s = asyncio.get_running_loop().time() + CLEAN_S
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
                if self.current and asyncio.get_running_loop().time() >= clean_s:
                    clean_s = asyncio.get_running_loop().time() + CLEAN_S
                    await self._store.delete_ended_bans(self._now_ms() / 1000)
            except StoreUnavailable:
                pass  # that is logged by others
            except Exception as error:
                self._failures.failed(error)
            else:
                self._failures.succeeded()
