"""One router among others: its lease in the store, and what the others have changed.

Owned by the router of a cluster. Every change of durable subscriptions and of retained topics is in
the store's change logs; whoever answers a SUBSCRIBE waits until every living router has read up to
its change. So a router that cannot reach the store is either waited for or, once its lease has run
out, knows that it may be behind: it is not ``current``, and confirms no QoS 1 or 2 publish until it
has caught up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tidegate.link.interfaces import RouterUnavailable
from tidegate.store.api import Change, RouterRecord, Store, StoreUnavailable

log = logging.getLogger(__name__)

#: How often the lease is renewed and the logs are read without anybody asking.
TICK_S: Final = 0.5
#: How often a router that somebody waits for is looked at.
LOOK_S: Final = 0.05
CHANGES_LIMIT: Final = 2000
#: A router that died is waited for by SUBSCRIBE until its lease has run out: keep it short.
LONGEST_LEASE_S: Final = 3.0
#: The part of the lease after which it no longer counts here; in the store it runs on.
SAFE_PART: Final = 0.7


class Membership:
    """See the module's docstring. ``start`` before use, ``stop`` at the end."""

    def __init__(
        self,
        store: Store,
        name: str,
        now_ms: Callable[[], int],
        lease_s: float,
        apply: Callable[[Change], None],
        load: Callable[[], Awaitable[None]],
        became_current: Callable[[], None],
    ) -> None:
        self._store = store
        self._name = name
        self._now_ms = now_ms
        self._lease_s = min(lease_s, LONGEST_LEASE_S)
        self._apply = apply
        self._load = load
        self._became_current = became_current
        #: Names this life of the router.
        self.instance = ""
        #: Instances that live, as of the last renewal.
        self.living: list[str] = []
        #: Earlier lives that are registered still.
        self._former: list[str] = []
        self._positions: list[int] = []
        self._current_until_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None

    def new_life(self) -> None:
        """Take a new name: the old one has been declared dead, or there was none."""
        if self.instance:
            self._former.append(self.instance)
        self.instance = f"{self._name}.{secrets.token_hex(4)}"
        self._store.writer = self.instance
        self._current_until_s = 0.0

    @property
    def current(self) -> bool:
        """Whether others can rely on this router knowing every confirmed change."""
        return self._loop.time() < self._current_until_s

    async def start(self) -> None:
        """Load everything, register, begin to follow changes. Raises StoreUnavailable."""
        self.new_life()
        # Nobody needs to wait for a router that loads: it reads on from where it began.
        await self._load_all()
        await self._read()
        await self._follow()
        self._ticking = asyncio.create_task(self._tick_forever())

    async def stop(self) -> None:
        """Unregister."""
        tasks = [task for task in (self._ticking, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._store.end_router(self.instance)
        except StoreUnavailable as error:
            log.warning("cannot unregister this router", extra={"reason": str(error)})

    async def catch_up(self) -> None:
        """Apply every change that was stored before this call. Raises RouterUnavailable."""
        if self._reading is not None:
            # It may have begun before the change that the caller means.
            await asyncio.wait([self._reading])
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_ended)
        reading = self._reading
        await asyncio.wait([reading])
        if reading.cancelled():
            raise RouterUnavailable("this router ends")
        error = reading.exception()
        if error is not None:
            if isinstance(error, StoreUnavailable):
                raise RouterUnavailable(str(error)) from error
            raise error

    def _read_ended(self, task: asyncio.Task[None]) -> None:
        if self._reading is task:
            self._reading = None

    async def _read(self) -> None:
        while True:
            found = await self._store.changes(self._positions, CHANGES_LIMIT)
            if found.has_gap:
                log.warning("the change log has gaps: loading everything anew")
                await self._load_all()
                continue
            for change in found.changes:
                self._apply(change)
            self._positions = found.positions
            if not found.more:
                return

    async def _load_all(self) -> None:
        # Only what has been loaded may be read on from.
        positions = await self._store.log_positions()
        await self._load()
        self._positions = positions

    async def _follow(self) -> None:
        """Learn what others have changed, and promise to know it for a while."""
        while self._former:
            await self._store.end_router(self._former[-1])
            self._former.pop()
        await self.catch_up()
        instance, asked_s = self.instance, self._loop.time()
        records = await self._store.renew_router(
            instance, self._now_ms(), int(self._lease_s * 1000), self._positions
        )
        self.living = [record.instance for record in records]
        was_current = self.current
        if not was_current:
            # Until just now nobody waited for this router: what was changed before that, too.
            await self.catch_up()
        if instance != self.instance:
            return  # it was declared dead meanwhile: the new life is not registered yet
        self._current_until_s = asked_s + self._lease_s * SAFE_PART
        if not was_current:
            self._became_current()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._follow()
            except (StoreUnavailable, RouterUnavailable) as error:
                log.warning("cannot follow changes, will retry", extra={"reason": str(error)})
            except Exception:
                log.exception("changes could not be followed, will retry")

    async def wait_for_others(self, partition: int, position: int, excluded: Sequence[str]) -> None:
        """Return when every living router has read up to a change, or lives no more.

        ``excluded`` are instances for which the caller waits itself. Raises StoreUnavailable.
        """
        known = {self.instance, *excluded}
        while True:
            records = await self._store.routers(self._now_ms())
            if not any(
                record.instance not in known and _is_behind(record, partition, position)
                for record in records
            ):
                return
            await asyncio.sleep(LOOK_S)


def _is_behind(record: RouterRecord, partition: int, position: int) -> bool:
    positions = record.positions
    return partition >= len(positions) or positions[partition] < position
