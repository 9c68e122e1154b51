"""The server's side of one MQTT connection, sans-I/O: bytes in, packets out.

Owned by an edge's client. It frames and decodes, resolves topic aliases, and watches over what can
be judged from the stream alone: the first packet, sizes, directions, Receive Maximum. It never
raises for what a peer sends: the packets before the fault are returned, and ``error`` says what
was wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from tidegate.mqtt.decode import (
    LONGEST_PROTOCOL_NAME,
    check_protocol_name,
    connect_version,
    decode_connect,
    decode_packet,
)
from tidegate.mqtt.enums import PacketType, ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.first_bytes import MQTT_CONNECT, protocol_of
from tidegate.mqtt.packets import Connect, Packet, PubAck, PubComp, Publish, PubRec, PubRel
from tidegate.mqtt.properties import split_publish_properties
from tidegate.mqtt.topics import validate_topic_name
from tidegate.mqtt.wire import decode_text

_V5: Final = ProtocolVersion.V5
#: Longer topic names are not remembered: they would cost more memory than they save time.
MAX_REMEMBERED_TOPIC_BYTES: Final = 256
#: By first byte: QoS, RETAIN and DUP of a PUBLISH; None for what is no PUBLISH or not a valid one.
_PUBLISH_FLAGS: Final = tuple(
    None
    if first >> 4 != PacketType.PUBLISH or first & 6 == 6 or first & 14 == 8
    else (first >> 1 & 3, first & 1 == 1, first & 8 == 8)
    for first in range(256)
)
#: What only a server may send.
_SERVER_ONLY: Final = frozenset(
    (PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP)
)


class OutgoingAliases:
    """Topic aliases towards one client, given to the topics that come first (MQTT5 §3.3.2.3.4)."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._aliases: dict[str, int] = {}

    def assign(self, topic: str) -> tuple[int, bool]:
        """Return the alias of a topic (0: none is left) and whether the client learns it now.

        [MQTT-3.1.2-26], [MQTT-3.1.2-27]
        """
        alias = self._aliases.get(topic)
        if alias is not None:
            return alias, False
        if len(self._aliases) >= self._maximum:
            return 0, False
        alias = self._aliases[topic] = len(self._aliases) + 1
        return alias, True

    def forget(self, topic: str) -> None:
        """Take back the newest alias: the packet that was to announce it is not sent."""
        assert self._aliases.get(topic) == len(self._aliases), "only the newest can be taken back"
        del self._aliases[topic]


class TopicNames(Protocol):
    """Topic names that have been decoded and checked, of one or of all connections."""

    #: By their bytes, those used last; ``find`` looks further.
    recent: dict[bytes, str]

    def find(self, key: bytes, /) -> str | None:
        """Return the topic name of these bytes; None: they are to be decoded."""

    def add(self, key: bytes, value: str, /) -> None:
        """Remember a topic name."""


class _NoNames:
    """Remembers nothing."""

    def __init__(self) -> None:
        self.recent: dict[bytes, str] = {}

    def find(self, key: bytes, /) -> str | None:
        """Return None."""
        return self.recent.get(key)

    def add(self, key: bytes, value: str, /) -> None:
        """Do nothing."""


_NO_NAMES: Final = _NoNames()


@dataclass(slots=True, frozen=True)
class ConnectionSettings:
    """What a peer may send, and what is remembered of topic names: the same for many connections.

    Sizes are bytes. Without ``names`` nothing is remembered.
    """

    max_packet_size_bytes: int = 268_435_460
    receive_maximum: int = 65_535
    topic_alias_maximum: int = 0
    names: TopicNames = _NO_NAMES


_DEFAULTS: Final = ConnectionSettings()


