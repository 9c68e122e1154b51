"""Values of the store and answers of nodes, as the API shapes them. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from tidegate.console.models.clients import (
    ClientState,
    ClientSummary,
    Connection,
    InFlight,
    Queue,
    QueueEntry,
    Session,
    Subscription,
    Will,
)
from tidegate.console.models.retained import RetainedItem, RetainedValue
from tidegate.core.session_key import parts_of
from tidegate.mqtt.enums import PacketType
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import Properties
from tidegate.mqtt.properties import decode_properties
from tidegate.mqtt.wire import write_variable
from tidegate.store.inspection.values import (
    Entry,
    SessionState,
    StoredSession,
    StoredSubscription,
    StoredWill,
    Topic,
)
from tidegate.store.records import RetainedRecord

#: Bytes of a payload where it is one of many.
PREVIEW_BYTES: Final = 256


def seconds(time_ms: int) -> float | None:
    """Return a time in seconds; None for 0."""
    return time_ms / 1000 if time_ms else None


def base64_of(content: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(content).decode()


def properties_of(encoded: bytes) -> Properties:
    """Read the properties that a message carries; none, if they cannot be read."""
    whole = write_variable(len(encoded)) + encoded
    try:
        return decode_properties(whole, 0, len(whole), PacketType.PUBLISH)[0]
    except MqttError:
        return Properties()


def connection(edge: str, found: Mapping[str, Any]) -> Connection:
    """Shape a client as an edge describes it."""
    return Connection(
        edge=edge,
        address=found["address"],
        listener=found["listener"],
        transport=found["transport"],
        version=found["version"],
        since=found["since"] or "",
        slow=found["slow"],
        in_flight=found["in_flight"],
        waiting=found["queued"],
        keep_alive_s=found.get("keep_alive_s"),
        idle_s=found.get("idle_s"),
        receive_maximum=found.get("receive_maximum"),
    )


def connected(edge: str, found: Mapping[str, Any]) -> ClientSummary:
    """Shape a connected client in a list."""
    return ClientSummary(
        client_id=found["client_id"],
        mount_point=found["mount_point"],
        state=ClientState.CONNECTED,
        user=found["username"],
        durable=found["durable"],
        subscriptions=found["subscriptions"],
        connection=connection(edge, found),
    )


def offline(found: StoredSession) -> ClientSummary:
    """Shape a session without a connection in a list."""
    mount_point, client_id = parts_of(found.key)
    return ClientSummary(
        client_id=client_id,
        mount_point=mount_point,
        state=ClientState.CONNECTED if found.edge_id else ClientState.OFFLINE,
        user=found.user,
        durable=True,
        subscriptions=found.subscriptions,
        queued=found.queued,
        ends_at=seconds(found.ends_at_ms),
    )


def in_flight(found: Mapping[str, Any]) -> InFlight:
    """Shape a message in the window of a client."""
    return InFlight(
        packet_id=found["packet_id"],
        seq=found["seq"],
        awaits=found["awaits"],
        topic=found["topic"],
        qos=found["qos"],
        size_bytes=found["size_bytes"],
    )


def session(found: SessionState) -> Session | None:
    """Shape a durable session; None if it is none."""
    if not found.incarnation:
        return None
    return Session(
        expiry_s=found.expiry_s,
        ends_at=seconds(found.ends_at_ms),
        epoch=found.epoch,
        incarnation=found.incarnation,
        user=found.user,
        queue=Queue(
            length=found.queued,
            size_bytes=found.queue_bytes,
            last_seq=found.last_seq,
            sent_seq=found.sent_seq,
            expiring=found.expiring,
            oldest_at=found.oldest_s,
        ),
        subscription_count=found.subscriptions,
        awaiting_pubcomp=found.released,
    )


def will(found: StoredWill) -> Will:
    """Shape a will."""
    message = found.record.will
    return Will(
        topic=message.topic,
        qos=message.qos,
        retain=message.retain,
        payload_size_bytes=len(message.payload),
        payload_base64=base64_of(message.payload[:PREVIEW_BYTES]),
        delay_s=message.will_delay_interval,
        due_at=seconds(found.due_at_ms),
        is_pending=found.is_pending,
    )


def queue_entry(found: Entry, sent_seq: int | None) -> QueueEntry:
    """Shape a queued message."""
    message = found.publish
    if message is None:
        return QueueEntry(
            seq=found.seq,
            size_bytes=found.size_bytes,
            queued_at=found.queued_s,
            is_readable=False,
        )
    return QueueEntry(
        seq=found.seq,
        topic=message.topic,
        qos=message.qos,
        retain=message.retain,
        size_bytes=found.size_bytes,
        payload_size_bytes=len(message.payload),
        payload_base64=base64_of(message.payload[:PREVIEW_BYTES]),
        is_cut=len(message.payload) > PREVIEW_BYTES,
        queued_at=found.queued_s,
        expires_at=seconds(message.expires_at_ms),
        subscription_ids=list(message.subscription_identifiers),
        shared_group=found.group or None,
        is_sent=None if sent_seq is None else found.seq <= sent_seq,
    )


def stored_subscription(found: StoredSubscription) -> Subscription:
    """Shape a subscription of a durable session."""
    mount_point, client_id = parts_of(found.key)
    options = found.options
    return Subscription(
        client_id=client_id,
        mount_point=mount_point,
        filter=without_mount_point(found.topic_filter, mount_point),
        qos=options.qos,
        no_local=options.no_local,
        retain_as_published=options.retain_as_published,
        retain_handling=options.retain_handling,
        subscription_id=options.subscription_identifier or None,
        durable=True,
        state=ClientState.CONNECTED if found.edge_id else ClientState.OFFLINE,
    )


def connected_subscription(edge: str, found: Mapping[str, Any]) -> Subscription:
    """Shape a subscription of a connected client."""
    return Subscription(
        client_id=found["client_id"],
        mount_point=found["mount_point"],
        filter=without_mount_point(found["filter"], found["mount_point"]),
        qos=found["qos"],
        no_local=found["no_local"],
        retain_as_published=found["retain_as_published"],
        retain_handling=found["retain_handling"],
        subscription_id=found["subscription_id"],
        durable=found["durable"],
        state=ClientState.CONNECTED,
        edge=edge,
    )


def without_mount_point(topic_filter: str, mount_point: str) -> str:
    """Return a filter as the client has sent it."""
    if mount_point and topic_filter.startswith("$share/"):
        share, _, plain = topic_filter[len("$share/") :].partition("/")
        return f"$share/{share}/{plain.removeprefix(mount_point)}"
    return topic_filter.removeprefix(mount_point)


def retained_item(found: Topic) -> RetainedItem:
    """Shape a retained message in a list."""
    record = found.record
    if record is None:
        return RetainedItem(topic=found.topic, is_readable=False)
    message = record.publish
    preview = message.payload[:PREVIEW_BYTES]
    return RetainedItem(
        topic=found.topic,
        qos=message.qos,
        payload_size_bytes=found.payload_bytes,
        received_at=record.received_at_ms / 1000,
        expires_at=seconds(message.expires_at_ms),
        payload_base64=base64_of(preview),
        is_cut=found.payload_bytes > len(preview),
    )


def retained_value(record: RetainedRecord) -> RetainedValue:
    """Shape a retained message with its properties."""
    message = record.publish
    properties = properties_of(message.properties)
    correlation = properties.correlation_data
    return RetainedValue(
        topic=message.topic,
        qos=message.qos,
        payload_base64=base64_of(message.payload),
        payload_size_bytes=len(message.payload),
        received_at=record.received_at_ms / 1000,
        expires_at=seconds(message.expires_at_ms),
        content_type=properties.content_type,
        payload_format=properties.payload_format_indicator,
        response_topic=properties.response_topic,
        correlation_data_base64=None if correlation is None else base64_of(correlation),
        user_properties=list(properties.user_properties),
    )
