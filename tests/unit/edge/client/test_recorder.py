"""Events of an edge's clients: which there are, and what bounds them.

Input: bytes of clients of a lone edge. Output: what its fake router is given for the record. What
becomes of it is in ``tests/integration/test_record.py``.
"""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.build import sources_only
from support.lone_edge import LoneEdge
from support.mqtt_bytes import Property
from support.virtual_time import turns
from tidegate.edge.client import recorder
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.mqtt.packets import Publish
from tidegate.record.events import REASONS, Event, Kind


def _events(alone: LoneEdge) -> list[Event]:
    """Have everything sent, and take it."""
    alone.edge.context.recorder.send_all()
    stored, alone.router.recorded = alone.router.recorded, []
    events = [Event.decode(event) for _, event in stored]
    assert None not in events
    return [event for event in events if event is not None]


async def test_each_end_of_a_connection_has_its_kind() -> None:
    async with LoneEdge() as alone:
        edge = alone.edge
        for client_id, reason in (("a", "shed"), ("b", "keep_alive_ended")):
            await alone.connect(client_id)
            getattr(edge.clients[client_id], reason)()
        kinds = [(one.client, one.kind) for one in _events(alone)]
        assert kinds == [
            ("a", Kind.CONNECTED),
            ("a", Kind.SHED),
            ("b", Kind.CONNECTED),
            ("b", Kind.KEEP_ALIVE_EXPIRED),
        ]


async def test_a_refused_client_is_named_with_the_reason_that_says_most() -> None:
    async with LoneEdge(auth={"allow_anonymous": False}) as alone:
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        await turns()
        (event,) = _events(alone)
        assert (event.client, event.kind, event.reason) == ("c", Kind.REFUSED, "anonymous")


@sources_only
async def test_connections_that_end_before_connect_are_recorded_once_a_minute_for_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "MAX_TURNED_AWAY", 3)
    async with LoneEdge() as alone:
        record = alone.edge.context.recorder
        for detail in ("certificate expired", "no shared cipher", "certificate expired"):
            record.turned_away("tls", "tls_handshake", detail, "10.0.0.1")
        record.turned_away("tls", "timeout", "", "10.0.0.1")
        client = alone.accept()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        await turns()
        record.turned_away("tls", "timeout", "", "10.0.0.2")  # no room for it
        first = [
            ("tls", "tls_handshake", "10.0.0.1", 1, "certificate expired"),
            ("tls", "timeout", "10.0.0.1", 1, ""),
        ]
        *events, garbage = _events(alone)
        assert {(one.client, one.kind) for one in (*events, garbage)} == {("", Kind.REFUSED)}
        assert [
            (one.listener, one.reason, one.address, one.count, one.detail) for one in events
        ] == first
        assert (garbage.reason, garbage.address) == ("protocol_error", "127.0.0.1")
        record.tick(alone.edge.context.tick_s + 61)
        (rest,) = _events(alone)
        assert (rest.reason, rest.address, rest.count) == ("tls_handshake", "10.0.0.1", 2)


def test_every_refusal_of_a_listener_is_a_reason_of_the_record() -> None:
    assert {refusal.value for refusal in Refusal} <= set(REASONS[Kind.REFUSED])


@sources_only
async def test_what_waits_is_bounded_and_what_is_lost_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING", 3)
    async with LoneEdge() as alone:
        for number in range(5):
            await alone.connect(f"c{number}")
        assert [one.client for one in _events(alone)] == ["c2", "c3", "c4"]
        assert alone.edge.counters.record_dropped == 2
        alone.router.takes_events = False
        await alone.connect("last")
        assert _events(alone) == []
        assert alone.edge.counters.record_dropped == 3


async def test_the_first_drop_of_a_minute_is_an_event_and_the_others_at_its_end() -> None:
    async with LoneEdge() as alone:
        props: list[Property] = [("maximum_packet_size", 60)]
        client = await alone.connect("small", props=props)
        client.send(mqtt_bytes.subscribe(1, ["t"]))
        await turns()
        large = Publish("t", bytes(100), 0)
        now_s = alone.edge.context.tick_s
        for _ in range(3):
            alone.edge.deliver(large, "other")
        events = [one for one in _events(alone) if one.kind is Kind.DROPPED]
        assert [(one.reason, one.topic, one.count) for one in events] == [("too_large", "t", 1)]
        alone.edge.context.recorder.tick(now_s + 59)
        assert _events(alone) == []
        alone.edge.context.recorder.tick(now_s + 61)
        assert [(one.reason, one.count) for one in _events(alone)] == [("too_large", 2)]
        alone.edge.context.recorder.tick(now_s + 200)
        assert _events(alone) == []
        alone.edge.deliver(large, "other")
        assert [(one.reason, one.count) for one in _events(alone)] == [("too_large", 1)]


async def test_what_makes_room_is_recorded_with_its_own_topic() -> None:
    limits = {"max_queued_messages": 2, "queue_full_policy": "drop_oldest"}
    async with LoneEdge(limits=limits) as alone:
        client = await alone.connect("c", props=[("receive_maximum", 1)])
        client.send(mqtt_bytes.subscribe(1, [("t/+", 1)]))
        await turns()
        for name in ("in-flight", "oldest", "second", "newest"):
            alone.edge.deliver(Publish(f"t/{name}", b"", 1), "other")
        (event,) = (one for one in _events(alone) if one.kind is Kind.DROPPED)
        assert (event.reason, event.topic, event.count) == ("queue_full", "t/oldest", 1)


async def test_what_a_slow_client_does_not_get_is_recorded_with_its_topic() -> None:
    async with LoneEdge(limits={"max_queued_messages": 1}) as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.subscribe(1, ["t/+"]))
        await turns()
        alone.edge.clients["c"].pause_writing()
        for name in ("first", "second"):
            alone.edge.deliver(Publish(f"t/{name}", b"", 0), "other")
        (event,) = (one for one in _events(alone) if one.kind is Kind.DROPPED)
        assert (event.reason, event.topic) == ("slow_consumer", "t/second")


async def test_rates_and_quotas_are_recorded_once_a_minute() -> None:
    async with LoneEdge(limits={"max_publish_rate": 1}) as alone:
        client = await alone.connect("c")
        alone.router.answers_late = True
        client.send(*(client.publish(number, qos=1) for number in range(1, 4)))
        await turns()
        for origin, message in alone.router.open:
            origin.published(message, 0x97)
        events = [one for one in _events(alone) if one.kind is Kind.QUOTA]
        assert [(one.reason, one.topic) for one in events] == [
            ("publish_rate", ""),
            ("quota_exceeded", "t"),
        ]


async def test_topics_are_shown_as_the_client_has_them() -> None:
    async with LoneEdge(listeners=[{"mount_point": "a/"}]) as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.subscribe(1, ["x/#", "$share/g/y"]))
        await turns()
        _, subscribed = _events(alone)
        assert (subscribed.mount_point, subscribed.topic) == ("a/", "x/#")
        assert (subscribed.count, subscribed.detail) == (2, "x/#, $share/g/y")


async def test_nothing_is_recorded_while_it_is_off() -> None:
    async with LoneEdge(record={"enabled": False}) as alone:
        await alone.connect("c")
        assert _events(alone) == []
        assert alone.edge.counters.record_dropped == 0