class ServerConnection:
    """See the module's docstring."""

    __slots__ = (
        "_aliases",
        "_buffer",
        "_first_bytes",
        "_in_flight",
        "_needed",
        "error",
        "has_connect",
        "refusal_version",
        "settings",
        "version",
    )

    def __init__(self, settings: ConnectionSettings = _DEFAULTS) -> None:
        self.settings = settings
        # Bytes of a packet that is not complete; with fewer than _needed there is nothing to do.
        self._buffer: bytearray | None = None
        self._needed = 0
        # The size of what came together with the CONNECT, or without a whole one.
        self._first_bytes = 0
        self._aliases: dict[int, str] | None = None
        self._in_flight: set[int] | None = None
        #: Whether the CONNECT has come.
        self.has_connect = False
        self.version = ProtocolVersion.V311
        #: The version in which a CONNECT that was wrong can be refused; None: it cannot.
        self.refusal_version: ProtocolVersion | None = None
        #: What the peer did wrong. Nothing is decoded any more.
        self.error: MqttError | None = None

    def receive(self, data: bytes) -> list[Packet]:
        """Take bytes in any chunking; return the packets they complete. Never raises for them."""
        if self.error is not None or not data:
            return []
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer = None
        packets: list[Packet] = []
        try:
            position = self._decode(data, packets)
        except MqttError as error:
            # Without what leads back here: an ended connection must be in no reference cycle.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self.error = error if self.has_connect else _explained(error, data)
            return packets
        if position < len(data):
            self._buffer = bytearray(data[position:] if position else data)
        return packets

    @property
    def unfinished_bytes(self) -> int:
        """What has come of a packet that is not complete yet."""
        return len(self._buffer) if self._buffer is not None else 0

    @property
    def early_bytes(self) -> int:
        """About what is held of a peer whose CONNECT is not answered yet."""
        return self.unfinished_bytes + (self._first_bytes if self.has_connect else 0)

    def note_acked(self, packet_id: int) -> None:
        """An inbound QoS 1 or 2 message is answered for good: PUBACK, PUBCOMP or a refusal."""
        if self._in_flight is not None:
            self._in_flight.discard(packet_id)

    def _decode(self, data: bytes, packets: list[Packet]) -> int:  # noqa: C901 - the hot loop
        """Decode what is complete; return the position of what is not. Raises MqttError."""
        position = 0
        end = len(data)
        settings = self.settings
        limit = settings.max_packet_size_bytes
        topics = settings.names.recent
        in_flight = self._in_flight
        append = packets.append
        connected = self.has_connect
        v5 = self.version >= _V5
        if not connected:
            self._first_bytes = end
            self._check_first(data[0])
        while position < end:
            first = data[position]
            body = position + 2
            if body > end:
                self._needed = 2
                break
            length = data[position + 1]
            if length & 0x80:
                length, body = self._remaining_length(data, position, end)
                if not body:
                    break
            stop = body + length
            if stop - position > limit:
                raise MalformedPacket(
                    "packet exceeds the maximum packet size",
                    reason_code=ReasonCode.PACKET_TOO_LARGE,
                    statement="MQTT-3.2.2-15",
                )
            if stop > end:
                self._needed = stop - position
                if not connected:
                    check_protocol_name(data[body:end])
                    if end < body + LONGEST_PROTOCOL_NAME:
                        self._needed = min(self._needed, end - position + 1)
                break
            flags = _PUBLISH_FLAGS[first]
            if flags and length > 2 and connected:
                # What most packets are, so decoded here, without a call.
                qos, retain, dup = flags
                start = body + 2
                after = start + (data[body] << 8 | data[body + 1])
                at = after + 2 if qos else after
                if at > stop - v5:
                    raise MalformedPacket("packet ends inside a field")
                name = data[start:after]
                if v5:
                    if data[at] or not name:
                        append(self._publish_v5(first, data, name, after, stop))
                        position = stop
                        continue
                    at += 1
                topic = topics.get(name)
                if topic is None:
                    topic = self._learn_topic(name)
                if not qos:
                    append(Publish(topic, data[at:stop], 0, retain))
                    position = stop
                    continue
                packet_id = data[after] << 8 | data[after + 1]
                if not packet_id:
                    raise MalformedPacket(
                        "packet identifier must not be 0", statement="MQTT-2.2.1-3"
                    )
                if in_flight is not None:
                    in_flight.add(packet_id)
                    if len(in_flight) > settings.receive_maximum:
                        raise _too_many_in_flight()
                elif v5:
                    self._note_received(packet_id)
                    in_flight = self._in_flight
                append(Publish(topic, data[at:stop], qos, retain, dup, packet_id))
            elif length == 2 and 0x40 <= first <= 0x70 and connected:
                append(_short_ack(first, data[body] << 8 | data[body + 1], self.version))
            else:
                append(self._packet(first, data[body:stop]))
                connected = True
                v5 = self.version >= _V5
            position = stop
        return position

    def _remaining_length(self, data: bytes, position: int, end: int) -> tuple[int, int]:
        """Read a remaining length of two to four bytes; (length, 0) when it is not complete."""
        length = data[position + 1] & 0x7F
        shift = 7
        at = position + 2
        while shift < 28:
            if at >= end:
                self._needed = at - position + 1
                return length, 0
            byte = data[at]
            length |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                if not byte:
                    raise MalformedPacket(
                        "remaining length is not minimally encoded",
                        statement="MQTT-1.5.5-1",
                    )
                return length, at
            shift += 7
        raise MalformedPacket("remaining length exceeds four bytes", statement="MQTT-1.5.5-1")

    def _learn_topic(self, name: bytes) -> str:
        """Decode and check a topic name, and remember it unless it is long."""
        names = self.settings.names
        topic = names.find(name)
        if topic is None:
            topic = decode_text(name)
            validate_topic_name(topic)
            if len(name) <= MAX_REMEMBERED_TOPIC_BYTES:
                names.add(name, topic)
        return topic

    def _check_first(self, first: int) -> None:
        if first >> 4 != PacketType.CONNECT:
            raise ProtocolViolation("first packet must be CONNECT", statement="MQTT-3.1.0-1")

    def _packet(self, first: int, body: bytes) -> Packet:
        if not self.has_connect:
            return self._first(first, body)
        kind = first >> 4
        if kind == PacketType.CONNECT:
            raise ProtocolViolation("second CONNECT on one connection", statement="MQTT-3.1.0-2")
        if kind in _SERVER_ONLY:
            raise ProtocolViolation("packet type is sent by servers only")
        # A PUBLISH that comes this far is wrong, and decoding it says how; or it is one of QoS 0
        # with DUP, which 3.1 does not refuse.
        return decode_packet(first, body, self.version)

    def _first(self, first: int, body: bytes) -> Connect:
        try:
            if first & 0x0F:
                _check_connect_header(body)
            connect = decode_connect(body)
        except MqttError:
            self.refusal_version = connect_version(body)
            raise
        self.has_connect = True
        self.version = self.refusal_version = connect.protocol_version
        return connect

    def _publish_v5(self, first: int, data: bytes, name: bytes, after: int, stop: int) -> Publish:
        """Decode a PUBLISH with properties; ``after`` is where its topic name ends."""
        qos = first >> 1 & 3
        packet_id = 0
        if qos:
            packet_id = data[after] << 8 | data[after + 1]
            if not packet_id:
                raise MalformedPacket("packet identifier must not be 0", statement="MQTT-2.2.1-3")
            after += 2
        found, at = split_publish_properties(data, after, stop)
        if found.subscription_identifiers:
            raise ProtocolViolation(
                "subscription identifier in a PUBLISH from a client", statement="MQTT-3.3.4-6"
            )
        topic = ""
        if name:
            topic = self.settings.names.recent.get(name) or self._learn_topic(name)
        if found.topic_alias:
            topic = self._resolve_alias(found.topic_alias, topic)
        elif not topic:
            raise ProtocolViolation("PUBLISH without a topic name or topic alias")
        if qos:
            self._note_received(packet_id)
        return Publish(
            topic,
            data[at:stop],
            qos,
            first & 1 == 1,
            first & 8 == 8,
            packet_id,
            found.forwarded,
            found.message_expiry_interval,
        )

    def _note_received(self, packet_id: int) -> None:
        """Count a QoS 1 or 2 message that is under way from the client, once."""
        in_flight = self._in_flight
        if in_flight is None:
            in_flight = self._in_flight = set()
        in_flight.add(packet_id)
        if len(in_flight) > self.settings.receive_maximum:
            raise _too_many_in_flight()

    def _resolve_alias(self, alias: int, topic: str) -> str:
        """Learn what an alias stands for, or say it [MQTT-3.3.2-12]."""
        if alias > self.settings.topic_alias_maximum:
            raise ProtocolViolation(
                "topic alias exceeds the Topic Alias Maximum",
                reason_code=ReasonCode.TOPIC_ALIAS_INVALID,
                statement="MQTT-3.3.2-9",
            )
        if self._aliases is None:
            self._aliases = {}
        if topic:
            self._aliases[alias] = topic
            return topic
        known = self._aliases.get(alias)
        if known is None:
            raise ProtocolViolation("unknown topic alias")
        return known


