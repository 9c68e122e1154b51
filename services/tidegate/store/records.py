"""The values the store keeps, as bytes: queued messages, retained messages, wills, options.

Pure: no I/O, no clock. The edge and the router encode and decode; the store passes bytes on. The
first byte of a record names its kind (high four bits) and the version of its form (low four), so
that a newer form can be read beside an older one. All numbers are big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception class
from typing import Final

from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will

QUEUED: Final = 0x11
RETAINED: Final = 0x21
WILL: Final = 0x31
OPTIONS: Final = 0x41

# The flags byte of queued and retained messages; its two low bits are the QoS.
_RETAIN: Final = 0x04
_EXPIRES: Final = 0x08
_IDENTIFIERS: Final = 0x10
_PROPERTIES: Final = 0x20
# Queued messages only.
_GROUP: Final = 0x40
# The flags byte of wills; QoS and retain as above.
_WILL_EXPIRES: Final = 0x08
_WILL_USERNAME: Final = 0x10

_HEAD: Final = Struct(">BBH")
_RETAINED_HEAD: Final = Struct(">BBQH")
_WILL_HEAD: Final = Struct(">BBIIHHHI")
_OPTIONS: Final = Struct(">BBI")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")

_pack_head = _HEAD.pack
_unpack_head = _HEAD.unpack_from


class RecordError(Exception):
    """The bytes are no record of the expected kind: cut short, or of another kind."""


class UnknownRecordVersion(RecordError):
    """The record was written in a form that this version does not know (by a newer broker)."""

    def __init__(self, first_byte: int, kind: str) -> None:
        super().__init__(
            f"a stored {kind} starts with byte 0x{first_byte:02x}, a form that this version of "
            f"Tidegate cannot read; a newer version wrote it"
        )
        self.first_byte = first_byte


@dataclass(slots=True, frozen=True)
class RetainedRecord:
    """A retained message; ``received_at_ms`` is when it came (Unix milliseconds)."""

    publish: Publish
    received_at_ms: int


@dataclass(slots=True, frozen=True)
class WillRecord:
    """A will with what is needed to publish it after its connection has ended."""

    will: Will
    client_id: str
    username: str | None


def encode_queued(
    publish: Publish,
    qos: int,
    retain: bool,
    subscription_identifiers: tuple[int, ...] = (),
    expires_at_ms: int = 0,
    group: str = "",
) -> bytes:
    """Encode a message for one session's queue, with the QoS and flags it is delivered with.

    ``group`` names the shared subscription that it came through, ``<share name>/<filter>``: should
    the session end before it is delivered, it may be redelivered to another member.

    ``expires_at_ms``: Unix milliseconds, 0 for never; stored instead of the message expiry
    interval, which the sender recomputes [MQTT-3.3.2-6].
    """
    topic = publish.topic.encode()
    properties = publish.properties
    flags = qos | _RETAIN if retain else qos
    if not (expires_at_ms or subscription_identifiers or properties or group):
        return _pack_head(QUEUED, flags, len(topic)) + topic + publish.payload
    extra = b""
    if group:
        flags |= _GROUP
        name = group.encode()
        extra = _U16.pack(len(name)) + name
    if expires_at_ms:
        flags |= _EXPIRES
        extra += _U64.pack(expires_at_ms)
    if subscription_identifiers:
        flags |= _IDENTIFIERS
        extra += _encode_identifiers(subscription_identifiers)
    if properties:
        flags |= _PROPERTIES
        extra += _U32.pack(len(properties)) + properties
    return _pack_head(QUEUED, flags, len(topic)) + topic + extra + publish.payload


def decode_queued(record: bytes) -> Publish:
    """Decode what ``encode_queued`` made; ``message_expiry_interval`` is left to the sender.

    Raises UnknownRecordVersion, or RecordError when the record is cut short.
    """
    try:
        form, flags, topic_length = _unpack_head(record)
        if form != QUEUED:
            raise UnknownRecordVersion(form, "queued message")
        at = 4 + topic_length
        return _decode_message(record, flags, record[4:at], at, topic_length)
    except (StructError, UnicodeDecodeError) as error:
        raise RecordError("a stored queued message is cut short or damaged") from error


def queued_group(record: bytes) -> str:
    """The shared subscription that a queued message came through, "" for none.

    Raises as ``decode_queued``.
    """
    try:
        form, flags, topic_length = _unpack_head(record)
        if form != QUEUED:
            raise UnknownRecordVersion(form, "queued message")
        if not flags & _GROUP:
            return ""
        start = 6 + topic_length
        (length,) = _U16.unpack_from(record, start - 2)
        name = record[start : start + length]
        if len(name) != length:
            raise RecordError("a stored queued message is cut short")
        return name.decode()
    except (StructError, UnicodeDecodeError) as error:
        raise RecordError("a stored queued message is cut short or damaged") from error


def encode_retained(publish: Publish, received_at_ms: int) -> bytes:
    """Encode a retained message with its own QoS, properties and ``expires_at_ms``."""
    topic = publish.topic.encode()
    flags = publish.qos | _RETAIN
    extra = b""
    if publish.expires_at_ms:
        flags |= _EXPIRES
        extra = _U64.pack(publish.expires_at_ms)
    if publish.properties:
        flags |= _PROPERTIES
        extra += _U32.pack(len(publish.properties)) + publish.properties
    head = _RETAINED_HEAD.pack(RETAINED, flags, received_at_ms, len(topic))
    return head + topic + extra + publish.payload


def decode_retained(record: bytes) -> RetainedRecord:
    """Decode what ``encode_retained`` made; raises as ``decode_queued``. RETAIN is set."""
    _check_form(record, RETAINED, "retained message")
    try:
        _, flags, received_at_ms, topic_length = _RETAINED_HEAD.unpack_from(record)
        at = 12 + topic_length
        publish = _decode_message(record, flags, record[12:at], at, topic_length)
    except (StructError, UnicodeDecodeError) as error:
        raise RecordError("a stored retained message is cut short or damaged") from error
    return RetainedRecord(publish, received_at_ms)


def encode_will(will: Will, client_id: str, username: str | None) -> bytes:
    """Encode a will with the identity it is published under."""
    topic, client, user = will.topic.encode(), client_id.encode(), (username or "").encode()
    flags = will.qos | (_RETAIN if will.retain else 0)
    if will.message_expiry_interval is not None:
        flags |= _WILL_EXPIRES
    if username is not None:
        flags |= _WILL_USERNAME
    head = _WILL_HEAD.pack(
        WILL,
        flags,
        will.will_delay_interval,
        will.message_expiry_interval or 0,
        len(topic),
        len(client),
        len(user),
        len(will.properties),
    )
    return head + topic + client + user + will.properties + will.payload


def decode_will(record: bytes) -> WillRecord:
    """Decode what ``encode_will`` made; raises as ``decode_queued``."""
    _check_form(record, WILL, "will")
    try:
        _, flags, delay, expiry, *lengths = _WILL_HEAD.unpack_from(record)
        ends = []
        at = _WILL_HEAD.size
        for length in lengths:
            at += length
            ends.append(at)
        if at > len(record):
            raise RecordError("a stored will is cut short")
        topic_end, client_end, user_end, properties_end = ends
        will = Will(
            topic=record[_WILL_HEAD.size : topic_end].decode(),
            payload=record[properties_end:],
            qos=flags & 0x03,
            retain=bool(flags & _RETAIN),
            properties=record[user_end:properties_end],
            message_expiry_interval=expiry if flags & _WILL_EXPIRES else None,
            will_delay_interval=delay,
        )
        username = record[client_end:user_end].decode() if flags & _WILL_USERNAME else None
        return WillRecord(will, record[topic_end:client_end].decode(), username)
    except (StructError, UnicodeDecodeError) as error:
        raise RecordError("a stored will is cut short or damaged") from error


def encode_options(options: SubscriptionOptions) -> bytes:
    """Encode the options of one subscription (its topic filter is the key)."""
    flags = (
        options.qos
        | (0x04 if options.no_local else 0)
        | (0x08 if options.retain_as_published else 0)
        | options.retain_handling << 4
    )
    return _OPTIONS.pack(OPTIONS, flags, options.subscription_identifier)


@lru_cache(maxsize=1024)
def decode_options(record: bytes) -> SubscriptionOptions:
    """Decode what ``encode_options`` made; raises as ``decode_queued``.

    Equal options are one object as long as they are not too many: a session may have thousands.
    """
    _check_form(record, OPTIONS, "subscription")
    try:
        _, flags, identifier = _OPTIONS.unpack(record)
    except StructError as error:
        raise RecordError("a stored subscription is cut short") from error
    return SubscriptionOptions(
        qos=flags & 0x03,
        no_local=bool(flags & 0x04),
        retain_as_published=bool(flags & 0x08),
        retain_handling=flags >> 4 & 0x03,
        subscription_identifier=identifier,
    )


def _check_form(record: bytes, form: int, kind: str) -> None:
    if not record:
        raise RecordError(f"a stored {kind} is empty")
    if record[0] != form:
        raise UnknownRecordVersion(record[0], kind)


def _encode_identifiers(identifiers: tuple[int, ...]) -> bytes:
    # One per matching subscription; beyond 65,535 the rest is left out, the message is kept.
    kept = identifiers[:0xFFFF]
    return _U16.pack(len(kept)) + b"".join(map(_U32.pack, kept))


def _decode_message(record: bytes, flags: int, topic: bytes, at: int, topic_length: int) -> Publish:
    if len(topic) != topic_length:
        raise RecordError("a stored message is cut short")
    expires_at_ms = 0
    identifiers: tuple[int, ...] = ()
    properties = b""
    if flags & 0x78:
        if flags & _GROUP:
            at += 2 + _U16.unpack_from(record, at)[0]
            if at > len(record):
                raise RecordError("a stored message is cut short")
        if flags & _EXPIRES:
            (expires_at_ms,) = _U64.unpack_from(record, at)
            at += 8
        if flags & _IDENTIFIERS:
            (count,) = _U16.unpack_from(record, at)
            at += 2
            identifiers = tuple(
                _U32.unpack_from(record, place)[0] for place in range(at, at + 4 * count, 4)
            )
            at += 4 * count
        if flags & _PROPERTIES:
            (length,) = _U32.unpack_from(record, at)
            at += 4 + length
            properties = record[at - length : at]
            if len(properties) != length:
                raise RecordError("a stored message is cut short")
    return Publish(
        topic.decode(),
        record[at:],
        flags & 0x03,
        bool(flags & _RETAIN),
        False,
        0,
        properties,
        None,
        0,
        identifiers,
        expires_at_ms,
    )
