"""The record at a router: events of edges, and its own, are written to the store in batches.

Owns what waits, bounded, and the one task that writes it, beside everything else: when the store is
slow or away events are dropped, counted as ``record_dropped``, and nobody waits. Called by edges
(``RouterLink.record``), and by the parts of the router in which something ends a session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegate.core.session_key import parts_of
from tidegate.record.drop_minutes import DropMinutes
from tidegate.record.events import Event, Kind
from tidegate.runtime.config.model import RecordConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Store, StoreUnavailable

log = logging.getLogger(__name__)

#: Events that wait to be written; the oldest ones are dropped when there are more.
MAX_WAITING: Final = 10_000
#: Events of one call, in which the store does nothing else, and the pause after it.
MAX_BATCH: Final = 100
PAUSE_S: Final = 0.05
#: How long the end of the process may wait for what is not written yet.
STOP_S: Final = 1.0


class Record:
    """See the module's docstring. ``config`` may be replaced at any time."""

    __slots__ = (
        "_counters",
        "_drops",
        "_is_stopping",
        "_now_ms",
        "_place",
        "_store",
        "_tasks",
        "_waiting",
        "_writing",
        "config",
    )

    def __init__(
        self,
        store: Store,
        config: RecordConfig,
        counters: Counters,
        now_ms: Callable[[], int],
        place: str,
    ) -> None:
        """``place`` names this process in its own events."""
        self._store = store
        self.config = config
        self._counters = counters
        self._now_ms = now_ms
        self._place = place
        self._tasks = Tasks(counters)
        self._drops = DropMinutes()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._writing = False
        self._is_stopping = False

    def add(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Take events of an edge (see RouterLink)."""
        if self.config.enabled:
            waiting = self._waiting
            waiting.extend(events)
            while len(waiting) > MAX_WAITING:
                waiting.popleft()
                self._counters.record_dropped += 1
            if not self._writing:
                self._writing = True
                self._tasks.spawn(self._write())
        return True

    def note(
        self, kind: Kind, key: str, reason: str = "", *, topic: str = "", count: int = 1
    ) -> None:
        """Add an event of this router about the client with a session key."""
        if not self.config.enabled:
            return
        mount_point, client = parts_of(key)
        event = Event(
            at=self._now_ms() / 1000,
            kind=kind,
            client=client,
            mount_point=mount_point,
            reason=reason,
            edge=self._place,
            topic=topic.removeprefix(mount_point),
            count=count,
        )
        self.add([(key, event.encode())])

    def dropped(self, key: str, reason: str, topic: str, count: int = 1) -> None:
        """Note that messages for a client were dropped."""
        if self.config.enabled and self._drops.note(key, reason, topic, time.monotonic(), count):
            self.note(Kind.DROPPED, key, reason, topic=topic, count=count)

    def wills_published(self, will_ids: Iterable[str]) -> None:
        """Note that wills have been published."""
        if self.config.enabled:
            for will_id in will_ids:
                self.note(Kind.WILL_PUBLISHED, will_id.partition(":")[2])

    def tick(self) -> None:
        """Note drops of minutes that are over; called about once a second."""
        for key, reason, topic, count in self._drops.over(time.monotonic()):
            self.note(Kind.DROPPED, key, reason, topic=topic, count=count)

    async def stop(self) -> None:
        """Write what waits, unless that takes long; what is left is counted as dropped."""
        self._is_stopping = True
        try:
            async with asyncio.timeout(STOP_S):
                await self._tasks.idle()
        except TimeoutError:
            await self._tasks.stop()
        self._counters.record_dropped += len(self._waiting)
        self._waiting.clear()

    async def _write(self) -> None:
        waiting, counters = self._waiting, self._counters
        try:
            while waiting:
                batch = [waiting.popleft() for _ in range(min(MAX_BATCH, len(waiting)))]
                if counters.store_full or not await self._is_added(batch):
                    counters.record_dropped += len(batch)
                else:
                    counters.record_events += len(batch)
                if not self._is_stopping:
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._writing = False

    async def _is_added(self, batch: Sequence[tuple[str, bytes]]) -> bool:
        try:
            await self._store.record(batch, self.config)
        except StoreUnavailable:
            return False
        except Exception:
            log.exception("adding to the record failed")
            self._counters.internal_errors += 1
            return False
        return True
