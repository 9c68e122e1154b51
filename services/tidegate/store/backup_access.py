"""The store as a backup reads it, and as a restore writes it: whole clients, not messages.

Takes no lease and counts for no router; until ``command`` is called nothing is changed. Connections
and batches are those of ``StoreAccess``. Used by ``tidegate.backup``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.store import operations as op
from tidegate.store.client.servers import Word
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.keys import BANS_KEY, GLOBAL_PREFIX, ROUTERS_KEY
from tidegate.store.partitions import Words

#: Entries of a queue that one operation returns, in bytes: the server does nothing else meanwhile.
READ_BYTES: Final = 65_536
#: What an operation counts for in the size of a call.
_CLIENT_SIZE: Final = 65_536
#: Retained messages in one page of a scan.
_RETAINED: Final = 32


@dataclass(slots=True, frozen=True)
class StoreTime:
    """Broker time when it was stored last (0: never), and the server's clock then and now, ms."""

    broker_ms: int
    stored_at_ms: int
    server_ms: int


class BackupAccess(StoreAccess):
    """See the module's docstring. Make it with ``connect``; ``close`` it."""

    # Of the whole store

    async def time(self) -> StoreTime:
        """Read broker time and the server's clock."""
        words: Words = [op.READ_TIME, 1, GLOBAL_PREFIX]
        return StoreTime(*(await self.partitions.bulk.submit(GLOBAL_PREFIX, words, 100))[:3])

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
        whole = (b"clock", b"leases", b"history", b"routers", b"bans")
        found = self.read(GLOBAL_PREFIX, b"EXISTS", *(GLOBAL_PREFIX + name for name in whole))
        each = [
            self.read(prefix, b"EXISTS", *(prefix + name for name in names))
            for prefix in self.keys.prefixes
        ]
        return any(await asyncio.gather(found, *each))

    # Reading

    async def client_names(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Clients of which the partition has something, page by page; some more than once."""
        async for page in self.scan(b"SSCAN", prefix, b"durable"):
            yield page
        edges = await self.partitions.bulk.submit(
            prefix, [op.COMMAND, 2, b"HGETALL", prefix + b"edges"], 0
        )
        for edge in edges[::2]:
            async for page in self.scan(b"SSCAN", prefix, b"g:" + edge):
                yield page
        async for page in self.scan(b"HSCAN", prefix, b"pending"):
            yield page[::2]
        async for page in self.scan(b"HSCAN", prefix, b"lost"):
            yield [name.rpartition(b":")[0] for name in page[::2]]

    def read_client(self, prefix: bytes, client: bytes) -> asyncio.Future[list[Any]]:
        """Read the state of a client, as it is at one moment (``scripts/backup.lua``)."""
        words: Words = [op.READ_CLIENT, 3, prefix, client, READ_BYTES]
        return self.partitions.bulk.submit(prefix, words, _CLIENT_SIZE)

    async def read_queue(self, prefix: bytes, queue: bytes, after: int) -> list[Any]:
        """Read on in a queue; [1 if it is there, entries, 1 if there may be more]."""
        words: Words = [op.READ_QUEUE, 3, queue, after, READ_BYTES]
        found: list[Any] = await self.partitions.bulk.submit(prefix, words, _CLIENT_SIZE)
        return found

    async def retained(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Retained messages, page by page: topic, record, what it counts for, …."""

        async def page(at: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
            words: Words = [op.READ_RETAINED, 3, at, cursor, _RETAINED]
            after, found = await self.partitions.bulk.submit(at, words, READ_BYTES)
            return after, found

        async for found in self.partitions.scan(prefix, page):
            yield found

    async def claims(self, group: bytes) -> AsyncIterator[tuple[bytes, list[bytes]]]:
        """Claims of a group of shared subscriptions: kind of the key; identity, holder, …."""
        prefix = self.keys.prefix(group)
        for kind in (b"k", b"k2"):
            async for page in self.scan(b"HSCAN", prefix, kind + b":" + group):
                yield kind, page

    async def bans(self) -> AsyncIterator[list[bytes]]:
        """Bans, page by page: identifier, ban, …; some more than once."""
        async for page in self.scan(b"HSCAN", GLOBAL_PREFIX, BANS_KEY.removeprefix(GLOBAL_PREFIX)):
            if page:
                yield page

    async def counter(self, prefix: bytes) -> int:
        """The newest number that the partition has given out."""
        name = b"leases" if prefix == GLOBAL_PREFIX else b"epoch"
        return int(await self.read(prefix, b"GET", prefix + name) or 0)

    # Writing

    async def run_all(self, commands: Sequence[tuple[bytes, Sequence[Word]]]) -> None:
        """Run commands in their order for each partition; the first failure is raised."""
        results = await asyncio.gather(
            *(self.command(prefix, *words) for prefix, words in commands), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
