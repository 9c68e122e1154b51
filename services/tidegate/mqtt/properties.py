"""The properties of MQTT 5.0 (§2.2.2.2) as one table, and the two ways to read them.

``decode_properties`` makes a ``Properties``. ``split_publish_properties`` is for PUBLISH and wills:
it validates everything, and keeps what travels on unaltered as the bytes it came in.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple, assert_never

from tidegate.mqtt.enums import PacketType, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, ProtocolViolation
from tidegate.mqtt.packets import Properties
from tidegate.mqtt.wire import (
    decode_text,
    read_binary,
    read_byte,
    read_string,
    read_u16,
    read_u32,
    read_variable,
    write_binary,
    write_string,
    write_variable,
)


class WireType(Enum):
    """How a property's value stands on the wire."""

    BYTE = auto()
    U16 = auto()
    U32 = auto()
    VARIABLE = auto()
    BINARY = auto()
    STRING = auto()
    STRING_PAIR = auto()


#: Where will properties stand in the table: not a packet type of its own.
WILL: Final = 0

_CONNECT, _CONNACK, _PUBLISH = PacketType.CONNECT, PacketType.CONNACK, PacketType.PUBLISH
_SUBSCRIBE, _UNSUBSCRIBE = PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE
_DISCONNECT, _AUTH = PacketType.DISCONNECT, PacketType.AUTH
_ACKS: Final = (
    PacketType.PUBACK,
    PacketType.PUBREC,
    PacketType.PUBREL,
    PacketType.PUBCOMP,
    PacketType.SUBACK,
    PacketType.UNSUBACK,
)


class Property(NamedTuple):
    """One row of the table."""

    identifier: int
    name: str
    wire_type: WireType
    packets: frozenset[int]
    #: Largest allowed value of a BYTE (they are all flags but one).
    maximum: int = 0xFFFFFFFF
    #: Whether the value 0 is a protocol error.
    non_zero: bool = False
    repeatable: bool = False


def _row(
    identifier: int,
    name: str,
    wire_type: WireType,
    *packets: int,
    maximum: int = 0xFFFFFFFF,
    non_zero: bool = False,
    repeatable: bool = False,
) -> Property:
    return Property(identifier, name, wire_type, frozenset(packets), maximum, non_zero, repeatable)


_B, _U2, _U4 = WireType.BYTE, WireType.U16, WireType.U32
_S, _D = WireType.STRING, WireType.BINARY

#: Every property, in the order of the specification's table.
TABLE: Final = (
    _row(0x01, "payload_format_indicator", _B, _PUBLISH, WILL, maximum=1),
    _row(0x02, "message_expiry_interval", _U4, _PUBLISH, WILL),
    _row(0x03, "content_type", _S, _PUBLISH, WILL),
    _row(0x08, "response_topic", _S, _PUBLISH, WILL),
    _row(0x09, "correlation_data", _D, _PUBLISH, WILL),
    _row(
        0x0B, "subscription_identifiers", WireType.VARIABLE, _PUBLISH, _SUBSCRIBE,
        non_zero=True, repeatable=True,
    ),
    _row(0x11, "session_expiry_interval", _U4, _CONNECT, _CONNACK, _DISCONNECT),
    _row(0x12, "assigned_client_identifier", _S, _CONNACK),
    _row(0x13, "server_keep_alive", _U2, _CONNACK),
    _row(0x15, "authentication_method", _S, _CONNECT, _CONNACK, _AUTH),
    _row(0x16, "authentication_data", _D, _CONNECT, _CONNACK, _AUTH),
    _row(0x17, "request_problem_information", _B, _CONNECT, maximum=1),
    _row(0x18, "will_delay_interval", _U4, WILL),
    _row(0x19, "request_response_information", _B, _CONNECT, maximum=1),
    _row(0x1A, "response_information", _S, _CONNACK),
    _row(0x1C, "server_reference", _S, _CONNACK, _DISCONNECT),
    _row(0x1F, "reason_string", _S, _CONNACK, *_ACKS, _DISCONNECT, _AUTH),
    _row(0x21, "receive_maximum", _U2, _CONNECT, _CONNACK, non_zero=True),
    _row(0x22, "topic_alias_maximum", _U2, _CONNECT, _CONNACK),
    _row(0x23, "topic_alias", _U2, _PUBLISH, non_zero=True),
    _row(0x24, "maximum_qos", _B, _CONNACK, maximum=1),
    _row(0x25, "retain_available", _B, _CONNACK, maximum=1),
    _row(
        0x26, "user_properties", WireType.STRING_PAIR, _CONNECT, _CONNACK, _PUBLISH, WILL, *_ACKS,
        _SUBSCRIBE, _UNSUBSCRIBE, _DISCONNECT, _AUTH, repeatable=True,
    ),
    _row(0x27, "maximum_packet_size", _U4, _CONNECT, _CONNACK, non_zero=True),
    _row(0x28, "wildcard_subscription_available", _B, _CONNACK, maximum=1),
    _row(0x29, "subscription_identifier_available", _B, _CONNACK, maximum=1),
    _row(0x2A, "shared_subscription_available", _B, _CONNACK, maximum=1),
)  # fmt: skip
BY_IDENTIFIER: Final = {row.identifier: row for row in TABLE}
#: Properties of a PUBLISH or will that belong to one hop; the others travel on unaltered.
_ONE_HOP: Final = frozenset((0x02, 0x0B, 0x18, 0x23))


