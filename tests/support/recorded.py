"""Events of the record as a test reads them: straight from the keys of the store."""

from __future__ import annotations

from typing import Any, Protocol

from support.raw_client import DEADLINE_S
from support.waiting import wait_for_async
from tidegate.record.events import Event
from tidegate.store.keys import EVENTS_KEY, Keyspace

_KEYS = Keyspace(64)


class AnyStore(Protocol):
    """A store that runs."""

    def command(self, *words: Any) -> Any:
        """Run one command."""


def events_of(store: AnyStore, session_key: str = "") -> list[Event]:
    """Return the events of a client, or of all, the oldest first."""
    if session_key:
        listed = store.command("LRANGE", _KEYS.events(session_key.encode()).decode(), 0, -1)
        stored = [tuple(entry.split(b" ", 1)) for entry in listed]
    else:
        entries = store.command("XRANGE", EVENTS_KEY.decode(), "-", "+")
        stored = [(entry, fields[b"e"]) for entry, fields in entries]
    events = [Event.decode(event, entry.decode()) for entry, event in stored]
    assert None not in events
    return sorted((event for event in events if event is not None), key=lambda event: event.at)


async def until_recorded(store: AnyStore, session_key: str, *kinds: str) -> list[Event]:
    """Wait until a client has had these kinds of events, in this order; return all of its."""

    def recorded() -> list[Event]:
        events = events_of(store, session_key)
        rest = iter([event.kind.value for event in events])
        return events if all(kind in rest for kind in kinds) else []

    return await wait_for_async(recorded, DEADLINE_S, f"{kinds} of {session_key!r}")
