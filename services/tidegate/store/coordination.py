"""What edges and routers need of the store to work together: logs, leases, fences, sweeps.

The half of ``RedisStore`` that is about no single session: change logs, which edges and routers
live, who may not write any more, and what has to happen without anybody asking. Only
``redis_store`` uses it; it supplies keys and connections.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

from tidegate.store.api import Changes, DueWork, RouterRecord
from tidegate.store.client.servers import Word
from tidegate.store.client.topology import Lanes
from tidegate.store.keys import EDGES_KEY, GLOBAL_PREFIX, ROUTERS_KEY, Keyspace
from tidegate.store.replies import due_work, entry_id, position_of, read_changes, router_records

Words: TypeAlias = list[Word]

#: Where a reply stops that may be short.
REPLY_BYTES = 1_048_576
#: Partitions that are swept at the same time where they are on different servers.
_PARTITIONS_PER_WAVE = 8
#: What a partition that is asked alone may answer of the bounds for all: few are busy at a time.
_CHANGES_SHARE = 16
#: Connections asked about in one operation.
_VERIFIED_AT_ONCE = 500


class Coordination:
    """See the module's docstring."""

    _keys: Keyspace
    #: For what somebody waits for, and for scans and sweeps.
    _hot: Lanes
    _bulk: Lanes
    #: True where partitions may be on different servers: then an operation names one only.
    _apart: bool

    def __init__(self) -> None:
        self._first_partition = 0
        # Where ``changes`` began to read last time, also as the script wants it.
        self._read_to: list[int] = []
        self._read_to_ids: list[bytes] = []

    def _plain(self, *command: Word) -> asyncio.Future[Any]:
        """Run one command on a key that belongs to no partition."""
        return self._hot.submit(GLOBAL_PREFIX, [b"K", len(command), *command], 100)

    async def _each(
        self, lane: Lanes, letter: bytes, words: Words, partitions: Sequence[Words]
    ) -> list[Any]:
        """Ask the same of each partition (prefix first); one answer for each, in this order."""
        if not self._apart:
            words = [*words, *(word for partition in partitions for word in partition)]
            result: list[Any] = await lane.submit(
                GLOBAL_PREFIX, [letter, len(words), *words], 30 * len(partitions)
            )
            return result
        parts = []
        for partition in partitions:
            each = [*words, *partition]
            parts.append(
                lane.submit(cast("bytes", each[len(words)]), [letter, len(each), *each], 100)
            )
        return [answer for (answer,) in await asyncio.gather(*parts)]

    # Change logs

    def partition(self, name: str) -> int:
        """The partition of a client identifier or topic: an index into lists of positions."""
        return self._keys.number(name.encode())

    async def log_positions(self) -> list[int]:
        """The end of each partition's change log. Ask before loading, then read from there."""
        ids = await self._each(self._bulk, b"H", [], [[prefix] for prefix in self._keys.prefixes])
        return [position_of(entry) if entry else 0 for entry in ids]

    async def changes(self, after: Sequence[int], limit: int) -> Changes:
        """Read what has changed after these positions (one for each partition)."""
        logs = self._keys.logs
        if after != self._read_to:
            self._read_to = list(after)
            self._read_to_ids = [entry_id(position) for position in after]
        ids = self._read_to_ids
        if self._apart:
            share = [max(1, limit // _CHANGES_SHARE), REPLY_BYTES // _CHANGES_SHARE]
            parts = [
                self._hot.submit(prefix, [b"J", 4, *share, *pair], 100)
                for prefix, *pair in zip(self._keys.prefixes, logs, ids, strict=True)
            ]
            found = await asyncio.gather(*parts)
        else:
            all_words: Words = [b"J", 2 + 2 * len(ids), limit, REPLY_BYTES, *logs, *ids]
            found = [await self._hot.submit(GLOBAL_PREFIX, all_words, 5000)]
        reply = Changes(positions=list(after))
        for first, news in enumerate(found):
            read_changes(news, first, reply)
        return reply

    # Leases of edges

    async def renew_lease(self, edge_id: str, now_ms: int, ttl_ms: int) -> bool:
        """Say that this edge lives; True when its lease had been there until now."""
        number = await self._renew(edge_id, now_ms, ttl_ms, 0)
        if not number:
            return True
        # Sweeps that were decided on before this lease must find its number in every partition.
        await self._each(
            self._hot, b"Q", [edge_id, number], [[prefix] for prefix in self._keys.prefixes]
        )
        await self._renew(edge_id, now_ms, ttl_ms, number)
        return False

    async def _renew(self, edge_id: str, now_ms: int, ttl_ms: int, announced: int) -> int:
        words: Words = [b"I", 5, GLOBAL_PREFIX, edge_id, now_ms, ttl_ms, announced]
        number: int = await self._hot.submit(GLOBAL_PREFIX, words, 100)
        return number

    async def end_lease(self, edge_id: str) -> None:
        """Say that this edge ends now: its remaining sessions may be swept at once."""
        await self._plain(b"HDEL", EDGES_KEY, edge_id)

    async def leased_edges(self, now_ms: int) -> list[str]:
        """Every edge whose lease lasts until after ``now_ms``; forget the others."""
        words: Words = [b"T", 2, GLOBAL_PREFIX, now_ms]
        _, *living = await self._bulk.submit(GLOBAL_PREFIX, words, 100)
        return [edge_id.decode() for edge_id in living]

    async def end_all_leases(self) -> None:
        """Say that no edge lives: for who owns the server alone, before the first lease."""
        await self._plain(b"DEL", EDGES_KEY)

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[bool]:
        """Which of these connections (client identifier, epoch) still own their sessions."""
        groups: dict[bytes, list[int]] = {}
        for place, (client_id, _) in enumerate(connections):
            prefix = self._keys.prefix(client_id.encode()) if self._apart else GLOBAL_PREFIX
            groups.setdefault(prefix, []).append(place)
        owned = [False] * len(connections)
        for prefix, places in groups.items():
            for start in range(0, len(places), _VERIFIED_AT_ONCE):
                chosen = places[start : start + _VERIFIED_AT_ONCE]
                words: Words = []
                for place in chosen:
                    client = connections[place][0].encode()
                    words += (self._keys.prefix(client), client, connections[place][1])
                size = 100 * len(chosen)
                answers = await self._bulk.submit(prefix, [b"V", len(words), *words], size)
                for place, answer in zip(chosen, answers, strict=True):
                    owned[place] = answer == 1
        return owned

    # Routers

    async def renew_router(
        self, instance: str, now_ms: int, ttl_ms: int, positions: Sequence[int]
    ) -> list[RouterRecord]:
        """Say that this router lives and how far it has read; every living router, it included."""
        packed = struct.pack(f">{len(positions)}Q", *positions)
        words: Words = [b"O", 5, ROUTERS_KEY, instance, now_ms, ttl_ms, packed]
        found = await self._hot.submit(GLOBAL_PREFIX, words, 1000)
        return router_records(found, now_ms)

    async def end_router(self, instance: str) -> None:
        """Say that this router ends now."""
        await self._plain(b"HDEL", ROUTERS_KEY, instance)

    async def routers(self, now_ms: int) -> list[RouterRecord]:
        """Every living router."""
        return router_records(await self._plain(b"HGETALL", ROUTERS_KEY), now_ms)

    async def fence_writer(self, writer: str) -> None:
        """Refuse what this writer may still append or retain, for a day."""
        prefixes = self._keys.prefixes
        await self._each(self._hot, b"Z", [writer], [[prefix] for prefix in prefixes])

    # Sweeps

    async def sweep_edges(self, now_ms: int, limit: int) -> DueWork:
        """Detach (as a lost connection) up to ``limit`` sessions of edges without a lease."""
        words: Words = [b"T", 2, GLOBAL_PREFIX, now_ms]
        newest, *living = await self._bulk.submit(GLOBAL_PREFIX, words, 100)
        return due_work(await self._sweep(b"E", [now_ms, newest, len(living), *living], limit))

    async def sweep_due(self, now_ms: int, limit: int) -> DueWork:
        """Claim due session expiries, delayed wills, lost queues, members that have gone."""
        return due_work(await self._sweep(b"W", [now_ms], limit))

    async def _sweep(self, letter: bytes, words: Words, limit: int) -> list[list[Any]]:
        """Sweep all partitions for at most about ``limit`` things; the lists that it found."""
        # Another partition first each time: a limit must not starve the last ones.
        prefixes = self._keys.prefixes
        first = self._first_partition = (self._first_partition + 1) % len(prefixes)
        left = [*prefixes[first:], *prefixes[:first]]
        if not self._apart:
            words = [*words, limit, *left]
            found = await self._bulk.submit(GLOBAL_PREFIX, [letter, len(words), *words], 10_000)
            return [found] if letter == b"Y" else found
        lists: list[list[Any]] = []
        while left and limit > 0:
            wave = left[: min(limit, _PARTITIONS_PER_WAVE)]
            del left[: len(wave)]
            parts = []
            for prefix in wave:
                each: Words = [*words, limit // len(wave), prefix]
                parts.append(self._bulk.submit(prefix, [letter, len(each), *each], 10_000))
            for reply in await asyncio.gather(*parts):
                found = [reply] if letter == b"Y" else reply
                lists = [a + b for a, b in zip(lists, found, strict=True)] if lists else found
                limit -= sum(len(one) for one in found) // (1 if letter == b"Y" else 2)
        return lists

    async def look_soon(self, client_ids: Sequence[str], now_ms: int) -> None:
        """Let these members come due in a moment, if they are still not connected then."""
        groups: dict[bytes, Words] = {}
        for client_id in client_ids:
            client = client_id.encode()
            prefix = self._keys.prefix(client)
            group = groups.setdefault(prefix if self._apart else GLOBAL_PREFIX, [now_ms])
            group += (prefix, client)
        parts = [
            self._bulk.submit(prefix, [b"m", len(words), *words], 100 * len(words))
            for prefix, words in groups.items()
        ]
        await asyncio.gather(*parts)

    async def will_published(self, will_ids: Sequence[str]) -> None:
        """Forget wills that have been published; without it they come due again."""
        groups: dict[bytes, Words] = {}
        for will_id in will_ids:
            prefix = self._keys.prefix(will_id.split(":", 1)[1].encode())
            group = groups.setdefault(prefix if self._apart else GLOBAL_PREFIX, [])
            group += (prefix, will_id)
        parts = [
            self._hot.submit(prefix, [b"P", len(words), *words], 100 * len(words))
            for prefix, words in groups.items()
        ]
        await asyncio.gather(*parts)
