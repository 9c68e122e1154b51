"""From packets to bytes: all fifteen types, MQTT 3.1, 3.1.1 and 5.0.

``encode`` serves every packet; ``encode_publish`` and ``encode_ack`` are what the hot path calls.
Callers give valid values; what cannot be encoded at all is our own fault and an assertion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tidegate.mqtt.enums import (
    CONNACK_RETURN_CODE_OTHER,
    CONNACK_RETURN_CODES,
    PacketType,
    ProtocolVersion,
)
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
    Will,
)
from tidegate.mqtt.properties import encode_properties
from tidegate.mqtt.wire import write_binary, write_string, write_variable

_V5: Final = ProtocolVersion.V5

#: First bytes of the acknowledgements, for ``encode_ack``.
PUBACK: Final = 0x40
PUBREC: Final = 0x50
PUBREL: Final = 0x62
PUBCOMP: Final = 0x70


def encode_ack(first_byte: int, packet_id: int, reason_code: int, version: int) -> bytes:
    """Encode PUBACK, PUBREC, PUBREL or PUBCOMP without properties (MQTT5 §3.4.2.1).

    A reason code of 0 is left out, and any is before 5.0.
    """
    if reason_code and version >= 5:
        return bytes((first_byte, 3, packet_id >> 8, packet_id & 0xFF, reason_code))
    return bytes((first_byte, 2, packet_id >> 8, packet_id & 0xFF))


def encode_publish(
    message: Publish,
    version: int,
    qos: int,
    retain: bool,
    dup: bool,
    packet_id: int,
    subscription_identifiers: tuple[int, ...] = (),
    message_expiry_interval: int | None = None,
    topic_alias: int = 0,
    topic: str | None = None,
) -> bytes:
    """Encode a PUBLISH of ``message`` as one receiver gets it.

    QoS, flags and everything that belongs to this hop are arguments, the message's own are not
    looked at; ``topic`` replaces the message's (an alias' empty one, a mount point taken off). The
    forwarded properties go out as they came in [MQTT-3.3.2-17].
    """
    name = (message.topic if topic is None else topic).encode()
    payload = message.payload
    first = 0x30 | qos << 1
    if retain:
        first |= 0x01
    if dup:
        first |= 0x08
    size = len(name)
    length = 2 + size + len(payload)
    if version < 5:
        if qos:
            length += 2
            if length < 0x80:
                return b"%c%c%c%c%b%c%c%b" % (
                    first, length, size >> 8, size & 0xFF, name,
                    packet_id >> 8, packet_id & 0xFF, payload,
                )  # fmt: skip
            return b"%c%b%c%c%b%c%c%b" % (
                first, write_variable(length), size >> 8, size & 0xFF, name,
                packet_id >> 8, packet_id & 0xFF, payload,
            )  # fmt: skip
        if length < 0x80:
            return b"%c%c%c%c%b%b" % (first, length, size >> 8, size & 0xFF, name, payload)
        return b"%c%b%c%c%b%b" % (
            first, write_variable(length), size >> 8, size & 0xFF, name, payload,
        )  # fmt: skip
    properties = message.properties
    if subscription_identifiers or message_expiry_interval is not None or topic_alias:
        properties = (
            _hop_properties(subscription_identifiers, message_expiry_interval, topic_alias)
            + properties
        )
    property_length = write_variable(len(properties)) if properties else b"\0"
    length += len(property_length) + len(properties)
    if qos:
        return b"%c%b%c%c%b%c%c%b%b%b" % (
            first, write_variable(length + 2), size >> 8, size & 0xFF, name,
            packet_id >> 8, packet_id & 0xFF, property_length, properties, payload,
        )  # fmt: skip
    return b"%c%b%c%c%b%b%b%b" % (
        first, write_variable(length), size >> 8, size & 0xFF, name,
        property_length, properties, payload,
    )  # fmt: skip


def _hop_properties(
    subscription_identifiers: tuple[int, ...], expiry: int | None, topic_alias: int
) -> bytes:
    out = b""
    if expiry is not None:
        out += b"\x02" + expiry.to_bytes(4, "big")
    if topic_alias:
        out += b"\x23" + topic_alias.to_bytes(2, "big")
    for identifier in subscription_identifiers:
        out += b"\x0b" + write_variable(identifier)
    return out


def encode(packet: Packet, version: ProtocolVersion) -> bytes:
    """Encode any packet. Reason codes and properties that a version has no place for go away."""
    first_byte, body = _ENCODERS[type(packet)](packet, version)
    return bytes((first_byte,)) + write_variable(len(body)) + body


def _connect(packet: Connect, _version: ProtocolVersion) -> tuple[int, bytes]:
    version = packet.protocol_version
    name = "MQIsdp" if version == ProtocolVersion.V31 else "MQTT"
    level = version | (0x80 if packet.is_bridge else 0)
    flags = 0x02 if packet.clean_start else 0
    will = packet.will
    body = [write_string(packet.client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        if version >= _V5:
            body.append(_will_properties(will))
        body += [write_string(will.topic), write_binary(will.payload)]
    if packet.username is not None:
        flags |= 0x80
        body.append(write_string(packet.username))
    if packet.password is not None:
        flags |= 0x40
        body.append(write_binary(packet.password))
    head = write_string(name) + bytes((level, flags)) + packet.keep_alive.to_bytes(2, "big")
    if version >= _V5:
        head += encode_properties(packet.properties)
    return PacketType.CONNECT << 4, head + b"".join(body)


def _will_properties(will: Will) -> bytes:
    found = b""
    if will.will_delay_interval:
        found += b"\x18" + will.will_delay_interval.to_bytes(4, "big")
    if will.message_expiry_interval is not None:
        found += b"\x02" + will.message_expiry_interval.to_bytes(4, "big")
    found += will.properties
    return write_variable(len(found)) + found


def _connack(packet: ConnAck, version: ProtocolVersion) -> tuple[int, bytes]:
    code = packet.reason_code
    if version < _V5:
        code = CONNACK_RETURN_CODES.get(code, CONNACK_RETURN_CODE_OTHER)
        # 3.1 has no session present flag: the byte is reserved
        present = packet.session_present and version > ProtocolVersion.V31
        return PacketType.CONNACK << 4, bytes((present, code))
    body = bytes((packet.session_present, code)) + encode_properties(packet.properties)
    return PacketType.CONNACK << 4, body


def _publish(packet: Publish, version: ProtocolVersion) -> tuple[int, bytes]:
    whole = encode_publish(
        packet,
        version,
        packet.qos,
        packet.retain,
        packet.dup,
        packet.packet_id,
        packet.subscription_identifiers,
        packet.message_expiry_interval,
        packet.topic_alias,
    )
    at = 1
    while whole[at] & 0x80:
        at += 1
    return whole[0], whole[at + 1 :]


def _acknowledgement(first_byte: int) -> Callable[[Any, ProtocolVersion], tuple[int, bytes]]:
    def encode_one(packet: Any, version: ProtocolVersion) -> tuple[int, bytes]:
        body: bytes = packet.packet_id.to_bytes(2, "big")
        if version >= _V5:
            body += _code_and_properties(packet.reason_code, packet.properties)
        return first_byte, body

    return encode_one


def _code_and_properties(reason_code: int, properties: Properties | None) -> bytes:
    """Encode the optional end of a packet: nothing, a code, or a code and properties."""
    field = encode_properties(properties)
    if field != b"\0":
        return bytes((reason_code,)) + field
    return bytes((reason_code,)) if reason_code else b""


def _subscribe(packet: Subscribe, version: ProtocolVersion) -> tuple[int, bytes]:
    body = [packet.packet_id.to_bytes(2, "big")]
    if version >= _V5:
        body.append(encode_properties(packet.properties))
    for topic_filter, options in packet.subscriptions:
        body += [write_string(topic_filter), bytes((_options(options, version),))]
    return PacketType.SUBSCRIBE << 4 | 2, b"".join(body)


def _options(options: SubscriptionOptions, version: ProtocolVersion) -> int:
    if version < _V5:
        return options.qos
    return (
        options.qos
        | (4 if options.no_local else 0)
        | (8 if options.retain_as_published else 0)
        | options.retain_handling << 4
    )


def _suback(packet: SubAck, version: ProtocolVersion) -> tuple[int, bytes]:
    body = packet.packet_id.to_bytes(2, "big")
    if version >= _V5:
        body += encode_properties(packet.properties) + bytes(packet.reason_codes)
    elif version == ProtocolVersion.V311:
        body += bytes(min(128, code) for code in packet.reason_codes)
    else:
        # 3.1 has no failure code: QoS 0 is all it can say
        body += bytes(0 if code >= 0x80 else code for code in packet.reason_codes)
    return PacketType.SUBACK << 4, body


def _unsubscribe(packet: Unsubscribe, version: ProtocolVersion) -> tuple[int, bytes]:
    body = packet.packet_id.to_bytes(2, "big")
    if version >= _V5:
        body += encode_properties(packet.properties)
    return (
        PacketType.UNSUBSCRIBE << 4 | 2,
        body + b"".join(write_string(topic_filter) for topic_filter in packet.topic_filters),
    )


def _unsuback(packet: UnsubAck, version: ProtocolVersion) -> tuple[int, bytes]:
    body = packet.packet_id.to_bytes(2, "big")
    if version >= _V5:
        body += encode_properties(packet.properties) + bytes(packet.reason_codes)
    return PacketType.UNSUBACK << 4, body


def _pingreq(_packet: PingReq, _version: ProtocolVersion) -> tuple[int, bytes]:
    return PacketType.PINGREQ << 4, b""


def _pingresp(_packet: PingResp, _version: ProtocolVersion) -> tuple[int, bytes]:
    return PacketType.PINGRESP << 4, b""


def _disconnect(packet: Disconnect, version: ProtocolVersion) -> tuple[int, bytes]:
    body = b""
    if version >= _V5:
        body = _code_and_properties(packet.reason_code, packet.properties)
    return PacketType.DISCONNECT << 4, body


def _auth(packet: Auth, _version: ProtocolVersion) -> tuple[int, bytes]:
    return PacketType.AUTH << 4, _code_and_properties(packet.reason_code, packet.properties)


_ENCODERS: Final[dict[type, Callable[[Any, ProtocolVersion], tuple[int, bytes]]]] = {
    Connect: _connect,
    ConnAck: _connack,
    Publish: _publish,
    PubAck: _acknowledgement(PUBACK),
    PubRec: _acknowledgement(PUBREC),
    PubRel: _acknowledgement(PUBREL),
    PubComp: _acknowledgement(PUBCOMP),
    Subscribe: _subscribe,
    SubAck: _suback,
    Unsubscribe: _unsubscribe,
    UnsubAck: _unsuback,
    PingReq: _pingreq,
    PingResp: _pingresp,
    Disconnect: _disconnect,
    Auth: _auth,
}
