"""Log lines of connections: which there are, what they say, and how many of them.

Input: bytes of clients of a lone edge, whose clock the test sets. Output: log records. How a record
becomes a line is tested in ``runtime/telemetry/test_log.py``, the setting of a running process in
``tests/integration/test_connection_log.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.build import sources_only
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V31, V311, Will
from support.virtual_time import turns
from tidegate.edge.client import connection_log
from tidegate.edge.client.connection_log import BURST_S, DENIAL_S, FAULTS_PER_S, SUMMARY_S
from tidegate.link.interfaces import AttachedSession
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.telemetry.log import fields_of

Line = dict[str, Any]

CONNECTED, DISCONNECTED, REFUSED = "client connected", "client disconnected", "connection refused"
DENIED_PUBLISH = "publish refused: not authorized to write"
DENIED_SUBSCRIBE = "subscription refused: not authorized to read"
NOT_WRITTEN = "lines about connections not written"
ACL = "topic readwrite own/#\n"


class _StillEdge(LoneEdge):
    """An edge for which no time passes but by ``_pass``."""

    async def __aenter__(self) -> LoneEdge:
        """Start."""
        await super().__aenter__()
        # Whole seconds: parts of them would be rounded now and then.
        now_s = float(math.ceil(self.edge.context.time_s()))
        self.edge.context.time_s = lambda: now_s
        self.edge.context.tick_s = now_s
        _pass(self, 0)
        return self


class _Lines:
    """What has been logged about connections."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def take(self) -> list[Line]:
        """All lines since the last time: fields, and the message as ``message``."""
        found = [
            {"message": record.getMessage(), **fields_of(record)}
            for record in self._caplog.records
            if record.name == connection_log.__name__ and record.levelno == logging.INFO
        ]
        self._caplog.clear()
        return found

    def messages(self) -> list[str]:
        """The messages of all lines since the last time."""
        return [line["message"] for line in self.take()]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> _Lines:
    """Return what reads the log."""
    caplog.set_level(logging.INFO, "tidegate")
    return _Lines(caplog)


@pytest.fixture
async def alone(lines: _Lines) -> AsyncIterator[LoneEdge]:
    """An edge with the settings that are the default, and with its log read."""
    async with _StillEdge() as edge:
        yield edge


def _pass(alone: LoneEdge, seconds: float) -> None:
    """Let time pass, as far as these lines are concerned."""
    context = alone.edge.context
    now_s = context.time_s() + seconds
    context.time_s = lambda: now_s
    context.connection_log.tick(now_s)


def _accept(alone: LoneEdge, address: str = "127.0.0.1", version: int = V5) -> EdgeClient:
    client = alone.accept(version)
    client.channel.peer = replace(client.channel.peer, address=address)
    return client


async def _refused(alone: LoneEdge, address: str) -> None:
    """A connection that one line is written about."""
    client = _accept(alone, address)
    client.send(mqtt_bytes.connect("x" * 30))
    await turns()


@pytest.mark.parametrize(
    ("version", "name"), [(V31, "3.1"), (V311, "3.1.1"), (V5, "5.0")], ids=["3.1", "3.1.1", "5.0"]
)
async def test_a_client_that_comes_and_goes(
    alone: LoneEdge, lines: _Lines, version: int, name: str
) -> None:
    client = await alone.connect("c", version, username="me", keep_alive=60, clean=True)
    who = {
        "client_id": "c",
        "username": "me",
        "address": "127.0.0.1",
        "port": 1234,
        "listener": "fake",
    }
    assert lines.take() == [
        {"message": CONNECTED}
        | who
        | {
            "transport": "tcp",
            "version": name,
            "clean": True,
            "keep_alive_s": 60,
            "session_present": False,
        }
    ]
    connack_bytes = alone.counters.bytes_sent
    _pass(alone, 2.5)
    publish, goodbye = client.publish(1, 1), mqtt_bytes.disconnect()
    client.send(publish + publish[:3])
    client.send(publish[3:] + goodbye)
    client.lose("local_close")
    (line,) = lines.take()
    received, sent = alone.counters.bytes_received, alone.counters.bytes_sent
    assert line == {"message": DISCONNECTED} | who | {
        "reason": "disconnect",
        "by": "client",
        "duration_s": 2.5,
        "received_packets": 4,
        "received_bytes": received,
        "sent_packets": 3,
        "sent_bytes": sent,
    }
    assert received > 2 * len(publish)
    assert sent > connack_bytes


async def test_a_resumed_session_and_who_lost_its_session(alone: LoneEdge, lines: _Lines) -> None:
    alone.router.incarnation = 1
    await alone.connect("c", clean=False)
    assert [(line["clean"], line["session_present"]) for line in lines.take()] == [(False, False)]
    alone.router.session = AttachedSession(2, 1, True)
    await alone.connect("c", clean=False)
    gone, come = lines.take()
    assert (gone["reason"], gone["by"]) == ("session_taken_over", "server")
    assert (come["message"], come["session_present"]) == (CONNECTED, True)


