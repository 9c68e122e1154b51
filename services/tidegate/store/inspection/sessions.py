"""Durable sessions as operators see them: lists by what they search, one session, its queue.

Called by the console. Reads what is at one moment in the store, with the broker's own records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from tidegate.store import operations as op
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.inspection.values import (
    Entry,
    Part,
    SessionQuery,
    SessionState,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from tidegate.store.inspection.walk import SCAN_COUNT, SCAN_SIZE, Found, walk
from tidegate.store.records import (
    RecordError,
    decode_options,
    decode_queued,
    decode_will,
    queued_group,
)

#: Bytes of entries that one look into a queue returns.
LOOK_BYTES: Final = 262_144
#: Bytes of entries that one operation looks at when a queue is cleared.
_CLEAR_BYTES: Final = 1_048_576
#: Entries among which those of a group are counted.
COUNTED_ENTRIES: Final = 1_000
_STATE_WORDS: Final = {None: b"", True: b"c", False: b"o"}


class SessionInspection:
    """See the module's docstring. All methods raise StoreUnavailable."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._keys = access.keys

    # Lists

    async def page(self, query: SessionQuery, after: str | None, limit: int) -> Part[StoredSession]:
        """Return durable sessions that match, in no particular order. Raises BadCursor."""
        state = _STATE_WORDS[query.is_connected]
        wanted = (query.prefix.encode(), _given(query.mount_point), state, _given(query.user))
        count = limit if wanted == (b"", b"", b"", b"") else SCAN_COUNT

        async def read(prefix: bytes, scan: int) -> Found[StoredSession]:
            words = (prefix, scan, min(count, SCAN_COUNT), *wanted)
            after, looked_at, found = await self._access.submit(
                prefix, op.LIST_SESSIONS, *words, size=SCAN_SIZE
            )
            items = [
                (found[at], _stored_session(found[at : at + 8])) for at in range(0, len(found), 8)
            ]
            return Found(int(after), looked_at, items)

        return await walk(self._keys.prefixes, after, limit, read)

    async def subscribers(
        self, topic_filter: str, after: str | None, limit: int
    ) -> Part[StoredSubscription]:
        """Return the durable sessions that have exactly this filter. Raises BadCursor."""
        name = topic_filter.encode()

        async def read(prefix: bytes, scan: int) -> Found[StoredSubscription]:
            after, looked_at, found = await self._access.submit(
                prefix, op.LIST_SUBSCRIBERS, prefix, scan, SCAN_COUNT, name, size=SCAN_SIZE
            )
            items = [
                (found[at], _subscription(found[at], found[at + 1], name, found[at + 2]))
                for at in range(0, len(found), 3)
            ]
            readable = [(name, item) for name, item in items if item is not None]
            return Found(int(after), looked_at, readable)

        return await walk(self._keys.prefixes, after, limit, read)

    async def subscriptions_of(
        self, key: str, after: str | None, limit: int
    ) -> Part[StoredSubscription]:
        """Return subscriptions of one durable session, in the order of their filters."""
        client = key.encode()
        prefix = self._keys.prefix(client)
        edge = await self._access.read(prefix, b"HGET", prefix + b"s:" + client, b"g")
        found: dict[bytes, bytes] = {}
        scan = b"0"
        while True:
            scan, pairs = await self._access.read(
                prefix, b"HSCAN", prefix + b"b:" + client, scan, b"COUNT", SCAN_COUNT
            )
            found.update(zip(pairs[::2], pairs[1::2], strict=True))
            if scan == b"0":
                break
        last = (after or "").encode()
        names = sorted(name for name in found if not last or name > last)
        items = [
            one
            for name in names[:limit]
            if (one := _subscription(client, edge or b"", name, found[name])) is not None
        ]
        more = names[limit - 1].decode() if len(names) > limit else None
        return Part(items, more)

    # One session

    async def describe(self, key: str) -> SessionState | None:
        """Return what the store has of a client; None if that is nothing."""
        client = key.encode()
        prefix = self._keys.prefix(client)
        found = await self._access.submit(
            prefix, op.DESCRIBE_SESSION, prefix, client, size=SCAN_SIZE
        )
        words, wills = found[0], found[7]
        fields = dict(zip(words[::2], words[1::2], strict=True))
        if not fields and not wills:
            return None
        oldest_s = _number(found[8]) or None
        return _state(key, fields, found[1:7], _wills(fields, wills), oldest_s)

    async def users(self, keys: Sequence[str]) -> list[str | None]:
        """Return whose these sessions are; None where that is not known, "" for anonymous ones."""
        waiting = []
        for key in keys:
            client = key.encode()
            prefix = self._keys.prefix(client)
            waiting.append(self._access.read(prefix, b"HGET", prefix + b"s:" + client, b"o"))
        found = await asyncio.gather(*waiting)
        return [None if user is None else user.decode() for user in found]

    async def queue(self, key: str, incarnation: int, after_seq: int, limit: int) -> list[Entry]:
        """Return entries of a queue after a seq, as many as LOOK_BYTES hold; at least one."""
        client = key.encode()
        prefix = self._keys.prefix(client)
        words = (self._keys.queue(client, incarnation), after_seq, limit, LOOK_BYTES, 1)
        found = await self._access.submit(prefix, op.FETCH, *words, size=LOOK_BYTES)
        return [_entry(*found[at : at + 3]) for at in range(0, len(found), 3)]

    async def unacknowledged(self, key: str, incarnation: int, group: str) -> tuple[int, bool]:
        """Count the entries of a queue that came through a group.

        The second value says that there are more entries than were looked at.
        """
        entries = await self.queue(key, incarnation, 0, COUNTED_ENTRIES)
        count = sum(entry.group == group for entry in entries)
        if not entries:
            return 0, False
        more = await self.queue(key, incarnation, entries[-1].seq, 1)
        return count, bool(more)

    async def clear_queue(self, state: SessionState) -> int | None:
        """Delete what is in a session's queue; how many entries, None if it is fenced meanwhile.

        QoS 2 messages whose delivery may have begun stay: their packet identifiers are in use.
        """
        client = state.key.encode()
        prefix = self._keys.prefix(client)
        deleted, at, more = 0, 0, 1
        while more:
            words = (prefix, client, state.epoch, at, state.last_seq, _CLEAR_BYTES)
            result = await self._access.write(prefix, op.CLEAR_QUEUE, *words)
            if result[0] < 0:
                return deleted or None
            count, at, more = result
            deleted += count
        return deleted


