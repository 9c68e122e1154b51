"""The table of properties: where each may stand, and what travels on with a message."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import pytest

from tidegate.mqtt.enums import PacketType, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.packets import Properties
from tidegate.mqtt.properties import (
    BY_IDENTIFIER,
    TABLE,
    WILL,
    Property,
    WireType,
    decode_properties,
    encode_properties,
    forwarded_properties,
    split_publish_properties,
)

statement = pytest.mark.statement

#: The specification's table (2.2.2.2), by packet, written down a second time.
ALLOWED: Final = {
    WILL: "01 02 03 08 09 18 26",
    PacketType.CONNECT: "11 15 16 17 19 21 22 26 27",
    PacketType.CONNACK: "11 12 13 15 16 1a 1c 1f 21 22 24 25 26 27 28 29 2a",
    PacketType.PUBLISH: "01 02 03 08 09 0b 23 26",
    PacketType.PUBACK: "1f 26",
    PacketType.PUBREC: "1f 26",
    PacketType.PUBREL: "1f 26",
    PacketType.PUBCOMP: "1f 26",
    PacketType.SUBSCRIBE: "0b 26",
    PacketType.SUBACK: "1f 26",
    PacketType.UNSUBSCRIBE: "26",
    PacketType.UNSUBACK: "1f 26",
    PacketType.DISCONNECT: "11 1c 1f 26",
    PacketType.AUTH: "15 16 1f 26",
}
_SAMPLES: Final[dict[WireType, Any]] = {
    WireType.BYTE: 1,
    WireType.U16: 0x0102,
    WireType.U32: 0x01020304,
    WireType.VARIABLE: (300,),
    WireType.BINARY: b"\x00\xff",
    WireType.STRING: "text",
    WireType.STRING_PAIR: (("k", "v"), ("k", "v")),
}


def sample(row: Property) -> Properties:
    """Return properties with one of them set (and the one that it needs)."""
    found = Properties(**{row.name: _SAMPLES[row.wire_type]})
    if row.name == "authentication_data":
        found.authentication_method = "m"
    return found


def read(raw: bytes, packet: int) -> Properties:
    """Decode a whole properties field."""
    found, end = decode_properties(raw, 0, len(raw), packet)
    assert end == len(raw)
    return found


def test_the_table_has_every_property_once() -> None:
    assert sorted(row.name for row in TABLE) == sorted(field.name for field in fields(Properties))
    assert len(BY_IDENTIFIER) == len(TABLE) == 27


@pytest.mark.parametrize("packet", list(ALLOWED))
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_property_is_read_where_it_may_stand_and_malformed_elsewhere(
    row: Property, packet: int
) -> None:
    raw = encode_properties(sample(row))
    if f"{row.identifier:02x}" in ALLOWED[packet].split():
        assert read(raw, packet) == sample(row)
        return
    with pytest.raises(MalformedPacket) as caught:
        read(raw, packet)
    assert caught.value.reason_code == ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize("row", [row for row in TABLE if not row.repeatable], ids=lambda r: r.name)
def test_a_property_that_comes_twice_is_a_protocol_error(row: Property) -> None:
    packet = next(packet for packet in ALLOWED if packet in row.packets)
    field = encode_properties(sample(row))
    raw = bytes((2 * (len(field) - 1),)) + 2 * field[1:]
    with pytest.raises(ProtocolViolation) as caught:
        read(raw, packet)
    assert caught.value.reason_code == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_property_that_is_cut_is_malformed(row: Property) -> None:
    packet = next(packet for packet in ALLOWED if packet in row.packets)
    value = _SAMPLES[row.wire_type]
    value = value[:1] if row.repeatable else value
    whole = encode_properties(Properties(**{row.name: value}))[1:]
    for end in range(1, len(whole)):
        with pytest.raises(MalformedPacket):
            read(bytes((end,)) + whole[:end], packet)
        if packet in (PacketType.PUBLISH, WILL):
            with pytest.raises(MalformedPacket):
                split_publish_properties(bytes((end,)) + whole[:end], 0, end + 1, packet)


@pytest.mark.parametrize("row", [row for row in TABLE if row.non_zero], ids=lambda r: r.name)
def test_some_properties_cannot_be_zero(row: Property) -> None:
    packet = next(packet for packet in ALLOWED if packet in row.packets)
    zero: Any = (0,) if row.repeatable else 0
    with pytest.raises(ProtocolViolation) as caught:
        read(encode_properties(Properties(**{row.name: zero})), packet)
    wanted = (
        ReasonCode.TOPIC_ALIAS_INVALID if row.name == "topic_alias" else ReasonCode.PROTOCOL_ERROR
    )
    assert caught.value.reason_code == wanted


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.wire_type is WireType.BYTE], ids=lambda r: r.name
)
def test_flags_are_0_or_1(row: Property) -> None:
    packet = next(packet for packet in ALLOWED if packet in row.packets)
    for value in (0, 1):
        wanted = Properties()
        setattr(wanted, row.name, value)
        assert read(encode_properties(wanted), packet) == wanted
    wrong = Properties()
    setattr(wrong, row.name, 2)
    with pytest.raises(ProtocolViolation):
        read(encode_properties(wrong), packet)


@statement("MQTT-2.2.2-1")
def test_no_properties_are_a_length_of_zero() -> None:
    assert encode_properties(None) == encode_properties(Properties()) == b"\0"
    assert read(b"\0", PacketType.CONNECT) == Properties()


def test_a_long_properties_field_has_a_length_of_two_bytes() -> None:
    wanted = Properties(reason_string="x" * 200)
    assert read(encode_properties(wanted), PacketType.PUBACK) == wanted


def test_a_length_beyond_the_packet_is_malformed() -> None:
    for read_one in (decode_properties, split_publish_properties):
        with pytest.raises(MalformedPacket):
            read_one(b"\x02\x01", 0, 2, PacketType.PUBLISH)


@statement("MQTT-3.1.3-10", "MQTT-3.3.2-17", "MQTT-3.3.2-18")
@statement("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-20")
@pytest.mark.parametrize("packet", [PacketType.PUBLISH, WILL])
def test_what_travels_on_keeps_its_bytes_and_their_order(packet: int) -> None:
    parts = [
        b"\x26\0\1b\0\1x",
        b"\x02\0\0\0\x3c",
        b"\x01\x01",
        b"\x03\0\3c\xc3\xa9",
        b"\x23\0\7" if packet == PacketType.PUBLISH else b"\x18\0\0\0\x07",
        b"\x26\0\1a\0\1y",
        b"\x26\0\1b\0\1x",
        b"\x09\0\3\0\1\2",
        b"\x08\0\3r/t",
    ]
    raw = b"".join(parts)
    found, end = split_publish_properties(bytes((len(raw),)) + raw, 0, len(raw) + 1, packet)
    assert end == len(raw) + 1
    assert found.forwarded == b"".join(part for part in parts if part[0] not in (0x02, 0x18, 0x23))
    assert found.message_expiry_interval == 60
    assert (found.topic_alias, found.will_delay_interval) == (
        (7, 0) if packet == PacketType.PUBLISH else (0, 7)
    )


def test_only_one_hop_properties_leave_nothing_to_forward() -> None:
    raw = b"\x02\0\0\0\x00\x0b\x80\x01\x0b\x05"
    found, _ = split_publish_properties(bytes((len(raw),)) + raw, 0, len(raw) + 1)
    assert found == (b"", 0, 0, (128, 5), 0)


@pytest.mark.parametrize("packet", [PacketType.PUBLISH, WILL])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_fast_reader_agrees_with_the_other_one(row: Property, packet: int) -> None:
    raw = encode_properties(sample(row))
    try:
        wanted: Properties | str = read(raw, packet)
    except MqttError as error:
        wanted = str(error)
    try:
        found, _ = split_publish_properties(raw, 0, len(raw), packet)
    except MqttError as error:
        assert str(error) == wanted  # noqa: PT017 - both may raise, or none
        return
    assert isinstance(wanted, Properties)
    assert found.forwarded == forwarded_properties(wanted)
    assert found.message_expiry_interval == wanted.message_expiry_interval
    assert found.topic_alias == (wanted.topic_alias or 0)
    assert found.subscription_identifiers == wanted.subscription_identifiers
    assert found.will_delay_interval == (wanted.will_delay_interval or 0)
