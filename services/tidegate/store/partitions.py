"""Partitions as operations see them: one key prefix each, on one server or on several.

Owns the two sets of lanes. Used by ``redis_store`` and ``coordination``, which know what an
operation means; calls ``client``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

from tidegate.store import operations as op
from tidegate.store.client.servers import Word
from tidegate.store.client.topology import Lanes, Topology
from tidegate.store.keys import GLOBAL_PREFIX, Keyspace

Words: TypeAlias = list[Word]

#: Where a reply ends that may be cut short.
REPLY_BYTES: Final = 1_048_576


class Partitions:
    """See the module's docstring."""

    def __init__(self, keys: Keyspace, topology: Topology) -> None:
        self.keys = keys
        #: For operations that a client waits for.
        self.hot = topology.hot
        #: For scans and sweeps: on connections of their own, so that no CONNECT waits behind the
        #: transfer of a large reply.
        self.bulk = topology.bulk
        #: True when partitions may be on different servers: then an operation names one only.
        self.sharded = topology.sharded

    async def open(self) -> None:
        """Connect to every server. Raises StoreRefused, or what connecting raises."""
        await self.hot.open()

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""
        await self.hot.close()
        await self.bulk.close()

    def group_prefix(self, name: bytes) -> bytes:
        """The prefix under which an operation on this name can be grouped with others."""
        return self.keys.prefix(name) if self.sharded else GLOBAL_PREFIX

    def command(self, *command: Word) -> asyncio.Future[Any]:
        """Run one command on a key that belongs to no partition."""
        return self.hot.submit(GLOBAL_PREFIX, [op.COMMAND, len(command), *command], 100)

    async def each(self, lanes: Lanes, letter: bytes, *words: Word) -> list[Any]:
        """Run an operation on each partition, its prefix last; one result for each, in order."""
        prefixes = self.keys.prefixes
        if not self.sharded:
            operation = [letter, len(words) + len(prefixes), *words, *prefixes]
            result: list[Any] = await lanes.submit(GLOBAL_PREFIX, operation, 30 * len(prefixes))
            return result
        parts = [
            lanes.submit(prefix, [letter, len(words) + 1, *words, prefix], 100)
            for prefix in prefixes
        ]
        return [answer for (answer,) in await asyncio.gather(*parts)]

    async def scan(
        self,
        prefix: bytes,
        read_page: Callable[[bytes, bytes], Awaitable[tuple[bytes, list[Any]]]],
    ) -> AsyncIterator[list[Any]]:
        """The pages of a partition's scan; some are repeated when its server is replaced."""
        cursor = b"0"
        server: object = None
        while True:
            after, found = await read_page(prefix, cursor)
            served_by = self.bulk.generation(prefix)
            if cursor != b"0" and served_by != server:
                # Another server, or a new process: the cursor is not valid there.
                cursor = b"0"
                continue
            server, cursor = served_by, after
            if found:
                yield found
            if cursor == b"0":
                return
