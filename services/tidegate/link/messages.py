"""Conversion between the broker's objects and the messages of the link.

Called by both ends. Pure functions: no state, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tidegate.link.interfaces import AttachedSession, AttachSession, DetachSession, PendingWill
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will

RETAIN: Final = 0x04
#: What a message counts beside its topic, payload and properties, in bytes of an outbox.
OVERHEAD_BYTES: Final = 100
#: What a request, or an operation without a message, counts.
SMALL_BYTES: Final = 64


def size_of(message: Publish) -> int:
    """About how many bytes a message takes in a frame."""
    return OVERHEAD_BYTES + len(message.topic) + len(message.payload) + len(message.properties)


def write_message(out: pb.Message, message: Publish) -> None:
    """Fill in an application message. Packet identifier, DUP and alias belong to one hop only."""
    out.topic = message.topic
    out.payload = message.payload
    flags = message.qos | RETAIN if message.retain else message.qos
    if flags:
        out.flags = flags
    if message.properties:
        out.properties = message.properties
    if message.expires_at_ms:
        out.expires_at_ms = message.expires_at_ms
    if message.subscription_identifiers:
        out.subscription_identifiers.extend(message.subscription_identifiers)
    if message.trace:
        out.trace = message.trace


def read_message(found: pb.Message) -> Publish:
    """Return the application message. Its expiry is absolute; the interval is the sender's task."""
    flags = found.flags
    identifiers = found.subscription_identifiers
    return Publish(
        found.topic,
        found.payload,
        flags & 3,
        flags & RETAIN != 0,
        False,
        0,
        found.properties,
        None,
        0,
        tuple(identifiers) if identifiers else (),
        found.expires_at_ms,
        found.trace,
    )


def write_options(out: pb.Options, options: SubscriptionOptions) -> None:
    """Fill in subscription options."""
    out.flags = (
        options.qos
        | options.no_local << 2
        | options.retain_as_published << 3
        | options.retain_handling << 4
    )
    out.subscription_identifier = options.subscription_identifier


def read_options(found: pb.Options) -> SubscriptionOptions:
    """Return subscription options."""
    return _options(found.flags, found.subscription_identifier)


@lru_cache(maxsize=1024)
def _options(flags: int, subscription_identifier: int) -> SubscriptionOptions:
    """Return one object for equal options, as long as they are not too many."""
    return SubscriptionOptions(
        flags & 3,
        flags & 4 != 0,
        flags & 8 != 0,
        flags >> 4 & 3,
        subscription_identifier,
    )


def write_subscriptions(
    out: pb.AttachReply | pb.SharedMember | pb.SubscribeRequest,
    subscriptions: Iterable[tuple[str, SubscriptionOptions]],
) -> None:
    """Add subscriptions, in order."""
    add = out.subscriptions.add
    for topic_filter, options in subscriptions:
        one = add()
        one.topic_filter = topic_filter
        write_options(one.options, options)


def read_subscriptions(found: Iterable[pb.Subscription]) -> list[tuple[str, SubscriptionOptions]]:
    """Return subscriptions, in order."""
    return [(one.topic_filter, read_options(one.options)) for one in found]


def write_will(out: pb.PublishWill, will: PendingWill) -> None:
    """Fill in a will that an edge publishes."""
    out.will_id, out.client_id, out.epoch = will.will_id, will.client_id, will.epoch
    write_message(out.message, will.message)


def read_will(found: pb.PublishWill) -> PendingWill:
    """Return a will that this edge publishes."""
    return PendingWill(found.will_id, found.client_id, found.epoch, read_message(found.message))


