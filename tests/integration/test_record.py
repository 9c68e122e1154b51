"""What ``tidegate serve`` writes to the record, as a process reads it that has only the store.

Inputs: raw clients; a store that is stopped. Observed: events in the store, and the metrics.
"""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311
from support.raw_client import DEADLINE_S, RawClient
from support.recorded import events_of, until_recorded
from support.store_groups import AnyStore, start_store
from support.waiting import wait_for_async
from tidegate.record.events import Event, Kind
from tidegate.record.successors import with_successors

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnyStore]:
    """Run a store."""
    running = start_store("valkey", tmp_path)
    yield running
    running.stop()


async def _open(broker: Tidegate, version: int = V5) -> RawClient:
    place = broker.address("tcp")
    return await RawClient.open(f"tcp://{place.host}:{place.port}", version=version)


def _kinds(events: list[Event]) -> list[tuple[Kind, str]]:
    return [(event.kind, event.reason) for event in events]


async def test_what_happens_to_a_client_is_in_the_record(
    server: AnyStore, start_broker: StartBroker, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite own/#\n")
    broker = start_broker(
        name="edge-1",
        store={"url": server.url},
        auth={"allow_anonymous": True, "acl_file": str(rules)},
        limits={"max_queued_messages": 1, "max_in_flight": 1, "max_client_id_bytes": 23},
    )
    first = await _open(broker, V311)
    await first.connect("sensor", clean=False, keep_alive=30)
    await first.subscribe(("own/#", 1))
    await first.send(mqtt_bytes.subscribe(2, ["denied/#"], version=V311))
    await first.expect("SUBACK")
    await first.send(*[mqtt_bytes.publish("denied", version=V311)] * 3)
    await first.send(mqtt_bytes.PINGREQ)
    await first.expect("PINGRESP")
    second = await _open(broker, V311)
    await second.connect("sensor", clean=False)
    await first.expect_closed()
    await second.disconnect()
    await second.expect_closed()
    publisher = await _open(broker)
    await publisher.connect("publisher")
    for number in range(4):
        await publisher.deliver(f"own/{number}", b"x", qos=1)
    third = await _open(broker, V311)
    await third.connect("sensor", clean=True)
    await third.disconnect()
    events = await until_recorded(server, "sensor", "session_ended", "connected", "disconnected")
    assert _kinds(events) == [
        (Kind.CONNECTED, ""),
        (Kind.SUBSCRIBED, ""),
        (Kind.SUBSCRIBE_DENIED, "not_authorized"),
        (Kind.PUBLISH_DENIED, "not_authorized"),
        (Kind.TAKEN_OVER, "session_taken_over"),
        (Kind.CONNECTED, ""),
        (Kind.DISCONNECTED, "disconnect"),
        (Kind.DROPPED, "queue_full"),
        (Kind.SESSION_ENDED, "clean_start"),
        (Kind.CONNECTED, ""),
        (Kind.DISCONNECTED, "disconnect"),
    ]
    connected, subscribed, _, _, taken_over, again, *_ = events
    assert connected.edge == "edge-1"
    assert connected.listener == "tcp"
    assert (connected.version, connected.keep_alive_s) == ("3.1.1", 30)
    assert (connected.session_present, again.session_present) == (False, True)
    assert connected.address.startswith("127.0.0.1:")
    assert subscribed.topic == "own/#"
    assert taken_over.address == connected.address != again.address
    assert with_successors(events)[4].detail == f"from {again.address} at {again.edge}"
    assert events[7].topic == "own/1"
    refused = await _open(broker)
    await refused.send(mqtt_bytes.connect("x" * 24))
    await refused.expect_refused(reasons=[0x85])
    (event,) = await until_recorded(server, "x" * 24, "refused")
    assert (event.kind, event.reason) == (Kind.REFUSED, "client_identifier_not_valid")
    assert event.detail == "client identifier is too long"


async def test_the_oldest_messages_that_make_room_are_in_the_record(
    server: AnyStore, start_broker: StartBroker
) -> None:
    broker = start_broker(
        store={"url": server.url},
        limits={"max_queued_messages": 2, "queue_full_policy": "drop_oldest"},
    )
    sleeper = await _open(broker, V311)
    await sleeper.connect("sleeper", clean=False)
    await sleeper.subscribe(("t/+", 1))
    await sleeper.disconnect()
    publisher = await _open(broker)
    await publisher.connect("publisher")
    for topic in ("t/oldest", "t/second", "t/newest"):
        await publisher.deliver(topic, b"x", qos=1)
    events = await until_recorded(server, "sleeper", "disconnected", "dropped")
    assert [(one.kind, one.reason, one.topic, one.count) for one in events[-1:]] == [
        (Kind.DROPPED, "queue_full", "t/oldest", 1)
    ]


async def test_what_a_listener_refuses_before_connect_is_in_the_record(
    server: AnyStore, start_broker: StartBroker
) -> None:
    broker = start_broker(
        name="edge-1",
        store={"url": server.url},
        listeners=[{"name": "web", "protocol": "ws", "port": 0}],
    )
    place = broker.address("web")
    _, probe = await asyncio.open_connection(place.host, place.port)
    probe.close()  # a health probe: no news
    for _ in range(2):
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
        await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()
    device = await RawClient.open(f"ws://{place.host}:{place.port}/mqtt", version=V5)
    await device.connect("after")
    await until_recorded(server, "after", "connected")
    await device.disconnect()
    first = events_of(server)[0]
    assert _kinds(events_of(server))[:2] == [
        (Kind.REFUSED, "websocket_404"),
        (Kind.CONNECTED, ""),
    ]
    assert (first.client, first.listener, first.edge) == ("", "web", "edge-1")
    assert first.address == "127.0.0.1"


async def test_sessions_that_expire_and_wills_are_in_the_record(
    server: AnyStore, start_broker: StartBroker
) -> None:
    broker = start_broker(store={"url": server.url})
    client = await _open(broker)
    will = mqtt_bytes.Will("gone", b"x", qos=1)
    await client.connect("sleeper", clean=False, props=[("session_expiry", 1)], will=will)
    client.reset()
    await until_recorded(server, "sleeper", "connected", "will_published")
    events = await until_recorded(server, "sleeper", "connected", "disconnected", "session_expired")
    assert events[-1].reason == "session_expiry_interval"


async def test_without_the_store_events_are_dropped_and_counted_and_nothing_else(
    server: AnyStore, start_broker: StartBroker
) -> None:
    broker = start_broker(store={"url": server.url, "operation_timeout_s": 1.0})
    client = await _open(broker)
    await client.connect("here")
    await client.subscribe(("t", 0))
    await until_recorded(server, "here", "connected", "subscribed")
    server.stop()
    refused = await _open(broker)
    await refused.send(mqtt_bytes.connect("there"))
    await refused.expect("CONNACK", reason=0x88)
    await wait_for_async(lambda: _dropped(broker), DEADLINE_S, "dropped events")
    await client.send(mqtt_bytes.publish("t", b"goes on"))
    assert (await client.expect("PUBLISH")).payload == b"goes on"


async def test_the_record_can_be_turned_off(server: AnyStore, start_broker: StartBroker) -> None:
    broker = start_broker(store={"url": server.url}, record={"enabled": False})
    client = await _open(broker)
    await client.connect("silent")
    await client.disconnect()
    await client.expect_closed()
    broker.stop()
    assert events_of(server) == []


def _dropped(broker: Tidegate) -> float:
    admin = broker.address("admin")
    with urllib.request.urlopen(f"http://{admin.host}:{admin.port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    found = re.search(r"^tidegate_record_dropped_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
