"""What edges and routers share through the store: change logs, leases, fences, sweeps.

The part of ``RedisStore`` that is about no single session. Made by ``redis_store``, which hands its
methods out as its own; calls the servers through ``partitions``.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from tidegate.core.standing import Standing
from tidegate.store import operations as op
from tidegate.store.api import (
    GLOBAL,
    Changes,
    DueWork,
    History,
    RouterRecord,
    StoreInUse,
    StoreUnavailable,
)
from tidegate.store.broker_time import BrokerTime
from tidegate.store.groups import CLUSTER, in_use_by
from tidegate.store.keys import EDGES_KEY, GLOBAL_PREFIX, ROUTERS_KEY
from tidegate.store.partitions import REPLY_BYTES, Partitions, Words
from tidegate.store.replies import due_work, entry_id, position_of, read_changes, router_records

#: Partitions that are swept at the same time where they are on different servers.
_PARTITIONS_PER_WAVE: Final = 8
#: A partition that is read alone may return this part of the bounds for all: few change at a time.
_CHANGES_SHARE: Final = 16
#: Connections verified in one operation.
_VERIFIED_AT_ONCE: Final = 500


class Coordination:
    """See the module's docstring; ``tidegate.store.api.Store`` describes the methods."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._keys = partitions.keys
        self._hot = partitions.hot
        self._bulk = partitions.bulk
        self._first_partition = 0
        self.time = BrokerTime(partitions)
        #: The group of processes that uses the store (``store.groups``).
        self.group = CLUSTER
        # Where ``changes`` began to read last time, also in the form of the script.
        self._read_to: list[int] = []
        self._read_to_ids: list[bytes] = []

    # Change logs

    def partition(self, name: str) -> int:
        """The partition of a client identifier or topic: an index into lists of positions."""
        return self._keys.number(name.encode())

    async def log_positions(self) -> list[int]:
        """The end of each partition's change log. Read it before loading, then read from there."""
        ids = await self._partitions.each(self._hot, op.LOG_ENDS)
        return [position_of(entry) if entry else 0 for entry in ids]

    async def changes(self, after: Sequence[int], limit: int) -> Changes:
        """Read what has changed after these positions (one for each partition)."""
        logs = self._keys.logs
        if after != self._read_to:
            self._read_to = list(after)
            self._read_to_ids = [entry_id(position) for position in after]
        ids = self._read_to_ids
        if self._partitions.sharded:
            share = [max(1, limit // _CHANGES_SHARE), REPLY_BYTES // _CHANGES_SHARE]
            parts = [
                self._hot.submit(prefix, [op.CHANGES, 4, *share, *pair], 100)
                for prefix, *pair in zip(self._keys.prefixes, logs, ids, strict=True)
            ]
            found = await asyncio.gather(*parts)
        else:
            words: Words = [op.CHANGES, 2 + 2 * len(ids), limit, REPLY_BYTES, *logs, *ids]
            found = [await self._hot.submit(GLOBAL_PREFIX, words, 5000)]
        reply = Changes(positions=list(after))
        for first, news in enumerate(found):
            read_changes(news, first, reply)
        return reply

    # Leases of edges

    async def renew_lease(self, edge_id: str, now_ms: int, ttl_ms: int) -> bool:
        """Renew an edge's lease; True when it had not ended."""
        number = await self._renew(edge_id, now_ms, ttl_ms, 0)
        if not number:
            return True
        # Sweeps that were decided on before this lease must find its number in every partition.
        await self._partitions.each(self._hot, op.ANNOUNCE_LEASE, edge_id, number)
        await self._renew(edge_id, now_ms, ttl_ms, number)
        return False

    async def _renew(self, edge_id: str, now_ms: int, ttl_ms: int, announced: int) -> int:
        words: Words = [op.RENEW_LEASE, 5, GLOBAL_PREFIX, edge_id, now_ms, ttl_ms, announced]
        asked_s = asyncio.get_running_loop().time()
        number, *times = await self._hot.submit(GLOBAL_PREFIX, words, 100)
        self.time.note(times, asked_s)
        return int(number)

    async def end_lease(self, edge_id: str) -> None:
        """End an edge's lease: its remaining sessions may be swept at once."""
        await self._partitions.command(b"HDEL", EDGES_KEY, edge_id)

    async def leased_edges(self, now_ms: int) -> list[str]:
        """Every edge whose lease lasts until after ``now_ms``; delete the other leases."""
        _, *edges = await self._read_leases(now_ms)
        return [edge_id.decode() for edge_id in edges]

    async def _read_leases(self, now_ms: int) -> list[Any]:
        words: Words = [op.LEASED_EDGES, 2, GLOBAL_PREFIX, now_ms]
        reply: list[Any] = await self._hot.submit(GLOBAL_PREFIX, words, 100)
        return reply

    async def end_all_leases(self) -> None:
        """End the leases of all edges: for the only user of the server, before the first lease."""
        await self._partitions.command(b"DEL", EDGES_KEY)

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        """Which of these connections (client identifier, epoch) still own their sessions."""
        groups: dict[bytes, list[int]] = {}
        for place, (client_id, _) in enumerate(connections):
            prefix = self._partitions.group_prefix(client_id.encode())
            groups.setdefault(prefix, []).append(place)
        standings = [Standing.TAKEN] * len(connections)
        for prefix, places in groups.items():
            for start in range(0, len(places), _VERIFIED_AT_ONCE):
                chosen = places[start : start + _VERIFIED_AT_ONCE]
                words: Words = []
                for place in chosen:
                    client = connections[place][0].encode()
                    words += (self._keys.prefix(client), client, connections[place][1])
                size = 100 * len(chosen)
                answers = await self._hot.submit(prefix, [op.VERIFY, len(words), *words], size)
                for place, answer in zip(chosen, answers, strict=True):
                    standings[place] = Standing(answer)
        return standings

    # Histories

    @property
    def watched_histories(self) -> list[int]:
        """The partitions whose histories tell of all others, too."""
        return self.all_histories if self._partitions.sharded else [GLOBAL]

    @property
    def all_histories(self) -> list[int]:
        """Every partition that has a history."""
        return [GLOBAL, *range(len(self._keys.prefixes))]

    def _prefix_of(self, partition: int) -> bytes:
        return GLOBAL_PREFIX if partition == GLOBAL else self._keys.prefixes[partition]

    async def read_histories(
        self, reader: str, number: int, partitions: Sequence[int]
    ) -> list[History | None]:
        """Read histories, and write a number into each; None where a server is not available."""
        words: Words = [reader, number]
        answers = await self._histories(op.READ_HISTORY, words, [(p,) for p in partitions], 1)
        found: list[History | None] = []
        for answer in answers:
            if answer is None:
                found.append(None)
                continue
            (time_ms,), (first, replaces, seen) = answer
            written = seen if type(seen) is int else None
            found.append(History(first, replaces == 1, written, time_ms))
        return found

    async def replace_histories(self, items: Sequence[tuple[int, int]], least: int) -> list[int]:
        """Begin new histories, with numbers above ``least``; the first numbers now."""
        answers = await self._histories(op.REPLACE_HISTORY, [least], items, 0)
        if None in answers:
            raise StoreUnavailable("some servers are not available")
        return [answer[1][0] for answer in answers if answer is not None]

    async def _histories(
        self, letter: bytes, words: Words, items: Sequence[tuple[int, ...]], head: int
    ) -> list[tuple[list[int], list[Any]] | None]:
        """Run an operation on (partition, argument…): the first results, and those of each."""
        groups = [[item] for item in items] if self._partitions.sharded else [list(items)]
        started = []
        for group in groups:
            words_of: Words = [*words]
            for partition, *more in group:
                words_of += (self._prefix_of(partition), *more)
            at = self._prefix_of(group[0][0]) if self._partitions.sharded else GLOBAL_PREFIX
            operation = [letter, len(words_of), *words_of]
            started.append(self._hot.submit(at, operation, 100 * len(group)))
        replies = await asyncio.gather(*started, return_exceptions=True)
        found: list[tuple[list[int], list[Any]] | None] = []
        for group, reply in zip(groups, replies, strict=True):
            if isinstance(reply, StoreUnavailable) and len(groups) > 1:
                found.append(None)
                continue
            if isinstance(reply, BaseException):
                raise reply
            rest = reply[head:]
            size = len(rest) // len(group)
            found += [(reply[:head], rest[at : at + size]) for at in range(0, len(rest), size)]
        return found

    async def sweep_history(self, now_ms: int, limit: int, publisher: str = "") -> DueWork:
        """Detach (as lost) connections of earlier histories that no edge has ended."""
        return due_work(await self._sweep(op.SWEEP_HISTORY, [now_ms, publisher], limit))

    # Routers

    async def renew_router(
        self, instance: str, now_ms: int, ttl_ms: int, positions: Sequence[int]
    ) -> list[RouterRecord]:
        """Renew this router's lease, with how far it has read; every router with a lease."""
        packed = struct.pack(f">{len(positions)}Q", *positions)
        now, *records = await self._renew_router(instance, now_ms, ttl_ms, packed)
        return router_records(records, now)

    async def hold(self, now_ms: int, ttl_ms: int) -> None:
        """Take the store for this group, for so long. Raises StoreInUse."""
        await self._renew_router("", now_ms, ttl_ms, b"")

    async def _renew_router(
        self, instance: str, now_ms: int, ttl_ms: int, packed: bytes
    ) -> list[Any]:
        words: Words = [op.RENEW_ROUTER, 6, GLOBAL_PREFIX, instance, now_ms, ttl_ms, packed]
        asked_s = asyncio.get_running_loop().time()
        found = await self._hot.submit(GLOBAL_PREFIX, [*words, self.group], 1000)
        if found[0] == -1:
            raise StoreInUse(in_use_by(found[1].decode()))
        self.time.note(found[:2], asked_s)
        return [found[0], *found[2:]]

    async def end_router(self, instance: str) -> None:
        """End this router's lease."""
        await self._partitions.command(b"HDEL", ROUTERS_KEY, instance)

    async def routers(self, now_ms: int) -> list[RouterRecord]:
        """Every router with a lease."""
        return router_records(await self._partitions.command(b"HGETALL", ROUTERS_KEY), now_ms)

    async def fence_writer(self, writer: str) -> None:
        """Refuse later appends and retained messages of this writer, for a day."""
        await self._partitions.each(self._hot, op.FENCE_WRITER, writer)

    # Sweeps

    async def sweep_edges(
        self,
        now_ms: int,
        limit: int,
        publisher: str = "",
        read_to: Sequence[int] | None = None,
        leases_hold: Callable[[], Awaitable[bool]] | None = None,
    ) -> DueWork:
        """Detach (as a lost connection) up to ``limit`` sessions of edges without a lease."""
        newest, *edges = await self._read_leases(now_ms)
        if leases_hold is not None and not await leases_hold():
            return DueWork()
        words: Words = [now_ms, publisher, newest, len(edges), *edges]
        prefixes = self._keys.prefixes
        read: list[bytes] = [b""] * len(prefixes)
        if read_to is not None:
            read = [entry_id(position) for position in read_to]
        beside = dict(zip(prefixes, read, strict=True))
        return due_work(await self._sweep(op.SWEEP_EDGES, words, limit, beside))

    async def sweep_due(self, now_ms: int, limit: int, publisher: str = "") -> DueWork:
        """Claim expired sessions, delayed wills, abandoned queues, queues of offline members."""
        return due_work(await self._sweep(op.SWEEP_DUE, [now_ms, publisher], limit))

    async def expired_retained(self, now_ms: int, limit: int) -> list[str]:
        """Remove up to ``limit`` retained messages whose expiry has passed; their topics."""
        (topics,) = await self._sweep(op.EXPIRED_RETAINED, [now_ms], limit)
        return [topic.decode() for topic in topics]

    async def expire_queued(self, now_ms: int, limit: int) -> bool:
        """Delete about ``limit`` expired queue entries; True when there may be more."""
        left = self._first_prefixes()
        if not self._partitions.sharded:
            return await self._expire_queued(GLOBAL_PREFIX, left, now_ms, limit)
        more = False
        for start in range(0, len(left), _PARTITIONS_PER_WAVE):
            wave = left[start : start + _PARTITIONS_PER_WAVE]
            each = max(1, limit // len(wave))
            parts = [self._expire_queued(prefix, [prefix], now_ms, each) for prefix in wave]
            more |= any(await asyncio.gather(*parts))
        return more

    async def _expire_queued(
        self, at: bytes, prefixes: list[bytes], now_ms: int, limit: int
    ) -> bool:
        words: Words = [now_ms, limit, *prefixes]
        return bool(await self._bulk.submit(at, [op.EXPIRE_QUEUED, len(words), *words], 10_000))

    def _first_prefixes(self) -> list[bytes]:
        """All partitions, another one first each time: a limit must not starve the last ones."""
        prefixes = self._keys.prefixes
        first = self._first_partition = (self._first_partition + 1) % len(prefixes)
        return [*prefixes[first:], *prefixes[:first]]

    async def _sweep(
        self, letter: bytes, words: Words, limit: int, beside: Mapping[bytes, bytes] | None = None
    ) -> list[list[Any]]:
        """Sweep all partitions for at most about ``limit`` things; the lists that it found.

        ``beside``: a word that follows on the prefix of each partition.
        """

        def named(prefix: bytes) -> tuple[bytes, ...]:
            return (prefix,) if beside is None else (prefix, beside[prefix])

        left = self._first_prefixes()
        one_list = letter == op.EXPIRED_RETAINED
        if not self._partitions.sharded:
            words = [*words, limit, *(word for prefix in left for word in named(prefix))]
            found = await self._bulk.submit(GLOBAL_PREFIX, [letter, len(words), *words], 10_000)
            return [found] if one_list else found
        lists: list[list[Any]] = []
        while left and limit > 0:
            wave = left[: min(limit, _PARTITIONS_PER_WAVE)]
            del left[: len(wave)]
            parts = []
            for prefix in wave:
                each: Words = [*words, limit // len(wave), *named(prefix)]
                parts.append(self._bulk.submit(prefix, [letter, len(each), *each], 10_000))
            for reply in await asyncio.gather(*parts):
                found = [reply] if one_list else reply
                lists = [a + b for a, b in zip(lists, found, strict=True)] if lists else found
                limit -= sum(map(len, found)) // (1 if one_list else 2)
        return lists

    async def schedule_checks(self, client_ids: Sequence[str], now_ms: int) -> None:
        """Have the queues of these clients checked in a moment, if they are still offline then."""
        groups: dict[bytes, Words] = {}
        for client_id in client_ids:
            client = client_id.encode()
            group = groups.setdefault(self._partitions.group_prefix(client), [now_ms])
            group += (self._keys.prefix(client), client)
        parts = [
            self._bulk.submit(prefix, [op.SCHEDULE_CHECKS, len(words), *words], 100 * len(words))
            for prefix, words in groups.items()
        ]
        await asyncio.gather(*parts)

    async def verify_wills(self, edge_id: str, will_ids: Sequence[str]) -> list[bool]:
        """Which of these wills are pending, and this edge's to publish."""
        groups: dict[bytes, list[int]] = {}
        for place, will_id in enumerate(will_ids):
            client = will_id.split(":", 1)[1].encode()
            groups.setdefault(self._partitions.group_prefix(client), []).append(place)
        here = [False] * len(will_ids)
        for prefix, places in groups.items():
            words: Words = [edge_id]
            for place in places:
                client = will_ids[place].split(":", 1)[1].encode()
                words += (self._keys.prefix(client), will_ids[place])
            call = [op.VERIFY_WILLS, len(words), *words]
            answers = await self._hot.submit(prefix, call, 100 * len(places))
            for place, answer in zip(places, answers, strict=True):
                here[place] = answer == 1
        return here

    async def will_published(self, will_ids: Sequence[str]) -> None:
        """Delete wills that have been published; without it they come due again."""
        groups: dict[bytes, Words] = {}
        for will_id in will_ids:
            client = will_id.split(":", 1)[1].encode()
            group = groups.setdefault(self._partitions.group_prefix(client), [])
            group += (self._keys.prefix(client), will_id)
        parts = [
            self._hot.submit(prefix, [op.WILL_PUBLISHED, len(words), *words], 100 * len(words))
            for prefix, words in groups.items()
        ]
        await asyncio.gather(*parts)
