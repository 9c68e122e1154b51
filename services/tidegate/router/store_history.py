"""Whether the store has gone back to an older state, or has lost what it had.

Every partition of the store has a history: the number that it began with, above all that were given
out before, and what each router has last written. A history without the number that this router has
written last has gone back (FLUSHALL, a backup, a replica that lagged); it is replaced by a new one,
and every connection of the older one has lost its session. Owns what is known of the histories, and
the task that reads them. The router makes it; parts that find a connection fenced call ``look``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import GLOBAL, History, Store, StoreUnavailable

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
#: A reader that has written nothing for so long may be forgotten in the store: it begins anew.
FORGOTTEN_S: Final = 43_200.0
#: Numbers that are given out in a millisecond, at most (``session_end.lua``).
NUMBERS_PER_MS: Final = 8
#: So many numbers may have been skipped at restarts of servers.
SKIPPED: Final = 64 * 1_048_576


class StoreHistory:
    """See the module's docstring. ``start`` before the store is read, ``stop`` at the end."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        on_back: Callable[[Sequence[int]], None],
        on_replaced: Callable[[], None],
    ) -> None:
        """``on_back`` gets the partitions that have gone back.

        ``on_replaced`` is called when a server has been replaced that has not gone back as far as
        can be seen: what it lost is younger than CHECK_S.
        """
        self._store = store
        self._counters = counters
        self._on_back = on_back
        self._on_replaced = on_replaced
        self._loop = asyncio.get_running_loop()
        #: By partition, the first number of its history.
        self.first: dict[int, int] = {}
        #: How often the store has gone back since the start, and when it last did (Unix time).
        self.count = 0
        self.last_s = 0.0
        self._reader = ""
        self._number = 0
        #: By partition, what this reader is known to have written.
        self._written: dict[int, int] = {}
        self._read_s = 0.0
        #: The servers' clock, as it has been read last.
        self._time_ms = 0
        #: Partitions that have gone back and have no new history yet, and the first number of each.
        self._back: dict[int, int] = {}
        #: Partitions that have a new history, which has not been reported yet.
        self._changed: set[int] = set()
        #: What has shown it first, since the last report; for the log.
        self._evidence = ""
        self._replaced = False
        self._looking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all histories, and begin to watch them. Raises StoreUnavailable."""
        self._begin()
        await self._read(self._store.all_histories)
        self._store.on_replaced = self._server_replaced
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Watch no more."""
        tasks = [task for task in (self._watching, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_back(self) -> bool:
        """Whether the store has gone back, and has no new history yet."""
        return bool(self._back)

    def is_lost(self, client_id: str, epoch: int) -> bool:
        """Whether a connection is of an earlier history."""
        return epoch <= self.first.get(self._store.partition(client_id), 0)

    async def look(self) -> None:
        """Look whether the store has gone back, now; nothing is known when it is not reachable."""
        await self._look_at(self._store.watched_histories)

    def look_soon(self) -> None:
        """Do the same, without waiting for it."""
        if self._looking is None:
            self._looking = self._loop.create_task(self._look(self._store.watched_histories))

    async def leases_hold(self, count: int) -> bool:
        """Whether leases that have been read since ``count`` are those that were granted."""
        await self._look_at([GLOBAL])
        return count == self.count and not self._back

    def declare(self, partitions: Sequence[int], evidence: str) -> None:
        """Take partitions for gone back: something else, ``evidence``, has shown that."""
        self._note(evidence)
        for partition in partitions:
            self._back.setdefault(partition, self.first[partition])
        self.look_soon()

    async def _look_at(self, partitions: Sequence[int]) -> None:
        if self._looking is not None:
            # It may have read what was there before that which the caller has noticed.
            await asyncio.wait([self._looking])
        if self._looking is None:
            self._looking = self._loop.create_task(self._look(partitions))
        await asyncio.wait([self._looking])

    def _begin(self) -> None:
        self._reader = secrets.token_hex(6)
        self._written.clear()
        self._read_s = self._loop.time()

    def _server_replaced(self) -> None:
        self._replaced = True
        self.look_soon()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self.look()

    async def _look(self, partitions: Sequence[int]) -> None:
        try:
            count, replaced, self._replaced = self.count, self._replaced, False
            await self._check(partitions)
            if replaced and count == self.count:
                self._on_replaced()
        except StoreUnavailable:
            self._replaced = self._replaced or replaced
        except Exception:
            self._counters.internal_errors += 1
            log.exception("reading the history of the store failed")
        finally:
            self._looking = None

    async def _check(self, partitions: Sequence[int]) -> None:
        """Read histories; replace those that have gone back. Raises StoreUnavailable."""
        if self._loop.time() - self._read_s > FORGOTTEN_S:
            self._begin()
        store = self._store
        await self._read(partitions)
        if not self._changed and not self._back:
            return
        watched = store.watched_histories
        await self._read([one for one in watched if one not in partitions])
        # Others are on the same server: those that nobody has replaced yet have gone back, too.
        others = [one for one in store.all_histories if one not in watched]
        await self._read(others, all_are_back=True)
        if self._back:
            await self._replace()
        self._report()

    async def _read(self, partitions: Sequence[int], *, all_are_back: bool = False) -> None:
        """Read histories: which of them others have replaced, and which are to be replaced."""
        if not partitions:
            return
        self._number += 1
        number = self._number
        found = await self._store.read_histories(self._reader, number, partitions)
        self._read_s = self._loop.time()
        for partition, history in zip(partitions, found, strict=True):
            if history is None:
                continue
            self._time_ms = max(self._time_ms, history.time_ms)
            first = self.first.get(partition)
            if first is not None and history.first > first and history.replaces:
                self._note(f"another router has begun history {history.first}")
                self._changed.add(partition)
                self._back.pop(partition, None)
            elif first is not None and (all_are_back or self._is_back(partition, history)):
                self._back[partition] = history.first
            if partition not in self._back:
                self.first[partition] = history.first
                self._written[partition] = number

    def _is_back(self, partition: int, history: History) -> bool:
        if partition in self._back:
            return True
        first = self.first[partition]
        if history.first != first:
            self._note(f"history {first} is {history.first} now")
            return True
        written = self._written.get(partition)
        if written is None or (history.seen is not None and history.seen >= written):
            return False
        now = "missing" if history.seen is None else f"{history.seen} now"
        self._note(f"number {written} of history {first} is {now}")
        return True

    def _note(self, evidence: str) -> None:
        self._evidence = self._evidence or evidence

    async def _replace(self) -> None:
        """Begin new histories. The numbers of all connections that there have been are lower."""
        now = self._time_ms * NUMBERS_PER_MS
        least = max(now, *self.first.values(), *self._back.values()) + SKIPPED
        items = list(self._back.items())
        firsts = await self._store.replace_histories(items, least)
        for (partition, _), first in zip(items, firsts, strict=True):
            self.first[partition] = first
            self._written.pop(partition, None)
            self._changed.add(partition)
            del self._back[partition]

    def _report(self) -> None:
        changed, self._changed = sorted(self._changed), set()
        evidence, self._evidence = self._evidence, ""
        self._replaced = False
        self.count += 1
        self.last_s = time.time()
        self._counters.store_rollbacks += 1
        log.warning(
            "store has gone back to an older state: sessions of connected clients are lost",
            extra={
                "partitions": len([one for one in changed if one != GLOBAL]),
                "evidence": evidence,
            },
        )
        self._on_back(changed)