def _given(text: str | None) -> bytes:
    return b"" if text is None else b"=" + text.encode()


def _stored_session(words: Sequence[Any]) -> StoredSession:
    name, edge, incarnation, expiry, ends_at, user, queued, subscriptions = words
    return StoredSession(
        key=name.decode(),
        edge_id=edge.decode(),
        incarnation=int(incarnation),
        expiry_s=int(expiry),
        ends_at_ms=0 if edge else _number(ends_at),
        user=user.decode(),
        queued=queued,
        subscriptions=subscriptions,
    )


def _state(
    key: str,
    fields: dict[bytes, bytes],
    figures: Sequence[int],
    wills: list[StoredWill],
    oldest_s: int | None,
) -> SessionState:
    queued, size_bytes, last_seq, expiring, subscriptions, released = figures
    user = fields.get(b"o")
    edge = fields.get(b"g", b"")
    return SessionState(
        key=key,
        edge_id=edge.decode(),
        epoch=_number(fields.get(b"e")),
        incarnation=_number(fields.get(b"i")),
        expiry_s=_number(fields.get(b"x")),
        ends_at_ms=0 if edge else _number(fields.get(b"d")),
        user=None if user is None else user.decode(),
        queued=queued,
        queue_bytes=size_bytes,
        last_seq=last_seq,
        sent_seq=None if fields.get(b"u") == b"1" else _number(fields.get(b"n")),
        expiring=expiring,
        subscriptions=subscriptions,
        released=released,
        wills=wills,
        oldest_s=oldest_s,
    )


def _wills(fields: dict[bytes, bytes], pending: Sequence[bytes]) -> list[StoredWill]:
    found = []
    try:
        found += [StoredWill(decode_will(record), is_pending=True) for record in pending[1::2]]
        if b"w" in fields:
            due_at_ms = 0 if fields.get(b"g") else _number(fields.get(b"a"))
            found.append(StoredWill(decode_will(fields[b"w"]), due_at_ms))
    except RecordError:
        pass  # a newer version has written it; the rest is shown
    return found


def _entry(entry: bytes, record: bytes, queued: bytes) -> Entry:
    seq, queued_s = int(entry[2:]), _number(queued) or None
    try:
        return Entry(seq, decode_queued(record), len(record), queued_group(record), queued_s)
    except RecordError:
        return Entry(seq, None, len(record), queued_s=queued_s)


def _subscription(
    client: bytes, edge: bytes, name: bytes, options: bytes
) -> StoredSubscription | None:
    try:
        found = decode_options(options)
    except RecordError:
        return None
    return StoredSubscription(client.decode(), edge.decode(), name.decode(), found)


def _number(text: bytes | None) -> int:
    return int(text) if text else 0
