"""Membership of a router in the cluster: its lease in the store, and the change logs it follows.

Owned by the router of a cluster. Every change of durable subscriptions and of retained topics is in
the store's change logs; the router that handles a SUBSCRIBE waits until every live router has read
up to its change. So a router that cannot reach the store is either waited for or, once its lease
has ended, may be behind: it is not ``current``, and confirms no QoS 1 or 2 publish until it has
caught up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tidegate.link.interfaces import RouterUnavailable
from tidegate.router.failure_log import FailureLog
from tidegate.store.api import Change, RouterRecord, Store, StoreUnavailable

log = logging.getLogger(__name__)

#: How often the lease is renewed and the logs are read, beside reads by ``catch_up``.
RENEW_S: Final = 0.5
#: How often the positions of routers are read while a change waits for them.
POLL_S: Final = 0.05
CHANGES_LIMIT: Final = 2000
#: SUBSCRIBE waits for a router that died until its lease has ended: keep it short.
MAX_LEASE_S: Final = 3.0
#: The part of the lease that counts here; in the store the lease lasts longer.
LEASE_SAFE_FRACTION: Final = 0.7


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
        self._lease_s = min(lease_s, MAX_LEASE_S)
        self._apply = apply
        self._load = load
        self._became_current = became_current
        #: Names this instance of the router.
        self.instance = ""
        #: Instances with a lease, as of the last renewal.
        self.live: list[str] = []
        #: Earlier instances of this router that still have a lease.
        self._former_instances: list[str] = []
        self._positions: list[int] = []
        self._current_until_s = 0.0
        #: Called when the logs have a gap, before everything is loaded again.
        self.on_gap: Callable[[], Awaitable[None]] = _nothing
        #: Called when changes have been applied, before anything else happens.
        self.on_applied: Callable[[], None] = _ignore
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        #: What was read may not be what the store has: load everything before the next change.
        self._is_outdated = False

    def new_instance(self) -> None:
        """Become a new instance: the old one is fenced, or this is the first."""
        if self.instance:
            self._former_instances.append(self.instance)
        self.instance = f"{self._name}.{secrets.token_hex(4)}"
        self._store.writer = self.instance
        self._current_until_s = 0.0

    @property
    def current(self) -> bool:
        """Whether this router knows every confirmed change."""
        return self._loop.time() < self._current_until_s

    async def start(self) -> None:
        """Load everything, take a lease, begin to follow changes. Raises StoreUnavailable."""
        self.new_instance()
        # No lease while it loads, so no change waits for it: it reads on from where it began.
        await self._load_all()
        await self._read()
        await self._renew()
        self._renewing = asyncio.create_task(self._renew_forever())

    async def stop(self) -> None:
        """End the lease."""
        tasks = [task for task in (self._renewing, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._store.end_router(self.instance)
        except StoreUnavailable as error:
            log.warning("router lease not ended", extra={"reason": str(error)})

    async def catch_up(self) -> None:
        """Apply every change that was stored before this call. Raises RouterUnavailable."""
        if self._reading is not None:
            # It may have begun before the change that the caller waits for.
            await asyncio.wait([self._reading])
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_ended)
        reading = self._reading
        await asyncio.wait([reading])
        if reading.cancelled():
            raise RouterUnavailable("router stopping")
        error = reading.exception()
        if error is not None:
            if isinstance(error, StoreUnavailable):
                raise RouterUnavailable(str(error)) from error
            raise error

    def outdated(self) -> None:
        """Load everything again with the next ``catch_up``: the store has gone back.

        Until that is done, and the lease renewed after it, this router is not current.
        """
        self._is_outdated = True
        self._current_until_s = 0.0

    async def is_ahead(self) -> list[int]:
        """The partitions whose logs end before what was read of them. Raises StoreUnavailable."""
        known = list(self._positions)
        ends = await self._store.log_positions()
        pairs = zip(known, ends, strict=False)
        return [number for number, (read, end) in enumerate(pairs) if end < read]

    def _read_ended(self, task: asyncio.Task[None]) -> None:
        if self._reading is task:
            self._reading = None

    async def _read(self) -> None:
        while True:
            if self._is_outdated:
                self._is_outdated = False
                try:
                    await self._load_all()
                except BaseException:
                    self._is_outdated = True
                    raise
            found = await self._store.changes(self._positions, CHANGES_LIMIT)
            if self._is_outdated:
                continue
            if found.has_gap:
                await self.on_gap()
                if self._is_outdated:
                    continue
                log.warning("change log has a gap, reloading everything")
                await self._load_all()
                continue
            for change in found.changes:
                self._apply(change)
            self.on_applied()
            self._positions = found.positions
            if not found.more:
                return

    async def _load_all(self) -> None:
        # The positions count only after everything has been loaded.
        positions = await self._store.log_positions()
        await self._load()
        self._positions = positions

    async def _renew(self) -> None:
        """Read changes, then renew the lease."""
        while self._former_instances:
            await self._store.end_router(self._former_instances[-1])
            self._former_instances.pop()
        await self.catch_up()
        instance, asked_s = self.instance, self._loop.time()
        records = await self._store.renew_router(
            instance, self._now_ms(), int(self._lease_s * 1000), self._positions
        )
        self.live = [record.instance for record in records]
        was_current = self.current
        if not was_current:
            # No change has waited for this router until now: read those before the renewal, too.
            await self.catch_up()
        if instance != self.instance or self._is_outdated:
            return  # it was fenced meanwhile: the new instance has no lease yet; or it must reload
        self._current_until_s = asked_s + self._lease_s * LEASE_SAFE_FRACTION
        if not was_current:
            self._became_current()

    async def _renew_forever(self) -> None:
        failures = FailureLog(log, "reading changes")
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew()
            except Exception as error:  # it must not stop the later ones
                failures.failed(error)
            else:
                failures.succeeded()

    async def read_by_all(self) -> list[int]:
        """What every live router has read of each partition's log. Raises StoreUnavailable."""
        records = await self._store.routers(self._now_ms())
        read = [record.positions for record in records]
        count = len(self._positions)
        return [
            min((positions[n] if n < len(positions) else 0 for positions in read), default=0)
            for n in range(count)
        ]

    async def wait_for_others(self, partition: int, position: int, excluded: Sequence[str]) -> None:
        """Return when every other live router has read up to a change, or its lease has ended.

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
            await asyncio.sleep(POLL_S)


async def _nothing() -> None:
    pass


def _ignore() -> None:
    pass


def _is_behind(record: RouterRecord, partition: int, position: int) -> bool:
    positions = record.positions
    return partition >= len(positions) or positions[partition] < position
