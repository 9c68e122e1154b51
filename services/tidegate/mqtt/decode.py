"""From bytes to packets: all fifteen types, both directions, MQTT 3.1, 3.1.1 and 5.0.

``decode_packet`` gets one whole packet. Raises ``MalformedPacket`` or ``ProtocolViolation`` with
the reason code and statement that say what is wrong, and never anything else, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from tidegate.mqtt.enums import PacketType, ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, ProtocolViolation
from tidegate.mqtt.packets import (
    NO_PROPERTIES,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
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
    Will,
)
from tidegate.mqtt.properties import WILL, decode_properties, split_publish_properties
from tidegate.mqtt.topics import validate_topic_filter, validate_topic_name
from tidegate.mqtt.wire import read_binary, read_byte, read_string, read_u16

_V5: Final = ProtocolVersion.V5

#: Reason codes that a packet may carry (MQTT5 §2.4 and each packet's section).
PUBACK_CODES: Final = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
PUBREL_CODES: Final = frozenset((0x00, 0x92))
SUBACK_CODES: Final = frozenset(
    (0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)
)
UNSUBACK_CODES: Final = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))
DISCONNECT_CODES: Final = frozenset(
    (
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
        0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    )
)  # fmt: skip
AUTH_CODES: Final = frozenset((0x00, 0x18, 0x19))
CONNACK_CODES: Final = frozenset(
    (
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
        0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    )
)  # fmt: skip
#: What the return codes of a 3.1 or 3.1.1 CONNACK mean in 5.0's terms.
_RETURN_CODES: Final = (
    ReasonCode.SUCCESS,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
    ReasonCode.SERVER_UNAVAILABLE,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ReasonCode.NOT_AUTHORIZED,
)

_Ack = TypeVar("_Ack", PubAck, PubRec, PubRel, PubComp)


def decode_packet(first_byte: int, body: bytes, version: ProtocolVersion) -> Packet:
    """Decode one packet: its first byte and everything after the remaining length."""
    kind = first_byte >> 4
    if kind == PacketType.PUBLISH:
        return decode_publish(first_byte, body, version)
    decoder = _DECODERS.get(kind)
    if decoder is None or (kind == PacketType.AUTH and version < _V5):
        raise MalformedPacket("unknown packet type")
    # 3.1 calls the other bits unused, and sets DUP on what is sent again.
    if version > ProtocolVersion.V31 and first_byte & 0x0F != (2 if kind in _AT_LEAST_ONCE else 0):
        raise MalformedPacket(
            "invalid flags in the fixed header",
            statement=_FLAG_STATEMENTS.get(kind, "MQTT-2.1.3-1"),
        )
    return decoder(body, version)


#: What has the flag bits of a QoS 1 message.
_AT_LEAST_ONCE: Final = frozenset((PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE))
_FLAG_STATEMENTS: Final[dict[int, str]] = {
    PacketType.PUBREL: "MQTT-3.6.1-1",
    PacketType.SUBSCRIBE: "MQTT-3.8.1-1",
    PacketType.UNSUBSCRIBE: "MQTT-3.10.1-1",
    PacketType.DISCONNECT: "MQTT-3.14.1-1",
    PacketType.AUTH: "MQTT-3.15.1-1",
}


def _finish(position: int, end: int) -> None:
    if position != end:
        raise MalformedPacket("trailing bytes after the last field of the packet")


def _packet_id(body: bytes) -> int:
    packet_id, _ = read_u16(body, 0, len(body))
    if not packet_id:
        raise MalformedPacket("packet identifier must not be 0", statement="MQTT-2.2.1-3")
    return packet_id


def decode_publish(first_byte: int, body: bytes, version: ProtocolVersion) -> Publish:
    """Decode a PUBLISH. An empty topic is left to who knows the topic aliases (5.0)."""
    qos = first_byte >> 1 & 3
    if qos == 3:
        raise MalformedPacket("QoS 3 is not allowed", statement="MQTT-3.3.1-4")
    dup = bool(first_byte & 8)
    if dup and not qos:
        if version > ProtocolVersion.V31:
            raise MalformedPacket("DUP set on a QoS 0 message", statement="MQTT-3.3.1-2")
        dup = False  # 3.1 gives it no meaning there
    end = len(body)
    topic, position = read_string(body, 0, end)
    if topic or version < _V5:
        validate_topic_name(topic)
    packet_id = 0
    if qos:
        packet_id, position = read_u16(body, position, end)
        if not packet_id:
            raise MalformedPacket("packet identifier must not be 0", statement="MQTT-2.2.1-3")
    retain = bool(first_byte & 1)
    if version < _V5:
        return Publish(topic, body[position:], qos, retain, dup, packet_id)
    found, position = split_publish_properties(body, position, end)
    if not topic and not found.topic_alias:
        raise ProtocolViolation("PUBLISH without a topic name or topic alias")
    return Publish(
        topic,
        body[position:],
        qos,
        retain,
        dup,
        packet_id,
        found.forwarded,
        found.message_expiry_interval,
        found.topic_alias,
        found.subscription_identifiers,
    )


# CONNECT


#: The protocol names as fields, and the bytes of the longest.
_PROTOCOL_NAMES: Final = (b"\0\4MQTT", b"\0\6MQIsdp")
LONGEST_PROTOCOL_NAME: Final = 8
#: By protocol name and level as they are on the wire: version, bridge bit, their length.
_PROTOCOLS: Final = {
    b"\0\4MQTT\5": (ProtocolVersion.V5, False, 7),
    b"\0\4MQTT\4": (ProtocolVersion.V311, False, 7),
    b"\0\4MQTT\x84": (ProtocolVersion.V311, True, 7),
    b"\0\6MQIsdp\3": (ProtocolVersion.V31, False, 9),
    b"\0\6MQIsdp\x83": (ProtocolVersion.V31, True, 9),
}


def check_protocol_name(body: bytes) -> None:
    """Raise ProtocolViolation (0x84) unless what is there of a CONNECT begins as MQTT does."""
    for name in _PROTOCOL_NAMES:
        if body[: len(name)] == name[: len(body)]:
            return
    raise ProtocolViolation(
        "unknown protocol name",
        reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
        statement="MQTT-3.1.2-1",
    )


def _protocol(body: bytes) -> tuple[ProtocolVersion, bool, int]:
    """Read protocol name and level: version, bridge bit, position after them."""
    known = _PROTOCOLS.get(body[:7]) or _PROTOCOLS.get(body[:9])
    if known is not None:
        return known
    check_protocol_name(body)
    _, position = read_binary(body, 0, len(body))
    read_byte(body, position, len(body))
    raise ProtocolViolation(
        "unsupported protocol version",
        reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
        statement="MQTT-3.1.2-2",
    )


def connect_version(body: bytes) -> ProtocolVersion | None:
    """Find out in which version to refuse a CONNECT that cannot be decoded; None: not at all."""
    try:
        return _protocol(body)[0]
    except MalformedPacket:
        return None
    except ProtocolViolation:
        # A name that is not MQTT's is not answered; an unknown level is, as its range suggests.
        if body[:6] == b"\0\4MQTT":
            return ProtocolVersion.V5 if body[6] > ProtocolVersion.V5 else ProtocolVersion.V311
        return ProtocolVersion.V31 if body[:8] == b"\0\6MQIsdp" else None


def decode_connect(body: bytes, _version: ProtocolVersion = _V5) -> Connect:
    """Decode a CONNECT; its version is in it."""
    version, is_bridge, position = _protocol(body)
    end = len(body)
    flags, position = read_byte(body, position, end)
    _check_connect_flags(flags, version)
    keep_alive, position = read_u16(body, position, end)
    properties = NO_PROPERTIES
    if version >= _V5:
        properties, position = decode_properties(body, position, end, PacketType.CONNECT)
    client_id, position = read_string(body, position, end)
    will: Will | None = None
    if flags & 0x04:
        will, position = _will(body, position, flags, version)
    username: str | None = None
    password: bytes | None = None
    # In 3.1 the packet's length counts for more than these two flags: the fields may be missing.
    complete = version > ProtocolVersion.V31
    if flags & 0x80 and (complete or position < end):
        username, position = read_string(body, position, end)
    if flags & 0x40 and (complete or position < end):
        password, position = read_binary(body, position, end)
    _finish(position, end)
    return Connect(
        client_id,
        version,
        bool(flags & 0x02),
        keep_alive,
        username,
        password,
        will,
        properties,
        is_bridge,
    )


def _check_connect_flags(flags: int, version: ProtocolVersion) -> None:
    if flags & 0x01 and version > ProtocolVersion.V31:
        raise MalformedPacket("reserved CONNECT flag is set", statement="MQTT-3.1.2-3")
    # In 3.1 both are disregarded.
    if not flags & 0x04 and flags & 0x38 and version > ProtocolVersion.V31:
        raise MalformedPacket(
            "Will QoS or Will Retain set without Will Flag",
            statement="MQTT-3.1.2-11" if flags & 0x18 else "MQTT-3.1.2-13",
        )
    if flags & 0x18 == 0x18:
        raise MalformedPacket("Will QoS 3 is not allowed", statement="MQTT-3.1.2-12")
    if version < _V5 and flags & 0xC0 == 0x40:
        raise MalformedPacket("password without a user name", statement="MQTT311-3.1.2-22")


def _will(body: bytes, position: int, flags: int, version: ProtocolVersion) -> tuple[Will, int]:
    end = len(body)
    properties, expiry, delay = b"", None, 0
    if version >= _V5:
        found, position = split_publish_properties(body, position, end, WILL)
        properties = found.forwarded
        expiry, delay = found.message_expiry_interval, found.will_delay_interval
    topic, position = read_string(body, position, end)
    validate_topic_name(topic)
    payload, position = read_binary(body, position, end)
    qos = flags >> 3 & 3
    return Will(topic, payload, qos, bool(flags & 0x20), properties, expiry, delay), position


def _connack(body: bytes, version: ProtocolVersion) -> ConnAck:
    end = len(body)
    flags, position = read_byte(body, 0, end)
    if flags > 1:
        raise MalformedPacket("reserved CONNACK flags are set", statement="MQTT-3.2.2-1")
    code, position = read_byte(body, position, end)
    if version < _V5:
        _finish(position, end)
        if code >= len(_RETURN_CODES):
            raise ProtocolViolation("invalid CONNACK return code")
        return ConnAck(bool(flags), _RETURN_CODES[code])
    if code not in CONNACK_CODES:
        raise ProtocolViolation("invalid CONNACK reason code", statement="MQTT-3.2.2-8")
    properties, position = decode_properties(body, position, end, PacketType.CONNACK)
    _finish(position, end)
    return ConnAck(bool(flags), code, properties)


# Acknowledgements of PUBLISH


def _acknowledgement(
    kind: PacketType, make: type[_Ack], codes: frozenset[int], statement: str
) -> Callable[[bytes, ProtocolVersion], _Ack]:
    def decode(body: bytes, version: ProtocolVersion) -> _Ack:
        packet_id = _packet_id(body)
        end = len(body)
        if end == 2:
            return make(packet_id)
        if version < _V5:
            _finish(2, end)
        code = body[2]
        if code not in codes:
            raise ProtocolViolation(
                f"invalid {kind.name} reason code 0x{code:02x}", statement=statement
            )
        if end == 3:
            return make(packet_id, code)
        properties, position = decode_properties(body, 3, end, kind)
        _finish(position, end)
        return make(packet_id, code, properties)

    return decode


# SUBSCRIBE and UNSUBSCRIBE


def _subscribe(body: bytes, version: ProtocolVersion) -> Subscribe:
    packet_id = _packet_id(body)
    end = len(body)
    position = 2
    properties = NO_PROPERTIES
    if version >= _V5:
        properties, position = decode_properties(body, position, end, PacketType.SUBSCRIBE)
    identifier = (properties.subscription_identifiers or (0,))[0]
    if position == end:
        raise ProtocolViolation("SUBSCRIBE without a topic filter", statement="MQTT-3.8.3-2")
    subscriptions: list[tuple[str, SubscriptionOptions]] = []
    while position < end:
        topic_filter, position = read_string(body, position, end)
        validate_topic_filter(topic_filter)
        flags, position = read_byte(body, position, end)
        options = _options(flags, version, identifier)
        if options.no_local and topic_filter.startswith("$share/"):
            raise ProtocolViolation(
                "No Local set on a shared subscription", statement="MQTT-3.8.3-4"
            )
        subscriptions.append((topic_filter, options))
    return Subscribe(packet_id, subscriptions, properties)


def _options(flags: int, version: ProtocolVersion, identifier: int) -> SubscriptionOptions:
    if version < _V5:
        if flags > 2:
            raise MalformedPacket("requested QoS must be 0, 1 or 2", statement="MQTT311-3.8.3-4")
        return _PLAIN_OPTIONS[flags]
    if flags & 0xC0:
        raise MalformedPacket("reserved subscription option bits are set", statement="MQTT-3.8.3-5")
    if flags & 3 == 3:
        raise ProtocolViolation("requested maximum QoS must be 0, 1 or 2")
    handling = flags >> 4 & 3
    if handling == 3:
        raise ProtocolViolation("Retain Handling must be 0, 1 or 2")
    return SubscriptionOptions(flags & 3, bool(flags & 4), bool(flags & 8), handling, identifier)


_PLAIN_OPTIONS: Final = tuple(SubscriptionOptions(qos) for qos in range(3))


def _suback(body: bytes, version: ProtocolVersion) -> SubAck:
    packet_id = _packet_id(body)
    end = len(body)
    if version < _V5:
        codes = list(body[2:])
        if any(code not in (0, 1, 2, 0x80) for code in codes):
            raise ProtocolViolation("invalid SUBACK return code", statement="MQTT311-3.9.3-2")
        return SubAck(packet_id, codes)
    properties, position = decode_properties(body, 2, end, PacketType.SUBACK)
    codes = list(body[position:])
    if any(code not in SUBACK_CODES for code in codes):
        raise ProtocolViolation("invalid SUBACK reason code", statement="MQTT-3.9.3-2")
    return SubAck(packet_id, codes, properties)


def _unsubscribe(body: bytes, version: ProtocolVersion) -> Unsubscribe:
    packet_id = _packet_id(body)
    end = len(body)
    position = 2
    properties = NO_PROPERTIES
    if version >= _V5:
        properties, position = decode_properties(body, position, end, PacketType.UNSUBSCRIBE)
    if position == end:
        raise ProtocolViolation("UNSUBSCRIBE without a topic filter", statement="MQTT-3.10.3-2")
    filters: list[str] = []
    while position < end:
        topic_filter, position = read_string(body, position, end)
        validate_topic_filter(topic_filter)
        filters.append(topic_filter)
    return Unsubscribe(packet_id, filters, properties)


def _unsuback(body: bytes, version: ProtocolVersion) -> UnsubAck:
    packet_id = _packet_id(body)
    end = len(body)
    if version < _V5:
        _finish(2, end)
        return UnsubAck(packet_id, [])
    properties, position = decode_properties(body, 2, end, PacketType.UNSUBACK)
    codes = list(body[position:])
    if any(code not in UNSUBACK_CODES for code in codes):
        raise ProtocolViolation("invalid UNSUBACK reason code", statement="MQTT-3.11.3-2")
    return UnsubAck(packet_id, codes, properties)


# The rest


def _pingreq(body: bytes, _version: ProtocolVersion) -> PingReq:
    _finish(0, len(body))
    return PingReq()


def _pingresp(body: bytes, _version: ProtocolVersion) -> PingResp:
    _finish(0, len(body))
    return PingResp()


def _disconnect(body: bytes, version: ProtocolVersion) -> Disconnect:
    end = len(body)
    if not end:
        return Disconnect()
    if version < _V5:
        _finish(0, end)
    if body[0] not in DISCONNECT_CODES:
        raise ProtocolViolation("invalid DISCONNECT reason code", statement="MQTT-3.14.2-1")
    if end == 1:
        return Disconnect(body[0])
    properties, position = decode_properties(body, 1, end, PacketType.DISCONNECT)
    _finish(position, end)
    return Disconnect(body[0], properties)


def _auth(body: bytes, _version: ProtocolVersion) -> Auth:
    end = len(body)
    if not end:
        return Auth()
    if body[0] not in AUTH_CODES:
        raise ProtocolViolation("invalid AUTH reason code", statement="MQTT-3.15.2-1")
    if end == 1:
        return Auth(body[0])
    properties, position = decode_properties(body, 1, end, PacketType.AUTH)
    _finish(position, end)
    return Auth(body[0], properties)


_DECODERS: Final[dict[int, Callable[[bytes, ProtocolVersion], Packet]]] = {
    PacketType.CONNECT: decode_connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _acknowledgement(PacketType.PUBACK, PubAck, PUBACK_CODES, "MQTT-3.4.2-1"),
    PacketType.PUBREC: _acknowledgement(PacketType.PUBREC, PubRec, PUBACK_CODES, "MQTT-3.5.2-1"),
    PacketType.PUBREL: _acknowledgement(PacketType.PUBREL, PubRel, PUBREL_CODES, "MQTT-3.6.2-1"),
    PacketType.PUBCOMP: _acknowledgement(PacketType.PUBCOMP, PubComp, PUBREL_CODES, "MQTT-3.7.2-1"),
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _pingreq,
    PacketType.PINGRESP: _pingresp,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
