"""One client's connection: what it is, what it may do, what is sent to it, and how it ends.

Made by ``Edge`` for each channel, and fed by it through a ``PacketQueue``. Packets are handled
above this module (``dispatch``), which is why it knows what goes in and out as ``Inbound`` and
``Outbound`` only. Owns its state and the bytes of this turn; never awaits, and never looks at other
clients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.edge.auth.acl import Readable
from tidegate.edge.client.absent import NO_INBOUND, NO_OUTBOUND
from tidegate.edge.client.in_flight import InFlight
from tidegate.edge.client.packet_queue import PacketQueue
from tidegate.edge.client.state import (
    CLOSED,
    CONNECTED,
    CONNECTING,
    DISCONNECTING,
    SLOW,
    ClientState,
)
from tidegate.link.interfaces import (
    AttachedSession,
    DetachSession,
    PendingWill,
    SessionFenced,
    SessionLost,
)
from tidegate.mqtt.connection import OutgoingAliases, ServerConnection
from tidegate.mqtt.encode import encode, encode_publish
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.packets import ConnAck, Connect, Disconnect, Packet, Properties, Publish
from tidegate.mqtt.topics import parse_shared

if TYPE_CHECKING:
    from tidegate.edge.auth.acl import ClientAcl
    from tidegate.edge.channel import Channel
    from tidegate.edge.client.context import EdgeContext
    from tidegate.link.interfaces import EndedPublisher, SharedReceipt
    from tidegate.mqtt.errors import MqttError
    from tidegate.mqtt.packets import PubComp, PubRec, PubRel, SubscriptionOptions, Will
    from tidegate.runtime.config.model import LimitsConfig, ListenerConfig

log = logging.getLogger(__name__)

#: The client must be heard of within so many times its keep alive [MQTT-3.1.2-22].
KEEP_ALIVE_FACTOR: Final = 1.5
#: WebSocket close code of a server that ends (RFC 6455, 7.4.1).
GOING_AWAY: Final = 1001
#: What a client has that has not subscribed to anything; never written to.
NO_SUBSCRIPTIONS: Final[dict[str, SubscriptionOptions]] = {}
SESSION_LOST: Final = "session lost: the store has gone back to an older state"


@dataclass(slots=True, frozen=True)
class Ending:
    """What the end of a connection means for its session."""

    #: Whether the will is published.
    publishes_will: bool = True
    #: Whether a newer connection has the session.
    is_superseded: bool = False
    #: Whether the store may have lost the session, and the will with it.
    is_session_lost: bool = False
    #: The session's expiry interval from then on; None: as before.
    session_expiry_s: int | None = None


#: Unless something else is said.
_USUAL_END: Final = Ending()


@dataclass(slots=True)
class Accepted:
    """What a CONNECT was granted: all that is in force for the client from CONNACK on."""

    client_id: str
    session_key: str
    username: str | None
    #: Whether it may stay only as long as the password file has its user.
    by_password: bool
    authentication_method: str | None
    acl: ClientAcl | None
    session: AttachedSession
    session_expiry_s: int
    #: 0: none.
    keep_alive_s: int
    receive_maximum: int
    #: 0: none are sent.
    topic_alias_maximum: int
    will: Will | None
    connack: ConnAck


class Inbound(Protocol):
    """The publishes that come from one client (``publish.PublishReceiver``)."""

    def supersede(self) -> None:
        """A newer connection has the session."""

    def publisher(self) -> EndedPublisher | None:
        """What was published on this connection, which ends; None: nothing was."""

    def on_pubrel(self, packet: PubRel) -> None:
        """Complete a QoS 2 exchange. Raises ProtocolViolation."""

    def has_unanswered(self) -> bool:
        """Whether a PUBACK, PUBREC or PUBCOMP has to go out."""

    def limits_changed(self, before: LimitsConfig) -> None:
        """Go by the limits as they are now."""

    def forget_topics(self) -> None:
        """Permissions may have changed."""


class Replay(Protocol):
    """The retained messages of one SUBSCRIBE (``retained_replay.RetainedReplay``)."""

    filters: dict[str, SubscriptionOptions]
    #: By filter: generations of which the store does not have that all has been sent.
    unrecorded: dict[str, str]

    @property
    def is_done(self) -> bool:
        """Whether everything has been read and sent."""

    @property
    def connection(self) -> tuple[str, int]:
        """The session's key, and the epoch of the client's connection."""

    def note(self, message: Publish) -> bool:
        """A message that matches is about to be delivered to this edge's clients.

        True if it is taken for what its topic retains.
        """

    def send_some(self) -> None:
        """Send what there is room for."""

    async def run(self) -> None:
        """Send everything that is left; return early when the connection is over."""

    def forget(self, filters: Iterable[str]) -> None:
        """Send nothing more of these."""

    def renew(self, messages: Sequence[Publish]) -> None:
        """Another replay of the client, which is before this one, has read these now."""

    def absorb(self, other: Replay) -> None:
        """Replay the filters of another one as well."""

    def end(self) -> None:
        """Note nothing any more."""


class Outbound(Protocol):
    """The messages that go to one client (``delivery.Delivery``)."""

    #: Highest sequence number that was put on the wire (durable sessions).
    sent_seq: int
    #: How often retained messages have been read for it.
    retained_reads: int

    def offer(
        self, message: Publish, qos: int, retain: bool, subscription_ids: tuple[int, ...]
    ) -> None:
        """Deliver a QoS 1 or 2 message to an ephemeral session."""

    def offer_shared(
        self,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Deliver a shared subscription's message; False when there is no place for it."""

    def send_qos0(self, message: Publish, retain: bool, subscription_ids: tuple[int, ...]) -> None:
        """Send a QoS 0 copy now, or drop it, counted."""

    def push(self, seq: int, message: Publish) -> None:
        """Take a message that has just been queued in the store."""

    def resync(self) -> None:
        """Pushes may have been lost: look into the store when there is room."""

    def pump(self) -> None:
        """Send what there is room for."""

    def send_retained(self, replay: Replay) -> None:
        """Send the retained messages of a SUBSCRIBE, what there is room for at once."""

    def retained_read(self, messages: Sequence[Publish]) -> None:
        """Retained messages have been read: what waits behind them is not to be older."""

    def pause(self) -> None:
        """Send nothing from the queue of a durable session until ``resume``."""

    def resume(self) -> None:
        """Send again."""

    def forget_retained(self, filters: Iterable[str]) -> None:
        """Send no more retained messages of these: the client has unsubscribed."""

    def offer_retained(self, message: Publish, qos: int, subscription_ids: tuple[int, ...]) -> bool:
        """Deliver one with QoS 1 or 2; False when it has to go through the session's queue."""

    def has_room(self) -> bool:
        """Whether the client has taken what it was given."""

    async def wait_for_room(self) -> None:
        """Wait until it has, or the connection is over."""

    def on_pubrec(self, packet: PubRec) -> None:
        """QoS 2, second step."""

    def on_pubcomp(self, packet: PubComp) -> None:
        """QoS 2 is complete."""

    def waiting(self) -> tuple[int, int]:
        """Messages under way to the client, and those in memory behind them."""

    def unacknowledged(self, count: int) -> list[InFlight]:
        """The oldest exchanges under way to the client."""

    def withdraw(self) -> None:
        """Permissions have changed: drop what waits in memory and may not be read any more."""

    def end(self) -> None:
        """The connection has ended."""


