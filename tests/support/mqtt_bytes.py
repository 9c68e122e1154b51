"""MQTT packets as bytes, for tests: a second, independent opinion on the wire format.

Owns an encoder that also writes packets no honest client would send, and a decoder that refuses
whatever a server must not send (reserved bits, reason codes and properties outside the packet's
table, an over-long length, a zero packet identifier, DUP on QoS 0, ill-formed UTF-8). It never
imports the broker's own codec, so that a mistake there cannot hide itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

V31: Final = 3
V311: Final = 4
V5: Final = 5


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _name_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: The names of the control packets, by the upper four bits of the first byte.
TYPES: Final = _names(
    "RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK "
    "UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT AUTH"
)

PropertyValue = int | str | bytes | tuple[str, str]
Property = tuple[str, PropertyValue]

#: name: (identifier, form)
PROPERTIES: Final[dict[str, tuple[int, str]]] = {
    "payload_format": (1, "byte"),
    "message_expiry": (2, "four"),
    "content_type": (3, "string"),
    "response_topic": (8, "string"),
    "correlation": (9, "binary"),
    "subscription_identifier": (11, "varint"),
    "session_expiry": (17, "four"),
    "assigned_client_id": (18, "string"),
    "server_keep_alive": (19, "two"),
    "auth_method": (21, "string"),
    "auth_data": (22, "binary"),
    "request_problem": (23, "byte"),
    "will_delay": (24, "four"),
    "request_response": (25, "byte"),
    "response_information": (26, "string"),
    "server_reference": (28, "string"),
    "reason_string": (31, "string"),
    "receive_maximum": (33, "two"),
    "topic_alias_maximum": (34, "two"),
    "topic_alias": (35, "two"),
    "maximum_qos": (36, "byte"),
    "retain_available": (37, "byte"),
    "user": (38, "pair"),
    "maximum_packet_size": (39, "four"),
    "wildcard_available": (40, "byte"),
    "subscription_identifier_available": (41, "byte"),
    "shared_available": (42, "byte"),
}
_BY_IDENTIFIER: Final = {number: (name, form) for name, (number, form) in PROPERTIES.items()}

#: What a server may put into each packet.
SERVER_PROPERTIES: Final[dict[str, frozenset[str]]] = {
    "CONNACK": _name_set(
        "session_expiry assigned_client_id server_keep_alive auth_method auth_data "
        "response_information server_reference reason_string receive_maximum "
        "topic_alias_maximum maximum_qos retain_available user maximum_packet_size "
        "wildcard_available subscription_identifier_available shared_available"
    ),
    "PUBLISH": _name_set(
        "payload_format message_expiry content_type response_topic correlation "
        "subscription_identifier topic_alias user"
    ),
    "PUBACK": frozenset({"reason_string", "user"}),
    "PUBREC": frozenset({"reason_string", "user"}),
    "PUBREL": frozenset({"reason_string", "user"}),
    "PUBCOMP": frozenset({"reason_string", "user"}),
    "SUBACK": frozenset({"reason_string", "user"}),
    "UNSUBACK": frozenset({"reason_string", "user"}),
    "DISCONNECT": frozenset({"reason_string", "user", "server_reference"}),
    "AUTH": frozenset({"auth_method", "auth_data", "reason_string", "user"}),
}
_REPEATABLE: Final = {"user", "subscription_identifier"}

#: Reason codes that a server may use, packet by packet.
SERVER_REASONS: Final[dict[str, frozenset[int]]] = {
    "CONNACK": frozenset(
        {0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90}
        | {0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
    ),
    "PUBACK": frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    "PUBREC": frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    "PUBREL": frozenset({0x00, 0x92}),
    "PUBCOMP": frozenset({0x00, 0x92}),
    "SUBACK": frozenset({0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    "UNSUBACK": frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    "DISCONNECT": frozenset(
        {0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94}
        | {0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2}
    ),
    "AUTH": frozenset({0x00, 0x18}),
}


class MisbehaviourError(AssertionError):
    """The server sent bytes that the specification forbids."""


# --- encoding ---------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Encode a variable byte integer in its shortest form."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def two(value: int) -> bytes:
    """Encode a two byte integer."""
    return value.to_bytes(2, "big")


def string(value: str | bytes) -> bytes:
    """Encode a length-prefixed string; bytes go out as they are, well formed or not."""
    raw = value.encode() if isinstance(value, str) else value
    return two(len(raw)) + raw


def encode_property(name: str, value: PropertyValue) -> bytes:
    """Encode one property, its identifier included."""
    number, form = PROPERTIES[name]
    head = varint(number)
    match value:
        case tuple():
            return head + string(value[0]) + string(value[1])
        case str() | bytes():
            return head + string(value)
        case int():
            if form == "varint":
                return head + varint(value)
            return head + value.to_bytes({"byte": 1, "two": 2, "four": 4}[form], "big")


def properties(items: Iterable[Property] | bytes) -> bytes:
    """Encode a property list with its length; bytes are taken as already encoded properties."""
    body = items if isinstance(items, bytes) else b"".join(encode_property(*i) for i in items)
    return varint(len(body)) + body


def packet(first: int, *parts: bytes) -> bytes:
    """Put a fixed header before the parts."""
    body = b"".join(parts)
    return bytes([first]) + varint(len(body)) + body


@dataclass(frozen=True, slots=True)
class Will:
    """A Will Message as the client gives it."""

    topic: str | bytes
    payload: bytes = b"will"
    qos: int = 0
    retain: bool = False
    props: Sequence[Property] | bytes = ()


def connect(
    client_id: str | bytes = "",
    *,
    version: int = V5,
    clean: bool = True,
    keep_alive: int = 0,
    props: Sequence[Property] | bytes = (),
    will: Will | None = None,
    username: str | bytes | None = None,
    password: bytes | None = None,
    flags: int | None = None,
    protocol_name: str | bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """Encode CONNECT; ``flags`` replaces the computed connect flags, ``tail`` is appended."""
    if protocol_name is None:
        protocol_name = "MQIsdp" if version == V31 else "MQTT"
    if flags is None:
        flags = 2 if clean else 0
        if will is not None:
            flags |= 4 | will.qos << 3 | (32 if will.retain else 0)
        if username is not None:
            flags |= 128
        if password is not None:
            flags |= 64
    body = [string(protocol_name), bytes([version, flags]), two(keep_alive)]
    if version == V5:
        body.append(properties(props))
    body.append(string(client_id))
    if will is not None:
        if version == V5:
            body.append(properties(will.props))
        body += [string(will.topic), string(will.payload)]
    if username is not None:
        body.append(string(username))
    if password is not None:
        body.append(string(password))
    return packet(0x10, *body, tail)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    qos: int = 0,
    packet_id: int | None = None,
    retain: bool = False,
    dup: bool = False,
    version: int = V5,
    props: Sequence[Property] | bytes = (),
) -> bytes:
    """Encode PUBLISH; the packet identifier is left out when it is None."""
    first = 0x30 | (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    body = [string(topic)]
    if packet_id is not None:
        body.append(two(packet_id))
    if version == V5:
        body.append(properties(props))
    return packet(first, *body, payload)


def acknowledge(
    kind: str,
    packet_id: int,
    *,
    reason: int | None = None,
    props: Sequence[Property] | None = None,
    flags: int | None = None,
) -> bytes:
    """Encode PUBACK, PUBREC, PUBREL or PUBCOMP; no reason code: the two-byte form."""
    if flags is None:
        flags = 2 if kind == "PUBREL" else 0
    body = two(packet_id)
    if reason is not None:
        body += bytes([reason])
        if props is not None:
            body += properties(props)
    return packet(TYPES.index(kind) << 4 | flags, body)


Filter = str | bytes | tuple[str | bytes, int]


def subscribe(
    packet_id: int,
    filters: Sequence[Filter],
    *,
    version: int = V5,
    props: Sequence[Property] | bytes = (),
    flags: int = 2,
) -> bytes:
    """Encode SUBSCRIBE; a filter alone means options byte 0."""
    body = [two(packet_id)]
    if version == V5:
        body.append(properties(props))
    for item in filters:
        name, options = item if isinstance(item, tuple) else (item, 0)
        body += [string(name), bytes([options])]
    return packet(0x80 | flags, *body)


def unsubscribe(
    packet_id: int,
    filters: Sequence[str | bytes],
    *,
    version: int = V5,
    props: Sequence[Property] | bytes = (),
    flags: int = 2,
) -> bytes:
    """Encode UNSUBSCRIBE."""
    head = properties(props) if version == V5 else b""
    return packet(0xA0 | flags, two(packet_id), head, *(string(name) for name in filters))


def disconnect(
    reason: int | None = None, props: Sequence[Property] | bytes | None = None, *, flags: int = 0
) -> bytes:
    """Encode DISCONNECT; without a reason code it is empty, as in 3.1.1."""
    body = b"" if reason is None else bytes([reason])
    if props is not None:
        body += properties(props)
    return packet(0xE0 | flags, body)


def auth(reason: int | None, props: Sequence[Property] | bytes = (), *, flags: int = 0) -> bytes:
    """Encode AUTH; without a reason code it is empty."""
    if reason is None:
        return packet(0xF0 | flags)
    return packet(0xF0 | flags, bytes([reason]), properties(props))


PINGREQ: Final = b"\xc0\x00"


# --- decoding ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Packet:
    """One packet from the server."""

    kind: str
    flags: int
    raw: bytes
    packet_id: int = 0
    topic: str = ""
    payload: bytes = b""
    reason: int = 0
    session_present: bool = False
    codes: list[int] = field(default_factory=list)
    properties: list[Property] = field(default_factory=list)

    @property
    def dup(self) -> bool:
        """The DUP flag of PUBLISH."""
        return bool(self.flags & 8)

    @property
    def qos(self) -> int:
        """The QoS of PUBLISH."""
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        """The RETAIN flag of PUBLISH."""
        return bool(self.flags & 1)

    def get(self, name: str) -> PropertyValue | None:
        """The property's value, None when it is absent."""
        return next((value for key, value in self.properties if key == name), None)

    def number(self, name: str, default: int = 0) -> int:
        """The value of a numeric property."""
        value = self.get(name)
        return value if isinstance(value, int) else default

    def all(self, name: str) -> list[PropertyValue]:
        """All values of a property that may be repeated, in order."""
        return [value for key, value in self.properties if key == name]


