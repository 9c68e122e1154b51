"""The record in the store: events are added by routers, and read by the console.

A list for each client and a stream of all clients (``scripts/record.lua``), on the connections for
scans and sweeps: no client waits for it. ``redis_store`` hands ``add`` out as its own; who only
reads makes a ``RecordStore`` of its own connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.record.events import Event, Kind
from tidegate.record.successors import with_successors
from tidegate.store import operations as op
from tidegate.store.keys import EVENTS_KEY, GLOBAL_PREFIX

if TYPE_CHECKING:
    from tidegate.runtime.config.model import RecordConfig
    from tidegate.store.partitions import Partitions, Words

#: What ``record.lua`` adds to.
_LISTS: Final = 0
_STREAMS: Final = 1
#: Entries that one operation reads: the server does nothing else meanwhile.
_READ: Final = 500
#: Entries that are looked at for one page, when most of them are not wanted.
_MOST_READ: Final = 10_000


@dataclass(slots=True, frozen=True)
class EventPage:
    """Events in the order that was asked for; ``next`` reads on, None: there are no more."""

    items: list[Event]
    next: str | None


class RecordStore:
    """See the module's docstring. Every method may raise StoreUnavailable."""

    __slots__ = ("_bulk", "_keys", "_partitions")

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._keys = partitions.keys
        self._bulk = partitions.bulk

    async def add(self, events: Sequence[tuple[str, bytes]], config: RecordConfig) -> None:
        """Add events, each with the session key that it belongs to ("": to no session)."""
        parts: dict[bytes, Words] = {}
        for key, event in events:
            if key:
                client = key.encode()
                words = parts.setdefault(self._partitions.group_prefix(client), [])
                words += (self._keys.events(client), event)
        ttl_s = config.ttl_s
        calls = [
            self._submit(prefix, [_LISTS, config.max_events_per_client, ttl_s, *words])
            for prefix, words in parts.items()
        ]
        of_all: Words = [_STREAMS, config.max_events, ttl_s]
        for _, event in events:
            of_all += (EVENTS_KEY, event)
        calls.append(self._submit(GLOBAL_PREFIX, of_all))
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _submit(self, prefix: bytes, words: Words) -> asyncio.Future[Any]:
        return self._bulk.submit(prefix, [op.RECORD, len(words), *words], 100 * len(words))

    # Reading

    async def events(
        self,
        after: str = "",
        limit: int = 100,
        *,
        kinds: Iterable[Kind] = (),
        client: str = "",
    ) -> EventPage:
        """Events of all clients, the newest first; ``after``: older than that one.

        With ``kinds`` or ``client`` (an identifier) only these; a page may then be short, or empty,
        though there are more. Raises ValueError for an ``after`` that is no identifier of an event.
        """
        wanted = frozenset(kinds)

        def is_wanted(event: Event) -> bool:
            return (not wanted or event.kind in wanted) and client in {"", event.client}

        chosen = is_wanted if wanted or client else None
        return await self._read(GLOBAL_PREFIX, EVENTS_KEY, after, limit, chosen)

    async def client_events(self, key: str, after: str = "", limit: int = 100) -> EventPage:
        """Events of the client with a session key, in the same way.

        One that was taken over says by which connection, if that is on the page.
        """
        before = _numbers(after) if after else None
        client = key.encode()
        words: Words = [op.COMMAND, 4, b"LRANGE", self._keys.events(client), 0, -1]
        stored = await self._bulk.submit(self._keys.prefix(client), words, 100 * _READ)
        items: list[Event] = []
        following = None
        for entry in reversed(stored):  # 1,000 at most
            identifier, _, encoded = entry.partition(b" ")
            event_id = identifier.decode()
            if before is not None and _numbers(event_id) >= before:
                continue
            event = Event.decode(encoded, event_id)
            if event is None:
                continue
            if len(items) == limit:
                following = items[-1].id
                break
            items.append(event)
        page = _newest_first(items, following)
        return EventPage(with_successors(page.items), page.next)

    async def newer(self, after: str, limit: int = 100) -> EventPage:
        """Events of all clients after one, the oldest first: for who follows them.

        ``next`` is where to go on, also when there are none yet. ``after`` "": from now on.
        """
        if not after:
            newest = await self._range(GLOBAL_PREFIX, b"XREVRANGE", EVENTS_KEY, "+", "-", 1)
            return EventPage([], newest[0][0].decode() if newest else "0-0")
        first = f"({_identifier(after)}"
        found = await self._range(GLOBAL_PREFIX, b"XRANGE", EVENTS_KEY, first, "+", limit)
        return EventPage(_decode(found), found[-1][0].decode() if found else after)

    async def _read(
        self,
        prefix: bytes,
        stream: bytes,
        after: str,
        limit: int,
        is_wanted: Callable[[Event], bool] | None,
    ) -> EventPage:
        """``is_wanted`` None: all are."""
        items: list[Event] = []
        last = ""
        end = f"({_identifier(after)}" if after else "+"
        count = min(_READ, limit + 1) if is_wanted is None else _READ
        for _ in range(0, _MOST_READ, count):
            found = await self._range(prefix, b"XREVRANGE", stream, end, "-", count)
            for event in _decode(found):
                if is_wanted is None or is_wanted(event):
                    if len(items) == limit:
                        return _newest_first(items, last)
                    items.append(event)
                    last = event.id
            if len(found) < count:
                return _newest_first(items, None)
            end = f"({found[-1][0].decode()}"
        return _newest_first(items, end[1:])

    async def _range(
        self, prefix: bytes, command: bytes, stream: bytes, first: str, last: str, count: int
    ) -> list[Any]:
        words: Words = [op.COMMAND, 6, command, stream, first, last, b"COUNT", count]
        found: list[Any] = await self._bulk.submit(prefix, words, 100 * count)
        return found


def _identifier(text: str) -> str:
    milliseconds, number = _numbers(text)
    return f"{milliseconds}-{number}"


def _numbers(text: str) -> tuple[int, int]:
    milliseconds, _, number = text.partition("-")
    if not milliseconds.isdecimal() or not number.isdecimal():
        raise ValueError(f"{text!r} is no identifier of an event")
    return int(milliseconds), int(number)


def _newest_first(items: list[Event], after: str | None) -> EventPage:
    """Edges and routers write theirs with different delays: in a page they are in order of time."""
    return EventPage(sorted(items, key=lambda event: event.at, reverse=True), after)


def _decode(found: Sequence[Any]) -> list[Event]:
    events = (Event.decode(fields[1], entry.decode()) for entry, fields in found)
    return [event for event in events if event is not None]