class GroupRights(Protocol):
    """Shared subscriptions that the client may not read (``group_rights.ClientGroupRights``)."""

    #: Those that it is no member of.
    left: set[str]

    def subscribed(self, names: Iterable[str], unjoined: Iterable[str]) -> None:
        """SUBSCRIBE was granted for these; routers do not know those that are ``unjoined``."""

    def unsubscribed(self, names: Iterable[str]) -> None:
        """UNSUBSCRIBE was granted for these."""

    async def settled(self) -> None:
        """Return when no change of memberships is in progress."""

    def look(self) -> None:
        """Leave the groups that the client may not read, and join those that it may read again."""

    def take_back(self, name: str, message: Publish) -> bool:
        """Take a message for another member; False when the caller is to pass it on at once."""


class Registry(Protocol):
    """Where the end of a connection is reported (``registry.ClientRegistry``)."""

    def remove(self, client: Client, reason: str, was_connected: bool) -> None:
        """The connection has ended, for a reason that is counted."""

    def detach(self, request: DetachSession) -> None:
        """Give the session back to the router."""


def may_publish(acl: ClientAcl | None, topic: str) -> bool:
    """Whether rules let a client publish to an (internal) topic; the broker's own are not for it.

    As in mosquitto, only an ACL can grant something there, and only a bridge's state.
    """
    if acl is not None:
        return acl.may_write(topic)
    return not topic.startswith(("$SYS", "$share"))


