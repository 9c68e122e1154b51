"""PUBLISH and PUBREL from one client: check, hand to the router, acknowledge in order.

Owned by a ``Client``. Acknowledgements go out in the order of the publishes [MQTT-4.6.0-2], each
only when the router says that the message is safe (G1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tidegate.core.rate import TokenBucket
from tidegate.edge.client.state import CLOSED, RATE, UNACKNOWLEDGED
from tidegate.link.interfaces import FENCED, RouterUnavailable, SessionFenced
from tidegate.mqtt.encode import encode_ack
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import ProtocolViolation
from tidegate.mqtt.packets import Publish, PubRel

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.runtime.config.model import LimitsConfig

MAX_REMEMBERED_TOPICS: Final = 1000
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
    """What comes in from one client, and the ``Origin`` of its publishes."""

    __slots__ = (
        "_bucket",
        "_bytes_bucket",
        "_client",
        "_completing",
        "_exchange",
        "_has_published",
        "_limit",
        "_permitted",
        "_plain",
        "_rate_timer",
        "_receipts",
        "_received",
        "_state",
        "_unanswered",
        "_wraps",
        "client_id",
        "epoch",
        "is_superseded",
    )

    is_will: Final = False

    def __init__(self, client: Client, receipts: bytes, wraps: dict[int, int]) -> None:
        self._client = client
        self.client_id = client.session_key
        self.epoch = client.epoch
        #: Whether a newer connection has the session.
        self.is_superseded = False
        self._limit = client.announced_limits.receive_maximum
        self._unanswered: list[_Unanswered] = []
        #: PUBRELs that are not in the store yet.
        self._completing = 0
        #: topic -> whether the client may publish there; bounded.
        self._permitted: dict[str, bool] = {}
        #: QoS 2 publishes received and not yet released, by packet identifier.
        self._received: set[int] = set()
        #: A durable session's receipts (see store.api.AttachReply); empty otherwise.
        self._receipts = bytearray(receipts)
        #: How often the count of a packet identifier has run over, where it has.
        self._wraps = wraps
        #: Names the state that packet identifiers are counted in: that of a session in a store that
        #: went back is another one than before.
        self._state = f"{client.incarnation}.{wraps[0]}" if 0 in wraps else f"{client.incarnation}"
        for packet_id, value in enumerate(receipts):
            if value & 1:
                self._received.add(packet_id)
        self._exchange = 0
        #: Also on topics that are not in ``_permitted`` any more.
        self._has_published = False
        #: Resumes reading when both rates allow it again; None: reading is not paused for them.
        self._rate_timer: asyncio.TimerHandle | None = None
        self._bucket: TokenBucket | None = None
        self._bytes_bucket: TokenBucket | None = None
        #: Nothing but the topic needs a look: no mount point, no rate, no expiry cap.
        self._plain = True
        self._take_rates()
        self._look_at_limits()

    @property
    def has_published(self) -> bool:
        """Whether something was published on this connection."""
        return self._has_published or bool(self._permitted)

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
        self._has_published = self.has_published
        self._permitted.clear()

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
        permitted = self._permitted.get(message.topic)
        if permitted is None:
            permitted = self._permit(message.topic)
            if client.is_closed:
                return
        if qos == 2 and message.packet_id in self._received:
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
        """Decide whether the client may publish to a topic, and remember it."""
        client = self._client
        limits = client.context.limits
        if topic.count("/") >= limits.max_topic_levels or (
            len(topic.encode()) > limits.max_topic_bytes
        ):
            client.fail(
                ProtocolViolation(
                    "topic name is too long or has too many levels",
                    reason_code=ReasonCode.TOPIC_NAME_INVALID,
                )
            )
            return False
        permitted = client.may_write(topic)
        if len(self._permitted) >= MAX_REMEMBERED_TOPICS:
            self.forget_topics()
        self._permitted[topic] = permitted
        return permitted

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
            if message.qos == 2 and client.incarnation and client.version >= ProtocolVersion.V5:
                client.context.spawn(self._refuse(message, code))
                return
        self._answer(message, code)

    async def _refuse(self, message: Publish, code: int) -> None:
        """Answer a durable session's QoS 2 publish that is refused.

        PUBREC makes the identifier free [MQTT-4.3.3-4], so the exchange is counted before: the next
        one has another identity. Sessions that have queued this message would drop that one.
        """
        if await self._end_exchange(message.packet_id):
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
            self._received.discard(packet_id)
        client.send(encode_ack(0x50, packet_id, code, client.version))

    def identity(self, message: Publish) -> str:
        """Name a QoS 2 exchange (see Origin): G2."""
        if message.qos != 2:
            return ""
        client = self._client
        if not client.incarnation:
            return f"{self.client_id}|{self.epoch}|#{self._exchange}"
        packet_id = message.packet_id
        count = (self._receipt_of(packet_id) >> 1) + 128 * self._wraps.get(packet_id, 0)
        return f"{self.client_id}|{self._state}|{packet_id}|{count}"

    def receipt(self, message: Publish) -> int:
        """Return the receipt byte to store before PUBREC (see Origin)."""
        if message.qos != 2 or not self._client.incarnation:
            return -1
        value = self._receipt_of(message.packet_id) | 1
        self._set_receipt(message.packet_id, value)
        return value

    def _receipt_of(self, packet_id: int) -> int:
        receipts = self._receipts
        return receipts[packet_id] if packet_id < len(receipts) else 0

    def _set_receipt(self, packet_id: int, value: int) -> None:
        missing = packet_id + 1 - len(self._receipts)
        if missing > 0:
            self._receipts.extend(bytes(missing))
        self._receipts[packet_id] = value

    # PUBREL

    def on_pubrel(self, packet: PubRel) -> None:
        """Complete a QoS 2 exchange [MQTT-4.3.3-11]; an unknown one is 0x92 for MQTT 5."""
        client = self._client
        packet_id = packet.packet_id
        if any(item.message.packet_id == packet_id for item in self._unanswered):
            raise ProtocolViolation("PUBREL before its PUBREC", statement="MQTT-4.3.3-4")
        if packet_id not in self._received:
            code = 0
            if client.version >= ProtocolVersion.V5:
                code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            client.send(encode_ack(0x70, packet_id, code, client.version))
            return
        if client.incarnation:
            client.context.spawn(self._complete(packet_id))
            return
        self._finish(packet_id)

    async def _complete(self, packet_id: int) -> None:
        """A durable session: the store must know before PUBCOMP."""
        if await self._end_exchange(packet_id) and not self._client.is_closed:
            self._finish(packet_id)

    async def _end_exchange(self, packet_id: int) -> bool:
        """Count an exchange of a durable session in the store; False: the connection has ended."""
        client = self._client
        count = ((self._receipt_of(packet_id) >> 1) + 1) % 128
        value = count << 1
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
        self._set_receipt(packet_id, value)
        if not count:
            self._wraps[packet_id] = self._wraps.get(packet_id, 0) + 1
        return True

    def _finish(self, packet_id: int) -> None:
        client = self._client
        self._received.discard(packet_id)
        client.connection.note_acked(packet_id)
        client.send(encode_ack(0x70, packet_id, 0, client.version))