def write_attach(out: pb.AttachRequest, request: AttachSession) -> None:
    """Fill in a CONNECT."""
    out.client_id = request.client_id
    out.clean_start = request.clean_start
    out.session_expiry_s = request.session_expiry_s
    if request.username is not None:
        out.username = request.username
    if request.supersedes is not None:
        out.supersedes = request.supersedes
    out.checks_user = request.checks_user
    will = request.will
    if will is not None:
        write_message(
            out.will.message,
            Publish(will.topic, will.payload, will.qos, will.retain, properties=will.properties),
        )
        out.will.delay_s = will.will_delay_interval
        if will.message_expiry_interval is not None:
            out.will.message_expiry_s = will.message_expiry_interval


def read_attach(found: pb.AttachRequest) -> AttachSession:
    """Return a CONNECT."""
    will = None
    if found.HasField("will"):
        message = read_message(found.will.message)
        expiry_s = found.will.message_expiry_s if found.will.HasField("message_expiry_s") else None
        will = Will(
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            message.properties,
            expiry_s,
            found.will.delay_s,
        )
    return AttachSession(
        found.client_id,
        found.clean_start,
        found.session_expiry_s,
        will,
        found.username if found.HasField("username") else None,
        found.supersedes if found.HasField("supersedes") else None,
        found.number,
        found.tries,
        found.checks_user,
    )


def write_replays(replays: Iterable[tuple[str, str, str]]) -> list[pb.Replay]:
    """Make the messages for subscriptions with retained messages to be sent."""
    return [
        pb.Replay(topic_filter=topic_filter, generation=generation, topic=topic)
        for topic_filter, generation, topic in replays
    ]


def read_replays(found: Iterable[pb.Replay]) -> list[tuple[str, str, str]]:
    """Return what ``write_replays`` was given."""
    return [(one.topic_filter, one.generation, one.topic) for one in found]


def write_attached(out: pb.AttachReply, session: AttachedSession) -> None:
    """Fill in the session that a connection has got."""
    out.epoch = session.epoch
    if session.incarnation:
        _write_durable(out, session)
    for will in session.wills:
        write_will(out.wills.add(), will)
    if session.fence_position:
        out.fence_position = session.fence_position
    if session.taken_epoch:
        out.taken_epoch = session.taken_epoch
    if session.has_discarded:
        out.has_discarded = True


def _write_durable(out: pb.AttachReply, session: AttachedSession) -> None:
    out.incarnation = session.incarnation
    out.session_present = session.session_present
    out.sent_seq = session.sent_seq
    out.sent_uncertain = session.sent_uncertain
    out.last_seq = session.last_seq
    out.released.extend(session.released)
    out.receipts = session.receipts
    out.receipt_wraps.update(session.receipt_wraps)
    write_subscriptions(out, session.subscriptions)
    out.replays.extend(write_replays(session.replays))


def read_attached(found: pb.AttachReply) -> AttachedSession:
    """Return the session that a connection has got."""
    if len(found.ListFields()) == 1 and found.epoch:  # a new session that is not durable
        return AttachedSession(found.epoch, 0, False)
    return AttachedSession(
        found.epoch,
        found.incarnation,
        found.session_present,
        found.sent_seq,
        found.sent_uncertain,
        found.last_seq,
        list(found.released),
        found.receipts,
        dict(found.receipt_wraps),
        read_subscriptions(found.subscriptions),
        list(map(read_will, found.wills)),
        found.fence_position,
        found.taken_epoch,
        read_replays(found.replays),
        found.has_discarded,
    )


def write_detach(out: pb.DetachRequest, request: DetachSession) -> None:
    """Fill in the end of a connection."""
    out.client_id = request.client_id
    out.epoch = request.epoch
    out.publish_will = request.publish_will
    out.sent_seq = request.sent_seq
    if request.session_expiry_s is not None:
        out.session_expiry_s = request.session_expiry_s


def read_detach(found: pb.DetachRequest) -> DetachSession:
    """Return the end of a connection."""
    return DetachSession(
        found.client_id,
        found.epoch,
        found.publish_will,
        found.session_expiry_s if found.HasField("session_expiry_s") else None,
        found.sent_seq,
    )
