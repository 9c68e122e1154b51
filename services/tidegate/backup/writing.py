"""From the items of a backup to an empty store.

Owns what is known of the items so far; ``commands`` has what becomes of a client. The same items
again are the same keys again, so a restore that was interrupted begins at the start. Called by
``restore``.
"""

from __future__ import annotations

from collections import Counter as Numbers
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tidegate.backup import commands
from tidegate.backup.commands import Command, Now
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
from tidegate.store.records import decode_queued, decode_retained

#: As ``router.store_history``: above what may have been given out after the backup.
_SKIPPED: Final = 64 * 1_048_576
_NUMBERS_PER_MS: Final = 8
_DAY_S: Final = 86_400
_BATCH: Final = 256
_BATCH_BYTES: Final = 1_048_576


class _Queue:
    """The queue of a durable session that is being written."""

    __slots__ = ("key", "last_seq", "name", "prefix", "visit_ms")

    def __init__(self, prefix: bytes, client: Client) -> None:
        self.prefix = prefix
        self.name = client.name + b":" + client.session[b"i"]
        self.key = prefix + b"q:" + self.name
        self.last_seq = client.last_seq
        #: When entries are looked at that expire; 0: none do.
        self.visit_ms = 0

    def add(self, entries: Sequence[bytes]) -> Iterator[Command]:
        """Write entries: id, record, …."""
        for at in range(0, len(entries), 2):
            entry, record = entries[at : at + 2]
            seq = entry[2:]
            self.last_seq = max(self.last_seq, int(seq))
            yield self.prefix, (b"XADD", self.key, entry, b"m", record)
            if expires_ms := decode_queued(record).expires_at_ms:
                visit_ms = expires_ms - expires_ms % 1000 + 1000
                self.visit_ms = min(self.visit_ms or visit_ms, visit_ms)
                yield self.prefix, (b"ZADD", self.prefix + b"v:" + self.name, expires_ms, seq)

    def end(self) -> Iterator[Command]:
        """Write what depends on all entries; the numbers of the next ones are far above."""
        last = b"1-%d" % (self.last_seq + commands.SEQ_SKIP)
        yield self.prefix, (b"XADD", self.key, last, b"m", b"")
        yield self.prefix, (b"XDEL", self.key, last)
        if self.visit_ms:
            session = self.prefix + b"s:" + self.name.rpartition(b":")[0]
            yield self.prefix, (b"HSET", session, b"v", self.visit_ms)
            yield self.prefix, (b"ZADD", self.prefix + b"queued-due", self.visit_ms, self.name)


