"""The fifteen control packets as values.

The version-independent form: MQTT 5.0's fields, with defaults where 3.1 and 3.1.1 have none.
PUBLISH is the hot one, so it keeps the properties that a server must forward unaltered as the
bytes they arrived in; every other packet carries a decoded ``Properties``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tidegate.mqtt.enums import ProtocolVersion


@dataclass(slots=True)
class Properties:
    """Every property of MQTT 5.0 (§2.2.2.2); ``None`` (or empty) means absent.

    Intervals are seconds, sizes bytes. ``user_properties`` keeps order and duplicates
    [MQTT-3.3.2-18]. Authentication data never shows in a repr.
    """

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = field(default=None, repr=False)
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


#: What a packet has in a version without properties; shared, so never written to.
NO_PROPERTIES: Final = Properties()


class Publish:
    """A PUBLISH packet, and inside the broker the application message it carries.

    ``properties`` holds the properties that travel unaltered from publisher to subscriber, encoded
    as they stand on the wire, in their order, without the leading length: payload format indicator,
    content type, response topic, correlation data and user properties. The ones that belong to one
    hop only have fields of their own. ``message_expiry_interval`` is seconds, None when absent.
    ``expires_at_ms`` (Unix milliseconds, 0 = never) is not on the wire: the edge sets it on
    arrival. Nor is ``trace``, the context of the span that the message came from
    (``runtime.tracing``), empty for nearly all messages.
    """

    __slots__ = (
        "dup",
        "expires_at_ms",
        "message_expiry_interval",
        "packet_id",
        "payload",
        "properties",
        "qos",
        "retain",
        "subscription_identifiers",
        "topic",
        "topic_alias",
        "trace",
    )

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        properties: bytes = b"",
        message_expiry_interval: int | None = None,
        topic_alias: int = 0,
        subscription_identifiers: tuple[int, ...] = (),
        expires_at_ms: int = 0,
        trace: bytes = b"",
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties
        self.message_expiry_interval = message_expiry_interval
        self.topic_alias = topic_alias
        self.subscription_identifiers = subscription_identifiers
        self.expires_at_ms = expires_at_ms
        self.trace = trace

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Publish):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def __copy__(self) -> Publish:
        return Publish(*self._fields())

    def _fields(
        self,
    ) -> tuple[
        str, bytes, int, bool, bool, int, bytes, int | None, int, tuple[int, ...], int, bytes
    ]:
        """Return the arguments that make an equal one. (Compiled, it has no ``__slots__``.)"""
        return (
            self.topic,
            self.payload,
            self.qos,
            self.retain,
            self.dup,
            self.packet_id,
            self.properties,
            self.message_expiry_interval,
            self.topic_alias,
            self.subscription_identifiers,
            self.expires_at_ms,
            self.trace,
        )

    def __repr__(self) -> str:
        # Never the payload: it is the users' data and ends up in logs.
        return (
            f"Publish(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, "
            f"retain={self.retain}, dup={self.dup}, packet_id={self.packet_id})"
        )


@dataclass(slots=True)
class Will:
    """The will of a CONNECT (§3.1.2.5). ``properties`` as in ``Publish``; intervals in seconds.

    The payload never shows in a repr.
    """

    topic: str
    payload: bytes = field(default=b"", repr=False)
    qos: int = 0
    retain: bool = False
    properties: bytes = b""
    message_expiry_interval: int | None = None
    will_delay_interval: int = 0


@dataclass(slots=True)
class Connect:
    """CONNECT (§3.1). ``keep_alive`` in seconds, 0 = off. The password never shows in a repr."""

    client_id: str = ""
    protocol_version: ProtocolVersion = ProtocolVersion.V5
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    properties: Properties = field(default_factory=Properties)
    #: The bridge bit of mosquitto and others: the protocol level byte had 0x80 set (3.1, 3.1.1).
    is_bridge: bool = False


@dataclass(slots=True)
class ConnAck:
    """CONNACK (§3.2). ``reason_code`` is 5.0's; the encoder translates for older versions."""

    session_present: bool = False
    reason_code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class PubAck:
    """PUBACK (§3.4)."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class PubRec:
    """PUBREC (§3.5)."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class PubRel:
    """PUBREL (§3.6)."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class PubComp:
    """PUBCOMP (§3.7)."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True, frozen=True)
class SubscriptionOptions:
    """Subscription options (§3.8.3.1), and the identifier that came with them (0: none)."""

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    subscription_identifier: int = 0


@dataclass(slots=True)
class Subscribe:
    """SUBSCRIBE (§3.8): topic filters with their options, in the packet's order."""

    packet_id: int
    subscriptions: list[tuple[str, SubscriptionOptions]]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class SubAck:
    """SUBACK (§3.9): one reason code per topic filter; 5.0's codes, translated when encoded."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties | None = None


@dataclass(slots=True)
class Unsubscribe:
    """UNSUBSCRIBE (§3.10)."""

    packet_id: int
    topic_filters: list[str]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class UnsubAck:
    """UNSUBACK (§3.11)."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties | None = None


@dataclass(slots=True)
class PingReq:
    """PINGREQ (§3.12)."""


@dataclass(slots=True)
class PingResp:
    """PINGRESP (§3.13)."""


@dataclass(slots=True)
class Disconnect:
    """DISCONNECT (§3.14)."""

    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Auth:
    """AUTH (§3.15)."""

    reason_code: int = 0
    properties: Properties = field(default_factory=Properties)


Packet: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
