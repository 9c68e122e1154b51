"""Session state: kept, resumed, discarded (chapters 3.1.2.4, 3.1.2.11.2, 3.2.2.1, 4.1)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5, V311
from support.peers import DURABLE_S, Peers, both_transports, both_versions, let_pass

statement = pytest.mark.statement


@both_versions
@statement("MQTT-3.1.2-6", "MQTT-3.2.2-3", "MQTT311-3.2.2-3")
async def test_session_present_is_0_for_a_new_session(peers: Peers, version: int) -> None:
    client = await peers.durable(version=version)
    assert client.connack is not None
    assert not client.connack.session_present


@both_transports
@both_versions
@statement("MQTT-3.1.2-5", "MQTT-3.1.2-23", "MQTT-3.1.3-2", "MQTT-3.2.2-3", "MQTT-4.5.0-1")
@statement("MQTT311-3.1.2-4", "MQTT311-3.1.2-5", "MQTT311-3.1.3-2", "MQTT311-3.2.2-2")
@statement("MQTT311-4.1.0-1", "MQTT311-4.5.0-1")
async def test_session_keeps_subscriptions_and_queues_messages(peers: Peers, version: int) -> None:
    client = await peers.durable(version=version)
    await client.subscribe((peers.topic(), 2))
    await client.disconnect()
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"one", qos=1)
    await publisher.deliver(peers.topic(), b"two", qos=2)
    again = await peers.durable(version=version)
    assert again.connack is not None
    assert again.connack.session_present
    one = await again.expect("PUBLISH", payload=b"one", qos=1, dup=False)
    two = await again.expect("PUBLISH", payload=b"two", qos=2, dup=False)
    assert one.packet_id != two.packet_id


@both_versions
@statement("MQTT-3.1.2-4", "MQTT-3.1.4-4", "MQTT-3.2.2-2")
@statement("MQTT311-3.1.2-6", "MQTT311-3.1.4-3", "MQTT311-3.2.2-1")
async def test_clean_start_discards_the_session(peers: Peers, version: int) -> None:
    client = await peers.durable(version=version)
    await client.subscribe((peers.topic(), 1))
    await client.disconnect()
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"queued")
    fresh = await peers.connect("durable", version, clean=True)
    assert fresh.connack is not None
    assert not fresh.connack.session_present
    await publisher.deliver(peers.topic(), b"nobody subscribed")
    await peers.assert_nothing_delivered(publisher, fresh)


@both_versions
@statement("MQTT-3.1.2-4", "MQTT311-3.1.2-6")
async def test_nothing_of_a_discarded_session_comes_back_later(peers: Peers, version: int) -> None:
    first = await peers.durable(version=version)
    await first.subscribe((peers.topic(), 1))
    await first.disconnect()
    clean = await peers.connect("durable", version, clean=True)
    await clean.disconnect()
    third = await peers.durable(version=version)
    assert third.connack is not None
    assert not third.connack.session_present
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"x")
    await peers.assert_nothing_delivered(publisher, third)


@both_versions
@statement("MQTT-4.1.0-2", "MQTT311-3.1.2-6")
async def test_session_without_expiry_ends_with_its_connection(peers: Peers, version: int) -> None:
    client = await peers.connect("short", version, clean=True)
    await client.subscribe((peers.topic(), 1))
    await client.disconnect()
    again = await peers.connect("short", version, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present


@statement("MQTT-4.1.0-2", "MQTT-3.1.2-23")
async def test_session_is_discarded_once_its_expiry_has_passed(peers: Peers) -> None:
    client = await peers.connect("short", clean=False, props=[("session_expiry", 1)])
    await client.subscribe((peers.topic(), 1))
    await client.disconnect()
    await let_pass(2.2)
    again = await peers.connect("short", clean=False)
    assert again.connack is not None
    assert not again.connack.session_present


@both_versions
@statement("MQTT-4.1.0-1", "MQTT311-4.1.0-2", "MQTT311-4.1.0-1")
async def test_session_lives_as_long_as_its_connection(peers: Peers, version: int) -> None:
    client = await peers.connect(
        version=version, props=[("session_expiry", 1)] if version == V5 else ()
    )
    await client.subscribe((peers.topic(), 1))
    await let_pass(1.5)
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"still there")
    await client.expect("PUBLISH", payload=b"still there")


async def test_disconnect_may_shorten_the_session(peers: Peers) -> None:
    client = await peers.durable()
    await client.disconnect(0, [("session_expiry", 0)])
    again = await peers.durable()
    assert again.connack is not None
    assert not again.connack.session_present


async def test_disconnect_may_not_start_a_session_expiry(peers: Peers) -> None:
    client = await peers.connect()
    await client.send(mqtt_bytes.disconnect(0, [("session_expiry", DURABLE_S)]))
    await client.expect_closed(reasons=[0x82])


@both_versions
@statement("MQTT311-3.1.2-7")
async def test_retained_messages_outlive_the_session(peers: Peers, version: int) -> None:
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"kept", qos=1, retain=True)
    await publisher.disconnect()
    late = await peers.subscriber(peers.topic(), version=version)
    await late.expect("PUBLISH", payload=b"kept", retain=True)


@both_versions
@statement("MQTT-3.1.2-5", "MQTT-3.1.4-3", "MQTT311-3.1.2-4", "MQTT311-3.1.4-2")
async def test_takeover_inherits_the_session(peers: Peers, version: int) -> None:
    first = await peers.durable(version=version)
    await first.subscribe((peers.topic(), 1))
    second = await peers.durable(version=version)
    assert second.connack is not None
    assert second.connack.session_present
    publisher = await peers.connect("publisher", version)
    await publisher.deliver(peers.topic(), b"for the second")
    await second.expect("PUBLISH", payload=b"for the second")


async def test_qos_0_is_not_queued_for_an_absent_session(peers: Peers, is_tidegate: bool) -> None:
    if not is_tidegate:
        pytest.skip("a choice of ours")
    client = await peers.durable(version=V311)
    await client.subscribe((peers.topic(), 2))
    await client.disconnect()
    publisher = await peers.connect("publisher", V311)
    await publisher.publish(peers.topic(), b"lost")
    await publisher.deliver(peers.topic(), b"kept")
    again = await peers.durable(version=V311)
    received = await again.expect("PUBLISH", payload=b"kept")
    await again.acknowledge(received)
    await again.expect_nothing()