class StoreWriter:
    """Writes items; ``finish`` at the end. Raises StoreUnavailable, RecordError."""

    def __init__(self, access: BackupAccess, now: Now) -> None:
        self._access = access
        self._keys = access.keys
        self._now = now
        self._waiting: list[Command] = []
        self._waiting_bytes = 0
        self._client = Client(b"")
        self._queue: _Queue | None = None
        #: Queues of members of groups by client: more of them comes late in the file.
        self._members: dict[bytes, _Queue] = {}
        self._users: dict[bytes, Numbers[bytes]] = {}
        self._use: dict[bytes, Numbers[bytes]] = {}
        self._number = now.server_ms * _NUMBERS_PER_MS
        self.keys = 0

    async def put(self, item: Item) -> None:
        """Write an item, at the latest with ``finish``."""
        match item:
            case Client():
                self._put_client(item)
            case Queued():
                self._put_queued(item)
            case Abandoned():
                self._add(self._abandoned(item))
            case Retained():
                self._put_retained(item.messages)
            case Claims():
                prefix = self._keys.prefix(item.group)
                found = commands.claim_commands(prefix, item.kind, item.group, item.holders)
                self._add(found)
            case Counter():
                self._number = max(self._number, item.number)
            case Bans():
                self._add(commands.ban_commands(item.bans))
                self.keys += len(item.bans) // 2
        if len(self._waiting) >= _BATCH or self._waiting_bytes >= _BATCH_BYTES:
            await self._send()

    async def finish(self) -> None:
        """Write what describes the whole store, but for its format."""
        self._end_queue()
        for queue in self._members.values():
            self._add(queue.end())
        for name, counts in ((b"users", self._users), (b"retained-use", self._use)):
            for prefix, numbers in counts.items():
                for field, number in numbers.items():
                    if number > 0:
                        self._add([(prefix, (b"HSET", prefix + name, field, number))])
        first = self._number + _SKIPPED
        for prefix in (GLOBAL_PREFIX, *self._keys.prefixes):
            counter = b"leases" if prefix == GLOBAL_PREFIX else b"epoch"
            self._add([(prefix, (b"SET", prefix + counter, first))])
            self._add([(prefix, (b"HSET", prefix + b"history", b"e", first, b"r", 1))])
        clock = b"%d %d" % (self._now.broker_ms, self._now.server_ms)
        self._add([(GLOBAL_PREFIX, (b"SET", GLOBAL_PREFIX + b"clock", clock))])
        await self._send()

    async def _send(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        await self._access.run_all(waiting)

    def _add(self, found: Iterable[Command]) -> None:
        for command in found:
            self._waiting.append(command)
            self._waiting_bytes += sum(len(word) for word in command[1] if type(word) is bytes)

    # Clients

    def _put_client(self, client: Client) -> None:
        prefix = self._keys.prefix(client.name)
        if client.name == self._client.name:
            # It was read again: what was read first does not count.
            self._add(commands.removal_commands(prefix, self._client))
            self._count_user(prefix, self._client, -1)
            self._members.pop(client.name, None)
            self._queue = None
        self._end_queue()
        self._client = client
        self._count_user(prefix, client, 1)
        self._add(commands.client_commands(prefix, client, self._now))
        self.keys += 1
        if client.is_durable:
            self._queue = _Queue(prefix, client)
            self._add([(prefix, (b"UNLINK", self._queue.key))])

    def _count_user(self, prefix: bytes, client: Client, number: int) -> None:
        user = client.session.get(b"o")
        if client.is_durable and user is not None:
            self._users.setdefault(prefix, Numbers())[user] += number

    def _end_queue(self) -> None:
        queue, self._queue = self._queue, None
        if queue is None:
            return
        if b"h" in self._client.session:
            self._members[self._client.name] = queue
        else:
            self._add(queue.end())

    def _put_queued(self, item: Queued) -> None:
        queue = self._queue
        if queue is None or item.client != self._client.name:
            queue = self._members[item.client]
        self._add(queue.add(item.entries))
        self._add(commands.identity_commands(queue.prefix, queue.name, item.identities))

    def _abandoned(self, item: Abandoned) -> Iterator[Command]:
        prefix = self._keys.prefix(item.name.rpartition(b":")[0])
        key = prefix + b"lost:" + item.name
        if item.is_first:
            yield prefix, (b"UNLINK", key)
        for at in range(0, len(item.entries), 2):
            yield prefix, (b"XADD", key, item.entries[at], b"m", item.entries[at + 1])
        yield prefix, (b"EXPIRE", key, _DAY_S)
        yield prefix, (b"HSET", prefix + b"lost", item.name, item.state)
        yield prefix, (b"ZADD", prefix + b"due", self._now.settled_ms, b"g" + item.name)

    # Retained messages

    def _put_retained(self, messages: Sequence[bytes]) -> None:
        for at in range(0, len(messages), 3):
            topic, record, charged = messages[at : at + 3]
            prefix = self._keys.prefix(topic)
            self._add([(prefix, (b"HSET", prefix + b"retained", topic, record))])
            if expires_ms := decode_retained(record).publish.expires_at_ms:
                due = (b"ZADD", prefix + b"retained-due", expires_ms, topic)
                self._add([(prefix, due)])
            if charged:
                self._add([(prefix, (b"HSET", prefix + b"retained-by", topic, charged))])
                size, _, owner = charged.partition(b" ")
                use = self._use.setdefault(prefix, Numbers())
                for who in (owner, b""):
                    use[b"n" + who] += 1
                    use[b"b" + who] += int(size)
            self.keys += 1