class Client:
    """See the module's docstring. Implements ``Handler`` for its channel."""

    __slots__ = (
        "_pending_bytes",
        "_registry",
        "acl",
        "aliases",
        "authentication_method",
        "by_password",
        "channel",
        "client_id",
        "connect",
        "connection",
        "context",
        "data_received",
        "delivery",
        "ending",
        "epoch",
        "group_rights",
        "inbound",
        "incarnation",
        "is_stored",
        "keep_alive_s",
        "listener",
        "max_in_flight",
        "maximum_packet_size_bytes",
        "mount_point_length",
        "on_end",
        "out",
        "queue",
        "sent_bytes",
        "sent_packets",
        "session_expiry_s",
        "session_key",
        "since_s",
        "slow",
        "state",
        "subscriptions",
        "username",
        "version",
        "will",
    )

    def __init__(
        self,
        context: EdgeContext,
        channel: Channel,
        listener: ListenerConfig,
        registry: Registry,
        dispatch: Callable[[Client, Packet], None],
        accepted_s: float = 0.0,
    ) -> None:
        """``dispatch`` handles every packet but PUBLISH and PUBACK."""
        self.context = context
        self.channel = channel
        self.listener = listener
        self._registry = registry
        self.state: ClientState = CONNECTING
        self.connection = ServerConnection(context.connection_settings)
        self.queue = queue = PacketQueue(context, self.connection, self, dispatch)
        #: The channel calls the queue, without a call of the client in between.
        self.data_received = queue.data_received
        #: Made when they are first needed (``publish.receiver_of``, ``delivery.delivery_of``).
        self.inbound: Inbound = NO_INBOUND
        self.delivery: Outbound = NO_OUTBOUND
        #: The CONNECT, until CONNACK is sent.
        self.connect: Connect | None = None
        #: As the client and operators know it.
        self.client_id = ""
        #: What registry, routers and store have the session by (``core.session_key``).
        self.session_key = ""
        self.username: str | None = None
        self.by_password = False
        self.version = ProtocolVersion.V311
        self.epoch = 0
        #: That of the durable session; 0: the session ends with the connection.
        self.incarnation = 0
        #: Whether the store has the session.
        self.is_stored = True
        self.will: Will | None = None
        self.ending = _USUAL_END
        self.session_expiry_s = 0
        #: How many exchanges of QoS 1 and 2 may be under way to the client.
        self.max_in_flight = 0
        #: 0: the client has set no limit.
        self.maximum_packet_size_bytes = 0
        self.aliases: OutgoingAliases | None = None
        self.acl: ClientAcl | None = None
        #: None: it is a member of all its shared subscriptions.
        self.group_rights: GroupRights | None = None
        self.mount_point_length = len(listener.mount_point)
        #: By (internal) filter; ``subscribed`` adds to them.
        self.subscriptions = NO_SUBSCRIPTIONS
        #: When it was accepted, then when its CONNECT came; the loop's clock.
        self.since_s = accepted_s or context.tick_s
        #: It may be silent for ``KEEP_ALIVE_FACTOR`` times as long; 0: for ever.
        self.keep_alive_s = 0
        #: Packets to send at the end of this turn; kept while the channel is slow. None: none.
        self.out: list[bytes] | None = None
        self.slow = False
        self.sent_packets = 0
        self.sent_bytes = 0
        self.authentication_method: str | None = None
        #: Called when the connection ends, while something is done for its CONNECT alone.
        self.on_end: Callable[[], object] | None = None
        self._pending_bytes = 0

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended: to be checked again after every await."""
        return self.state is CLOSED

    # CONNECT

    def answer_as(self, packet: Connect) -> None:
        """Write from now on as a CONNECT asks for it, whatever becomes of it.

        The answer has a time of its own, whatever the client sends meanwhile.
        """
        self.connect = packet
        self.since_s = self.context.tick_s
        self.version = packet.protocol_version
        self.maximum_packet_size_bytes = packet.properties.maximum_packet_size or 0

    def accept(self, accepted: Accepted) -> None:
        """Go by what a CONNECT was granted."""
        session = accepted.session
        self.state = CONNECTED
        self.channel.accepted()
        self.client_id = accepted.client_id
        self.session_key = accepted.session_key
        self.username = accepted.username
        self.by_password = accepted.by_password
        self.authentication_method = accepted.authentication_method
        self.acl = accepted.acl
        self.epoch = session.epoch
        self.incarnation = session.incarnation
        self.is_stored = session.is_stored
        self.session_expiry_s = accepted.session_expiry_s
        self.will = accepted.will
        self.max_in_flight = min(accepted.receive_maximum, self.context.limits.max_in_flight)
        if accepted.topic_alias_maximum:
            self.aliases = OutgoingAliases(accepted.topic_alias_maximum)
        self.keep_alive_s = accepted.keep_alive_s
        self.queue.seen_s = self.context.tick_s

    # Handler: what the channel calls, besides the queue's part

    def connection_lost(self, reason: str) -> None:
        """The channel was lost."""
        self.queue.connection_lost(reason)

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        self.slow = True
        self._pending_bytes = 0

    def resume_writing(self) -> None:
        """It does again."""
        self.slow = False
        self._pending_bytes = 0
        if self.out:
            self.context.mark(self)
        self.queue.resume_reading(SLOW)
        if self.state is CONNECTED:
            self.delivery.pump()

    def own_subscriptions(self) -> dict[str, SubscriptionOptions]:
        """Return its subscriptions by their (internal) filters, to be added to."""
        if self.subscriptions is NO_SUBSCRIPTIONS:
            self.subscriptions = {}
        return self.subscriptions

    # Permission

    def may_read(self, topic: str) -> bool:
        """Whether the client may get messages of an (internal) topic."""
        if self.mount_point_length and not topic.startswith(self.listener.mount_point):
            return False  # "m/#" matches "m" too, which is no topic under the mount point "m/"
        acl = self.acl
        return acl is None or acl.may_read(topic)

    def readable(self, topic_filter: str) -> Readable:
        """How much of an (internal) topic filter, shared or not, the client may read."""
        if self.acl is None:
            return Readable.ALL
        share = parse_shared(topic_filter)
        return self.acl.readable(topic_filter if share is None else share[1])

    def may_write(self, topic: str) -> bool:
        """Whether the client may publish to an (internal) topic."""
        return may_publish(self.acl, topic)

    def count_unreadable(self, topic: str) -> None:
        """A matching message was withheld."""
        counters = self.context.counters
        counters.acl_denied["read"] += 1
        counters.published += 1
        counters.dropped["not_authorized"] += 1
        self.context.recorder.dropped(self, "not_authorized", topic)

    def authorization_changed(self) -> None:
        """Take the new rules."""
        authorizer = self.context.authorizer
        self.acl = authorizer.for_client(self.client_id, self.username, self.listener)
        self.inbound.forget_topics()

    # Sending

    def send(self, packet: bytes) -> None:
        """Send a whole packet, at the end of this turn of the event loop."""
        out = self.out
        if self.slow:
            self._pending_bytes += len(packet)
            if self._pending_bytes > self.context.limits.max_queued_bytes:
                self.queue.pause_reading(SLOW)
        elif out is None:
            self.context.mark(self)
        if out is None:
            self.out = [packet]
        else:
            out.append(packet)

    def admit(self, size_bytes: int, topic: str) -> bool:
        """Whether a slow client may be given one more QoS 0 message; a refused one is counted."""
        limits = self.context.limits
        if self._pending_bytes + size_bytes > limits.max_queued_bytes or (
            self.out is not None and len(self.out) >= limits.max_queued_messages
        ):
            self.context.counters.dropped["slow_consumer"] += 1
            self.context.recorder.dropped(self, "slow_consumer", topic)
            return False
        self._pending_bytes += size_bytes
        return True

    def flush(self) -> None:
        """Write what has gathered."""
        packets = self.out
        if self.slow or packets is None:
            return
        self.out = None
        counters = self.context.counters
        size = sum(map(len, packets))
        self.sent_bytes += size
        self.sent_packets += len(packets)
        counters.bytes_sent += size
        sent = counters.packets_sent
        for packet in packets:
            sent[packet[0] >> 4] += 1
        self.channel.write(packets)

    def encode(
        self,
        message: Publish,
        qos: int,
        retain: bool,
        dup: bool,
        packet_id: int,
        subscription_ids: tuple[int, ...],
        expiry_s: int | None,
    ) -> bytes | None:
        """Encode a PUBLISH as this client wants it; None (counted) when it is too large for it.

        [MQTT-3.1.2-24], [MQTT-3.1.2-25]
        """
        hidden = self.mount_point_length
        topic = message.topic[hidden:] if hidden else message.topic
        alias = 0
        if self.aliases is not None:
            alias, is_new = self.aliases.assign(topic)
            if alias and not is_new:
                topic = ""
        wire = encode_publish(
            message, self.version, qos, retain, dup, packet_id, subscription_ids, expiry_s, alias,
            topic=topic,
        )  # fmt: skip
        limit = self.maximum_packet_size_bytes
        if limit and len(wire) > limit:
            if alias and topic and self.aliases is not None:
                self.aliases.forget(topic)  # the client has not seen the mapping
            self.context.counters.dropped["too_large"] += 1
            self.context.recorder.dropped(self, "too_large", message.topic)
            return None
        return wire

    def send_packet(self, packet: Packet) -> None:
        """Encode and send an answer; one that is too large for the client ends the connection.

        The client would wait for it for ever. [MQTT-3.1.2-24], [MQTT-3.2.0-1], [MQTT-3.8.4-1]
        """
        wire = self._encode_within_limit(packet)
        if wire is None:
            self.close_unanswered(packet)
        else:
            self.send(wire)

    def can_be_sent(self, packet: Packet) -> bool:
        """Whether an answer is small enough for the client, without its optional texts."""
        return not self.maximum_packet_size_bytes or self._encode_within_limit(packet) is not None

    def _encode_within_limit(self, packet: Packet) -> bytes | None:
        """Encode; optional texts go when they would make it too large [MQTT-3.2.2-19].

        None if it is too large even so.
        """
        wire = encode(packet, self.version)
        limit = self.maximum_packet_size_bytes
        if limit and len(wire) > limit:
            properties: Properties | None = getattr(packet, "properties", None)
            if properties is not None and self.version >= ProtocolVersion.V5:
                properties.reason_string = None
                properties.user_properties = ()
                wire = encode(packet, self.version)
            if len(wire) > limit:
                return None
        return wire

    def close_unanswered(self, packet: Packet) -> None:
        """Close: this answer exceeds the Maximum Packet Size of the client. Counted, logged."""
        if self.state is CLOSED:
            return
        self.context.connection_log.fault(
            self,
            "closing connection: answer exceeds the client's maximum packet size",
            packet=type(packet).__name__.upper(),
            maximum_packet_size_bytes=self.maximum_packet_size_bytes,
        )
        if self.state is CONNECTED:
            self.close("answer_too_large")
        else:
            self._count_refused("answer_too_large")
            self.close("")

    def _send_last(self, packet: Packet) -> None:
        """Send what says why the connection is closed, if it is small enough for the client."""
        wire = self._encode_within_limit(packet)
        if wire is not None:
            self.send(wire)

    # The end

    def _count_refused(self, reason: str, detail: str = "") -> None:
        """Count and log a connection that ends before CONNACK, or with one that refuses it."""
        self.context.counters.refused[reason] += 1
        self.context.connection_log.refused(self, reason, detail)
        self.context.recorder.refused(self, reason, detail)

    def refuse(
        self, reason_code: ReasonCode, reason: str = "", counted_as: str = "", cause: str = ""
    ) -> None:
        """Answer CONNECT with a refusal and close. ``reason`` is the Reason String, if any.

        ``cause`` is for the log, in the place of it.
        """
        if self.state is CLOSED:
            return
        # Only an accepted CONNECT has a will [MQTT311-3.1.2-8].
        self.ending = Ending(publishes_will=False)
        self._count_refused(counted_as or reason_code.name.lower(), cause or reason)
        self._send_last(ConnAck(False, reason_code, Properties(reason_string=reason or None)))
        self.close("")

    def fail(self, error: MqttError) -> None:
        """The peer broke a rule: say which, and close."""
        if self.state is CLOSED:
            return
        self.context.connection_log.fault(
            self, "closing connection: protocol error", error=str(error), statement=error.statement
        )
        self.context.counters.protocol_errors += 1
        if self.state is CONNECTED:
            self.disconnect(error.reason_code, str(error))
            return
        version = self.connection.refusal_version
        unsupported = error.reason_code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        if version is None or (version < ProtocolVersion.V5 and not unsupported):
            # Before 5.0 a CONNECT that breaks a rule is not answered [MQTT311-3.1.4-1].
            self._count_refused("protocol_error", str(error))
            self.close("")
        else:
            self.version = version
            self.refuse(error.reason_code, str(error))

    def fail_internally(self) -> None:
        """End the connection after an unexpected exception, our fault; the process goes on."""
        log.exception(  # noqa: LOG004 - called by handlers only
            "connection closed after an internal error", extra={"client_id": self.client_id}
        )
        self.context.counters.internal_errors += 1
        if self.state is CONNECTED:
            self.disconnect(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
        else:
            self.refuse(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)

    def disconnect(
        self,
        reason_code: ReasonCode,
        reason: str = "",
        websocket_code: int = 1000,
        counted_as: str = "",
        cause: str = "",
    ) -> None:
        """End the connection from our side, with a DISCONNECT where the version has one.

        ``cause`` is for the log, in the place of ``reason``.
        """
        if self.state is CLOSED:
            return
        if self.state is CONNECTED and self.version >= ProtocolVersion.V5:
            properties = Properties(reason_string=reason or None)
            self._send_last(Disconnect(reason_code, properties))
        self.close(counted_as or reason_code.name.lower(), websocket_code, cause or reason)

    def taken_over(self, reason_code: ReasonCode) -> None:
        """A newer connection has the session [MQTT-3.1.4-3]; its will is the store's business."""
        self.ending = Ending(publishes_will=False, is_superseded=True)
        self.inbound.supersede()
        self.disconnect(reason_code)

    def fenced(self, error: SessionFenced) -> None:
        """The store has refused a write of this connection."""
        if isinstance(error, SessionLost):
            self.session_lost()
        else:
            self.taken_over(ReasonCode.SESSION_TAKEN_OVER)

    def session_lost(self) -> None:
        """The store has lost the session: its client begins another one [MQTT-4.1.0-1]."""
        self.ending = Ending(is_session_lost=True)
        self.disconnect(ReasonCode.UNSPECIFIED_ERROR, SESSION_LOST, counted_as="session_lost")

    def stop_reading(self) -> None:
        """Read nothing more: ``shut_down`` follows when all that was read is answered."""
        self.queue.pause_reading(DISCONNECTING)

    def has_unanswered(self) -> bool:
        """Whether something that was read has not been answered yet."""
        return self.state is CONNECTED and (self.queue.halted or self.inbound.has_unanswered())

    def shut_down(self, reason_code: ReasonCode) -> None:
        """The process ends: disconnect; the will is published by its rules."""
        if self.state is CONNECTED or not self.connection.has_connect:
            self.disconnect(reason_code, websocket_code=GOING_AWAY)
            return
        another = reason_code == ReasonCode.USE_ANOTHER_SERVER
        self.refuse(reason_code if another else ReasonCode.SERVER_UNAVAILABLE)

    def shed(self) -> None:
        """Another edge has more room: disconnect; the will is published by its rules."""
        self.disconnect(ReasonCode.USE_ANOTHER_SERVER, websocket_code=GOING_AWAY, counted_as="shed")

    def keep_alive_ended(self) -> None:
        """Nothing came for one and a half times the keep alive [MQTT-3.1.2-22]."""
        if self.queue.is_unread():
            self.queue.seen_s = self.context.tick_s
            return
        self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT)

    def connect_timed_out(self) -> None:
        """No whole CONNECT in time, or no answer to it (enhanced authentication included)."""
        if self.state is not CLOSED:
            self._count_refused("connect_timeout")
            self.end("")
            self.channel.abort()  # nothing is to be sent, and no end of the peer to be waited for

    def close(self, reason: str, websocket_code: int = 1000, detail: str = "") -> None:
        """Send what has gathered, end, and close the channel. ``reason`` is counted ("": not).

        ``detail`` is logged with it.
        """
        if self.state is CLOSED:
            return
        slow, self.slow = self.slow, False
        self.flush()
        self.slow = slow
        self.end(reason, detail)
        self.channel.close(websocket_code)

    def abandon(self, reason: str) -> None:
        """End, and close the channel, without a packet."""
        self.end(reason)
        self.channel.close()

    def end(self, reason: str, detail: str = "") -> None:
        """Forget the connection, once; the router learns what becomes of session and will."""
        if self.state is CLOSED:
            return
        was_connected = self.state is CONNECTED
        self.state = CLOSED
        if not was_connected:
            self.channel.failed()
        self.queue.stop()
        if self.on_end is not None:
            self.on_end()
        if was_connected:
            last = self.queue.waiting_disconnect()
            if last is not None and last.reason_code == ReasonCode.SUCCESS:
                # It came, if only behind what was not taken any more.
                self.ending = replace(self.ending, publishes_will=False)
            self.queue.drop_backlog()
        self._registry.remove(self, reason, was_connected)
        if was_connected:
            self.context.connection_log.disconnected(self, reason, detail)
            self.context.recorder.disconnected(self, reason, detail)
            if self.context.limits.flapping.enabled:
                self._count_flapping(reason)
            self.delivery.end()
            if self.is_stored:
                self._registry.detach(self._detachment())
        elif reason and self.connection.has_connect:
            self.context.connection_log.refused(self, "abandoned", reason)
            self.context.recorder.refused(self, "abandoned", reason)
        self._release()

    def _detachment(self) -> DetachSession:
        """What the router is told of the end."""
        ending = self.ending
        publishes_will = ending.publishes_will and self._may_publish_will()
        return DetachSession(
            self.session_key,
            self.epoch,
            publishes_will,
            ending.session_expiry_s,
            self.delivery.sent_seq,
            self.inbound.publisher(),
            ending.is_superseded,
            self._will() if ending.is_session_lost and publishes_will else None,
        )

    def _count_flapping(self, reason: str) -> None:
        """Ban a client that disconnects too often."""
        context = self.context
        ban = context.banned.flapped(self, reason, context.tick_s, context.limits.flapping)
        if ban is not None:
            context.recorder.flapping(self, ban.reason)
            context.router.ban(ban.encode())

    def _release(self) -> None:
        """Free what the connection held, and be in no reference cycle: it must not wait for one.

        Tasks and the router may have the parts for a moment longer; these still have the client.
        """
        self.out = self.connect = None
        self.inbound = NO_INBOUND
        self.delivery = NO_OUTBOUND
        self.group_rights = None

    def _will(self) -> PendingWill | None:
        """The will, as a message that is due now."""
        will, context = self.will, self.context
        if will is None:
            return None
        message = Publish(
            will.topic,
            will.payload,
            will.qos,
            will.retain and context.features.retain,
            properties=will.properties,
            message_expiry_interval=will.message_expiry_interval,
        )
        if will.message_expiry_interval is not None:
            message.expires_at_ms = context.now_ms() + will.message_expiry_interval * 1000
        key = self.session_key
        return PendingWill(f"{self.epoch}:{key}", key, self.epoch, message)

    def _may_publish_will(self) -> bool:
        """It might when it connected; the rules may have changed."""
        return self.will is None or self.may_write(self.will.topic)
