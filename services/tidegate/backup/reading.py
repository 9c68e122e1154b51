"""From a store in use to the values of a backup.

Each client is read at one moment, with its session, subscriptions, QoS 2 state and wills, and how
far its queue goes. What is appended later is not in the backup, what is completed later may be. So
whatever was acknowledged before the backup began is in it, unless it has been delivered since
(docs/adr/0026-backups.md). Called by ``backup``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from tidegate.backup.contents import (
    Abandoned,
    Bans,
    Claims,
    Client,
    Counter,
    Item,
    Queued,
    Retained,
)
from tidegate.store.backup_access import BackupAccess
from tidegate.store.keys import GLOBAL_PREFIX

#: Clients that are read at the same time.
_AT_ONCE: Final = 8
#: The longest pause between two reads.
_LONGEST_PAUSE_S: Final = 0.1
#: How often a client is read again whose session ends while its queue is read.
_TRIES: Final = 5
_SHARE: Final = b"$share/"
#: The flag of a queued message that came through a shared subscription.
_GROUP_FLAG: Final = 0x40


class StoreReader:
    """Reads everything, once. ``put`` gets each item; numbers of what was read are kept."""

    def __init__(self, access: BackupAccess, put: Callable[[Item], None]) -> None:
        self._access = access
        self._put = put
        self._groups: set[bytes] = set()
        #: Members of groups: prefix, name and incarnation, and the last seq that was read.
        self._members: dict[tuple[bytes, bytes, bytes], int] = {}
        self.keys = 0
        self.sessions = 0
        self.queued = 0
        self.retained = 0

    async def read(self) -> None:
        """Read every partition. Raises StoreUnavailable."""
        for prefix in self._access.keys.prefixes:
            await self._read_partition(prefix)
        await self._read_moved()
        for group in sorted(self._groups):
            async for kind, holders in self._access.claims(group):
                self._put(Claims(group, kind, holders))
        async for bans in self._access.bans():
            self._put(Bans(bans))
            self.keys += len(bans) // 2
        for prefix in (GLOBAL_PREFIX, *self._access.keys.prefixes):
            self._put(Counter(await self._access.counter(prefix)))

    async def _read_partition(self, prefix: bytes) -> None:
        seen: set[bytes] = set()
        async for page in self._access.client_names(prefix):
            names = [name for name in dict.fromkeys(page) if name not in seen]
            seen.update(names)
            for start in range(0, len(names), _AT_ONCE):
                began_s = monotonic()
                await self._read_clients(prefix, names[start : start + _AT_ONCE])
                # A server that is slow is left to others for as long.
                await asyncio.sleep(min(monotonic() - began_s, _LONGEST_PAUSE_S))
        topics: set[bytes] = set()
        async for messages in self._access.retained(prefix):
            new = []
            for at in range(0, len(messages), 3):
                if messages[at] not in topics:
                    topics.add(messages[at])
                    new += messages[at : at + 3]
            if new:
                self._put(Retained(new))
                self.retained += len(new) // 3
                self.keys += len(new) // 3

    async def _read_clients(self, prefix: bytes, names: list[bytes]) -> None:
        found = await asyncio.gather(*(self._access.read_client(prefix, name) for name in names))
        for name, first in zip(names, found, strict=True):
            reply = first
            for attempt in range(_TRIES):
                if await self._take(prefix, name, reply, is_repeated=attempt > 0):
                    break
                # Its session has ended while the queue was read: what there is now replaces it.
                reply = await self._access.read_client(prefix, name)

    async def _take(
        self, prefix: bytes, name: bytes, reply: list[Any], *, is_repeated: bool
    ) -> bool:
        """Pass on what was read of a client; False if it has to be read again."""
        entries, more, abandoned = reply[9:]
        client = Client(name, *reply[:9])
        outlives = client.is_durable or client.wills or b"w" in client.session or abandoned
        if not outlives and not is_repeated:
            return True
        self._put(client)
        self.keys += 1
        if not await self._take_queue(prefix, client, entries, more):
            return False
        for at in range(0, len(abandoned), 4):
            await self._take_abandoned(prefix, *abandoned[at : at + 4])
        self.sessions += client.is_durable
        return True

    async def _take_queue(
        self, prefix: bytes, client: Client, entries: list[bytes], more: int
    ) -> bool:
        incarnation, last = client.session.get(b"i", b"0"), client.last_seq
        queue = b"%bq:%b:%b" % (prefix, client.name, incarnation)
        groups = {name[len(_SHARE) :] for name in client.subscriptions[::2] if _is_shared(name)}
        if groups:
            self._groups |= groups
            self._members[prefix, client.name, incarnation] = last
        queued = 0
        while entries:
            if _seq(entries[-2]) > last:
                entries = _through(entries, last)
                more = 0
            if entries:
                self._put(Queued(client.name, entries, []))
                queued += len(entries) // 2
            if not more:
                break
            there, entries, more = await self._access.read_queue(prefix, queue, _seq(entries[-2]))
            if not there:
                return False
        self.queued += queued
        return True

    async def _take_abandoned(
        self, prefix: bytes, name: bytes, state: bytes, entries: list[bytes], more: int
    ) -> None:
        is_first = 1
        queue = prefix + b"lost:" + name
        while entries:
            self._put(Abandoned(name, state, is_first, entries))
            self.queued += len(entries) // 2
            is_first = 0
            if not more:
                return
            _, entries, more = await self._access.read_queue(prefix, queue, _seq(entries[-2]))

    async def _read_moved(self) -> None:
        """Read what members of groups have got since they were read.

        A message that has left the queue of another member before that was read is there.
        """
        for (prefix, name, incarnation), last in self._members.items():
            queue = b"%bq:%b:%b" % (prefix, name, incarnation)
            more, after = 1, last
            while more:
                _, entries, more = await self._access.read_queue(prefix, queue, after)
                if not entries:
                    break
                after = _seq(entries[-2])
                moved = [
                    word
                    for at in range(0, len(entries), 2)
                    if entries[at + 1][1] & _GROUP_FLAG
                    for word in entries[at : at + 2]
                ]
                if moved:
                    identities = (await self._access.read_client(prefix, name))[6]
                    self._put(Queued(name, moved, identities))
                    self.queued += len(moved) // 2


def _is_shared(topic_filter: bytes) -> bool:
    return topic_filter.startswith(_SHARE)


def _seq(entry: bytes) -> int:
    return int(entry[2:])


def _through(entries: list[bytes], last: int) -> list[bytes]:
    """Return the entries up to a seq."""
    return [
        word
        for at in range(0, len(entries), 2)
        if _seq(entries[at]) <= last
        for word in entries[at : at + 2]
    ]
