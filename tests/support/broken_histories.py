"""One way to break a right history for each rule of ``support.checks``.

``BREAKS`` maps the rule that has to be named to a function that takes the events and a choice, and
returns the broken events, or None where there is nothing to break.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from support.history import Event, Key, Kind

Events = list[Event]
#: Chooses one of several places.
Pick = Callable[[Sequence[int]], int]
Break = Callable[[Events, Pick], Events | None]

FAR_S: Final = 120.0


def _received(events: Events, *clients: str, topic: str = "", **facts: object) -> list[int]:
    """The places where one of these clients received something on this topic."""
    return [
        place
        for place, event in enumerate(events)
        if event.kind is Kind.RECEIVED
        and event.client in clients
        and event.key is not None
        and event.key.topic.startswith(topic)
        and all(getattr(event, name) == value for name, value in facts.items())
    ]


def _later(events: Events, place: int, **facts: object) -> Event:
    """A copy of an event, at the time of the one at ``place``."""
    return replace(events[place], **facts)  # type: ignore[arg-type]


def _is_will(event: Event) -> bool:
    assert event.key is not None
    return event.key.publisher == "mortal" and event.key.seq % 2 == 1


def _drop(*clients: str, topic: str) -> Break:
    def broken(events: Events, pick: Pick) -> Events | None:
        places = [p for p in _received(events, *clients, topic=topic) if events[p].qos]
        if not places:
            return None
        key = events[pick(places)].key
        return [
            event
            for event in events
            if not (event.client in clients and event.key == key and event.packet_id)
        ]

    return broken


def _repeat(client: str, *, topic: str, to: str = "", **facts: object) -> Break:
    """Let it come once more, at the same client or another one."""

    def broken(events: Events, pick: Pick) -> Events | None:
        places = _received(events, client, topic=topic, **facts)
        if not places:
            return None
        place = pick(places)
        again = replace(events[place], packet_id=60_000)
        if to:
            number = max(
                event.connection
                for event in events
                if event.client == to and event.kind is Kind.CONNECTED
            )
            again = replace(again, client=to, connection=number)
            return [*events, replace(again, at=events[-1].at)]
        return [*events[: place + 1], again, *events[place + 1 :]]

    return broken


def _delay(client: str, *, topic: str) -> Break:
    """Let a message come after the next one of its topic, on the same connection."""

    def broken(events: Events, pick: Pick) -> Events | None:
        pairs: dict[int, int] = {}
        places = _received(events, client, topic=topic)
        for index, place in enumerate(places):
            for after in places[index + 1 :]:
                one, other = events[place], events[after]
                assert one.key is not None
                assert other.key is not None
                if (one.key[:2], one.connection) == (other.key[:2], other.connection):
                    if one.retain is other.retain is False and one.key.seq < other.key.seq:
                        pairs[place] = after
                    break
        if not pairs:
            return None
        place = pick(sorted(pairs))
        after = pairs[place]
        moved = replace(events[place], at=events[after].at)
        return [*events[:place], *events[place + 1 : after + 1], moved, *events[after + 1 :]]

    return broken


def _change(client: str, *, topic: str, where: dict[str, object], **to: object) -> Break:
    def broken(events: Events, pick: Pick) -> Events | None:
        places = _received(events, client, topic=topic, **where)
        if not places:
            return None
        place = pick(places)
        return [*events[:place], _later(events, place, **to), *events[place + 1 :]]

    return broken


def _older(events: Events, pick: Pick) -> Events | None:
    """A reader gets the value before the one that was acknowledged."""
    places = [
        place
        for place in _received(events, "reader", topic="state/a", retain=True)
        if (key := events[place].key) is not None and key.seq > 1
    ]
    if not places:
        return None
    place = pick(places)
    key = events[place].key
    assert key is not None
    older = replace(events[place], key=key._replace(seq=key.seq - 1))
    return [*events[:place], older, *events[place + 1 :]]


def _unread(events: Events, pick: Pick) -> Events | None:
    place = pick(_received(events, "last", topic="state/a"))
    return [*events[:place], *events[place + 1 :]]


def _phantom(events: Events, pick: Pick) -> Events | None:
    place = pick(_received(events, "durable"))
    unknown = _later(events, place, key=Key("nobody", "load/x", 1))
    return [*events[:place], unknown, *events[place + 1 :]]


def _wills(events: Events) -> list[int]:
    return [place for place in _received(events, "watcher") if _is_will(events[place])]


def _will_missing(events: Events, pick: Pick) -> Events | None:
    place = pick(_wills(events))
    return [*events[:place], *events[place + 1 :]]


def _will_twice(events: Events, pick: Pick) -> Events | None:
    place = pick(_wills(events))
    return [*events[: place + 1], _later(events, place, packet_id=60_000), *events[place + 1 :]]


def _is_calm(events: Events, place: int) -> bool:
    """Whether nothing was hurt for long: faults excuse much."""
    at = events[place].at
    return not any(
        at - 30 < event.at <= at for event in events if event.kind in {Kind.FAULT, Kind.HEALED}
    )


def _will_unwanted(events: Events, pick: Pick) -> Events | None:
    """One comes although its connection has ended with DISCONNECT."""
    places = [
        place
        for place, event in enumerate(events)
        if event.kind is Kind.LEFT
        and event.client == "mortal"
        and event.code == 0
        and _is_calm(events, place)
    ]
    if not places:
        return None
    place = pick(places)
    left = events[place]
    topic = next(event.key.topic for event in events if event.kind is Kind.WILL and event.key)
    key = Key.will("mortal", topic, left.connection)
    number = max(
        event.connection
        for event in events[:place]
        if event.client == "watcher" and event.kind is Kind.CONNECTED
    )
    facts = {"kind": Kind.RECEIVED, "client": "watcher", "connection": number, "code": 0}
    will = replace(left, key=key, qos=1, packet_id=60_001, **facts)  # type: ignore[arg-type]
    return [*events[: place + 1], will, *events[place + 1 :]]


def _will_early(events: Events, pick: Pick) -> Events | None:
    """One comes when its connection has only just begun, with all well for long."""
    moves: dict[int, int] = {}
    for place in _wills(events):
        key = events[place].key
        assert key is not None
        begun = next(
            index
            for index, event in enumerate(events)
            if event.kind is Kind.CONNECTED
            and event.client == "mortal"
            and event.connection == key.seq // 2
        )
        # After what it says when it is online, or that would be the rule that is broken.
        begun += next(
            index
            for index, event in enumerate(events[begun:])
            if event.kind is Kind.ANSWERED and event.client == "mortal"
        )
        if begun < place and _is_calm(events, begun) and _is_calm(events, place):
            moves[place] = begun
    if not moves:
        return None
    place = pick(sorted(moves))
    begun = moves[place]
    early = replace(events[place], at=events[begun].at)
    return [*events[: begun + 1], early, *events[begun + 1 : place], *events[place + 1 :]]


def _will_after_successor(events: Events, pick: Pick) -> Events | None:
    moves: dict[int, int] = {}
    for place in _wills(events):
        key = events[place].key
        assert key is not None
        following = key._replace(seq=key.seq + 1)
        for after in _received(events, "watcher"):
            if events[after].key == following and after > place:
                moves[place] = after
    if not moves:
        return None
    place = pick(sorted(moves))
    after = moves[place]
    late = replace(
        events[place], at=events[after].at, connection=events[after].connection, packet_id=60_002
    )
    return [*events[:place], *events[place + 1 : after + 1], late, *events[after + 1 :]]


def _postpone(events: Events, place: int) -> Events:
    later = [replace(event, at=event.at + FAR_S) for event in events[place:]]
    return [*events[:place], *later]


def _will_late(events: Events, pick: Pick) -> Events | None:
    ended = {
        event.connection: place
        for place, event in enumerate(events)
        if event.kind is Kind.ENDED and event.client == "mortal"
    }
    places = [
        place
        for place in _wills(events)
        if (key := events[place].key) is not None and ended[key.seq // 2] < place
    ]
    return _postpone(events, pick(places))


def _expired(events: Events, pick: Pick) -> Events | None:
    places = _received(events, "durable", topic="fresh")
    return _postpone(events, pick(places)) if places else None


def _session(client: str, before: int, after: int) -> Break:
    """Say the contrary of whether the session was present."""

    def broken(events: Events, pick: Pick) -> Events | None:
        places = [
            place
            for place, event in enumerate(events)
            if event.kind is Kind.CONNECTED
            and event.client == client
            and event.code == before
            and event.connection > 1
        ]
        if not places:
            return None
        place = pick(places)
        return [*events[:place], replace(events[place], code=after), *events[place + 1 :]]

    return broken


BREAKS: Final[dict[str, Break]] = {
    "lost": _drop("durable", topic="load"),
    "twice": _repeat("durable", topic="load/two"),
    "order": _delay("durable", topic="load"),
    "phantom": _phantom,
    "session": _session("durable", 1, 0),
    "clean twice": _repeat("clean", topic="load/two"),
    "clean order": _delay("clean", topic="load"),
    "stale retained": _older,
    "older value": _delay("reader", topic="state"),
    "retain flag": _change("reader", topic="state", where={"retain": False}, retain=True),
    "retained twice": _repeat("reader", topic="state", retain=True),
    "last value": _unread,
    "will missing": _will_missing,
    "will twice": _will_twice,
    "will unwanted": _will_unwanted,
    "will early": _will_early,
    "will after successor": _will_after_successor,
    "will late": _will_late,
    "shared lost": _drop("member-0", "member-1", topic="group"),
    "shared twice": _repeat("member-0", topic="group", to="member-1"),
    "expired": _expired,
    "interval": _change("durable", topic="fresh", where={}, seconds=1000.0),
    "session kept": _session("brief", 0, 1),
    "session lost": _session("brief", 1, 0),
}