async def test_the_keep_alive_in_force_is_logged(lines: _Lines) -> None:
    async with _StillEdge(limits={"max_keep_alive_s": 7}) as alone:
        await alone.connect("c", V311, keep_alive=60)
        assert lines.take()[0]["keep_alive_s"] == 7


@pytest.mark.parametrize(
    ("reason", "by"),
    [("peer_closed", "client"), ("reset", "network"), ("timeout", "network"), ("lost", "network")],
)
async def test_a_lost_connection(alone: LoneEdge, lines: _Lines, reason: str, by: str) -> None:
    client = await alone.connect("c")
    lines.take()
    client.lose(reason)
    (line,) = lines.take()
    assert (line["message"], line["reason"], line["by"]) == (DISCONNECTED, reason, by)


async def test_who_is_disconnected_and_why(alone: LoneEdge, lines: _Lines) -> None:
    first = await alone.connect("c")
    first.client.disconnect(ReasonCode.NOT_AUTHORIZED, "user has been removed")
    second = await alone.connect("c")
    second.client.disconnect(ReasonCode.ADMINISTRATIVE_ACTION)
    third = await alone.connect("c")
    third.send(b"\x00\x00")
    ends = [line for line in lines.take() if line["message"] == DISCONNECTED]
    assert [(line["reason"], line["by"], line.get("detail")) for line in ends[:2]] == [
        ("not_authorized", "server", "user has been removed"),
        ("administrative_action", "administrator", None),
    ]
    assert (ends[2]["reason"], ends[2]["by"]) == ("malformed_packet", "server")
    assert ends[2]["detail"]


async def test_refused_connections_say_why(lines: _Lines, tmp_path: Path) -> None:
    passwords, rules = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text("")
    rules.write_text(ACL)
    auth = {"allow_anonymous": False, "password_file": str(passwords), "acl_file": str(rules)}
    async with _StillEdge(auth=auth) as alone:
        for options in ({}, {"username": "nobody", "password": b"x"}):
            client = _accept(alone, version=V311)
            client.send(mqtt_bytes.connect("c", version=V311, **options))  # type: ignore[arg-type]
            await alone.edge.context.idle()
        anonymous, unknown = lines.take()
        assert (anonymous["message"], anonymous["client_id"]) == (REFUSED, "c")
        assert anonymous["detail"] == "anonymous"
        assert (unknown["username"], unknown["detail"]) == ("nobody", "unknown_user")
        assert {anonymous["reason"], unknown["reason"]} <= set(alone.counters.refused)