def _read_value(row: Property, buffer: bytes, position: int, end: int) -> tuple[Any, int]:
    value: Any
    match row.wire_type:
        case WireType.BYTE:
            value, position = read_byte(buffer, position, end)
        case WireType.U16:
            value, position = read_u16(buffer, position, end)
        case WireType.U32:
            value, position = read_u32(buffer, position, end)
        case WireType.VARIABLE:
            value, position = read_variable(buffer, position, end)
        case WireType.BINARY:
            return read_binary(buffer, position, end)
        case WireType.STRING:
            return read_string(buffer, position, end)
        case WireType.STRING_PAIR:
            key, position = read_string(buffer, position, end)
            text, position = read_string(buffer, position, end)
            return (key, text), position
        case _:  # pragma: no cover - the enumeration is closed
            assert_never(row.wire_type)
    if value > row.maximum:
        raise ProtocolViolation(f"property {row.name} must not be {value}")
    if row.non_zero and not value:
        code = ReasonCode.TOPIC_ALIAS_INVALID if row.identifier == 0x23 else None
        raise ProtocolViolation(
            f"property {row.name} must not be 0",
            reason_code=code,
            statement="MQTT-3.3.2-8" if code else "",
        )
    return value, position


def _read_row(buffer: bytes, position: int, end: int, packet: int) -> tuple[Property, int]:
    identifier, position = read_variable(buffer, position, end)
    row = BY_IDENTIFIER.get(identifier)
    if row is None:
        raise MalformedPacket(f"unknown property identifier 0x{identifier:02x}")
    if packet not in row.packets:
        raise MalformedPacket(f"property {row.name} is not allowed in this packet")
    return row, position


