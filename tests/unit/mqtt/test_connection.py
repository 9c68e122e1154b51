"""The server's side of one connection: order, directions, sizes, aliases, Receive Maximum."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import pytest

from tidegate.core.second_chance import SecondChance
from tidegate.mqtt import connection as connection_module
from tidegate.mqtt.connection import (
    ConnectionSettings,
    OutgoingAliases,
    ServerConnection,
    TopicNames,
)
from tidegate.mqtt.encode import encode, encode_ack, encode_publish
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
)

statement = pytest.mark.statement

V31: Final = ProtocolVersion.V31
V311: Final = ProtocolVersion.V311
V5: Final = ProtocolVersion.V5
each_version = pytest.mark.parametrize("version", list(ProtocolVersion))


def connected(
    version: ProtocolVersion = V5,
    *,
    max_packet_size_bytes: int = 268_435_460,
    receive_maximum: int = 65_535,
    topic_alias_maximum: int = 0,
    names: TopicNames | None = None,
) -> ServerConnection:
    """Return a connection on which CONNECT has come."""
    settings = ConnectionSettings(max_packet_size_bytes, receive_maximum, topic_alias_maximum)
    if names is not None:
        settings = replace(settings, names=names)
    connection = ServerConnection(settings)
    packet = Connect("c", protocol_version=version)
    assert connection.receive(encode(packet, version)) == [packet]
    return connection


def publish(
    topic: str = "t", qos: int = 0, packet_id: int = 0, alias: int = 0, payload: bytes = b"p"
) -> bytes:
    """Encode a PUBLISH of MQTT 5."""
    return encode_publish(
        Publish(topic, payload), 5, qos, False, False, packet_id, topic_alias=alias
    )


def error_of(connection: ServerConnection) -> MqttError:
    """Return the fault, which must be there."""
    assert connection.error is not None
    return connection.error


# The first packet


@each_version
def test_connect_says_what_the_client_speaks(version: ProtocolVersion) -> None:
    connection, packet = ServerConnection(), Connect("c", protocol_version=version)
    assert connection.receive(encode(packet, version)) == [packet]
    assert connection.has_connect
    assert connection.version == version
    assert connection.refusal_version == version


@pytest.mark.parametrize("first", [b"\xc0\0", b"\x30\x03\0\x01t", b"GET / HTTP/1.1\r\n"])
@statement("MQTT-3.1.0-1", "MQTT311-3.1.0-1")
def test_anything_but_connect_is_refused_at_its_first_byte(first: bytes) -> None:
    connection = ServerConnection()
    assert connection.receive(first[:1]) == []
    assert error_of(connection).statement == "MQTT-3.1.0-1"
    assert connection.refusal_version is None


@pytest.mark.parametrize("name", [b"\0\4H", b"\0\4MQTX", b"\1", b"\0\5", b"\0\6MQIsdP"])
@statement("MQTT-3.1.2-1", "MQTT311-3.1.2-1")
def test_what_cannot_become_a_protocol_name_of_mqtt_is_not_waited_for(name: bytes) -> None:
    connection = ServerConnection()
    for value in b"\x10\x7f" + name:
        assert connection.error is None
        assert connection.receive(bytes((value,))) == []
    assert error_of(connection).reason_code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
    assert connection.refusal_version is None


@each_version
@statement("MQTT-3.1.0-2", "MQTT311-3.1.0-2")
def test_a_second_connect_is_a_protocol_error(version: ProtocolVersion) -> None:
    connection = connected(version)
    assert connection.receive(encode(Connect("d", protocol_version=version), version)) == []
    assert isinstance(connection.error, ProtocolViolation)
    assert connection.error.reason_code == ReasonCode.PROTOCOL_ERROR
    assert connection.error.statement == "MQTT-3.1.0-2"


@each_version
@pytest.mark.parametrize("name", [b"\0\4MQTT", b"\0\4HTTP", b"\0\7whatever"])
def test_a_second_connect_is_that_in_any_chunking(version: ProtocolVersion, name: bytes) -> None:
    body = name + b"\x05\x02\0\0\0\0\1c"
    wire = bytes((0x10, len(body))) + body
    for step in (1, len(wire) - 1, len(wire)):
        connection = connected(version)
        for at in range(0, len(wire), step):
            assert connection.error is None
            assert connection.receive(wire[at : at + step]) == []
        assert error_of(connection).statement == "MQTT-3.1.0-2"


@pytest.mark.parametrize(
    ("start", "version"),
    [
        (b"\0\4MQTT\x04", V311),
        (b"\0\4MQTT\x03", V311),
        (b"\0\4MQTT\x05", V5),
        (b"\0\4MQTT\x06", V5),
        (b"\0\6MQIsdp\x03", V31),
        (b"\0\6MQIsdp\x04", V31),
        (b"\0\4MQT", None),
        (b"\0\4MQTX\x04", None),
        (b"\0\5MQTTX\x04", None),
        (b"", None),
    ],
)
@statement("MQTT-3.1.2-2", "MQTT311-3.1.2-2")
def test_a_wrong_connect_can_be_refused_in_the_version_it_asked_for(
    start: bytes, version: ProtocolVersion | None
) -> None:
    connection = ServerConnection()
    body = start + b"\xff"
    connection.receive(bytes((0x10, len(body))) + body if start else b"\x10\0")
    assert connection.error is not None
    assert connection.refusal_version is version


def test_a_connect_with_wrong_flags_in_its_fixed_header_can_be_refused() -> None:
    connection = ServerConnection()
    wire = bytearray(encode(Connect("c"), V5))
    wire[0] |= 1
    for value in wire:
        connection.receive(bytes((value,)))
    assert connection.refusal_version == V5
    assert error_of(connection).statement == "MQTT-2.1.3-1"


@pytest.mark.parametrize(
    "packet",
    [ConnAck(), SubAck(1, [0]), UnsubAck(1, [0]), PingResp()],
    ids=lambda p: type(p).__name__,
)
@each_version
def test_what_only_servers_send_is_a_protocol_error(
    version: ProtocolVersion, packet: Packet
) -> None:
    connection = connected(version)
    assert connection.receive(encode(packet, version)) == []
    assert error_of(connection).reason_code == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("version", [V31, V311])
def test_auth_does_not_exist_before_mqtt_5(version: ProtocolVersion) -> None:
    connection = connected(version)
    assert connection.receive(encode(Auth(), V5)) == []
    assert isinstance(connection.error, MalformedPacket)


# Framing


def test_an_empty_chunk_changes_nothing() -> None:
    connection = ServerConnection()
    assert connection.receive(b"") == []
    assert connection.error is None
    assert connection.receive(encode(Connect("c"), V5)[:5]) == []
    assert connection.receive(b"") == []
    assert connection.receive(encode(Connect("c"), V5)[5:]) == [Connect("c")]


@statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
@each_version
def test_packets_come_whole_out_of_chunks_of_any_size(version: ProtocolVersion, size: int) -> None:
    connect = Connect("c", protocol_version=version)
    sent: list[Packet] = [
        connect,
        Publish("a", b"0"),
        Publish("a/b", b"1" * 200, qos=1, packet_id=5),
        PubAck(7),
        PubRec(7),
        PubRel(7),
        PubComp(7),
        PingReq(),
        Publish("a", b"2" * 20_000, qos=2, packet_id=6, dup=True, retain=True),
    ]
    stream = b"".join(encode(packet, version) for packet in sent)
    connection = ServerConnection()
    received: list[Packet] = []
    for start in range(0, len(stream), size):
        received += connection.receive(stream[start : start + size])
    assert received == sent
    assert connection.error is None


def test_packets_before_a_fault_are_returned_and_those_after_are_not() -> None:
    connection = connected()
    assert connection.receive(publish("a") + b"\0\0" + publish("b")) == [Publish("a", b"p")]
    assert error_of(connection).reason_code == ReasonCode.MALFORMED_PACKET
    assert connection.receive(publish("c")) == []


@pytest.mark.parametrize(
    "length", [b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x01", b"\x80\x00", b"\x80\x80\x80\x00"]
)
@statement("MQTT-1.5.5-1")
def test_a_remaining_length_has_four_bytes_at_most_and_none_too_many(length: bytes) -> None:
    for by_byte in (False, True):
        connection = connected()
        for part in [bytes((v,)) for v in b"\x30" + length] if by_byte else [b"\x30" + length]:
            connection.receive(part)
        assert error_of(connection).statement == "MQTT-1.5.5-1"


def test_the_longest_remaining_length_is_only_waited_for() -> None:
    connection = connected()
    assert connection.receive(b"\x30\xff\xff\xff\x7f") == []
    assert connection.error is None


@statement("MQTT-3.2.2-15")
def test_a_packet_over_the_limit_is_refused_when_its_length_is_known() -> None:
    wire = publish(payload=b"p" * 200)
    assert len(connected(max_packet_size_bytes=len(wire)).receive(wire)) == 1
    connection = connected(max_packet_size_bytes=len(wire) - 1)
    assert connection.receive(wire[:2]) == []
    assert connection.error is None
    assert connection.receive(wire[2:3]) == []
    assert error_of(connection).reason_code == ReasonCode.PACKET_TOO_LARGE


def test_a_large_packet_in_small_pieces_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        wire = publish(payload=b"p" * size)
        connection = connected()
        began = time.process_time()
        for at in range(len(wire)):
            received = connection.receive(wire[at : at + 1])
        assert len(received) == 1
        return time.process_time() - began

    # Quadratic would be 256 times as long; a slow machine is no 5 times slower for one of the two.
    assert seconds(1 << 18) < 80 * seconds(1 << 14)


@pytest.mark.parametrize("first", [b"\x26\0\0\0\0", b"\x0b\x01"])
def test_many_repeated_properties_take_linear_time(first: bytes) -> None:
    def seconds(count: int) -> float:
        properties = first * count
        body = b"\0\1t" + variable(len(properties)) + properties
        wire = b"\x30" + variable(len(body)) + body
        connection = connected()
        began = time.process_time()
        connection.receive(wire)
        return time.process_time() - began

    assert seconds(64_000) < 80 * seconds(4_000)


def variable(value: int) -> bytes:
    """Encode a variable byte integer without the codec."""
    out = []
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


# Topic names


@each_version
@statement("MQTT-3.3.2-1", "MQTT-1.5.4-1", "MQTT311-3.3.2-1", "MQTT311-1.5.3-1")
def test_a_topic_name_that_is_not_utf8_is_malformed_also_after_good_ones(
    version: ProtocolVersion,
) -> None:
    connection = connected(version)
    good = encode(Publish("a"), version)
    assert len(connection.receive(good + good)) == 2
    bad = good.replace(b"\0\x01a", b"\0\x01\xff")
    assert connection.receive(bad) == []
    assert error_of(connection).reason_code == ReasonCode.MALFORMED_PACKET


@statement("MQTT-4.7.3-4", "MQTT311-4.7.3-4")
def test_topic_names_are_not_normalized() -> None:
    connection = connected()
    names = ["é", "e\u0301", "\ufeffa", "a", "A", "a/", "/a", "a//b"]
    received = connection.receive(b"".join(publish(name) for name in names))
    assert [packet.topic for packet in received if isinstance(packet, Publish)] == names


@pytest.mark.parametrize("remembered", [0, 64, 1000])
def test_topic_names_are_decoded_whether_they_are_remembered_or_not(remembered: int) -> None:
    connection = connected(names=SecondChance(remembered) if remembered else None)
    names = [f"t/{number}" for number in range(200)]
    names += ["l" * (connection_module.MAX_REMEMBERED_TOPIC_BYTES + 1)] * 2
    for _ in range(2):
        received = connection.receive(b"".join(publish(name) for name in names))
        assert [packet.topic for packet in received if isinstance(packet, Publish)] == names


def test_the_topic_names_that_are_remembered_take_bounded_memory() -> None:
    remembered: SecondChance[bytes, str] = SecondChance(64)
    connection = connected(names=remembered)
    longest = connection_module.MAX_REMEMBERED_TOPIC_BYTES
    names = [f"{number:0>{longest + number % 2}}" for number in range(1000)]
    for name in names:
        connection.receive(publish(name))
        assert all(len(raw) <= longest for raw in remembered.recent)
    assert len(remembered) == 64, "those that are not too long are remembered"


def test_connections_share_the_topic_names_that_are_right() -> None:
    names: SecondChance[bytes, str] = SecondChance(64)
    one, other = connected(names=names), connected(V311, names=names)
    (first,) = one.receive(publish("a/b"))
    (second,) = other.receive(encode_publish(Publish("a/b", b""), 4, 0, False, False, 0))
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert second.topic is first.topic
    for wrong in ("a/+", "#"):
        for connection in (connected(names=names), connected(names=names)):
            assert connection.receive(publish(wrong)) == []
            assert error_of(connection).reason_code == ReasonCode.TOPIC_NAME_INVALID
    assert list(names.recent) == [b"a/b"]


# Topic aliases


@statement("MQTT-3.2.2-17", "MQTT-3.3.2-12")
def test_an_alias_stands_for_its_topic_and_can_be_changed() -> None:
    connection = connected(topic_alias_maximum=2)
    received = connection.receive(
        publish("a", alias=2)
        + publish("", alias=2)
        + publish("b", alias=2)
        + publish("", alias=2, qos=1, packet_id=1)
        + publish("c", alias=1)
    )
    assert received == [
        Publish("a", b"p"),
        Publish("a", b"p"),
        Publish("b", b"p"),
        Publish("b", b"p", qos=1, packet_id=1),
        Publish("c", b"p"),
    ]


@pytest.mark.parametrize("maximum", [0, 1])
@statement("MQTT-3.3.2-9", "MQTT-3.2.2-18")
def test_an_alias_above_the_maximum_is_invalid(maximum: int) -> None:
    connection = connected(topic_alias_maximum=maximum)
    assert connection.receive(publish("a", alias=maximum + 1)) == []
    assert error_of(connection).reason_code == ReasonCode.TOPIC_ALIAS_INVALID


def test_no_alias_is_allowed_unless_somebody_says_so() -> None:
    connection = ServerConnection()
    connection.receive(encode(Connect("c"), V5))
    assert connection.receive(publish("a", alias=1)) == []
    assert error_of(connection).reason_code == ReasonCode.TOPIC_ALIAS_INVALID


def test_an_unknown_alias_is_a_protocol_error() -> None:
    connection = connected(topic_alias_maximum=5)
    assert connection.receive(publish("a", alias=1) + publish("", alias=2)) == [Publish("a", b"p")]
    assert error_of(connection).reason_code == ReasonCode.PROTOCOL_ERROR


@statement("MQTT-3.3.2-7")
def test_aliases_are_of_one_connection() -> None:
    connected(topic_alias_maximum=5).receive(publish("a", alias=1))
    other = connected(topic_alias_maximum=5)
    assert other.receive(publish("", alias=1)) == []
    assert other.error is not None


@statement("MQTT-3.3.4-6")
def test_a_subscription_identifier_from_a_client_is_a_protocol_error() -> None:
    connection = connected()
    wire = encode(Publish("a", subscription_identifiers=(1,)), V5)
    assert connection.receive(wire) == []
    assert error_of(connection).reason_code == ReasonCode.PROTOCOL_ERROR
    assert error_of(connection).statement == "MQTT-3.3.4-6"


# Receive Maximum


@statement("MQTT-3.3.4-7", "MQTT-4.9.0-2")
@pytest.mark.parametrize("expiry", [None, 5], ids=["no properties", "with properties"])
@pytest.mark.parametrize("qos", [1, 2])
def test_more_in_flight_than_receive_maximum_is_an_error_of_its_own(
    qos: int, expiry: int | None
) -> None:
    connection = connected(receive_maximum=2)

    def wire(packet_id: int) -> bytes:
        message = Publish("a", b"p")
        return encode_publish(message, 5, qos, False, False, packet_id, (), expiry)

    assert len(connection.receive(wire(1) + wire(2) + publish("q"))) == 3
    connection.note_acked(1)
    assert len(connection.receive(wire(3))) == 1
    connection.note_acked(99)
    assert connection.receive(wire(4)) == []
    assert error_of(connection).reason_code == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


def test_a_message_that_is_sent_again_counts_once() -> None:
    connection = connected(receive_maximum=1)
    first = encode_publish(Publish("a"), 5, 2, False, False, 1)
    again = encode_publish(Publish("a"), 5, 2, False, True, 1)
    assert len(connection.receive(first + again + again)) == 3
    assert connection.error is None


@pytest.mark.parametrize("version", [V31, V311])
def test_receive_maximum_binds_no_client_before_mqtt_5(version: ProtocolVersion) -> None:
    connection = connected(version, receive_maximum=1)
    wire = b"".join(
        encode(Publish("a", qos=1, packet_id=number), version) for number in range(1, 9)
    )
    assert len(connection.receive(wire)) == 8
    connection.note_acked(1)


# Acknowledgements


@each_version
def test_short_acknowledgements_are_decoded(version: ProtocolVersion) -> None:
    connection = connected(version)
    wire = b"".join(encode_ack(first, 0x1234, 0, version) for first in (0x40, 0x50, 0x62, 0x70))
    assert connection.receive(wire) == [
        PubAck(0x1234),
        PubRec(0x1234),
        PubRel(0x1234),
        PubComp(0x1234),
    ]


def test_a_reason_code_and_properties_of_an_acknowledgement_are_decoded() -> None:
    connection = connected()
    packet = PubRec(3, 0x97, Properties(reason_string="full"))
    assert connection.receive(encode(packet, V5)) == [packet]


#: A first byte and body of each packet that a client sends with flags that 3.1 does not use.
_SENT_BY_CLIENTS: Final = [
    (0x40, b"\0\7", PubAck(7)),
    (0x50, b"\0\7", PubRec(7)),
    (0x62, b"\0\7", PubRel(7)),
    (0x70, b"\0\7", PubComp(7)),
    (0x82, b"\0\7\0\1a\1", Subscribe(7, [("a", SubscriptionOptions(1))])),
    (0xA2, b"\0\7\0\1a", Unsubscribe(7, ["a"])),
    (0xC0, b"", PingReq()),
    (0xE0, b"", Disconnect()),
]


@pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("flags", range(16))
@pytest.mark.parametrize(("first", "body", "packet"), _SENT_BY_CLIENTS)
@statement("MQTT-2.1.3-1", "MQTT311-2.2.2-1", "MQTT311-2.2.2-2")
def test_flags_of_the_fixed_header_count_from_3_1_1_on(
    first: int, body: bytes, packet: Packet, flags: int, by_byte: bool
) -> None:
    wire = bytes((first & 0xF0 | flags, len(body))) + body
    chunks = [bytes((value,)) for value in wire] if by_byte else [wire]
    old = connected(V31)
    assert [found for chunk in chunks for found in old.receive(chunk)] == [packet]
    assert old.error is None
    newer = connected(V311)
    found = [found for chunk in chunks for found in newer.receive(chunk)]
    assert found == ([packet] if flags == first & 0x0F else [])
    assert (newer.error is None) == (flags == first & 0x0F)


@pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("flags", range(16))
@statement("MQTT-2.1.3-1", "MQTT311-2.2.2-2")
def test_flags_of_connect_count_from_3_1_1_on(flags: int, by_byte: bool) -> None:
    for version in (V31, V311):
        wire = bytearray(encode(Connect("c", version), version))
        wire[0] |= flags
        connection = ServerConnection()
        chunks = [bytes((value,)) for value in wire] if by_byte else [bytes(wire)]
        found = [packet for chunk in chunks for packet in connection.receive(chunk)]
        assert bool(found) == (not flags or version == V31), version
        assert (connection.error is None) == bool(found)


def test_dup_of_a_qos_0_message_is_ignored_in_3_1() -> None:
    connection = connected(V31)
    assert connection.receive(b"\x38\x04\0\1ax\x39\x04\0\1ay") == [
        Publish("a", b"x"),
        Publish("a", b"y", retain=True),
    ]
    newer = connected(V311)
    assert newer.receive(b"\x38\x04\0\1ax") == []
    assert error_of(newer).statement == "MQTT-3.3.1-2"


# Aliases towards the client


@statement("MQTT-3.1.2-26", "MQTT-3.3.2-11")
def test_outgoing_aliases_go_to_the_topics_that_come_first() -> None:
    aliases = OutgoingAliases(2)
    assert aliases.assign("a") == (1, True)
    assert aliases.assign("a") == (1, False)
    assert aliases.assign("b") == (2, True)
    assert aliases.assign("c") == (0, False)
    assert aliases.assign("b") == (2, False)


@statement("MQTT-3.1.2-27")
def test_a_client_without_topic_alias_maximum_gets_no_aliases() -> None:
    assert OutgoingAliases(0).assign("a") == (0, False)


def test_an_alias_that_was_not_announced_is_taken_back() -> None:
    aliases = OutgoingAliases(1)
    aliases.assign("a")
    aliases.forget("a")
    assert aliases.assign("b") == (1, True)
