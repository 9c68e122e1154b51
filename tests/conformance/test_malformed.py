"""Malformed packets and protocol errors: which reason code ends the connection (chapter 4.13)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5, V311, packet, string, two
from support.peers import Peers, both_transports, both_versions

statement = pytest.mark.statement

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
EITHER = (MALFORMED, PROTOCOL_ERROR)

pub, sub, unsub = mqtt_bytes.publish, mqtt_bytes.subscribe, mqtt_bytes.unsubscribe


def case(name: str, data: bytes, reasons: Sequence[int] | int, *statements: str) -> pytest.param:  # type: ignore[valid-type]  # pytest has no public name for it
    """One line of the tables below."""
    wanted = [reasons] if isinstance(reasons, int) else list(reasons)
    return pytest.param(data, wanted, id=name, marks=statement(*statements) if statements else [])


FIXED_HEADERS = [
    case("type 0", b"\x00\x00", EITHER),
    case("PINGREQ flags", b"\xc1\x00", MALFORMED, "MQTT-2.1.3-1", "MQTT311-2.2.2-1"),
    case("PINGREQ body", b"\xc0\x01\x00", MALFORMED),
    case("PUBACK flags", b"\x41\x02\x00\x01", MALFORMED, "MQTT-2.1.3-1", "MQTT311-2.2.2-2"),
    case("PUBREC flags", b"\x52\x02\x00\x01", MALFORMED, "MQTT-2.1.3-1", "MQTT311-2.2.2-2"),
    case("PUBREL flags", b"\x60\x02\x00\x01", MALFORMED, "MQTT-3.6.1-1", "MQTT311-3.6.1-1"),
    case("PUBCOMP flags", b"\x72\x02\x00\x01", MALFORMED, "MQTT-2.1.3-1", "MQTT311-2.2.2-2"),
    case("DISCONNECT flags", b"\xe1\x00", MALFORMED, "MQTT-3.14.1-1", "MQTT311-3.14.1-1"),
    case("PUBLISH QoS 3", b"\x36\x06\x00\x01t\x00\x01\x00", MALFORMED, "MQTT-3.3.1-4"),
    case("length of five bytes", b"\x30\xff\xff\xff\xff\x01", MALFORMED, "MQTT-1.5.5-1"),
    case("length longer than it need be", b"\xc0\x80\x00", EITHER, "MQTT-1.5.5-1"),
    case("PUBACK too short", b"\x40\x01\x00", MALFORMED),
    case("PUBACK without body", b"\x40\x00", MALFORMED),
    case("PUBREL too short", b"\x62\x01\x00", MALFORMED),
    case("PUBLISH too short", b"\x30\x01\x00", MALFORMED),
    case("PUBLISH topic cut", b"\x30\x04\x00\x05ab", MALFORMED),
    case("SUBSCRIBE too short", b"\x82\x01\x00", EITHER),
    case("UNSUBSCRIBE too short", b"\xa2\x01\x00", EITHER),
    case("CONNACK from a client", b"\x20\x02\x00\x00", EITHER),
    case("SUBACK from a client", b"\x90\x03\x00\x01\x00", EITHER),
    case("UNSUBACK from a client", b"\xb0\x02\x00\x01", EITHER),
    case("PINGRESP from a client", b"\xd0\x00", EITHER),
    case("PUBACK id 0", b"\x40\x02\x00\x00", EITHER, "MQTT-2.2.1-5"),
]


@both_transports
@both_versions
@pytest.mark.parametrize(("data", "reasons"), FIXED_HEADERS)
@statement("MQTT-4.13.1-1", "MQTT-4.13.2-1", "MQTT-3.14.4-2", "MQTT311-4.8.0-1")
async def test_bad_packet_ends_the_connection(
    peers: Peers, version: int, data: bytes, reasons: list[int]
) -> None:
    client = await peers.connect(version=version)
    await client.send(data)
    await client.expect_closed(reasons=reasons)


NUL = b"a\0b"
ILL_FORMED = [
    pytest.param(b"\xc3\x28", id="continuation byte missing"),
    pytest.param(b"\xff", id="0xff"),
    pytest.param(b"\xc0\x80", id="overlong U+0000"),
    pytest.param(b"\xed\xa0\x80", id="surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", id="above U+10FFFF"),
    pytest.param(b"\xe2\x82", id="cut"),
]


@both_versions
@pytest.mark.parametrize("raw", ILL_FORMED)
@pytest.mark.parametrize("where", ["topic name", "topic filter", "unsubscribe"])
@statement("MQTT-1.5.4-1", "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.3-3")
@statement("MQTT311-1.5.3-1", "MQTT311-3.3.2-1", "MQTT311-3.8.3-1", "MQTT311-3.10.3-1")
@statement("MQTT311-4.7.3-3")
async def test_ill_formed_utf8_in_a_topic_is_malformed(
    peers: Peers, version: int, raw: bytes, where: str
) -> None:
    client = await peers.connect(version=version)
    topic = b"t/" + raw
    match where:
        case "topic name":
            await client.send(pub(topic, b"x", version=version))
        case "topic filter":
            await client.send(sub(1, [topic], version=version))
        case _:
            await client.send(unsub(1, [topic], version=version))
    await client.expect_closed(reasons=[MALFORMED])


@both_versions
@pytest.mark.parametrize("where", ["topic name", "topic filter", "unsubscribe"])
@statement("MQTT-1.5.4-2", "MQTT-4.7.3-2", "MQTT311-1.5.3-2", "MQTT311-4.7.3-2")
async def test_null_character_in_a_topic_is_malformed(
    peers: Peers, version: int, where: str
) -> None:
    client = await peers.connect(version=version)
    match where:
        case "topic name":
            await client.send(pub(NUL, b"x", version=version))
        case "topic filter":
            await client.send(sub(1, [NUL], version=version))
        case _:
            await client.send(unsub(1, [NUL], version=version))
    await client.expect_closed(reasons=[MALFORMED])


def _both(
    name: str, make: bytes, make_311: bytes, reasons: Sequence[int] | int, *ids: str
) -> list[pytest.param]:  # type: ignore[valid-type]  # pytest has no public name for it
    wanted = [reasons] if isinstance(reasons, int) else list(reasons)
    marks = [statement(*ids)]
    return [
        pytest.param(V5, make, wanted, id=f"{name}-5.0", marks=marks),
        pytest.param(V311, make_311, wanted, id=f"{name}-3.1.1", marks=marks),
    ]


TOPIC_NAME = (MALFORMED, PROTOCOL_ERROR, 0x90)
BODIES = [
    *_both(
        "PUBLISH with packet identifier 0",
        pub("t", qos=1, packet_id=0),
        pub("t", qos=1, packet_id=0, version=V311),
        EITHER,
        "MQTT-2.2.1-3",
        "MQTT311-2.3.1-1",
    ),
    *_both(
        "SUBSCRIBE with packet identifier 0",
        sub(0, ["t"]),
        sub(0, ["t"], version=V311),
        EITHER,
        "MQTT-2.2.1-3",
        "MQTT311-2.3.1-1",
    ),
    *_both(
        "UNSUBSCRIBE with packet identifier 0",
        unsub(0, ["t"]),
        unsub(0, ["t"], version=V311),
        EITHER,
        "MQTT-2.2.1-3",
        "MQTT311-2.3.1-1",
    ),
    *_both(
        "DUP with QoS 0",
        pub("t", dup=True),
        pub("t", dup=True, version=V311),
        EITHER,
        "MQTT-3.3.1-2",
        "MQTT311-3.3.1-2",
    ),
    *_both(
        "+ in a topic name",
        pub("a/+"),
        pub("a/+", version=V311),
        TOPIC_NAME,
        "MQTT-3.3.2-2",
        "MQTT-4.7.0-1",
        "MQTT311-3.3.2-2",
        "MQTT311-4.7.1-1",
    ),
    *_both(
        "# in a topic name",
        pub("#"),
        pub("#", version=V311),
        TOPIC_NAME,
        "MQTT-3.3.2-2",
        "MQTT-4.7.0-1",
        "MQTT311-3.3.2-2",
        "MQTT311-4.7.1-1",
    ),
    *_both(
        "empty topic name",
        pub(""),
        pub("", version=V311),
        TOPIC_NAME,
        "MQTT-4.7.3-1",
        "MQTT311-4.7.3-1",
    ),
    *_both(
        "QoS 3",
        pub("t", qos=3, packet_id=1),
        pub("t", qos=3, packet_id=1, version=V311),
        MALFORMED,
        "MQTT-3.3.1-4",
        "MQTT311-3.3.1-4",
    ),
    *_both(
        "SUBSCRIBE flags",
        sub(1, ["t"], flags=0),
        sub(1, ["t"], flags=0, version=V311),
        MALFORMED,
        "MQTT-3.8.1-1",
        "MQTT311-3.8.1-1",
    ),
    *_both(
        "UNSUBSCRIBE flags",
        unsub(1, ["t"], flags=3),
        unsub(1, ["t"], flags=3, version=V311),
        MALFORMED,
        "MQTT-3.10.1-1",
        "MQTT311-3.10.1-1",
    ),
    *_both(
        "SUBSCRIBE without filters",
        sub(1, []),
        sub(1, [], version=V311),
        EITHER,
        "MQTT-3.8.3-2",
        "MQTT311-3.8.3-3",
    ),
    *_both(
        "UNSUBSCRIBE without filters",
        unsub(1, []),
        unsub(1, [], version=V311),
        EITHER,
        "MQTT-3.10.3-2",
        "MQTT311-3.10.3-2",
    ),
    *_both(
        "requested QoS 3",
        sub(1, [("t", 3)]),
        sub(1, [("t", 3)], version=V311),
        EITHER,
        "MQTT311-3.8.3-4",
    ),
    *_both(
        "reserved subscription bits",
        sub(1, [("t", 0xC1)]),
        sub(1, [("t", 0xC1)], version=V311),
        EITHER,
        "MQTT-3.8.3-5",
        "MQTT311-3.8.3-4",
    ),
    *_both(
        "filter without options",
        packet(0x82, two(1), b"\0", string("t")),
        packet(0x82, two(1), string("t")),
        EITHER,
    ),
]


@pytest.mark.parametrize(("version", "data", "reasons"), BODIES)
@statement("MQTT-4.13.1-1", "MQTT311-4.8.0-1")
async def test_bad_content_ends_the_connection(
    peers: Peers, version: int, data: bytes, reasons: list[int]
) -> None:
    client = await peers.connect(version=version)
    await client.send(data)
    await client.expect_closed(reasons=reasons)


MQTT5_ONLY = [
    case("AUTH flags", mqtt_bytes.auth(None, flags=1), MALFORMED, "MQTT-3.15.1-1"),
    case("DISCONNECT with an unknown reason", mqtt_bytes.disconnect(0x42), EITHER),
    case("no property length in SUBSCRIBE", packet(0x82, two(1)), EITHER, "MQTT-2.2.2-1"),
    case("no property length in PUBLISH", packet(0x30, string("t")), EITHER, "MQTT-2.2.2-1"),
    case("properties longer than the packet", packet(0x30, string("t"), b"\x20"), MALFORMED),
    case("unknown property", pub("t", props=b"\x7f\x00"), MALFORMED),
    case("property of another packet", pub("t", props=[("session_expiry", 1)]), EITHER),
    case("property cut", pub("t", props=b"\x02\x00"), MALFORMED),
    case(
        "property twice",
        pub("t", props=[("content_type", "a"), ("content_type", "b")]),
        PROTOCOL_ERROR,
    ),
    case("payload format 2", pub("t", props=[("payload_format", 2)]), EITHER),
    case(
        "subscription identifier from a client",
        pub("t", props=[("subscription_identifier", 1)]),
        EITHER,
        "MQTT-3.3.4-6",
    ),
    case(
        "subscription identifier 0",
        sub(1, ["t"], props=[("subscription_identifier", 0)]),
        PROTOCOL_ERROR,
    ),
    case(
        "subscription identifier twice",
        sub(1, ["t"], props=[("subscription_identifier", 1), ("subscription_identifier", 2)]),
        PROTOCOL_ERROR,
    ),
    case(
        "response topic with wildcard",
        pub("t", props=[("response_topic", "a/#")]),
        (MALFORMED, PROTOCOL_ERROR, 0x90),
        "MQTT-3.3.2-14",
    ),
    case(
        "response topic not UTF-8",
        pub("t", props=[("response_topic", b"\xff")]),
        MALFORMED,
        "MQTT-3.3.2-13",
    ),
    case(
        "content type not UTF-8",
        pub("t", props=[("content_type", b"\xff")]),
        MALFORMED,
        "MQTT-3.3.2-19",
    ),
    case(
        "user property not UTF-8",
        pub("t", props=b"\x26\x00\x01a\x00\x01\xff"),
        MALFORMED,
        "MQTT-1.5.7-1",
    ),
    case(
        "user property with U+0000",
        pub("t", props=b"\x26\x00\x01\x00\x00\x01a"),
        MALFORMED,
        "MQTT-1.5.7-1",
    ),
    case(
        "retain handling 3",
        sub(1, [("t", 0x30)]),
        EITHER,
        "MQTT-3.8.3-5",
    ),
    case(
        "no local on a shared subscription",
        sub(1, [("$share/g/t", 0x04)]),
        PROTOCOL_ERROR,
        "MQTT-3.8.3-4",
    ),
    case("varint of five bytes in properties", packet(0x30, string("t"), b"\xff" * 5), MALFORMED),
    case("PUBACK reason unknown", packet(0x40, two(1), b"\x42"), EITHER),
    case("PUBREL reason unknown", packet(0x62, two(1), b"\x80"), EITHER),
    case("AUTH reason unknown", mqtt_bytes.auth(0x42), EITHER),
]


@pytest.mark.parametrize(("data", "reasons"), MQTT5_ONLY)
@statement("MQTT-4.13.1-1", "MQTT-3.14.2-1")
async def test_bad_mqtt5_content_ends_the_connection_with_its_reason(
    peers: Peers, data: bytes, reasons: list[int]
) -> None:
    client = await peers.connect()
    await client.send(data)
    await client.expect_closed(reasons=reasons)


@both_versions
@statement("MQTT-3.14.4-1", "MQTT-4.13.1-1", "MQTT311-4.8.0-1")
async def test_packets_before_a_malformed_one_are_processed_and_those_after_are_not(
    peers: Peers, version: int
) -> None:
    subscriber = await peers.subscriber(peers.topic("#"), version=version)
    client = await peers.connect(version=version)
    await client.send(
        pub(peers.topic("before"), version=version)
        + b"\x00\x00"
        + pub(peers.topic("after"), version=version)
    )
    await client.expect_closed()
    await subscriber.expect("PUBLISH", topic=peers.topic("before"))
    publisher = await peers.connect("publisher", version)
    await peers.assert_nothing_delivered(publisher, subscriber, qos=0)


@both_versions
@statement("MQTT-3.14.4-2", "MQTT311-3.14.4-1", "MQTT311-3.14.4-2")
async def test_disconnect_closes_the_connection_and_ends_processing(
    peers: Peers, version: int
) -> None:
    subscriber = await peers.subscriber(peers.topic("#"), version=version)
    client = await peers.connect(version=version)
    await client.send(mqtt_bytes.disconnect() + pub(peers.topic("after"), version=version))
    assert await client.receive_or_end() is None
    publisher = await peers.connect("publisher", version)
    await peers.assert_nothing_delivered(publisher, subscriber, qos=0)


@both_versions
@both_transports
@statement("MQTT-4.2.0-1", "MQTT311-7.1.1-1")
async def test_stream_may_be_cut_anywhere(peers: Peers, version: int) -> None:
    client = await peers.open(version)
    stream = (
        mqtt_bytes.connect(peers.client_id(), version=version)
        + sub(1, [peers.topic()], version=version)
        + pub(peers.topic(), b"x" * 200, version=version)
        + mqtt_bytes.PINGREQ
    )
    for index in range(len(stream)):
        await client.send(stream[index : index + 1])
    await client.expect("CONNACK", reason=0)
    await client.expect("SUBACK")
    await client.expect_among("PUBLISH", payload=b"x" * 200)
    await client.expect("PINGRESP")
