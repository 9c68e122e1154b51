"""PUBLISH at every boundary of its lengths, with every flag, against bytes put together here."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from tidegate.mqtt.connection import ServerConnection
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode, encode_publish
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import Connect, Publish

V5: Final = ProtocolVersion.V5
USER_PROPERTY: Final = b"\x26\x00\x01k\x00\x01v"
#: Sizes of a topic name on both sides of what one byte of its length can say.
TOPIC_SIZES: Final = (1, 2, 255, 256, 257, 511, 512, 65_535)
PACKET_IDS: Final = (1, 255, 256, 0x1234, 0xFF00, 65_535)


def variable(value: int) -> bytes:
    """Encode a variable byte integer without the codec."""
    out = b""
    while value >= 128:
        out += bytes((value % 128 + 128,))
        value //= 128
    return out + bytes((value,))


def wire_of(message: Publish, version: int) -> bytes:
    """Put a PUBLISH together from the specification's words."""
    name = message.topic.encode()
    body = bytes((len(name) // 256, len(name) % 256)) + name
    if message.qos:
        body += bytes((message.packet_id // 256, message.packet_id % 256))
    if version == V5:
        body += variable(len(message.properties)) + message.properties
    body += message.payload
    first = 0x30 + 8 * message.dup + 2 * message.qos + message.retain
    return bytes((first,)) + variable(len(body)) + body


def connected(version: ProtocolVersion) -> ServerConnection:
    connection = ServerConnection()
    connection.receive(encode(Connect("c", version), version))
    return connection


def check(message: Publish, version: ProtocolVersion) -> None:
    """Decode it, receive it, and encode it again."""
    wire = wire_of(message, version)
    at = 1
    while wire[at] & 0x80:
        at += 1
    assert decode_packet(wire[0], wire[at + 1 :], version) == message
    # A second one behind it: nothing of the first may be left, and nothing of it may be missing.
    assert connected(version).receive(wire + wire) == [message, message]
    assert encode(message, version) == wire


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("properties", [b"", USER_PROPERTY, USER_PROPERTY * 40])
def test_every_flag_stands_for_itself(version: ProtocolVersion, properties: bytes) -> None:
    if properties and version < V5:
        return
    for qos, retain, dup in product((0, 1, 2), (False, True), (False, True)):
        if qos or not dup:
            packet_id = 0x1234 if qos else 0
            check(Publish("a/b", b"pay", qos, retain, dup, packet_id, properties), version)


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", TOPIC_SIZES)
def test_topic_names_of_any_size(version: ProtocolVersion, qos: int, size: int) -> None:
    packet_id = 7 if qos else 0
    check(Publish("t" * size, b"", qos, packet_id=packet_id), version)
    if version == V5:
        check(Publish("t" * size, b"p", qos, packet_id=packet_id, properties=USER_PROPERTY), V5)


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("packet_id", PACKET_IDS)
@pytest.mark.parametrize("payload", [b"", b"p" * 300])
def test_packet_identifiers_of_any_size(
    version: ProtocolVersion, packet_id: int, payload: bytes
) -> None:
    check(Publish("t", payload, 1, packet_id=packet_id), version)
    check(Publish("t", payload, 2, packet_id=packet_id), version)
    if version == V5:
        check(Publish("t", payload, 1, packet_id=packet_id, properties=USER_PROPERTY), V5)


@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.parametrize("qos", [0, 1])
def test_payloads_on_both_sides_of_each_length(version: ProtocolVersion, qos: int) -> None:
    packet_id = 258 if qos else 0
    around = [edge + more for edge in (128, 16_384, 2_097_152) for more in range(-9, 3)]
    for size in [*range(12), *around]:
        check(Publish("t", bytes(size), qos, packet_id=packet_id), version)


@pytest.mark.parametrize("first", [0x38, 0x39, 0x36, 0x37, 0x3E, 0x3F])
@pytest.mark.parametrize("version", list(ProtocolVersion))
@pytest.mark.statement("MQTT-3.3.1-2", "MQTT-3.3.1-4", "MQTT311-3.3.1-2", "MQTT311-3.3.1-4")
def test_flags_that_no_publish_has_are_refused(version: ProtocolVersion, first: int) -> None:
    if version == ProtocolVersion.V31 and first < 0x3A and first & 8:
        return  # DUP without a QoS is ignored there
    body = b"\0\1t\0\7" + b"\0" * (version == V5)
    connection = connected(version)
    assert connection.receive(bytes((first, len(body))) + body) == []
    assert connection.error is not None
    with pytest.raises(MqttError) as caught:
        decode_packet(first, body, version)
    assert caught.value.statement == connection.error.statement
    assert caught.value.statement == (
        "MQTT-3.3.1-2" if first < 0x3A and first & 8 else "MQTT-3.3.1-4"
    )


def test_what_one_hop_adds_is_counted_in_the_lengths() -> None:
    message = Publish("t", b"p" * 100, properties=USER_PROPERTY * 17)
    for qos in (0, 1):
        wire = encode_publish(message, 5, qos, True, qos == 1, 300, (1, 268_435_455), 70_000, 300)
        added = b"\x02\0\x01\x11\x70\x23\x01\x2c\x0b\x01\x0b\xff\xff\xff\x7f"
        wanted = Publish("t", message.payload, qos, True, qos == 1, 300 * qos)
        wanted.properties = added + message.properties
        assert wire == wire_of(wanted, 5)
