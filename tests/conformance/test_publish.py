"""PUBLISH: what is forwarded, and with which flags and properties (chapter 3.3)."""

from __future__ import annotations

import time

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import Property
from support.peers import Peers, both_transports, both_versions, let_pass
from support.raw_client import RawClient

statement = pytest.mark.statement


@both_transports
@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.3.4-1", "MQTT-3.3.1-2", "MQTT-2.2.1-2", "MQTT-2.2.1-5", "MQTT-4.3.1-1")
@statement("MQTT-3.3.2-3", "MQTT311-3.3.2-3", "MQTT311-3.3.4-1", "MQTT311-3.3.1-2")
@statement("MQTT311-2.3.1-5", "MQTT311-2.3.1-6", "MQTT311-4.3.1-1")
async def test_message_reaches_the_subscriber_at_its_qos(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.subscriber((peers.topic("+"), 2), version=version)
    await publisher.deliver(peers.topic("a"), b"\x00\xffbytes", qos=qos, packet_id=77)
    received = await subscriber.expect(
        "PUBLISH", topic=peers.topic("a"), payload=b"\x00\xffbytes", qos=qos, dup=False
    )
    await subscriber.acknowledge(received)
    await subscriber.expect_nothing()


@both_versions
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
@statement("MQTT-3.8.4-8", "MQTT311-3.8.4-6")
async def test_delivered_qos_is_the_lower_of_published_and_granted(
    peers: Peers, version: int, publisher: RawClient, published: int, granted: int
) -> None:
    subscriber = await peers.subscriber((peers.topic(), granted), version=version)
    await publisher.deliver(peers.topic(), qos=published)
    await subscriber.expect("PUBLISH", qos=min(published, granted))


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
@statement("MQTT-3.3.1-3", "MQTT-3.3.1-1", "MQTT311-3.3.1-3", "MQTT311-3.3.1-1")
async def test_incoming_dup_is_not_forwarded(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    await publisher.publish(peers.topic(), qos=qos, dup=True)
    await publisher.expect("PUBACK" if qos == 1 else "PUBREC")
    if qos == 2:
        await publisher.send(mqtt_bytes.acknowledge("PUBREL", 1))
        await publisher.expect("PUBCOMP")
    await subscriber.expect("PUBLISH", dup=False, qos=qos)


@both_versions
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 16_383, 16_384, 70_000, 300_000])
@both_transports
async def test_payload_of_any_size_arrives_unchanged(
    peers: Peers, version: int, publisher: RawClient, size: int
) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    subscriber = await peers.subscriber(peers.topic(), version=version)
    await publisher.publish(peers.topic(), payload[:size])
    await subscriber.expect("PUBLISH", payload=payload[:size])


PROPERTIES: list[Property] = [
    ("payload_format", 1),
    ("content_type", "text/plain; charset=utf-8 é"),
    ("response_topic", "answer/here"),
    ("correlation", b"\x00\x01\xff"),
    ("user", ("z", "last")),
    ("user", ("a", "")),
    ("user", ("z", "last")),
    ("user", ("", "é\ufeff")),
]


@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18")
@statement("MQTT-3.3.2-20", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-2.2.2-1")
async def test_properties_are_forwarded_unaltered_and_in_order(
    peers: Peers, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2))
    await publisher.deliver(peers.topic(), b"text", qos=qos, props=PROPERTIES)
    received = await subscriber.expect("PUBLISH")
    assert received.all("user") == [value for name, value in PROPERTIES if name == "user"]
    for name, value in PROPERTIES:
        if name != "user":
            assert received.get(name) == value


@statement("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20")
async def test_queued_and_retained_messages_keep_their_properties(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 1))
    await subscriber.disconnect()
    await publisher.deliver(peers.topic(), b"text", qos=1, retain=True, props=PROPERTIES)
    queued = await (await peers.durable()).expect("PUBLISH", payload=b"text")
    late = await peers.subscriber(peers.topic(), name="late")
    retained = await late.expect("PUBLISH", payload=b"text", retain=True)
    for received in (queued, retained):
        assert sorted(map(repr, received.properties)) == sorted(map(repr, PROPERTIES))
        assert received.all("user") == [value for name, value in PROPERTIES if name == "user"]


