"""PUBLISH and PUBREL from one client: check, hand to the router, acknowledge in order.

Owned by a ``Client``. Acknowledgements go out in the order of the publishes [MQTT-4.6.0-2], each
only when the router says that the message is safe (G1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tidegate.core.rate import TokenBucket
from tidegate.core.second_chance import LONGEST_TOPIC
from tidegate.edge.client.receipts import Receipts
from tidegate.edge.client.state import CLOSED, RATE, UNACKNOWLEDGED
from tidegate.link.interfaces import FENCED, RouterUnavailable, SessionFenced
from tidegate.mqtt.encode import encode_ack
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import ProtocolViolation
from tidegate.mqtt.packets import Publish, PubRel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.edge.client.client import Client
    from tidegate.runtime.config.model import LimitsConfig

#: What a client may publish to that has not published yet; never written to.
_NOTHING: Final[dict[str, bool]] = {}
PENDING: Final = -2
#: Between two attempts at what no router could do.
RETRY_S: Final = 0.5
#: Not the client's fault, not an error for it: acknowledged as 3.1.1 does, but not published.
DENIED: Final = ReasonCode.NOT_AUTHORIZED


class _Unanswered:
    """A publish whose acknowledgement has not been sent."""

    __slots__ = ("code", "message")

    def __init__(self, message: Publish, code: int) -> None:
        self.message = message
        self.code = code


class PublishReceiver:
    """What comes in from one client, and the ``Origin`` of its publishes; see ``receiver_of``."""

    __slots__ = (
        "_bucket",
        "_bytes_bucket",
        "_client",
        "_completing",
        "_exchange",
        "_free_length",
        "_has_published",
        "_limit",
        "_permitted",
        "_plain",
        "_rate_timer",
        "_receipts",
        "_received",
        "_unanswered",
        "client_id",
        "epoch",
        "is_superseded",
        "on_settled",
    )

    is_will: Final = False

    def __init__(self, client: Client, receipts: Receipts | None) -> None:
        """``receipts`` are those of a durable session, None otherwise."""
        self._client = client
        self.client_id = client.session_key
        self.epoch = client.epoch
        #: Whether a newer connection has the session.
        self.is_superseded = False
        #: See EndedPublisher.
        self.on_settled: Callable[[], object] | None = None
        self._limit = client.connection.settings.receive_maximum
        self._unanswered: list[_Unanswered] = []
        #: PUBRELs that are not in the store yet.
        self._completing = 0
        #: topic -> whether the client may publish there: what ``_permit`` has found last for any
        #: client with the same rules.
        self._permitted = _NOTHING
        #: A client without rules may publish to every topic of so many characters that does not
        #: begin with ``$``: it is within the limits then, and is looked up nowhere. -1: look.
        self._free_length = -1
        #: QoS 2 publishes received and not yet released, by packet identifier.
        #: None: there has been none.
        self._received: set[int] | None = None
        self._receipts = receipts
        if receipts is not None:
            self._received = receipts.open_exchanges() or None
        self._exchange = 0
        self._has_published = False
        #: Resumes reading when both rates allow it again; None: reading is not paused for them.
        self._rate_timer: asyncio.TimerHandle | None = None
        self._bucket: TokenBucket | None = None
        self._bytes_bucket: TokenBucket | None = None
        #: Nothing but the topic needs a look: no mount point, no rate, no expiry cap.
        self._plain = True
        self._take_rates()
        self._look_at_limits()

    def publisher(self) -> PublishReceiver | None:
        """Return this when something was published on this connection (see Inbound)."""
        return self if self._has_published else None

    def is_under_way(self) -> bool:
        """Whether a publish has no outcome yet (see EndedPublisher)."""
        return bool(self._unanswered)

    def supersede(self) -> None:
        """A newer connection has the session (see Inbound)."""
        self.is_superseded = True

    def limits_changed(self, before: LimitsConfig) -> None:
        """Go by the limits as they are now. Changed rates start with full buckets."""
        limits = self._client.context.limits
        if (limits.max_publish_rate, limits.max_publish_bytes_rate) != (
            before.max_publish_rate,
            before.max_publish_bytes_rate,
        ):
            self._take_rates()
        self._look_at_limits()
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_recovered()

    def _take_rates(self) -> None:
        limits = self._client.context.limits
        self._bucket = self._bytes_bucket = None
        if limits.max_publish_rate:
            self._bucket = TokenBucket(limits.max_publish_rate, limits.max_publish_rate)
        if limits.max_publish_bytes_rate:
            rate = limits.max_publish_bytes_rate
            self._bytes_bucket = TokenBucket(rate, max(rate, limits.max_packet_size_bytes))

    def _look_at_limits(self) -> None:
        self._plain = (
            not self._client.listener.mount_point
            and self._bucket is None
            and self._bytes_bucket is None
            and not self._client.context.limits.max_message_expiry_s
        )
        self.forget_topics()

    def has_unanswered(self) -> bool:
        """Whether a PUBACK, PUBREC or PUBCOMP has to go out."""
        return bool(self._unanswered or self._completing)

    def forget_topics(self) -> None:
        """Permissions may have changed."""
        self._permitted = _NOTHING
        self._free_length = -1

    # PUBLISH

    def on_publish(self, message: Publish) -> None:
        """Check, route and acknowledge one message."""
        client = self._client
        context = client.context
        qos = message.qos
        context.counters.messages_received[qos] += 1
        context.counters.publish_bytes_received += len(message.payload)
        if not self._plain:
            self._prepare(message)
        if message.message_expiry_interval is not None:
            message.expires_at_ms = context.now_ms() + message.message_expiry_interval * 1000
        topic = message.topic
        permitted: bool | None = len(topic) <= self._free_length and not topic.startswith("$")
        if not permitted:
            permitted = self._permitted.get(topic)
            if permitted is None:
                permitted = self._permit(topic)
                if client.is_closed:
                    return
        if qos == 2 and self._is_received(message.packet_id):
            self._answer_again(message)
            return
        if qos > client.listener.max_qos:
            client.fail(
                ProtocolViolation(
                    "QoS exceeds the announced Maximum QoS",
                    reason_code=ReasonCode.QOS_NOT_SUPPORTED,
                    statement="MQTT-3.2.2-11",
                )
            )
            return
        if message.retain and not context.features.retain:
            client.fail(
                ProtocolViolation(
                    "retain is not supported",
                    reason_code=ReasonCode.RETAIN_NOT_SUPPORTED,
                    statement="MQTT-3.2.2-14",
                )
            )
            return
        code: int | None
        if permitted:
            if qos == 2:
                if self._received is None:
                    self._received = set()
                self._received.add(message.packet_id)
                self._exchange += 1
            code = context.router.publish(self, message)
        else:
            context.counters.acl_denied["write"] += 1
            context.connection_log.publish_denied(client, message.topic)
            context.recorder.publish_denied(client, message.topic)
            context.counters.published += 1
            context.counters.dropped["not_authorized"] += 1
            code = DENIED
        if code is not None and not self._unanswered:
            if qos:
                self._acknowledge(message, code)
            return
        self._wait(message, code)

    def _is_received(self, packet_id: int) -> bool:
        return self._received is not None and packet_id in self._received

    def _release(self, packet_id: int) -> None:
        if self._received is not None:
            self._received.discard(packet_id)

    def _answer_again(self, message: Publish) -> None:
        """Answer a QoS 2 message that was sent again; it is not published again [MQTT-4.3.3-10].

        Those before it are answered first [MQTT-4.6.0-3].
        """
        if not self._unanswered:
            self._acknowledge(message, 0)
        elif not any(item.message.packet_id == message.packet_id for item in self._unanswered):
            self._wait(message, 0)

    def _prepare(self, message: Publish) -> None:
        """Apply what the listener and the limits say to a message before it is looked at."""
        client = self._client
        limits = client.context.limits
        message.topic = client.listener.mount_point + message.topic
        if limits.max_message_expiry_s:
            asked = message.message_expiry_interval
            if asked is None or asked > limits.max_message_expiry_s:
                message.message_expiry_interval = limits.max_message_expiry_s
        if self._bucket is not None:
            self._charge(self._bucket, 1)
        if self._bytes_bucket is not None:
            self._charge(self._bytes_bucket, len(message.payload) + len(message.topic))

    def _charge(self, bucket: TokenBucket, amount: float) -> None:
        """Take tokens; when there are too few, pause reading until there are enough again."""
        wait_s = bucket.pay(amount, self._client.context.time_s())
        if wait_s > 0 and self._rate_timer is None:
            self._client.context.recorder.quota(self._client, "publish_rate")
            self._client.queue.pause_reading(RATE)
            self._rate_timer = self._client.context.later(wait_s, self._rate_recovered)

    def _rate_recovered(self) -> None:
        """Resume reading, unless the rest of the last chunk has exceeded a rate again."""
        context = self._client.context
        buckets = (self._bucket, self._bytes_bucket)
        wait_s = max((bucket.pay(0, context.time_s()) for bucket in buckets if bucket), default=0.0)
        if wait_s > 0 and not self._client.is_closed:
            self._rate_timer = context.later(wait_s, self._rate_recovered)
            return
        self._rate_timer = None
        self._client.queue.resume_reading(RATE)

    def _permit(self, topic: str) -> bool:
        """Decide whether the client may publish to a topic, and remember it where rules decide."""
        self._has_published = True
        limits = self._client.context.limits
        acl = self._client.acl
        if acl is None:
            self._free_length = min(limits.max_topic_levels - 1, limits.max_topic_bytes // 4)
            return self._decide(topic) or False
        permissions = acl.publishable((limits.max_topic_levels, limits.max_topic_bytes))
        permitted = permissions.find(topic)
        if permitted is None:
            permitted = self._decide(topic)
            if permitted is None:
                return False
            if len(topic) <= LONGEST_TOPIC:
                permissions.add(topic, permitted)
        self._permitted = permissions.recent
        return permitted

    def _decide(self, topic: str) -> bool | None:
        """Return whether the client may publish to a topic; None: it is one that nobody may."""
        client = self._client
        limits = client.context.limits
        if topic.count("/") >= limits.max_topic_levels or (
            4 * len(topic) > limits.max_topic_bytes < len(topic.encode())
        ):
            client.fail(
                ProtocolViolation(
                    "topic name is too long or has too many levels",
                    reason_code=ReasonCode.TOPIC_NAME_INVALID,
                )
            )
            return None
        return client.may_write(topic)

    # Acknowledgements

    def _wait(self, message: Publish, code: int | None) -> None:
        """Keep the acknowledgement until the ones before it have been sent."""
        self._unanswered.append(_Unanswered(message, PENDING if code is None else code))
        if len(self._unanswered) >= self._limit:
            self._client.queue.pause_reading(UNACKNOWLEDGED)

    def published(self, message: Publish, code: int) -> None:
        """Take the outcome of a publish (see Origin)."""
        client = self._client
        if code == ReasonCode.QUOTA_EXCEEDED:
            client.context.recorder.quota(client, "quota_exceeded", message.topic)
            receipts = self._receipts
            if message.qos == 2 and receipts is not None and client.version >= ProtocolVersion.V5:
                client.context.spawn(self._refuse(message, code, receipts))
                return
        self._answer(message, code)

    async def _refuse(self, message: Publish, code: int, receipts: Receipts) -> None:
        """Answer a durable session's QoS 2 publish that is refused.

        PUBREC makes the identifier free [MQTT-4.3.3-4], so the exchange is counted before: the next
        one has another identity. Sessions that have queued this message would drop that one.
        """
        if await self._end_exchange(message.packet_id, receipts):
            self._answer(message, code)

    def _answer(self, message: Publish, code: int) -> None:
        """Send the acknowledgement, once those before it have been sent."""
        client = self._client
        for item in self._unanswered:
            if item.message is message:
                item.code = code
                break
        if code == FENCED:
            client.taken_over(ReasonCode.SESSION_TAKEN_OVER)
        unanswered = self._unanswered
        while unanswered and unanswered[0].code != PENDING:
            item = unanswered.pop(0)
            if item.message.qos and client.state is not CLOSED:
                self._acknowledge(item.message, item.code)
        if len(unanswered) <= self._limit // 2:
            client.queue.resume_reading(UNACKNOWLEDGED)
        if self.on_settled is not None and not unanswered:
            self.on_settled()

    def _acknowledge(self, message: Publish, code: int) -> None:
        client = self._client
        packet_id = message.packet_id
        if code >= 0x80 and code != DENIED and client.version < ProtocolVersion.V5:
            # Before 5.0 no acknowledgement can say that it failed.
            client.disconnect(ReasonCode(code))
            return
        if client.version < ProtocolVersion.V5:
            code = 0
        elif code >= 0x80 or message.qos == 1:
            client.connection.note_acked(packet_id)
        if message.qos == 1:
            client.send(encode_ack(0x40, packet_id, code, client.version))
            return
        if code >= 0x80:
            self._release(packet_id)
        client.send(encode_ack(0x50, packet_id, code, client.version))

    def identity(self, message: Publish) -> str:
        """Name a QoS 2 exchange (see Origin): G2."""
        if message.qos != 2:
            return ""
        if self._receipts is None:
            return f"{self.client_id}|{self.epoch}|#{self._exchange}"
        return f"{self.client_id}|{self._receipts.exchange(message.packet_id)}"

    def receipt(self, message: Publish) -> int:
        """Return the receipt byte to store before PUBREC (see Origin)."""
        if message.qos != 2 or self._receipts is None:
            return -1
        return self._receipts.begin(message.packet_id)

    # PUBREL

    def on_pubrel(self, packet: PubRel) -> None:
        """Complete a QoS 2 exchange [MQTT-4.3.3-11]; an unknown one is 0x92 for MQTT 5."""
        client = self._client
        packet_id = packet.packet_id
        if any(item.message.packet_id == packet_id for item in self._unanswered):
            raise ProtocolViolation("PUBREL before its PUBREC", statement="MQTT-4.3.3-4")
        if not self._is_received(packet_id):
            code = 0
            if client.version >= ProtocolVersion.V5:
                code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            client.send(encode_ack(0x70, packet_id, code, client.version))
            return
        if self._receipts is not None:
            client.context.spawn(self._complete(packet_id, self._receipts))
            return
        self._finish(packet_id)

    async def _complete(self, packet_id: int, receipts: Receipts) -> None:
        """A durable session: the store must know before PUBCOMP."""
        if await self._end_exchange(packet_id, receipts) and not self._client.is_closed:
            self._finish(packet_id)

    async def _end_exchange(self, packet_id: int, receipts: Receipts) -> bool:
        """Count an exchange of a durable session in the store; False: the connection has ended."""
        client = self._client
        value = receipts.ended_value(packet_id)
        self._completing += 1
        try:
            while True:
                try:
                    await client.context.router.complete_receipt(
                        self.client_id, self.epoch, packet_id, value
                    )
                    break
                except RouterUnavailable:
                    if client.is_closed:
                        return False
                    await asyncio.sleep(RETRY_S)
        except SessionFenced as error:
            client.fenced(error)
            return False
        finally:
            self._completing -= 1
        receipts.end(packet_id, value)
        return True

    def _finish(self, packet_id: int) -> None:
        client = self._client
        self._release(packet_id)
        client.connection.note_acked(packet_id)
        client.send(encode_ack(0x70, packet_id, 0, client.version))


def receiver_of(client: Client) -> PublishReceiver:
    """Return what takes the publishes of a connected client, made when it is needed first."""
    receiver = client.inbound
    if not isinstance(receiver, PublishReceiver):
        receiver = begin_receiving(client, None)
    return receiver


def begin_receiving(client: Client, receipts: Receipts | None) -> PublishReceiver:
    """Make it; ``receipts`` are those of a durable session."""
    receiver = PublishReceiver(client, receipts)
    client.inbound, client.queue.on_publish = receiver, receiver.on_publish
    return receiver