def _check_connect_header(body: bytes) -> None:
    """Raise for a CONNECT with flags in its first byte [MQTT311-2.2.2-2]; 3.1 does not use them."""
    check_protocol_name(body)  # first, as while it is incomplete
    if connect_version(body) != ProtocolVersion.V31:
        raise MalformedPacket("invalid flags in the fixed header", statement="MQTT-2.1.3-1")


def _explained(error: MqttError, data: bytes) -> MqttError:
    """Name the protocol that came in the place of MQTT, if the first bytes are one's."""
    protocol = protocol_of(data)
    if not protocol or protocol == MQTT_CONNECT:
        return error
    return ProtocolViolation(f"{protocol} in place of CONNECT", statement="MQTT-3.1.0-1")


def _too_many_in_flight() -> ProtocolViolation:
    return ProtocolViolation(
        "Receive Maximum exceeded",
        reason_code=ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
        statement="MQTT-3.3.4-7",
    )


def _short_ack(first: int, packet_id: int, version: ProtocolVersion) -> Packet:
    """Decode an acknowledgement of two bytes: what nearly all of them are."""
    if packet_id:
        if first == 0x40:
            return PubAck(packet_id)
        if first == 0x50:
            return PubRec(packet_id)
        if first == 0x62:
            return PubRel(packet_id)
        if first == 0x70:
            return PubComp(packet_id)
    return decode_packet(first, packet_id.to_bytes(2, "big"), version)