@statement("MQTT-1.5.4-3", "MQTT-4.7.3-4", "MQTT311-1.5.3-3", "MQTT311-4.7.3-4")
@both_versions
async def test_topic_is_not_normalized_nor_its_bom_stripped(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    composed, decomposed = peers.topic("\ufeffé"), peers.topic("\ufeffe\u0301")
    subscriber = await peers.subscriber(composed, version=version)
    await publisher.publish(decomposed, b"other characters")
    await publisher.publish(peers.topic("é"), b"without U+FEFF")
    await publisher.publish(composed.upper(), b"another case")
    await publisher.publish(composed, b"same")
    await subscriber.expect("PUBLISH", topic=composed, payload=b"same")


async def test_topic_of_65535_bytes_is_carried(peers: Peers, publisher: RawClient) -> None:
    topic = peers.topic("x" * (65_535 - 9))
    subscriber = await peers.subscriber(topic)
    await publisher.publish(topic)
    await subscriber.expect("PUBLISH", topic=topic)


# --- message expiry ---------------------------------------------------------------------------


@statement("MQTT-3.3.2-6")
async def test_message_expiry_is_lowered_by_the_time_waited(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 1))
    await subscriber.disconnect()
    began = time.monotonic()
    await publisher.deliver(peers.topic(), props=[("message_expiry", 100)])
    await let_pass(1.2)
    received = await (await peers.durable()).expect("PUBLISH")
    waited_s = time.monotonic() - began
    assert 100 - waited_s <= received.number("message_expiry") <= 99


@statement("MQTT-3.3.2-6")
async def test_message_expiry_is_forwarded_at_once_unchanged(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber(peers.topic())
    began = time.monotonic()
    await publisher.publish(peers.topic(), props=[("message_expiry", 100)])
    received = await subscriber.expect("PUBLISH")
    waited_s = time.monotonic() - began
    assert 100 - waited_s <= received.number("message_expiry") <= 100


@statement("MQTT-3.3.2-5")
async def test_expired_message_is_not_delivered(peers: Peers, publisher: RawClient) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 1))
    await subscriber.disconnect()
    await publisher.deliver(peers.topic(), b"short", props=[("message_expiry", 1)])
    await publisher.deliver(peers.topic(), b"long", props=[("message_expiry", 100)])
    await let_pass(2.1)
    again = await peers.durable()
    await again.expect("PUBLISH", payload=b"long")


