"""Connections to the store of a process that routes nothing: it reads, and rarely writes.

Takes no lease and counts for no router. Connections, batches, Cluster, Sentinel and reconnecting
are those of ``RedisStore``. Used by ``tidegate.console`` and ``backup_access``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, Self

from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store import operations as op
from tidegate.store import scripts
from tidegate.store.client.failures import StoreRefused, check_layout
from tidegate.store.client.lanes import LaneSettings, start_failure
from tidegate.store.client.servers import Word
from tidegate.store.client.topology import make_topology
from tidegate.store.keys import FORMAT_KEY, GLOBAL_PREFIX, Keyspace
from tidegate.store.partitions import Partitions, Words
from tidegate.store.redis_store import script_header

#: Names in one page of a scan.
SCAN_COUNT: Final = 200


class StoreAccess:
    """See the module's docstring. Make it with ``connect``; ``close`` it."""

    def __init__(self, url: str, store: StoreConfig) -> None:
        self.keys = Keyspace(store.partitions)
        settings = LaneSettings(
            script=scripts.load(),
            prefixes=(GLOBAL_PREFIX, *self.keys.prefixes),
            header=list(script_header(LimitsConfig())),
            on_dropped=lambda *_: None,
            timeout_s=store.operation_timeout_s,
            counters=Counters(),
            on_replaced=lambda: None,
            processes=set(),
        )
        self.partitions = Partitions(self.keys, make_topology(url, store, settings))

    @classmethod
    async def connect(cls, url: str, store: StoreConfig) -> Self:
        """Connect to every server. Raises StoreUnavailable, StoreRefused, ValueError."""
        self = cls(url, store)
        try:
            await self.partitions.open()
        except BaseException as error:
            await self.close()
            failure = start_failure(error, "store.url")
            if failure is error:
                raise
            raise failure from error
        return self

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
        await self.partitions.close()

    async def check_layout(self) -> None:
        """Raise StoreRefused unless a broker of this version uses the store."""
        found = await self.layout()
        if not found:
            raise StoreRefused("store.url: the store has no data of a broker")
        check_layout("store.url", found, self.keys.format)

    async def layout(self) -> str:
        """What the key of the format says; "" when the store has none."""
        return (await self.read(GLOBAL_PREFIX, b"GET", FORMAT_KEY) or b"").decode()

    def read(self, prefix: bytes, *words: Word) -> asyncio.Future[Any]:
        """Run one command that reads, on keys with this prefix; no replica is waited for.

        Raises StoreUnavailable. Commands of one moment travel together.
        """
        return self.submit(prefix, op.COMMAND, *words)

    def submit(
        self, prefix: bytes, operation: bytes, *words: Word, size: int = 100
    ) -> asyncio.Future[Any]:
        """Run one operation of the script that reads. ``size``: bytes, about, that it is about."""
        return self.partitions.bulk.submit(prefix, [operation, len(words), *words], size)

    def write(
        self, prefix: bytes, operation: bytes, *words: Word, size: int = 100
    ) -> asyncio.Future[Any]:
        """Run one operation that changes something, as durable as what brokers write."""
        return self.partitions.hot.submit(prefix, [operation, len(words), *words], size)

    def command(self, prefix: bytes, *words: Word) -> asyncio.Future[Any]:
        """Run one command on keys with this prefix, as durable as what brokers write."""
        size = 64 + sum(len(word) for word in words if isinstance(word, bytes))
        return self.partitions.hot.submit(prefix, [op.COMMAND, len(words), *words], size)

    def scan(
        self, scan: bytes, prefix: bytes, name: bytes, count: int = SCAN_COUNT
    ) -> AsyncIterator[list[Any]]:
        """The pages of a hash, set or sorted set (HSCAN, SSCAN, ZSCAN); some come more than once.

        ``name`` is the key without the prefix.
        """

        async def page(at: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
            words: Words = [op.COMMAND, 5, scan, at + name, cursor, b"COUNT", count]
            after, found = await self.partitions.bulk.submit(at, words, count * 50)
            return after, found

        return self.partitions.scan(prefix, page)
