"""Why a client gets nothing: the usual stories, as somebody reads them at three in the morning.

Input: events, and what is true now. Output: the sentences, the gravest first, and their advice.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tidegate.record.events import REASONS, Event, Kind
from tidegate.record.near_miss import near_miss
from tidegate.record.state import BanState, QueueState, SessionState, SubscriptionState
from tidegate.record.timeline import duration, timeline
from tidegate.record.why import Client, Finding, Severity, sentences

#: 2025-11-30T10:42:07Z.
NOW = 1_764_499_327.0
HERE = SessionState(is_connected=True, edge="edge-1", user="ann")
AWAY = SessionState(is_connected=False, user="ann")


def _event(ago_s: float, kind: Kind, reason: str = "", **fields: Any) -> Event:
    place = {"edge": "edge-1", "address": "10.1.2.3:5333"} | fields
    return Event(at=NOW - ago_s, kind=kind, client="sensor-17", reason=reason, **place)


def _client(*events: Event, **known: Any) -> Client:
    return Client("sensor-17", events, **known)


def _wrong(known: Client, topic: str = "") -> list[Finding]:
    """What is wrong, without the record."""
    return [one for one in sentences(known, NOW, topic=topic) if one.severity is not Severity.INFO]


def _first(known: Client, topic: str = "") -> Finding:
    found = sentences(known, NOW, topic=topic)[0]
    assert found.severity is Severity.ERROR
    assert found.advice
    return found


# The five stories


def test_wrong_acl() -> None:
    """The subscription was refused, or it was granted and nothing may be read."""
    denied = _event(60, Kind.SUBSCRIBE_DENIED, "not_authorized", topic="plant/#")
    found = _first(_client(denied, session=HERE, subscriptions=[]))
    assert found.text == (
        "its subscription to plant/# was refused at 2025-11-30T10:41:07Z: the ACL does not let "
        "it read that"
    )
    assert found.advice == (
        "add `topic read plant/#` for user ann to the ACL file, or correct the filter"
    )
    unreadable = SubscriptionState("$share/g/plant/#", 1, "none")
    found = _first(_client(session=HERE, subscriptions=[unreadable]))
    assert found.text == "the ACL does not let it read anything of $share/g/plant/#"
    assert "`topic read plant/#` for user ann" in found.advice
    granted = _event(30, Kind.SUBSCRIBED, topic="plant/#")
    known = _client(denied, granted, session=HERE, subscriptions=[SubscriptionState("plant/#")])
    assert _wrong(known) == []


def test_full_queue() -> None:
    drops = [
        _event(900, Kind.DROPPED, "queue_full", topic="t/1"),
        _event(840, Kind.DROPPED, "queue_full", topic="t/18", count=17),
    ]
    queue = QueueState(1000, 1000, 64_000, NOW - 3600)
    left = _event(7200, Kind.DISCONNECTED, "peer_closed")
    known = _client(left, *drops, session=AWAY, queue=queue)
    full, away = sorted(_wrong(known), key=lambda one: "queue" not in one.text)
    assert full.severity is Severity.ERROR
    assert full.text == (
        "its queue is full: 1,000 of 1,000 messages wait, the oldest since "
        "2025-11-30T09:42:07Z; 18 were dropped in the last hour"
    )
    assert full.advice.startswith("connect the client so that it takes its messages")
    assert away.text.startswith(
        "it is not connected since 2025-11-30T08:42:07Z: the client, or a proxy"
    )
    slow = _first(_client(*drops, session=HERE, queue=queue))
    assert "does not acknowledge" in slow.advice


def test_kicked_by_its_twin() -> None:
    events = []
    for number in range(4):
        mine, other = ("10.1.2.3", "10.9.9.9") if number % 2 else ("10.9.9.9", "10.1.2.3")
        ago_s = 100 - 20 * number
        events += [
            _event(ago_s, Kind.TAKEN_OVER, "session_taken_over", address=f"{other}:1"),
            _event(ago_s, Kind.CONNECTED, address=f"{mine}:2", session_present=True),
        ]
    found = _first(_client(*events, session=HERE))
    assert found.text == (
        "two clients use this client identifier: 4 times in 1 min a new connection took over from "
        "the one before (10.1.2.3 and 10.9.9.9), last at 2025-11-30T10:41:27Z"
    )
    assert found.advice.startswith("give each device a client identifier of its own")
    assert _wrong(_client(*events[:2], session=HERE)) == []


def test_expired_session() -> None:
    events = [
        _event(90_000, Kind.DISCONNECTED, "peer_closed"),
        _event(3600, Kind.SESSION_EXPIRED, "session_expiry_interval", edge="router-1", address=""),
        _event(60, Kind.CONNECTED, session_present=False),
    ]
    found = _first(_client(*events, session=HERE, subscriptions=[]))
    assert found.text == (
        "its session expired at 2025-11-30T09:42:07Z: its subscriptions and queued messages are "
        "gone"
    )
    assert "subscribe again when CONNACK says Session Present 0" in found.advice
    again = _event(59, Kind.SUBSCRIBED, topic="t")
    subscribed = [SubscriptionState("t")]
    assert _wrong(_client(*events, again, session=HERE, subscriptions=subscribed)) == []


@pytest.mark.parametrize(
    ("reason", "says"),
    [("clean_start", "connecting with Clean Start"), ("connection_ended", "with its connection")],
)
def test_a_session_that_the_client_has_ended(reason: str, says: str) -> None:
    ended = _event(60, Kind.SESSION_ENDED, reason)
    assert says in _first(_client(ended, session=HERE, subscriptions=[])).text


def test_wrong_filter() -> None:
    subscriptions = [SubscriptionState("Plant/+/temp", 1), SubscriptionState("other", 1)]
    known = _client(session=HERE, subscriptions=subscriptions)
    found = _first(known, topic="plant/7/temp")
    assert found.text == ("none of its 2 subscriptions matches plant/7/temp: Plant/+/temp, other")
    assert found.advice == "Plant/+/temp: upper and lower case differ"
    assert _wrong(known, topic="other") == []
    assert _first(_client(session=HERE, subscriptions=[])).text == "it has no subscription"
    shared = _client(session=HERE, subscriptions=[SubscriptionState("$share/g/t")])
    assert "one member of the group" in _wrong(shared, topic="t")[0].text


@pytest.mark.parametrize(
    ("topic_filter", "topic", "says"),
    [
        ("A/b", "a/b", "upper and lower case"),
        ("/a/b", "a/b", "the filter begins with /"),
        ("a/b", "/a/b", "the topic begins with /"),
        ("a/b/", "a/b", "the filter ends with /"),
        ("a/*", "a/b", "* is no wildcard"),
        ("a", "a/b", "a/# matches what is below it"),
        ("a/+", "a/b/c", "+ stands for exactly one level"),
        ("#", "$SYS/x", "begin with $"),
        ("a/b ", "a/b", "space"),
        ("$share/g/A", "a", "upper and lower case"),
        ("x/y", "a/b", ""),
    ],
)
def test_usual_mistakes_in_filters(topic_filter: str, topic: str, says: str) -> None:
    found = near_miss(topic_filter, topic)
    assert says in found
    assert bool(says) == bool(found)


# Others


def test_who_cannot_connect_is_told_why() -> None:
    events = [_event(ago_s, Kind.REFUSED, "bad_password") for ago_s in (50, 30, 10)]
    found = sentences(_client(*events), NOW)
    assert found[0].text == "it cannot connect: wrong password"
    assert "tidegate passwd" in found[0].advice
    assert found[1].text == (
        "2025-11-30T10:41:57Z refused at edge-1 from 10.1.2.3: wrong password (3rd time in a "
        "minute)"
    )


def test_a_client_of_which_nothing_is_known() -> None:
    assert "nothing is known of a client 'sensor-17'" in _first(_client()).text


def test_a_ban_comes_first() -> None:
    ban = BanState("address", "10.1.2.0/24", "floods", NOW + 300)
    known = _client(_event(5, Kind.BANNED, "banned"), bans=[ban])
    assert _first(known).text == "address 10.1.2.0/24 is banned until 2025-11-30T10:47:07Z: floods"


def test_drops_of_the_last_hour_are_summed_by_reason() -> None:
    events = [
        _event(5000, Kind.DROPPED, "too_large"),
        _event(100, Kind.DROPPED, "too_large", topic="a"),
        _event(40, Kind.DROPPED, "too_large", topic="b", count=5),
    ]
    (found,) = _wrong(_client(*events, session=HERE, subscriptions=[SubscriptionState("#")]))
    assert found.text.startswith("6 messages for it dropped in the last hour, last on b: they were")


def test_a_client_with_which_nothing_is_wrong() -> None:
    connected = _event(100_000, Kind.CONNECTED, user="ann", version="5.0", session_present=True)
    found = sentences(_client(connected, session=HERE, subscriptions=[SubscriptionState("t")]), NOW)
    assert [one.text for one in found] == [
        "nothing is wrong with it, as far as the broker can see",
        "2025-11-29T06:55:27Z connected at edge-1 from 10.1.2.3 (user ann, MQTT 5.0, its session "
        "was there)",
    ]


def test_times_are_utc_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Apia")
    time.tzset()
    try:
        (line,) = timeline([_event(0, Kind.WILL_PUBLISHED)])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert line.text == "2025-11-30T10:42:07Z its will was published"


def test_every_reason_of_every_kind_has_a_sentence() -> None:
    for kind, reasons in REASONS.items():
        for reason in reasons:
            (line,) = timeline([_event(1, kind, reason, topic="t", detail="d")])
            assert line.text.startswith("2025-11-30T10:42:06Z ")
            assert "_" not in re.sub(r"(limits|auth)[.]\w+|max_\w+", "", line.text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 s"), (45, "45 s"), (60, "1 min"), (600, "10 min"), (7200, "2 h"), (604_800, "7 days")],
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