def _limit(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    length, position = read_variable(buffer, position, end)
    stop = position + length
    if stop > end:
        raise MalformedPacket("property length exceeds the packet")
    return stop, position


def decode_properties(
    buffer: bytes, position: int, end: int, packet: int
) -> tuple[Properties, int]:
    """Read a properties field; ``packet`` is a packet type, or WILL.

    Raises MalformedPacket (0x81) for what cannot be read and for a property that does not exist or
    does not belong here (MQTT5 §2.2.2.2); ProtocolViolation (0x82, a topic alias of 0: 0x94) for
    one that comes twice or has a value that it cannot have.
    """
    stop, position = _limit(buffer, position, end)
    properties = Properties()
    if position == stop:
        return properties, stop
    seen: set[int] = set()
    identifiers: list[int] = []
    pairs: list[tuple[str, str]] = []
    while position < stop:
        row, position = _read_row(buffer, position, stop, packet)
        value, position = _read_value(row, buffer, position, stop)
        if row.identifier == 0x26:
            pairs.append(value)
        elif row.identifier == 0x0B:
            if identifiers and packet == PacketType.SUBSCRIBE:
                raise ProtocolViolation("more than one subscription identifier in SUBSCRIBE")
            identifiers.append(value)
        else:
            if row.identifier in seen:
                raise ProtocolViolation(f"duplicate property {row.name}")
            seen.add(row.identifier)
            setattr(properties, row.name, value)
    properties.subscription_identifiers = tuple(identifiers)
    properties.user_properties = tuple(pairs)
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise ProtocolViolation("authentication data without authentication method")
    return properties, stop


class PublishProperties(NamedTuple):
    """What ``split_publish_properties`` finds; ``forwarded`` has no leading length."""

    forwarded: bytes
    message_expiry_interval: int | None
    topic_alias: int
    subscription_identifiers: tuple[int, ...]
    will_delay_interval: int


NO_PUBLISH_PROPERTIES: Final = PublishProperties(b"", None, 0, (), 0)


def split_publish_properties(
    buffer: bytes, position: int, end: int, packet: int = PacketType.PUBLISH
) -> tuple[PublishProperties, int]:
    """Validate the properties of a PUBLISH (or WILL); separate what travels on from what does not.

    Raises as ``decode_properties``; a response topic with wildcards is 0x82 [MQTT-3.3.2-14].
    """
    stop, position = _limit(buffer, position, end)
    if position == stop:
        return NO_PUBLISH_PROPERTIES, stop
    expiry: int | None = None
    alias = delay = seen = 0
    identifiers: list[int] = []
    # What travels on is cut out in runs: usually one slice, never one per property.
    runs: list[bytes] = []
    run = position
    while position < stop:
        start = position
        identifier = buffer[position]
        if identifier == 0x26:
            position = _skip_text(buffer, _skip_text(buffer, position + 1, stop), stop)
            continue
        row, position = _read_row(buffer, position, stop, packet)
        if not row.repeatable:
            if seen >> identifier & 1:
                raise ProtocolViolation(f"duplicate property {row.name}")
            seen |= 1 << identifier
        if identifier == 0x03:
            position = _skip_text(buffer, position, stop)
            continue
        value, position = _read_value(row, buffer, position, stop)
        if identifier not in _ONE_HOP:
            if identifier == 0x08 and ("+" in value or "#" in value or not value):
                raise ProtocolViolation(
                    "response topic must be a topic name without wildcards",
                    statement="MQTT-3.3.2-14",
                )
            continue
        if start > run:
            runs.append(bytes(buffer[run:start]))
        run = position
        if identifier == 0x02:
            expiry = value
        elif identifier == 0x23:
            alias = value
        elif identifier == 0x18:
            delay = value
        else:
            identifiers.append(value)
    if stop > run:
        runs.append(bytes(buffer[run:stop]))
    forwarded = runs[0] if len(runs) == 1 else b"".join(runs)
    return PublishProperties(forwarded, expiry, alias, tuple(identifiers), delay), stop


def _skip_text(buffer: bytes, position: int, end: int) -> int:
    """Check a string that nobody will read, and return the position after it."""
    start = position + 2
    if start > end:
        raise MalformedPacket("packet ends inside a field")
    stop = start + (buffer[position] << 8 | buffer[position + 1])
    if stop > end:
        raise MalformedPacket("packet ends inside a field")
    raw = buffer[start:stop]
    if not raw.isascii() or 0 in raw:
        decode_text(raw)
    return stop


def _write_value(wire_type: WireType, value: Any) -> bytes:
    match wire_type:
        case WireType.BYTE:
            return bytes((value,))
        case WireType.U16:
            return int(value).to_bytes(2, "big")
        case WireType.U32:
            return int(value).to_bytes(4, "big")
        case WireType.VARIABLE:
            return write_variable(value)
        case WireType.BINARY:
            return write_binary(value)
        case WireType.STRING:
            return write_string(value)
        case WireType.STRING_PAIR:
            return write_string(value[0]) + write_string(value[1])
        case _:  # pragma: no cover - the enumeration is closed
            assert_never(wire_type)


def encode_properties(properties: Properties | None) -> bytes:
    """Write a properties field, its length first; None and empty are one zero [MQTT-2.2.2-1]."""
    if properties is None:
        return b"\0"
    out: list[bytes] = []
    for row in TABLE:
        value = getattr(properties, row.name)
        if value is None or value == ():
            continue
        head = bytes((row.identifier,))
        if row.repeatable:
            out.extend(head + _write_value(row.wire_type, item) for item in value)
        else:
            out.append(head + _write_value(row.wire_type, value))
    if not out:
        return b"\0"
    body = b"".join(out)
    return write_variable(len(body)) + body


def forwarded_properties(properties: Properties) -> bytes:
    """Encode what of ``properties`` a ``Publish`` carries in its ``properties`` bytes."""
    kept = Properties(
        payload_format_indicator=properties.payload_format_indicator,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        user_properties=properties.user_properties,
    )
    field = encode_properties(kept)
    _, position = read_variable(field, 0, len(field))
    return field[position:]
