"""Will Messages: when they are published, and when not (chapters 3.1.2.5 to 3.1.3.4, 3.14.4)."""

from __future__ import annotations

import time

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5, V311, Will
from support.peers import Peers, both_transports, both_versions, let_pass

statement = pytest.mark.statement

#: The broker keeps these times in milliseconds, and looks twice a second at what is due.
MILLISECOND_S = 0.001
STEP_S = 0.5
#: How late a busy machine may be.
LATE_S = 1.5


@both_transports
@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-9", "MQTT-3.1.2-14")
@statement("MQTT311-3.1.2-8", "MQTT311-3.1.2-9", "MQTT311-3.1.2-16")
async def test_will_is_published_when_the_connection_is_lost(
    peers: Peers, version: int, qos: int
) -> None:
    watcher = await peers.subscriber((peers.topic(), 2), version=version)
    dying = await peers.connect("dying", version, will=Will(peers.topic(), b"gone", qos))
    dying.reset()
    received = await watcher.expect("PUBLISH", payload=b"gone", qos=qos, retain=False, dup=False)
    assert received.topic == peers.topic()


@both_versions
@statement("MQTT-3.1.2-14", "MQTT311-3.1.2-16")
async def test_will_without_retain_is_not_retained(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    dying = await peers.connect("dying", version, will=Will(peers.topic()))
    dying.reset()
    await watcher.expect("PUBLISH")
    late = await peers.subscriber(peers.topic(), version=version, name="late")
    await peers.assert_nothing_delivered(watcher, late, qos=0)


@both_versions
@statement("MQTT-3.1.2-15", "MQTT311-3.1.2-17")
async def test_will_with_retain_is_retained(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber((peers.topic(), 1), version=version)
    dying = await peers.connect("dying", version, will=Will(peers.topic(), b"kept", 1, retain=True))
    dying.reset()
    await watcher.expect("PUBLISH", payload=b"kept", retain=False)
    late = await peers.subscriber(peers.topic(), version=version, name="late")
    await late.expect("PUBLISH", payload=b"kept", retain=True)


@both_versions
@statement("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@statement("MQTT311-3.1.2-8", "MQTT311-3.1.2-10", "MQTT311-3.14.4-3")
async def test_disconnect_discards_the_will(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    leaving = await peers.connect("leaving", version, will=Will(peers.topic()))
    await leaving.disconnect()
    other = await peers.connect("other", version)
    await peers.assert_nothing_delivered(other, watcher, qos=0)


@both_versions
@statement("MQTT-3.1.2-10", "MQTT311-3.1.2-10")
async def test_will_of_an_earlier_connection_is_forgotten(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    dying = await peers.durable("dying", version, will=Will(peers.topic(), b"first"))
    dying.reset()
    await watcher.expect("PUBLISH", payload=b"first")
    again = await peers.durable("dying", version)
    again.reset()
    last = await peers.durable("dying", version)
    await peers.assert_nothing_delivered(last, watcher, qos=0)


@statement("MQTT311-3.1.2-12")
async def test_without_will_flag_nothing_is_published(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic("#"), version=V311)
    dying = await peers.connect("dying", V311)
    dying.reset()
    other = await peers.connect("dying", V311)
    await peers.assert_nothing_delivered(other, watcher, qos=0)


@both_versions
@statement("MQTT-3.1.2-8", "MQTT311-3.1.2-8", "MQTT311-4.8.0-1")
async def test_will_is_published_after_a_protocol_error(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    dying = await peers.connect("dying", version, will=Will(peers.topic()))
    await dying.send(b"\x00\x00")
    await dying.expect_closed()
    await watcher.expect("PUBLISH", payload=b"will")


@both_versions
@statement("MQTT-3.1.2-22", "MQTT-3.1.2-8", "MQTT311-3.1.2-24", "MQTT311-3.1.2-8")
async def test_will_is_published_after_a_keep_alive_timeout(peers: Peers, version: int) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    await peers.connect("dying", version, keep_alive=1, will=Will(peers.topic()))
    await watcher.expect("PUBLISH", payload=b"will")


@statement("MQTT-3.1.2-8", "MQTT-3.14.4-3")
async def test_disconnect_0x04_publishes_the_will(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    dying = await peers.connect("dying", will=Will(peers.topic()))
    await dying.disconnect(0x04)
    await watcher.expect("PUBLISH", payload=b"will")


@statement("MQTT-3.1.2-8", "MQTT-3.1.4-3")
async def test_takeover_publishes_the_will_of_the_older_connection(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    await peers.connect("same", will=Will(peers.topic()))
    await peers.connect("same")
    await watcher.expect("PUBLISH", payload=b"will")


@statement("MQTT-3.1.2-8")
async def test_will_waits_for_its_delay(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    will = Will(peers.topic(), props=[("will_delay", 2)])
    dying = await peers.durable("dying", will=will)
    began = time.monotonic()
    dying.reset()
    await watcher.expect("PUBLISH", payload=b"will")
    assert 2 - MILLISECOND_S <= time.monotonic() - began <= 2 + STEP_S + LATE_S


@statement("MQTT-3.1.3-9", "MQTT-3.1.2-8")
async def test_reconnecting_within_the_delay_cancels_the_will(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    will = Will(peers.topic(), props=[("will_delay", 1)])
    dying = await peers.durable("dying", will=will)
    dying.reset()
    back = await peers.durable("dying")
    await let_pass(1.6)
    await peers.assert_nothing_delivered(back, watcher, qos=0)


@statement("MQTT-3.1.2-8", "MQTT-4.1.0-2")
async def test_session_end_comes_before_a_longer_will_delay(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    will = Will(peers.topic(), props=[("will_delay", 600)])
    dying = await peers.connect("dying", props=[("session_expiry", 1)], will=will)
    began = time.monotonic()
    dying.reset()
    await watcher.expect("PUBLISH", payload=b"will")
    assert 1 - MILLISECOND_S <= time.monotonic() - began <= 1 + STEP_S + LATE_S


@statement("MQTT-3.1.2-8")
async def test_will_delay_without_a_session_is_no_delay(peers: Peers) -> None:
    watcher = await peers.subscriber(peers.topic())
    dying = await peers.connect("dying", will=Will(peers.topic(), props=[("will_delay", 600)]))
    dying.reset()
    await watcher.expect("PUBLISH", payload=b"will")


@statement("MQTT-3.1.3-10", "MQTT-3.3.2-17", "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-20")
async def test_will_properties_are_forwarded_in_order(peers: Peers) -> None:
    props: list[mqtt_bytes.Property] = [
        ("payload_format", 1),
        ("content_type", "text/plain"),
        ("response_topic", "answer"),
        ("correlation", b"\0\1"),
        ("user", ("b", "1")),
        ("user", ("a", "2")),
        ("user", ("b", "1")),
    ]
    watcher = await peers.subscriber(peers.topic())
    dying = await peers.connect("dying", will=Will(peers.topic(), b"text", props=props))
    dying.reset()
    received = await watcher.expect("PUBLISH", payload=b"text")
    assert received.all("user") == [("b", "1"), ("a", "2"), ("b", "1")]
    for name in ("payload_format", "content_type", "response_topic", "correlation"):
        assert received.get(name) == dict(props)[name]


@pytest.mark.parametrize("version", [V5])
@statement("MQTT-3.1.2-8", "MQTT-3.1.2-4")
async def test_clean_start_within_the_delay_ends_the_session_and_publishes_the_will(
    peers: Peers, version: int
) -> None:
    watcher = await peers.subscriber(peers.topic(), version=version)
    dying = await peers.durable("dying", will=Will(peers.topic(), props=[("will_delay", 600)]))
    dying.reset()
    await peers.connect("dying", clean=True)
    await watcher.expect("PUBLISH", payload=b"will")
