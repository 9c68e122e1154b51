"""The events of a client as sentences, the oldest first; what is repeated is one sentence.

Used by ``why``, and by who shows events one by one. Times are UTC, as
in the log. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tidegate.record.events import Event, Kind
from tidegate.record.words import CLOSED, DROPPED, QUOTA, REFUSED, named

#: The same event within this time of the last one is counted instead of repeated.
REPEATED_S: Final = 60.0

_DAY_S: Final = 86_400


@dataclass(slots=True, frozen=True)
class Sentence:
    """What one event, or several in a row that are the same, say."""

    at: float
    text: str
    #: What to do; "": nothing.
    advice: str
    #: The last of them.
    event: Event


def timeline(events: Iterable[Event]) -> list[Sentence]:
    """Return sentences of events in order of time.

    "2026-11-30T10:42:07Z refused at edge-1 from 10.1.2.3: wrong password (3rd time in a minute)"
    """
    groups: list[list[Event]] = []
    for event in sorted(events, key=lambda one: one.at):
        last = groups[-1] if groups else None
        if last is not None and _is_repeated(last[-1], event):
            last.append(event)
        else:
            groups.append([event])
    return [_sentence(group) for group in groups]


def clock(at: float) -> str:
    """A time (Unix time in seconds) in a sentence: "2026-11-30T10:42:07Z"."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """A length of time with one unit: "45 s", "10 min", "2 h", "7 days"."""
    for size, unit in ((_DAY_S, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and unit != "days"):
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} s"


def host(address: str) -> str:
    """The host of an address with a port."""
    name, _, port = address.rpartition(":")
    return name.strip("[]") if name and port.isdigit() else address


def _is_repeated(last: Event, event: Event) -> bool:
    return (
        event.at - last.at <= REPEATED_S
        and event.kind is not Kind.CONNECTED
        and (event.kind, event.reason, event.topic, host(event.address))
        == (last.kind, last.reason, last.topic, host(last.address))
    )


def _sentence(group: Sequence[Event]) -> Sentence:
    event = group[-1]
    text, advice = _meaning(event)
    times = ""
    if len(group) > 1:
        within = duration(max(1.0, event.at - group[0].at))
        within = "a minute" if within == "60 s" or event.at - group[0].at < REPEATED_S else within
        times = f" ({_ordinal(len(group))} time in {within})"
    return Sentence(event.at, f"{clock(event.at)} {text}{times}", advice, event)


def _ordinal(number: int) -> str:
    if number % 100 not in {11, 12, 13}:
        return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
    return f"{number}th"


def _place(event: Event) -> str:
    place = f" at {event.edge}" if event.edge else ""
    return f"{place} from {host(event.address)}" if event.address else place


def _meaning(event: Event) -> tuple[str, str]:
    """What an event says, without its time, and what to do."""
    place, reason = _place(event), event.reason
    match event.kind:
        case Kind.CONNECTED:
            return f"connected{place}{_connection(event)}", ""
        case Kind.REFUSED:
            meaning, advice = REFUSED.get(reason, (named(reason), ""))
            detail = f" ({event.detail})" if event.detail and event.detail != meaning else ""
            times = "" if event.count == 1 else f", {event.count:,} times"
            return f"refused{place}{times}: {meaning}{detail}", advice
        case Kind.DISCONNECTED:
            detail = f" ({event.detail})" if event.detail else ""
            return f"disconnected{place}: {CLOSED.get(reason, named(reason))}{detail}", ""
        case Kind.DROPPED:
            meaning, advice = DROPPED.get(reason, (named(reason), ""))
            what = "a message was" if event.count == 1 else f"{event.count:,} messages were"
            return f"{what} dropped{_topic(event)}: {meaning}", advice
        case Kind.QUOTA:
            meaning, advice = QUOTA.get(reason, (named(reason), ""))
            return f"{meaning}{_topic(event)}", advice
        case _:
            return _other_meaning(event, place)


def _other_meaning(event: Event, place: str) -> tuple[str, str]:
    topic, granted = event.topic, event.reason == "granted_without_messages"
    detail = f": {event.detail}" if event.detail else ""
    rule = f"add `topic read {topic}` for its user to the ACL file, or correct the filter"
    texts: dict[Kind, tuple[str, str]] = {
        Kind.TAKEN_OVER: (
            f"disconnected{place}: another connection with the same client identifier took over"
            f"{detail}",
            "",
        ),
        Kind.KEEP_ALIVE_EXPIRED: (
            f"disconnected{place}: nothing came for 1.5 times its keep alive",
            "look at the device and its network, or raise the keep alive",
        ),
        Kind.SUBSCRIBED: (f"subscribed to {event.detail or topic}", ""),
        Kind.SUBSCRIBE_DENIED: (
            f"subscription to {topic} {'granted without messages' if granted else 'refused'}: "
            "the ACL does not let it read that",
            rule,
        ),
        Kind.PUBLISH_DENIED: (
            f"publish to {topic} refused: the ACL does not let it write that",
            f"add `topic write {topic}` for its user to the ACL file, or correct the topic",
        ),
        Kind.SESSION_EXPIRED: ("its session expired: subscriptions and queue are gone", ""),
        Kind.SESSION_ENDED: (_END_OF_SESSION.get(event.reason, "its session ended"), ""),
        Kind.WILL_PUBLISHED: ("its will was published", ""),
        Kind.SHED: (f"disconnected{place}: another edge had more room", ""),
        Kind.DRAINED: (f"disconnected{place}: the edge was stopping", ""),
        Kind.BANNED: (
            f"banned{place} by limits.flapping{detail}"
            if event.reason == "flapping"
            else f"refused or disconnected{place}: banned{detail}",
            "remove the ban if it is over",
        ),
    }
    return texts[event.kind]


_END_OF_SESSION: Final = {
    "clean_start": "it connected with Clean Start: its older session is gone, with subscriptions "
    "and queue",
    "connection_ended": "its session ended with its connection: subscriptions and queue are gone",
    "administrative_action": "an administrator ended its session",
}


def _topic(event: Event) -> str:
    return f" (topic {event.topic})" if event.topic else ""


def _connection(event: Event) -> str:
    parts = []
    if event.user:
        parts.append(f"user {event.user}")
    if event.version:
        parts.append(f"MQTT {event.version}")
    if event.session_present is not None:
        parts.append("its session was there" if event.session_present else "a new session")
    return f" ({', '.join(parts)})" if parts else ""
