"""One client's connection: the rules of MQTT between a channel and the router.

Owned by the edge; fed by a channel. Packets come decoded and in order from ``Reader``; what each
means is decided here. What goes out is the business of ``Delivery``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tidegate.edge.client.connect import connect
from tidegate.edge.client.enhanced_auth import auth_packet, authenticate, check_method
from tidegate.edge.client.packet_queue import Reader
from tidegate.edge.client.pause_reasons import BUSY, LEAVING, SLOW
from tidegate.edge.client.subscribe import subscribe, unsubscribe
from tidegate.link.interfaces import DetachSession
from tidegate.mqtt.connection import OutgoingAliases
from tidegate.mqtt.encode import encode, encode_publish
from tidegate.mqtt.enums import PacketType, ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MqttError, ProtocolViolation
from tidegate.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    SubscriptionOptions,
    Unsubscribe,
)
from tidegate.runtime.config.model import ListenerConfig

if TYPE_CHECKING:
    from tidegate.edge.auth.acl import ClientAcl
    from tidegate.edge.channel import Channel
    from tidegate.edge.edge import Edge

log = logging.getLogger(__name__)

PINGRESP_BYTES: Final = b"\xd0\x00"
#: What a WebSocket is closed with when the server ends (RFC 6455, 7.4.1).
GOING_AWAY: Final = 1001


class Client(Reader):
    """See the module's docstring. Implements ``Handler`` for its channel."""

    __slots__ = (
        "_pending_bytes",
        "acl",
        "aliases",
        "authentication_method",
        "by_password",
        "client_id",
        "deadline_s",
        "durable",
        "epoch",
        "expiry_at_end_s",
        "hidden",
        "incarnation",
        "keep_will",
        "listener",
        "maximum_packet_size_bytes",
        "out",
        "problem_information",
        "session_expiry_s",
        "since_s",
        "slow",
        "subscriptions",
        "username",
        "version",
    )

    def __init__(self, edge: Edge, channel: Channel, listener: ListenerConfig) -> None:
        super().__init__(edge, channel)
        self.listener = listener
        self.client_id = ""
        self.username: str | None = None
        #: Whether it may stay only as long as the password file has its user.
        self.by_password = False
        self.version = ProtocolVersion.V311
        self.epoch = 0
        self.incarnation = 0
        self.durable = False
        #: Whether the will is published when the connection ends.
        self.keep_will = True
        self.session_expiry_s = 0
        self.expiry_at_end_s: int | None = None
        self.problem_information = True
        self.maximum_packet_size_bytes = 0
        self.aliases: OutgoingAliases | None = None
        self.acl: ClientAcl | None = None
        self.hidden = len(listener.mount_point)
        self.subscriptions: dict[str, SubscriptionOptions] = {}
        #: When it connected; the loop's clock.
        self.since_s = edge.tick_s
        self.deadline_s = 0.0
        #: Packets to send at the end of this turn; kept while the channel is slow.
        self.out: list[bytes] = []
        self.slow = False
        self.authentication_method: str | None = None
        self._pending_bytes = 0

    # Handler: what the channel calls, besides Reader's part

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        self.slow = True
        self._pending_bytes = 0

    def resume_writing(self) -> None:
        """It does again."""
        self.slow = False
        self._pending_bytes = 0
        if self.out:
            self.edge.mark(self)
        self.resume_reading(SLOW)
        if self.connected and not self.closed:
            self.delivery.pump()

    def in_order(self, work: Callable[[], Any]) -> None:
        """Run something asynchronous; what the client sent after it waits until it is done."""
        self.pause_reading(BUSY)
        self.edge.spawn(self._run_in_order(work))

    async def _run_in_order(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except MqttError as error:
            self.fail(error)
        except Exception:
            self.fail_of_ours()
        finally:
            self.release(BUSY)

    # Packets

    def _on_connect(self, packet: Connect) -> None:
        if self.edge.refusal is not None:
            self.version = packet.protocol_version
            self.refuse(self.edge.refusal, "the server takes no new clients")
            return
        self.in_order(lambda: connect(self, packet))

    def _on_subscribe(self, packet: Subscribe) -> None:
        self.in_order(lambda: subscribe(self, packet))

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        self.in_order(lambda: unsubscribe(self, packet))

    def _on_puback(self, packet: PubAck) -> None:
        self.delivery.on_puback(packet.packet_id)

    def _on_pubrec(self, packet: PubRec) -> None:
        self.delivery.on_pubrec(packet)

    def _on_pubrel(self, packet: PubRel) -> None:
        self.inbound.on_pubrel(packet)

    def _on_pubcomp(self, packet: PubComp) -> None:
        self.delivery.on_pubcomp(packet)

    def _on_pingreq(self, _packet: PingReq) -> None:
        self.send(PINGRESP_BYTES)

    def _on_disconnect(self, packet: Disconnect) -> None:
        properties = packet.properties
        expiry_s = properties.session_expiry_interval if properties is not None else None
        if expiry_s is not None:
            if expiry_s and not self.session_expiry_s:
                self.fail(
                    ProtocolViolation("a session that ends with its connection cannot be extended")
                )
                return
            self.expiry_at_end_s = min(expiry_s, self.edge.limits.max_session_expiry_s)
        self.keep_will = packet.reason_code != ReasonCode.SUCCESS  # [MQTT-3.14.4-3]
        self._close("disconnect_with_will" if self.keep_will else "disconnect")

    def _on_auth(self, packet: Auth) -> None:
        if self.authentication_method is None:
            raise ProtocolViolation(
                "AUTH without an authentication method in CONNECT", statement="MQTT-4.12.0-6"
            )
        check_method(packet, self.authentication_method)
        if packet.reason_code != ReasonCode.RE_AUTHENTICATE:
            raise ProtocolViolation("an AUTH that begins nothing", statement="MQTT-4.12.1-1")
        self.in_order(lambda: self._reauthenticate(packet))

    async def _reauthenticate(self, packet: Auth) -> None:
        """Prove again who this is (MQTT5 §4.12.1) [MQTT-4.12.1-2]."""
        method = self.authentication_method
        assert method is not None
        step = await authenticate(self, method, packet.properties.authentication_data)
        if step is None:
            return
        if step.reason_code != ReasonCode.SUCCESS:
            self.disconnect(step.reason_code)
            return
        self.send_packet(auth_packet(step.reason_code, method, step.data))

    # Permission

    def may_read(self, topic: str) -> bool:
        """Whether the client may get messages of an (internal) topic."""
        if self.hidden and not topic.startswith(self.listener.mount_point):
            return False  # "m/#" matches "m" too, which is no topic under the mount point "m/"
        acl = self.acl
        return acl is None or acl.may_read(topic)

    def may_write(self, topic: str) -> bool:
        """Whether the client may publish to an (internal) topic; the broker's own are not for it.

        As in mosquitto, only an ACL can grant something there, and only a bridge's state.
        """
        if self.acl is not None:
            return self.acl.may_write(topic)
        return not topic.startswith(("$SYS", "$share"))

    def count_unreadable(self) -> None:
        """A matching message was withheld."""
        counters = self.edge.counters
        counters.acl_denied["read"] += 1
        counters.published += 1
        counters.dropped["not_authorized"] += 1

    def authorization_changed(self) -> None:
        """Take the new rules."""
        self.acl = self.edge.authorizer.for_client(self.client_id, self.username)
        self.inbound.forget_topics()

    # Sending

    def send(self, packet: bytes) -> None:
        """Send a whole packet, at the end of this turn of the event loop."""
        out = self.out
        if self.slow:
            self._pending_bytes += len(packet)
            if self._pending_bytes > self.edge.limits.max_queued_bytes:
                self.pause_reading(SLOW)
        elif not out:
            self.edge.mark(self)
        out.append(packet)

    def admit(self, size_bytes: int) -> bool:
        """Whether a slow client may be given one more QoS 0 message; a refused one is counted."""
        if self._pending_bytes + size_bytes > self.edge.limits.max_queued_bytes or (
            len(self.out) >= self.edge.limits.max_queued_messages
        ):
            self.edge.counters.dropped["slow_consumer"] += 1
            return False
        self._pending_bytes += size_bytes
        return True

    def flush(self) -> None:
        """Write what has gathered."""
        if self.slow or not self.out:
            return
        packets, self.out = self.out, []
        counters = self.edge.counters
        counters.bytes_sent += sum(map(len, packets))
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
        topic = message.topic[self.hidden :] if self.hidden else message.topic
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
            self.edge.counters.dropped["too_large"] += 1
            return None
        return wire

    def send_packet(self, packet: Packet) -> None:
        """Encode and send; optional texts go when they would make it too large [MQTT-3.2.2-19]."""
        wire = encode(packet, self.version)
        limit = self.maximum_packet_size_bytes
        if limit and len(wire) > limit:
            properties: Properties | None = getattr(packet, "properties", None)
            if properties is not None:
                properties.reason_string = None
                properties.user_properties = ()
                wire = encode(packet, self.version)
            if len(wire) > limit:
                return
        self.send(wire)

    # The end

    def refuse(self, reason_code: ReasonCode, reason: str = "") -> None:
        """Answer CONNECT with a refusal and close. ``reason`` is one plain sentence."""
        if self.closed:
            return
        self.edge.counters.refused[reason_code.name.lower()] += 1
        self.send_packet(ConnAck(False, reason_code, Properties(reason_string=reason or None)))
        self._close("")

    def fail(self, error: MqttError) -> None:
        """The peer broke a rule: tell it which, and close."""
        if self.closed:
            return
        log.info(
            "closing a connection: %s",
            error,
            extra={
                "client_id": self.client_id,
                "address": self.channel.peer.address,
                "listener": self.channel.peer.listener,
                "statement": error.statement,
            },
        )
        if self.connected:
            self.edge.counters.protocol_errors += 1
            self.disconnect(error.reason_code, str(error))
            return
        self.edge.counters.protocol_errors += 1
        version = self.connection.refusal_version
        unsupported = error.reason_code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        if version is None or (version < ProtocolVersion.V5 and not unsupported):
            # Before 5.0 a CONNECT that breaks a rule is not answered [MQTT311-3.1.4-1].
            self.edge.counters.refused["protocol_error"] += 1
            self._close("")
        else:
            self.version = version
            self.refuse(error.reason_code, str(error))

    def fail_of_ours(self) -> None:
        """End the connection after an unexpected exception, our fault; the process goes on."""
        log.exception(  # noqa: LOG004 - called by handlers only
            "a connection failed", extra={"client_id": self.client_id}
        )
        self.edge.counters.internal_errors += 1
        if self.connected:
            self.disconnect(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
        else:
            self.refuse(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)

    def disconnect(
        self,
        reason_code: ReasonCode,
        reason: str = "",
        websocket_code: int = 1000,
        counted_as: str = "",
    ) -> None:
        """End the connection from our side, with a DISCONNECT where the version has one."""
        if self.closed:
            return
        if self.connected and self.version >= ProtocolVersion.V5:
            properties = Properties(reason_string=reason or None)
            self.send_packet(Disconnect(reason_code, properties))
        self._close(counted_as or reason_code.name.lower(), websocket_code)

    def taken_over(self, reason_code: ReasonCode) -> None:
        """A newer connection has the session [MQTT-3.1.4-3]; its will is the store's business."""
        self.keep_will = False
        self.disconnect(reason_code)

    def leave(self) -> None:
        """Read nothing more: ``shut_down`` follows when all that was read is answered."""
        self.pause_reading(LEAVING)

    def is_owed(self) -> bool:
        """Whether something that was read has not been answered yet."""
        return self.connected and (self.halted or self.inbound.is_owed())

    def shut_down(self, reason_code: ReasonCode) -> None:
        """The process ends: goodbye; the will is published by its rules."""
        if self.connected or self.connection.connect is None:
            self.disconnect(reason_code, websocket_code=GOING_AWAY)
            return
        another = reason_code == ReasonCode.USE_ANOTHER_SERVER
        self.version = self.connection.version
        self.refuse(reason_code if another else ReasonCode.SERVER_UNAVAILABLE)

    def shed(self) -> None:
        """Another edge has more room: goodbye; the will is published by its rules."""
        self.disconnect(ReasonCode.USE_ANOTHER_SERVER, websocket_code=GOING_AWAY, counted_as="shed")

    def keep_alive_ended(self) -> None:
        """Nothing came for one and a half times the keep alive [MQTT-3.1.2-22]."""
        if self.is_unread():
            self.seen_s = self.edge.tick_s
            return
        self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT)

    def connect_timed_out(self) -> None:
        """No CONNECT in time, or no answer to it."""
        if not self.closed:
            self.edge.counters.refused["connect_timeout"] += 1
            self._close("")

    def _close(self, reason: str, websocket_code: int = 1000) -> None:
        if self.closed:
            return
        slow, self.slow = self.slow, False
        self.flush()
        self.slow = slow
        self.end(reason)
        self.channel.close(websocket_code)

    def end(self, reason: str) -> None:
        """Forget the connection, once; the router is told what becomes of session and will."""
        if self.closed:
            return
        self.closed = self.halted = True
        self.end_auth()
        edge = self.edge
        edge.waiting.discard(self)
        edge.held.pop(self, None)
        closed = edge.counters.closed
        if not self.connected:
            if reason:
                edge.counters.refused["abandoned"] += 1
            return
        closed[reason if reason in closed else "lost"] += 1
        last = self.waiting_disconnect()
        if last is not None and last.reason_code == ReasonCode.SUCCESS:
            self.keep_will = False  # it said goodbye, if only behind what we did not take any more
        self.drop_backlog()
        edge.counters.connections_open -= 1
        if edge.clients.get(self.client_id) is self:
            del edge.clients[self.client_id]
            if self.client_id in edge.attaching:
                edge.newcomers.add(self.client_id)
        shared = [name for name in self.subscriptions if name.startswith("$share/")]
        for topic_filter in self.subscriptions:
            if not topic_filter.startswith("$share/"):
                edge.unsubscribe(self, topic_filter)
        if shared and not self.incarnation:
            edge.router.leave_groups(self.client_id, self.epoch, shared)
        self.delivery.end()
        self.detach()

    def detach(self) -> None:
        """Tell the router that the connection has ended."""
        edge = self.edge
        sent_seq = self.delivery.sent_seq if self.connected else 0
        packet = self.connection.connect
        if packet is not None and packet.will is not None and not self.may_write(packet.will.topic):
            self.keep_will = False  # it might when it connected; the rules have changed
        request = DetachSession(
            self.client_id, self.epoch, self.keep_will, self.expiry_at_end_s, sent_seq
        )
        task = edge.spawn(edge.router.detach(request))
        edge.detaching[self.client_id] = task
        client_id = self.client_id

        def done(ended: asyncio.Task[None]) -> None:
            if edge.detaching.get(client_id) is ended:
                del edge.detaching[client_id]

        task.add_done_callback(done)


Client.handlers = {
    Connect: (Client._on_connect, PacketType.CONNECT, False),  # noqa: SLF001 - its own table
    PubAck: (Client._on_puback, PacketType.PUBACK, False),  # noqa: SLF001
    PubRec: (Client._on_pubrec, PacketType.PUBREC, False),  # noqa: SLF001
    PubRel: (Client._on_pubrel, PacketType.PUBREL, True),  # noqa: SLF001
    PubComp: (Client._on_pubcomp, PacketType.PUBCOMP, False),  # noqa: SLF001
    Subscribe: (Client._on_subscribe, PacketType.SUBSCRIBE, True),  # noqa: SLF001
    Unsubscribe: (Client._on_unsubscribe, PacketType.UNSUBSCRIBE, True),  # noqa: SLF001
    PingReq: (Client._on_pingreq, PacketType.PINGREQ, False),  # noqa: SLF001
    Disconnect: (Client._on_disconnect, PacketType.DISCONNECT, False),  # noqa: SLF001
    Auth: (Client._on_auth, PacketType.AUTH, False),  # noqa: SLF001
}