async def test_a_denied_will_and_a_missing_router_are_refusals(
    lines: _Lines, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text(ACL)
    async with _StillEdge(auth={"allow_anonymous": True, "acl_file": str(rules)}) as alone:
        _accept(alone).send(mqtt_bytes.connect("c", will=Will("other")))
        await turns()
        alone.router.refuses_sessions = True
        _accept(alone).send(mqtt_bytes.connect("c"))
        await turns()
        found = [(line["reason"], line["detail"]) for line in lines.take()]
        assert found == [
            ("not_authorized", "not authorized to publish to the will topic"),
            ("server_unavailable", "none is there"),
        ]


async def test_an_end_before_connack(alone: LoneEdge, lines: _Lines) -> None:
    alone.router.reachable.clear()
    client = _accept(alone)
    client.send(mqtt_bytes.connect("c"))
    await turns()
    client.lose("reset")
    assert [(line["reason"], line["detail"]) for line in lines.take()] == [("abandoned", "reset")]
    _accept(alone).lose()
    assert not lines.take(), "a health probe"
    _accept(alone).client.connect_timed_out()
    assert [line["reason"] for line in lines.take()] == ["connect_timeout"]


async def test_garbage_is_a_fault_and_a_refusal(alone: LoneEdge, lines: _Lines) -> None:
    _accept(alone).send(b"\x00\x00")
    fault, refused = lines.take()
    assert fault["message"] == "closing connection: protocol error"
    assert fault["address"] == "127.0.0.1"
    assert fault["error"] == refused["detail"]
    assert refused["reason"] == "protocol_error"


async def test_faults_are_limited_in_a_second_whoever_they_come_from(lines: _Lines) -> None:
    async with _StillEdge(log={"connections": False}) as alone:
        for number in range(50):
            _accept(alone, f"10.0.0.{number}").send(b"\x00\x00")
        assert len(lines.take()) == FAULTS_PER_S
        _pass(alone, 1)
        _accept(alone).send(b"\x00\x00")
        assert [line["suppressed"] for line in lines.take()] == [50 - FAULTS_PER_S]


async def test_denied_publishes_and_subscriptions_once_in_a_minute(
    lines: _Lines, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text(ACL)
    async with _StillEdge(auth={"allow_anonymous": True, "acl_file": str(rules)}) as alone:
        client = await alone.connect("c")
        lines.take()

        async def attempt() -> list[tuple[str, str]]:
            for topic in ("a", "a", "b", "own/x"):
                client.send(mqtt_bytes.publish(topic))
            for filters in (["a", "own/#"], ["a", "d"]):
                client.send(mqtt_bytes.subscribe(1, filters))
                await turns()
            return [
                (line["message"], line.get("topic") or line["topic_filters"])
                for line in lines.take()
            ]

        # "a" was logged as denied already.
        denied = [(DENIED_PUBLISH, "a"), (DENIED_PUBLISH, "b"), (DENIED_SUBSCRIBE, "d")]
        assert await attempt() == denied
        assert await attempt() == []
        _pass(alone, DENIAL_S - 1)
        assert await attempt() == []
        _pass(alone, 1)
        assert await attempt() == denied
        other = await alone.connect("other")
        lines.take()
        other.send(mqtt_bytes.publish("a"))
        assert [(line["client_id"], line["topic"]) for line in lines.take()] == [("other", "a")]


async def test_one_address_has_ten_seconds_of_its_rate_and_what_comes_back(lines: _Lines) -> None:
    settings = {"connections_rate_per_address": 2, "connections_rate": 0}
    async with _StillEdge(limits={"max_client_id_bytes": 23}, log=settings) as alone:
        burst = int(2 * BURST_S)
        for _ in range(burst + 5):
            await _refused(alone, "10.0.0.1")
        assert lines.messages() == [REFUSED] * burst
        await _refused(alone, "10.0.0.2")
        assert [line["address"] for line in lines.take()] == ["10.0.0.2"], "it has its own"
        _pass(alone, 1)
        for _ in range(3):
            await _refused(alone, "10.0.0.1")
        assert lines.messages() == [REFUSED] * 2
        await _refused(alone, "10.0.0.3")
        lines.take()
        _pass(alone, SUMMARY_S)
        assert lines.take() == [
            {
                "message": NOT_WRITTEN,
                "lines": 6,
                "addresses": 1,
                "most_from": "10.0.0.1",
                "lines_of_it": 6,
            }
        ]
        _pass(alone, SUMMARY_S)
        assert not lines.take()


async def test_all_addresses_together_have_a_rate(lines: _Lines) -> None:
    settings = {"connections_rate_per_address": 0, "connections_rate": 4}
    async with _StillEdge(limits={"max_client_id_bytes": 23}, log=settings) as alone:
        for number in range(50):
            await _refused(alone, f"10.0.0.{number}")
        assert lines.messages() == [REFUSED] * int(4 * BURST_S)


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("no:address", "no:address", True),
    ],
)
async def test_an_ipv6_network_counts_as_one_address(
    lines: _Lines, first: str, second: str, is_one: bool
) -> None:
    settings = {"connections_rate_per_address": 0.1}  # one line in ten seconds
    async with _StillEdge(limits={"max_client_id_bytes": 23}, log=settings) as alone:
        await _refused(alone, first)
        await _refused(alone, second)
        assert len(lines.take()) == (1 if is_one else 2)


@sources_only
async def test_what_is_remembered_has_a_bound(
    alone: LoneEdge, lines: _Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_log, "MAX_REMEMBERED", 3)
    for number in range(5):
        client = await alone.connect(f"c{number}")
        client.client.channel.peer = replace(client.channel.peer, address=f"10.0.0.{number}")
        client.lose()
    gone = [line for line in lines.take() if line["message"] == DISCONNECTED]
    assert len(gone) == 2, "127.0.0.1 has the third place"
    _pass(alone, SUMMARY_S)
    assert [line["lines"] for line in lines.take()] == [3]


async def test_nothing_is_logged_when_it_is_off_and_a_change_counts_at_once(
    alone: LoneEdge, lines: _Lines
) -> None:
    def configure(**log: object) -> None:
        config = alone.edge.config
        alone.edge.reconfigure(config.model_copy(update={"log": config.log.model_copy(update=log)}))

    configure(connections=False)
    client = await alone.connect("c")
    client.send(mqtt_bytes.disconnect())
    await _refused(alone, "127.0.0.1")
    assert not lines.take()
    configure(connections=True)
    await alone.connect("c")
    assert lines.messages() == [CONNECTED]


async def test_nothing_is_made_of_lines_that_the_level_does_not_show(
    alone: LoneEdge, lines: _Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tidegate")
    _pass(alone, 0.5)
    (await alone.connect("c")).send(b"\x00\x00")
    _pass(alone, SUMMARY_S)
    caplog.set_level(logging.INFO, "tidegate")
    _pass(alone, SUMMARY_S)
    assert not lines.take(), "nor counted as not written"
