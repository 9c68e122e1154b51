"""Retained messages (chapter 3.3.1.3)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V311
from support.peers import Peers, both_transports, both_versions
from support.raw_client import RawClient
from support.retained_order import race

statement = pytest.mark.statement

RETAIN_AS_PUBLISHED = 0x08
NEW_ONLY = 0x10
NEVER = 0x20


@both_transports
@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.3.1-5", "MQTT-3.3.1-9", "MQTT311-3.3.1-5", "MQTT311-3.3.1-6")
@statement("MQTT311-3.3.1-8")
async def test_retained_message_is_sent_to_a_later_subscriber(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    await publisher.deliver(peers.topic("a/b"), b"kept", qos=qos, retain=True)
    for name, topic_filter in enumerate(["a/b", "a/+", "#", "+/b"]):
        late = await peers.connect(f"late{name}", version)
        await late.send(b"")
        await late.subscribe((peers.topic(topic_filter), 2))
        received = await late.expect("PUBLISH", payload=b"kept", retain=True, qos=qos, dup=False)
        assert received.topic == peers.topic("a/b")


@both_versions
@statement("MQTT-3.3.1-5", "MQTT311-3.3.1-5", "MQTT311-3.3.1-7")
async def test_newer_retained_message_replaces_the_older(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    for qos, payload in ((2, b"first"), (1, b"second"), (0, b"third")):
        await publisher.deliver(peers.topic(), payload, qos=qos, retain=True)
    late = await peers.subscriber((peers.topic(), 2), version=version)
    await late.expect("PUBLISH", payload=b"third", retain=True)
    await peers.assert_nothing_delivered(publisher, late)


@both_versions
@statement("MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT311-3.3.1-10", "MQTT311-3.3.1-11")
async def test_empty_retained_message_is_delivered_and_removes_the_older(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber(peers.topic(), version=version)
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    await publisher.deliver(peers.topic(), b"", retain=True)
    await subscriber.expect("PUBLISH", payload=b"kept")
    await subscriber.expect("PUBLISH", payload=b"")
    late = await peers.subscriber(peers.topic(), version=version, name="late")
    await peers.assert_nothing_delivered(publisher, late)


@both_versions
@statement("MQTT-3.3.1-8", "MQTT311-3.3.1-12")
async def test_message_without_retain_leaves_the_retained_one(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    await publisher.deliver(peers.topic(), b"passing")
    await publisher.deliver(peers.topic(), b"")
    late = await peers.subscriber(peers.topic(), version=version)
    await late.expect("PUBLISH", payload=b"kept", retain=True)


@both_versions
@statement("MQTT-3.3.1-12", "MQTT311-3.3.1-9")
async def test_retain_flag_is_cleared_for_an_established_subscription(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber(peers.topic(), version=version)
    await publisher.deliver(peers.topic(), b"live", retain=True)
    await subscriber.expect("PUBLISH", payload=b"live", retain=False)


@pytest.mark.parametrize("retain", [False, True])
@statement("MQTT-3.3.1-13")
async def test_retain_as_published_keeps_the_flag(
    peers: Peers, publisher: RawClient, retain: bool
) -> None:
    subscriber = await peers.subscriber((peers.topic(), RETAIN_AS_PUBLISHED))
    await publisher.deliver(peers.topic(), b"live", retain=retain)
    await subscriber.expect("PUBLISH", payload=b"live", retain=retain)


@both_versions
@statement("MQTT-3.3.1-9", "MQTT-3.8.4-4", "MQTT311-3.8.4-3", "MQTT311-3.3.1-6")
async def test_subscribing_again_sends_the_retained_message_again(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    subscriber = await peers.connect("subscriber", version)
    for packet_id in (1, 2):
        await subscriber.subscribe(peers.topic(), packet_id=packet_id)
        await subscriber.expect("PUBLISH", payload=b"kept", retain=True)


@statement("MQTT-3.3.1-10")
async def test_retain_handling_1_sends_only_to_a_new_subscription(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    subscriber = await peers.subscriber((peers.topic(), NEW_ONLY))
    await subscriber.expect("PUBLISH", payload=b"kept", retain=True)
    await subscriber.subscribe((peers.topic(), NEW_ONLY), packet_id=2)
    await peers.assert_nothing_delivered(publisher, subscriber)
    await subscriber.unsubscribe(peers.topic())
    await subscriber.subscribe((peers.topic(), NEW_ONLY), packet_id=3)
    await subscriber.expect("PUBLISH", payload=b"kept", retain=True)


@statement("MQTT-3.3.1-10", "MQTT-3.1.2-5")
async def test_retain_handling_1_counts_the_subscription_of_a_resumed_session(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    first = await peers.durable()
    await first.subscribe((peers.topic(), NEW_ONLY))
    await first.expect("PUBLISH", payload=b"kept")
    await first.disconnect()
    again = await peers.durable()
    await again.subscribe((peers.topic(), NEW_ONLY))
    await peers.assert_nothing_delivered(publisher, again)


@statement("MQTT-3.3.1-11")
async def test_retain_handling_2_sends_none(peers: Peers, publisher: RawClient) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    subscriber = await peers.subscriber((peers.topic(), NEVER))
    await peers.assert_nothing_delivered(publisher, subscriber)


async def test_shared_subscription_gets_no_retained_messages(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    subscriber = await peers.subscriber(f"$share/group/{peers.topic()}")
    await peers.assert_nothing_delivered(publisher, subscriber)


async def test_retained_message_carries_the_subscription_identifier(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", retain=True)
    subscriber = await peers.connect("subscriber")
    await subscriber.subscribe(peers.topic(), props=[("subscription_identifier", 42)])
    received = await subscriber.expect("PUBLISH", payload=b"kept")
    assert received.all("subscription_identifier") == [42]


@statement("MQTT-3.3.1-9", "MQTT311-3.3.1-6")
async def test_every_matching_retained_message_is_sent(peers: Peers, publisher: RawClient) -> None:
    names = {f"room/{number}" for number in range(50)}
    for name in names:
        await publisher.publish(peers.topic(name), name.encode(), retain=True)
    await publisher.deliver(peers.topic("elsewhere"), b"x", retain=True)
    subscriber = await peers.subscriber(peers.topic("room/+"))
    found = {(await subscriber.expect("PUBLISH", retain=True)).payload.decode() for _ in names}
    assert found == names


@statement("MQTT311-3.3.1-5")
async def test_retained_qos_2_message_is_lowered_to_the_granted_qos(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"kept", qos=2, retain=True)
    late = await peers.subscriber((peers.topic(), 1), version=V311)
    await late.expect("PUBLISH", payload=b"kept", qos=1, retain=True)


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("filters", [["a/b"], ["a/+"], ["#"], ["a/b", "+/b", "other"]])
@statement("MQTT-3.3.1-8", "MQTT-3.3.1-12", "MQTT-4.6.0-5", "MQTT311-3.3.1-8", "MQTT311-3.3.1-9")
async def test_retained_and_live_messages_meet_in_order(
    peers: Peers, version: int, publisher: RawClient, qos: int, filters: list[str]
) -> None:
    for granted in (0, 1, 2):
        subscriber = await peers.connect(f"subscriber{granted}", version)
        topic = peers.topic("a/b")
        wanted = [(peers.topic(one), granted) for one in filters]
        assert not await race(publisher, subscriber, topic, wanted, qos)
        subscriber.reset()  # a PUBREL may be on its way


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.3.1-12", "MQTT-4.6.0-5")
async def test_a_durable_session_gets_retained_and_live_messages_in_order(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    for granted in (0, 1, 2):
        for number, name in enumerate(["a/b", "a/+", "#"]):
            subscriber = await peers.durable(f"subscriber{granted}{number}", version)
            topic = peers.topic("a/b")
            wanted = [(peers.topic(name), granted)]
            assert not await race(publisher, subscriber, topic, wanted, qos)


@both_versions
async def test_the_next_connection_of_a_session_gets_the_other_retained_messages(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    count = 200
    for number in range(count):
        await publisher.deliver(peers.topic(f"many/{number}"), b"%d" % number, retain=True)
    reader = await peers.durable("reader", version)
    await reader.subscribe((peers.topic("many/+"), 1))
    found: set[bytes] = set()
    for most in (50, 100, count):
        while len(found) < most:
            received = await reader.expect_among("PUBLISH")
            found.add(received.payload)
            await reader.acknowledge(received)
        reader.reset()
        reader = await peers.durable("reader", version)
    assert found == {b"%d" % number for number in range(count)}


@both_versions
@statement("MQTT-3.10.4-2")
async def test_after_unsubscribe_no_retained_messages_are_sent(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    for number in range(150):
        await publisher.deliver(peers.topic(f"many/{number}"), b"x", retain=True)
    reader = await peers.connect("reader", version)
    await reader.subscribe((peers.topic("many/+"), 1))
    await reader.send(mqtt_bytes.unsubscribe(2, [peers.topic("many/+")], version=version))
    before = 0
    while (received := await reader.receive()).kind != "UNSUBACK":
        before += 1
        await reader.acknowledge(received)
    assert before < 100
    await reader.send(mqtt_bytes.PINGREQ)
    while (received := await reader.receive()).kind != "PINGRESP":
        before += 1
    assert before < 100