@statement("MQTT-3.3.2-5")
async def test_expired_retained_message_is_not_delivered(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.deliver(peers.topic(), b"short", retain=True, props=[("message_expiry", 1)])
    await let_pass(2.1)
    late = await peers.subscriber(peers.topic(), name="late")
    await peers.assert_nothing_delivered(publisher, late, qos=0)


# --- topic aliases ----------------------------------------------------------------------------


@both_transports
@statement("MQTT-3.3.2-12")
async def test_every_announced_topic_alias_is_accepted(peers: Peers, publisher: RawClient) -> None:
    assert publisher.connack is not None
    highest = publisher.connack.number("topic_alias_maximum")
    if not highest:
        pytest.skip("the broker takes no aliases")
    subscriber = await peers.subscriber(peers.topic("#"))
    for alias in range(1, highest + 1):
        await publisher.publish(peers.topic(f"{alias}"), props=[("topic_alias", alias)])
        await subscriber.expect("PUBLISH", topic=peers.topic(f"{alias}"))
    for alias in range(highest, 0, -1):
        await publisher.publish("", b"by alias", props=[("topic_alias", alias)])
        received = await subscriber.expect(
            "PUBLISH", topic=peers.topic(f"{alias}"), payload=b"by alias"
        )
        assert received.get("topic_alias") is None


async def test_topic_alias_can_be_given_another_topic(peers: Peers, publisher: RawClient) -> None:
    subscriber = await peers.subscriber(peers.topic("#"))
    await publisher.publish(peers.topic("a"), props=[("topic_alias", 1)])
    await publisher.publish(peers.topic("b"), props=[("topic_alias", 1)])
    await publisher.publish("", b"last", props=[("topic_alias", 1)])
    for name in ("a", "b", "b"):
        await subscriber.expect("PUBLISH", topic=peers.topic(name))


@statement("MQTT-3.3.2-7")
async def test_topic_alias_is_forgotten_with_the_connection(peers: Peers) -> None:
    first = await peers.durable()
    await first.deliver(peers.topic(), props=[("topic_alias", 1)])
    await first.disconnect()
    again = await peers.durable()
    await again.publish("", props=[("topic_alias", 1)])
    await again.expect_closed(reasons=[0x82, 0x94])


@pytest.mark.parametrize("alias", [0, 11, 65_535])
@statement("MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT-3.2.2-17", "MQTT-4.13.1-1")
async def test_topic_alias_out_of_range_is_refused_with_0x94(
    peers: Peers, publisher: RawClient, alias: int
) -> None:
    await publisher.publish(peers.topic(), props=[("topic_alias", alias)])
    await publisher.expect_closed(reasons=[0x94])


async def test_unknown_topic_alias_is_a_protocol_error(peers: Peers, publisher: RawClient) -> None:
    await publisher.publish("", props=[("topic_alias", 1)])
    await publisher.expect_closed(reasons=[0x82, 0x94])


@pytest.mark.parametrize("announced", [None, 0])
@statement("MQTT-3.1.2-27", "MQTT-3.3.2-11")
async def test_client_without_alias_maximum_gets_no_alias(
    peers: Peers, publisher: RawClient, announced: int | None
) -> None:
    props = [] if announced is None else [("topic_alias_maximum", announced)]
    subscriber = await peers.connect("subscriber", props=props)
    await subscriber.subscribe(peers.topic("#"))
    for _ in range(3):
        await publisher.publish(peers.topic())
        received = await subscriber.expect("PUBLISH", topic=peers.topic())
        assert received.get("topic_alias") is None


@both_transports
@statement("MQTT-3.1.2-26", "MQTT-3.3.2-11", "MQTT-3.3.2-8")
async def test_aliases_to_a_client_stay_within_its_maximum(
    peers: Peers, publisher: RawClient, is_tidegate: bool
) -> None:
    subscriber = await peers.connect("subscriber", props=[("topic_alias_maximum", 2)])
    await subscriber.subscribe(peers.topic("#"))
    used: set[int] = set()
    saved = 0
    for _ in range(3):
        for name in ("a", "b", "c", "d"):
            await publisher.publish(peers.topic(name))
            # The raw client resolves the alias; a wrong one shows as a wrong topic.
            received = await subscriber.expect("PUBLISH", topic=peers.topic(name))
            used.add(received.number("topic_alias"))
            saved += peers.prefix.encode() not in received.raw
    assert used <= {0, 1, 2}
    assert saved or not is_tidegate, "aliases are on by default"


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
async def test_reason_0x10_tells_that_nobody_subscribed(
    peers: Peers, publisher: RawClient, qos: int
) -> None:
    answer = await publisher.deliver(peers.topic(), qos=qos)
    assert answer is not None
    assert answer.reason == 0x10


@both_versions
@statement("MQTT311-3.3.5-2")
async def test_publish_to_sys_is_refused_but_answered(
    peers: Peers, version: int, publisher: RawClient, is_tidegate: bool
) -> None:
    topic = f"$SYS/{peers.prefix}"
    subscriber = await peers.subscriber(topic, version=version)
    answer = await publisher.deliver(topic, qos=1)
    assert answer is not None
    if version == mqtt_bytes.V5 and is_tidegate:
        assert answer.reason == 0x87
    await peers.assert_nothing_delivered(publisher, subscriber)


@statement("MQTT-4.3.3-9", "MQTT-3.5.2-1")
async def test_packet_identifier_of_a_refused_qos_2_message_is_free_again(
    peers: Peers, publisher: RawClient, is_tidegate: bool
) -> None:
    if not is_tidegate:
        pytest.skip("needs a broker that refuses $SYS")
    subscriber = await peers.subscriber((peers.topic(), 2))
    await publisher.publish(f"$SYS/{peers.prefix}", qos=2, packet_id=9)
    assert (await publisher.expect("PUBREC", packet_id=9)).reason >= 0x80
    await publisher.deliver(peers.topic(), b"new", qos=2, packet_id=9)
    await subscriber.expect("PUBLISH", payload=b"new")