class Reader:
    """A cursor over one packet's body."""

    __slots__ = ("body", "position")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next bytes; the packet must have them."""
        end = self.position + count
        if end > len(self.body):
            raise MisbehaviourError(f"packet ends inside a field: {self.body.hex()}")
        part = self.body[self.position : end]
        self.position = end
        return part

    def byte(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def two(self) -> int:
        """A two byte integer."""
        return int.from_bytes(self.take(2), "big")

    def varint(self) -> int:
        """A variable byte integer; it must be the shortest form. [MQTT-1.5.5-1]"""
        value = 0
        for index in range(4):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * index
            if not byte & 0x80:
                if index and not byte:
                    raise MisbehaviourError("a variable byte integer is longer than it needs to be")
                return value
        raise MisbehaviourError("a variable byte integer has more than four bytes")

    def binary(self) -> bytes:
        """Length-prefixed bytes."""
        return self.take(self.two())

    def string(self) -> str:
        """A string; well-formed UTF-8 without U+0000. [MQTT-1.5.4-1] [MQTT-1.5.4-2]"""
        raw = self.binary()
        try:
            text = raw.decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise MisbehaviourError(f"ill-formed UTF-8 from the server: {raw!r}") from error
        if "\0" in text:
            raise MisbehaviourError("U+0000 in a string from the server")
        return text

    def rest(self) -> bytes:
        """Whatever is left."""
        return self.take(len(self.body) - self.position)

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.position == len(self.body)


def _read_properties(reader: Reader, kind: str) -> list[Property]:
    inner = Reader(reader.take(reader.varint()))
    found: list[Property] = []
    seen: set[str] = set()
    while not inner.done:
        number = inner.varint()
        if number not in _BY_IDENTIFIER:
            raise MisbehaviourError(f"unknown property {number} in {kind}")
        name, form = _BY_IDENTIFIER[number]
        if name not in SERVER_PROPERTIES[kind]:
            raise MisbehaviourError(f"a server does not send {name} in {kind}")
        if name in seen and name not in _REPEATABLE:
            raise MisbehaviourError(f"{name} twice in {kind}")
        seen.add(name)
        value: PropertyValue
        match form:
            case "byte":
                value = inner.byte()
            case "two":
                value = inner.two()
            case "four":
                value = int.from_bytes(inner.take(4), "big")
            case "varint":
                value = inner.varint()
            case "string":
                value = inner.string()
            case "binary":
                value = inner.binary()
            case _:
                value = (inner.string(), inner.string())
        found.append((name, value))
    return found


def _check_reason(kind: str, reason: int) -> None:
    if reason not in SERVER_REASONS[kind]:
        raise MisbehaviourError(f"reason code 0x{reason:02x} is not one of {kind}")


def _read_publish(result: Packet, reader: Reader, version: int) -> None:
    if result.qos == 3:
        raise MisbehaviourError("PUBLISH with both QoS bits set")
    if result.dup and not result.qos:
        raise MisbehaviourError("DUP on a QoS 0 message")
    result.topic = reader.string()
    if set(result.topic) & set("+#"):
        raise MisbehaviourError(f"wildcard in a topic name: {result.topic!r}")
    if result.qos:
        result.packet_id = reader.two()
        if not result.packet_id:
            raise MisbehaviourError("packet identifier 0")
    if version == V5:
        result.properties = _read_properties(reader, "PUBLISH")
        if result.get("topic_alias") == 0:
            raise MisbehaviourError("topic alias 0")
    if not result.topic and result.get("topic_alias") is None:
        raise MisbehaviourError("PUBLISH without topic name or alias")
    result.payload = reader.rest()


def _read_connack(result: Packet, reader: Reader, version: int) -> None:
    acknowledge_flags = reader.byte()
    if acknowledge_flags & 0xFE:
        raise MisbehaviourError("reserved CONNACK flags are not 0")
    result.session_present = bool(acknowledge_flags)
    result.reason = reader.byte()
    if result.reason and result.session_present:
        raise MisbehaviourError("session present in a refusal")
    if version == V5:
        _check_reason("CONNACK", result.reason)
        result.properties = _read_properties(reader, "CONNACK")
    elif result.reason > 5:
        raise MisbehaviourError(f"CONNACK return code {result.reason}")


def _read_acknowledgement(result: Packet, reader: Reader, version: int) -> None:
    result.packet_id = reader.two()
    if version == V5 and not reader.done:
        result.reason = reader.byte()
        _check_reason(result.kind, result.reason)
        if not reader.done:
            result.properties = _read_properties(reader, result.kind)


def _read_suback(result: Packet, reader: Reader, version: int) -> None:
    result.packet_id = reader.two()
    if version == V5:
        result.properties = _read_properties(reader, result.kind)
        result.codes = list(reader.rest())
        for code in result.codes:
            _check_reason(result.kind, code)
    elif result.kind == "SUBACK":
        result.codes = list(reader.rest())
        if set(result.codes) - {0, 1, 2, 0x80}:
            raise MisbehaviourError(f"SUBACK return codes {result.codes}")


def _read_disconnect(result: Packet, reader: Reader, version: int) -> None:
    if version != V5:
        raise MisbehaviourError(f"{result.kind} from the server to a client of version {version}")
    if not reader.done:
        result.reason = reader.byte()
        _check_reason(result.kind, result.reason)
        if not reader.done:
            result.properties = _read_properties(reader, result.kind)


def decode(raw: bytes, version: int) -> Packet:
    """Decode one whole packet from a server; raise MisbehaviourError where it breaks a rule."""
    outer = Reader(raw)
    first = outer.byte()
    kind, flags = TYPES[first >> 4], first & 15
    reader = Reader(outer.take(outer.varint()))
    if not outer.done:
        raise MisbehaviourError("bytes after the packet")
    result = Packet(kind, flags, raw)
    if kind != "PUBLISH" and flags != (2 if kind == "PUBREL" else 0):
        raise MisbehaviourError(f"{kind} with reserved flags {flags:04b}")
    match kind:
        case "PUBLISH":
            _read_publish(result, reader, version)
        case "CONNACK":
            _read_connack(result, reader, version)
        case "PUBACK" | "PUBREC" | "PUBREL" | "PUBCOMP":
            _read_acknowledgement(result, reader, version)
        case "SUBACK" | "UNSUBACK":
            _read_suback(result, reader, version)
        case "PINGRESP":
            pass
        case "DISCONNECT" | "AUTH":
            _read_disconnect(result, reader, version)
        case _:
            raise MisbehaviourError(f"{kind} from a server")
    if not reader.done:
        raise MisbehaviourError(f"bytes after the last field of {kind}: {raw.hex()}")
    return result


def split(buffer: bytearray) -> bytes | None:
    """Cut the first whole packet off the buffer; None while it is incomplete."""
    length = 0
    for index in range(1, 6):
        if index >= len(buffer):
            return None
        if index == 5:
            raise MisbehaviourError("remaining length with more than four bytes")
        length |= (buffer[index] & 0x7F) << 7 * (index - 1)
        if not buffer[index] & 0x80:
            end = index + 1 + length
            if len(buffer) < end:
                return None
            whole = bytes(buffer[:end])
            del buffer[:end]
            return whole
    return None
