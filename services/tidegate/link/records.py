"""Packed records: publishes, deliveries, pushes and completions as bytes, many in one operation.

Called by both ends; ``link.proto`` describes the format. What a record has no field for (a trace,
subscription identifiers, the identity of a QoS 2 exchange) travels as an operation of its own. A
router forwards the record of a publish without building a message of it. Pure functions: no state,
no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct, error
from typing import Final, TypeAlias

from tidegate.link.messages import RETAIN
from tidegate.mqtt.packets import Publish

#: Of the flags: which of the three it is.
KIND: Final = 0x30
MESSAGE: Final = 0x00
PUSH: Final = 0x10
COMPLETE: Final = 0x20
QOS: Final = 0x03

_HEAD: Final = Struct(">BIIIIQQQ")
_SEQ_BYTES: Final = 8
_pack = _HEAD.pack
_unpack = _HEAD.unpack_from

#: Of one record: flags, number, epoch, topic, client identifier, expires_at_ms; then where it
#: begins, where its properties and its payload begin, and where it ends.
Record: TypeAlias = tuple[int, int, int, str, str, int, int, int, int, int]


class MalformedRecords(ValueError):
    """The bytes are not a sequence of records."""


def is_plain(message: Publish) -> bool:
    """Whether a record has a field for everything in a message."""
    return not (message.trace or message.subscription_identifiers)


def encode_message(
    message: Publish, client_id: str, number: int = 0, epoch: int = 0, kind: int = MESSAGE
) -> bytes:
    """Return the record of a plain message."""
    topic, name = message.topic.encode(), client_id.encode()
    properties, payload = message.properties, message.payload
    flags = kind | message.qos | RETAIN if message.retain else kind | message.qos
    head = _pack(
        flags,
        len(topic),
        len(name),
        len(properties),
        len(payload),
        number,
        epoch,
        message.expires_at_ms,
    )
    return b"".join((head, topic, name, properties, payload))


def encode_completion(client_id: str, number: int, epoch: int, seqs: Sequence[int]) -> bytes:
    """Return the record of a completion."""
    name = client_id.encode()
    payload = b"".join([seq.to_bytes(_SEQ_BYTES) for seq in seqs])
    return _pack(COMPLETE, 0, len(name), 0, len(payload), number, epoch, 0) + name + payload


def decode(data: bytes) -> Iterator[Record]:
    """Go through records in their order. Raises MalformedRecords where one is not complete."""
    at, size = 0, len(data)
    head_size = _HEAD.size
    try:
        while at < size:
            flags, topic, name, properties, payload, number, epoch, expires_at_ms = _unpack(
                data, at
            )
            topic_at = at + head_size
            name_at = topic_at + topic
            properties_at = name_at + name
            payload_at = properties_at + properties
            end = payload_at + payload
            if end > size:
                raise MalformedRecords("a record is longer than its operation")
            yield (
                flags,
                number,
                epoch,
                data[topic_at:name_at].decode(),
                data[name_at:properties_at].decode(),
                expires_at_ms,
                at,
                properties_at,
                payload_at,
                end,
            )
            at = end
    except (error, UnicodeDecodeError) as cause:
        raise MalformedRecords(str(cause)) from cause


def message_of(data: bytes, record: Record) -> Publish:
    """Return the message of a record in ``data``."""
    flags, _, _, topic, _, expires_at_ms, _, properties_at, payload_at, end = record
    return Publish(
        topic,
        data[payload_at:end],
        flags & QOS,
        flags & RETAIN != 0,
        False,
        0,
        data[properties_at:payload_at],
        None,
        0,
        (),
        expires_at_ms,
    )


def delivery_of(data: bytes) -> tuple[Publish, str]:
    """Return the message and the publisher of the first record in ``data``."""
    record = next(decode(data))
    return message_of(data, record), record[4]


def seqs_of(data: bytes, record: Record) -> list[int]:
    """Return the seqs of a completion in ``data``. Raises MalformedRecords."""
    payload_at, end = record[-2:]
    if (end - payload_at) % _SEQ_BYTES:
        raise MalformedRecords("a seq of a completion is not complete")
    return [int.from_bytes(data[at : at + _SEQ_BYTES]) for at in range(payload_at, end, _SEQ_BYTES)]


def count_messages(data: bytes) -> int:
    """Return how many records are publishes or deliveries."""
    return sum(record[0] & KIND == MESSAGE for record in decode(data))
