"""Why a client gets nothing, or is not there: what is wrong now, and what has happened before.

``sentences`` is the one entry, for ``tidegate ctl why``, the API and the page. First come findings,
the gravest first, each with what to do; then the record, the newest last (``timeline``). Pure: what
is true now is handed in (``state``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidegate.mqtt.topics import matches, parse_shared
from tidegate.record.events import ENDS, Event, Kind
from tidegate.record.near_miss import near_miss
from tidegate.record.state import BanState, QueueState, SessionState, SubscriptionState
from tidegate.record.timeline import clock, duration, host, timeline
from tidegate.record.words import CLOSED, DROPPED, REFUSED, named

#: What is older than that says nothing about now.
RECENT_S: Final = 3600.0
#: So many takeovers within so long are two clients with one identifier, not one that reconnects.
TWINS: Final = 3
TWINS_S: Final = 600.0
#: Subscriptions that a sentence names.
_NAMED: Final = 5


class Severity(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    """This is why."""
    WARNING = "warning"
    """This may be why."""
    INFO = "info"
    """What has happened, or is true."""


@dataclass(slots=True, frozen=True)
class Finding:
    """One sentence, how grave it is, and what to do ("": nothing).

    ``at`` is when it happened, None for what is true now; ``kind`` is the kind of its event.
    """

    text: str
    severity: Severity = Severity.INFO
    advice: str = ""
    at: float | None = None
    kind: Kind | None = None


@dataclass(slots=True, frozen=True)
class Client:
    """Everything that is known of a client. ``subscriptions`` None: nobody could be asked."""

    client: str
    events: Sequence[Event] = ()
    session: SessionState | None = None
    subscriptions: Sequence[SubscriptionState] | None = None
    queue: QueueState | None = None
    bans: Sequence[BanState] = ()


def sentences(known: Client, now: float, *, topic: str = "") -> list[Finding]:
    """Return what is wrong with a client, and its record; ``now`` is Unix time in seconds.

    ``topic``: a topic name of which it should get messages.
    """
    events = sorted(known.events, key=lambda event: event.at)
    findings = [
        *_bans(known),
        *_twins(events, now),
        *_connection(known, events, now),
        *_session_gone(known, events),
        *_permissions(known, events, now),
        *_filters(known, topic),
        *_queue(known, events, now),
        *_drops(known, events, now),
    ]
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    if not findings:
        findings.append(Finding("nothing is wrong with it, as far as the broker can see"))
    record = [
        Finding(line.text, Severity.INFO, line.advice, line.at, line.event.kind)
        for line in timeline(events)
    ]
    return findings + record


def _bans(known: Client) -> Iterable[Finding]:
    for ban in known.bans:
        end = f"until {clock(ban.until)}" if ban.until is not None else "without an end"
        reason = f": {ban.reason}" if ban.reason else ""
        yield Finding(
            f"{ban.kind} {ban.value} is banned {end}{reason}",
            Severity.ERROR,
            "remove the ban if it is over",
        )


def _twins(events: Sequence[Event], now: float) -> Iterable[Finding]:
    """Two clients that have one identifier take the session from each other, again and again."""
    takeovers = [
        event for event in events if event.kind is Kind.TAKEN_OVER and now - event.at <= RECENT_S
    ]
    takeovers = [event for event in takeovers if event.at >= takeovers[-1].at - TWINS_S]
    if len(takeovers) < TWINS:
        return
    first = takeovers[0].at
    hosts = dict.fromkeys(
        host(event.address)
        for event in events
        if event.at >= first and event.kind in {Kind.CONNECTED, Kind.TAKEN_OVER} and event.address
    )
    where = " and ".join(list(hosts)[:_NAMED])
    span = duration(max(1.0, takeovers[-1].at - first))
    yield Finding(
        f"two clients use this client identifier: {len(takeovers)} times in {span} a new "
        f"connection took over from the one before ({where}), last at "
        f"{clock(takeovers[-1].at)}",
        Severity.ERROR,
        "give each device a client identifier of its own; a ban of one address shows which is which"
        if len(hosts) > 1
        else "give each device a client identifier of its own; if it is one device, its client "
        "connects twice",
        takeovers[-1].at,
        Kind.TAKEN_OVER,
    )


def _connection(known: Client, events: Sequence[Event], now: float) -> Iterable[Finding]:
    """It is not connected: since when, and why."""
    session = known.session
    if session is not None and session.is_connected:
        return
    last = next((one for one in reversed(events) if one.kind in _CONNECTIONS), None)
    if last is None:
        if session is None:
            yield Finding(
                f"nothing is known of a client {known.client!r}: no session, and no connection in "
                "the record",
                Severity.ERROR,
                "compare the client identifier (upper and lower case count), address and port in "
                "the device; look whether its connection reaches a listener",
            )
        else:
            yield Finding("it is not connected", Severity.ERROR, "connect it")
        return
    if last.kind is Kind.CONNECTED:
        if session is None and now - last.at > _SETTLED_S:
            yield Finding(
                "it is not connected, and has no session", Severity.WARNING, "", last.at, last.kind
            )
        return
    line = timeline([last])[0]
    if last.kind is Kind.REFUSED:
        yield Finding(
            f"it cannot connect: {REFUSED.get(last.reason, (named(last.reason), ''))[0]}",
            Severity.ERROR,
            line.advice,
            last.at,
            last.kind,
        )
        return
    cause = CLOSED.get(last.reason, named(last.reason))
    yield Finding(
        f"it is not connected since {clock(last.at)}: {cause}",
        Severity.WARNING if last.reason in _EXPECTED else Severity.ERROR,
        line.advice or "connect it",
        last.at,
        last.kind,
    )


_CONNECTIONS: Final = frozenset({*ENDS, Kind.CONNECTED, Kind.REFUSED})
#: A connection that is so young may not be in the store, or not be asked for, yet.
_SETTLED_S: Final = 5.0
_EXPECTED: Final = frozenset({"disconnect", "disconnect_with_will", "shed", "server_shutting_down"})


def _session_gone(known: Client, events: Sequence[Event]) -> Iterable[Finding]:
    """Its session ended, and it has not subscribed again."""
    gone = next((one for one in reversed(events) if one.kind in _SESSION_ENDS), None)
    if gone is None:
        return
    later = [event for event in events if event.at >= gone.at]
    if any(event.kind is Kind.SUBSCRIBED for event in later):
        return
    if known.subscriptions and (known.session is None or known.session.is_connected):
        return
    if gone.kind is Kind.SESSION_EXPIRED:
        text, advice = (
            "its session expired",
            (
                "the client has to subscribe again when CONNACK says Session Present 0; a longer "
                "Session Expiry Interval in its CONNECT keeps the session "
                "(limits.max_session_expiry_s; before MQTT 5 limits.legacy_session_expiry_s)"
            ),
        )
    elif gone.reason == "clean_start":
        text, advice = (
            "it discarded its session by connecting with Clean Start",
            (
                "connect with Clean Start 0 (before MQTT 5 Clean Session 0), or subscribe after "
                "each CONNACK"
            ),
        )
    else:
        text, advice = (
            "its session ended with its connection",
            (
                "set a Session Expiry Interval in its CONNECT (before MQTT 5 Clean Session 0), or "
                "subscribe after each CONNACK"
            ),
        )
    yield Finding(
        f"{text} at {clock(gone.at)}: its subscriptions and queued messages are gone",
        Severity.ERROR,
        advice,
        gone.at,
        gone.kind,
    )


_SESSION_ENDS: Final = frozenset({Kind.SESSION_EXPIRED, Kind.SESSION_ENDED})


def _permissions(known: Client, events: Sequence[Event], now: float) -> Iterable[Finding]:
    """What the ACL does not let it read, or write."""
    user = _user(known, events)
    seen: set[str] = set()
    for subscription in known.subscriptions or ():
        name = subscription.topic_filter
        if subscription.readable in {"none", "some"}:
            seen.add(name)
            part = "anything" if subscription.readable == "none" else "all"
            yield Finding(
                f"the ACL does not let it read {part} of {name}",
                Severity.ERROR if subscription.readable == "none" else Severity.WARNING,
                f"add `topic read {_plain(name)}` for {user} to the ACL file",
            )
    granted = {event.topic: event.at for event in events if event.kind is Kind.SUBSCRIBED}
    for event in reversed(events):
        if event.kind is Kind.SUBSCRIBE_DENIED and event.topic not in seen:
            seen.add(event.topic)
            if granted.get(event.topic, 0.0) > event.at and event.reason == "not_authorized":
                continue  # it may read that by now
            yield Finding(
                f"its subscription to {event.topic} was refused at {clock(event.at)}: "
                "the ACL does not let it read that",
                Severity.ERROR,
                f"add `topic read {_plain(event.topic)}` for {user} to the ACL file, or correct "
                "the filter",
                event.at,
                event.kind,
            )
        elif (
            event.kind is Kind.PUBLISH_DENIED
            and now - event.at <= RECENT_S
            and f"\0{event.topic}" not in seen
        ):
            seen.add(f"\0{event.topic}")
            yield Finding(
                f"what it publishes to {event.topic} is refused: the ACL does not let it write "
                "that",
                Severity.WARNING,
                f"add `topic write {event.topic}` for {user} to the ACL file, or correct the topic",
                event.at,
                event.kind,
            )


def _user(known: Client, events: Sequence[Event]) -> str:
    name = known.session.user if known.session is not None else ""
    name = name or next((event.user for event in reversed(events) if event.user), "")
    return f"user {name}" if name else "anonymous clients"


def _plain(topic_filter: str) -> str:
    shared = parse_shared(topic_filter)
    return topic_filter if shared is None else shared[1]


def _filters(known: Client, topic: str) -> Iterable[Finding]:
    """It has no subscription, or none that matches."""
    subscriptions = known.subscriptions
    if subscriptions is None:
        return
    if not subscriptions:
        if known.session is not None:
            yield Finding(
                "it has no subscription",
                Severity.ERROR,
                "have the client subscribe, after each CONNACK that says Session Present 0",
            )
        return
    if not topic:
        return
    plain = [(one, _plain(one.topic_filter)) for one in subscriptions]
    matching = [one for one, topic_filter in plain if matches(topic_filter, topic)]
    if matching:
        shared = [one for one in matching if parse_shared(one.topic_filter)]
        if len(shared) == len(matching):
            yield Finding(
                f"{topic} matches its shared subscription {shared[0].topic_filter} only: each "
                "message goes to one member of the group",
                Severity.WARNING,
                "look at the other members of the group; subscribe without $share to get all",
            )
        return
    names = ", ".join(one.topic_filter for one in subscriptions[:_NAMED])
    more = f" and {len(subscriptions) - _NAMED} more" if len(subscriptions) > _NAMED else ""
    hints = ((one.topic_filter, near_miss(one.topic_filter, topic)) for one in subscriptions)
    hint = next(((name, why) for name, why in hints if why), None)
    yield Finding(
        f"none of its {len(subscriptions)} subscriptions matches {topic}: {names}{more}"
        if len(subscriptions) > 1
        else f"its subscription does not match {topic}: {names}",
        Severity.ERROR,
        f"{hint[0]}: {hint[1]}" if hint else f"subscribe to {topic}, or publish to another topic",
    )


def _queue(known: Client, events: Sequence[Event], now: float) -> Iterable[Finding]:
    """Messages wait: they may be too many."""
    queue = known.queue
    if queue is None or not queue.length:
        return
    connected = known.session is not None and known.session.is_connected
    oldest = f", the oldest since {clock(queue.oldest_at)}" if queue.oldest_at else ""
    dropped = _dropped_since(events, "queue_full", now)
    if (queue.limit and queue.length >= queue.limit) or dropped:
        of = f" of {queue.limit:,}" if queue.limit else ""
        lost = f"; {dropped:,} were dropped in the last hour" if dropped else ""
        yield Finding(
            f"its queue is full: {queue.length:,}{of} messages wait{oldest}{lost}",
            Severity.ERROR,
            "it is connected but does not acknowledge what it is sent: look at its work for each "
            "message; or clear the queue, or raise limits.max_queued_messages"
            if connected
            else DROPPED["queue_full"][1],
        )
    else:
        yield Finding(
            f"{queue.length:,} messages wait for it{oldest}",
            Severity.INFO,
            "" if connected else "they are sent when it connects",
        )


def _drops(known: Client, events: Sequence[Event], now: float) -> Iterable[Finding]:
    """Messages for it were dropped, for other reasons than a queue that is full now."""
    reasons = dict.fromkeys(
        event.reason
        for event in reversed(events)
        if event.kind is Kind.DROPPED and now - event.at <= RECENT_S
    )
    if known.queue is not None and known.queue.length:
        reasons.pop("queue_full", None)
    for reason in reasons:
        last = next(
            event
            for event in reversed(events)
            if event.kind is Kind.DROPPED and event.reason == reason
        )
        count = _dropped_since(events, reason, now)
        meaning, advice = DROPPED.get(reason, (named(reason), ""))
        topic = f", last on {last.topic}" if last.topic else ""
        what = "1 message" if count == 1 else f"{count:,} messages"
        yield Finding(
            f"{what} for it dropped in the last hour{topic}: {meaning}",
            Severity.WARNING,
            advice,
            last.at,
            last.kind,
        )


def _dropped_since(events: Sequence[Event], reason: str, now: float) -> int:
    return sum(
        event.count
        for event in events
        if event.kind is Kind.DROPPED and event.reason == reason and now - event.at <= RECENT_S
    )
