"""The store as a backup reads it, and as a restore writes it: whole clients, not messages.

Takes no lease and counts for no router; until ``command`` is called nothing is changed. Connections
and batches are those of ``RedisStore``. Used by ``tidegate.backup``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store import operations as op
from tidegate.store import scripts
from tidegate.store.client.lanes import LaneSettings, start_failure
from tidegate.store.client.servers import Word
from tidegate.store.client.topology import make_topology
from tidegate.store.keys import FORMAT_KEY, GLOBAL_PREFIX, ROUTERS_KEY, Keyspace
from tidegate.store.partitions import Partitions, Words
from tidegate.store.redis_store import script_header

#: Entries of a queue that one operation returns, in bytes: the server does nothing else meanwhile.
READ_BYTES: Final = 65_536
#: What an operation counts for in the size of a call.
_CLIENT_SIZE: Final = 65_536
#: Names in one page of a scan, and retained messages.
_NAMES: Final = 200
_RETAINED: Final = 32


@dataclass(slots=True, frozen=True)
class StoreTime:
    """Broker time when it was stored last (0: never), and the server's clock then and now, ms."""

    broker_ms: int
    stored_at_ms: int
    server_ms: int


class BackupAccess:
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
        self._partitions = Partitions(self.keys, make_topology(url, store, settings))
        self._bulk = self._partitions.bulk
        self._hot = self._partitions.hot

    @classmethod
    async def connect(cls, url: str, store: StoreConfig) -> Self:
        """Connect to every server. Raises StoreUnavailable, StoreRefused, ValueError."""
        self = cls(url, store)
        try:
            await self._partitions.open()
        except BaseException as error:
            await self.close()
            failure = start_failure(error, "store.url")
            if failure is error:
                raise
            raise failure from error
        return self

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
        await self._partitions.close()

    # Of the whole store

    async def layout(self) -> str:
        """What the key of the format says; "" when the store has none."""
        return (await self.read(GLOBAL_PREFIX, b"GET", FORMAT_KEY) or b"").decode()

    async def time(self) -> StoreTime:
        """Read broker time and the server's clock."""
        words: Words = [op.READ_TIME, 1, GLOBAL_PREFIX]
        return StoreTime(*(await self._bulk.submit(GLOBAL_PREFIX, words, 100))[:3])

    async def is_in_use(self) -> bool:
        """Whether a router or a ``tidegate serve`` has a lease on the store."""
        time = await self.time()
        now_ms = time.broker_ms + max(0, time.server_ms - time.stored_at_ms)
        group = await self.read(GLOBAL_PREFIX, b"GET", GLOBAL_PREFIX + b"group") or b""
        records = await self.read(GLOBAL_PREFIX, b"HGETALL", ROUTERS_KEY)
        ends = [group.split(b" ")[0], *(record.split(b":")[0] for record in records[1::2])]
        return any(end.isdigit() and int(end) > now_ms for end in ends)

    async def has_data(self) -> bool:
        """Whether there are keys of a broker: those that each partition has from its first use."""
        names = (b"epoch", b"history", b"durable", b"retained", b"edges", b"due", b"wills", b"lost")
        found = self.read(
            GLOBAL_PREFIX,
            b"EXISTS",
            *(GLOBAL_PREFIX + name for name in (b"clock", b"leases", b"history", b"routers")),
        )
        each = [
            self.read(prefix, b"EXISTS", *(prefix + name for name in names))
            for prefix in self.keys.prefixes
        ]
        return any(await asyncio.gather(found, *each))

    def read(self, prefix: bytes, *words: Word) -> asyncio.Future[Any]:
        """Run one command that reads, on keys with this prefix; no replica is waited for."""
        return self._bulk.submit(prefix, [op.COMMAND, len(words), *words], 100)

    def command(self, prefix: bytes, *words: Word) -> asyncio.Future[Any]:
        """Run one command on keys with this prefix, as durable as what brokers write."""
        size = 64 + sum(len(word) for word in words if isinstance(word, bytes))
        return self._hot.submit(prefix, [op.COMMAND, len(words), *words], size)

    # Reading

    async def client_names(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Clients of which the partition has something, page by page; some more than once."""
        async for page in self._scan(b"SSCAN", prefix, b"durable"):
            yield page
        edges = await self._bulk.submit(prefix, [op.COMMAND, 2, b"HGETALL", prefix + b"edges"], 0)
        for edge in edges[::2]:
            async for page in self._scan(b"SSCAN", prefix, b"g:" + edge):
                yield page
        async for page in self._scan(b"HSCAN", prefix, b"pending"):
            yield page[::2]
        async for page in self._scan(b"HSCAN", prefix, b"lost"):
            yield [name.rpartition(b":")[0] for name in page[::2]]

    def _scan(self, scan: bytes, prefix: bytes, name: bytes) -> AsyncIterator[list[Any]]:
        async def page(at: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
            words: Words = [op.COMMAND, 5, scan, at + name, cursor, b"COUNT", _NAMES]
            after, found = await self._bulk.submit(at, words, _NAMES * 50)
            return after, found

        return self._partitions.scan(prefix, page)

    def read_client(self, prefix: bytes, client: bytes) -> asyncio.Future[list[Any]]:
        """Read the state of a client, as it is at one moment (``scripts/backup.lua``)."""
        words: Words = [op.READ_CLIENT, 3, prefix, client, READ_BYTES]
        return self._bulk.submit(prefix, words, _CLIENT_SIZE)

    async def read_queue(self, prefix: bytes, queue: bytes, after: int) -> list[Any]:
        """Read on in a queue; [1 if it is there, entries, 1 if there may be more]."""
        words: Words = [op.READ_QUEUE, 3, queue, after, READ_BYTES]
        found: list[Any] = await self._bulk.submit(prefix, words, _CLIENT_SIZE)
        return found

    async def retained(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Retained messages, page by page: topic, record, what it counts for, …."""

        async def page(at: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
            words: Words = [op.READ_RETAINED, 3, at, cursor, _RETAINED]
            after, found = await self._bulk.submit(at, words, READ_BYTES)
            return after, found

        async for found in self._partitions.scan(prefix, page):
            yield found

    async def claims(self, group: bytes) -> AsyncIterator[tuple[bytes, list[bytes]]]:
        """Claims of a group of shared subscriptions: kind of the key; identity, holder, …."""
        prefix = self.keys.prefix(group)
        for kind in (b"k", b"k2"):
            async for page in self._scan(b"HSCAN", prefix, kind + b":" + group):
                yield kind, page

    async def counter(self, prefix: bytes) -> int:
        """The newest number that the partition has given out."""
        name = b"leases" if prefix == GLOBAL_PREFIX else b"epoch"
        return int(await self.read(prefix, b"GET", prefix + name) or 0)

    # Writing

    async def write(self, commands: Sequence[tuple[bytes, Sequence[Word]]]) -> None:
        """Run commands in their order for each partition; the first failure is raised."""
        results = await asyncio.gather(
            *(self.command(prefix, *words) for prefix, words in commands), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
