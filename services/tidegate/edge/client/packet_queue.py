"""What comes in from one client: the order of its packets, and when its socket is read.

The half of ``Client`` that its channel feeds. Packets are handled in the order they came. When one
must wait (an answer that keeps the order is outstanding, too many publishes are unanswered, no
router takes publishes), those behind it wait with it, but reading goes on until
``READ_AHEAD_BYTES`` wait, so that PINGREQ is answered and the acknowledgements of what goes out are
taken meanwhile: neither needs an order. (Behind SUBSCRIBE and the like they keep it all the same,
unless that takes longer than ``PATIENCE_S``.) A client that publishes nothing notices nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tidegate.edge.client.pause_reasons import BUSY, LINK, SLOW, STOPPING, WAITING
from tidegate.mqtt.connection import ServerConnection
from tidegate.mqtt.enums import PacketType, ReasonCode
from tidegate.mqtt.errors import MqttError, ProtocolViolation
from tidegate.mqtt.packets import (
    Auth,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
)

if TYPE_CHECKING:
    from tidegate.edge.channel import Channel
    from tidegate.edge.client.delivery import Delivery
    from tidegate.edge.client.publish import PublishReceiver
    from tidegate.edge.edge import Edge

log = logging.getLogger(__name__)

#: What may wait for a client, besides one packet; about what the packets take in memory.
READ_AHEAD_BYTES: Final = 65_536
#: What a waiting packet costs beside its topic and payload.
OVERHEAD_BYTES: Final = 200
#: How long a PINGREQ waits for its turn behind SUBSCRIBE, UNSUBSCRIBE or AUTH.
PATIENCE_S: Final = 1.0
#: How long packets that were read before the connection was lost may still wait for their turn.
LINGER_S: Final = 2.0

#: Packets for which the order does not matter: they never wait once the client is connected.
_OVERTAKING: Final = frozenset({PingReq, PubAck, PubRec, PubComp})

#: How a type of packet is handled: the method, its number, and whether it needs a router.
Handling = tuple[Callable[[Any, Any], None], PacketType, bool]


class Reader:
    """See the module's docstring. ``Client`` adds what packets mean, and all that is sent."""

    __slots__ = (
        "_auth",
        "_backlog",
        "_backlog_bytes",
        "_busy_since_s",
        "_holds",
        "_is_paused",
        "_lost",
        "channel",
        "closed",
        "connected",
        "connection",
        "delivery",
        "edge",
        "halted",
        "inbound",
        "seen_s",
        "told",
    )

    #: By type of packet; PUBLISH and PUBACK, the many, are not looked up here.
    handlers: ClassVar[dict[type, Handling]]

    delivery: Delivery
    inbound: PublishReceiver

    def __init__(self, edge: Edge, channel: Channel) -> None:
        #: What the peer may do by the limits that the connection began with; CONNACK says so.
        self.told = limits = edge.limits
        self.edge = edge
        self.channel = channel
        self.connection = ServerConnection(
            max_packet_size_bytes=limits.max_packet_size_bytes,
            receive_maximum=limits.receive_maximum,
            topic_alias_maximum=limits.max_topic_alias,
        )
        self.connected = False
        self.closed = False
        #: Closed, or packets wait: nothing may be handled before its turn.
        self.halted = False
        #: When something came last; the loop's clock.
        self.seen_s = edge.tick_s
        self._holds = 0
        self._is_paused = False
        #: Packets that wait, and about how many bytes they take.
        self._backlog: list[Packet] = []
        self._backlog_bytes = 0
        self._busy_since_s = 0.0
        self._auth: asyncio.Future[Auth | None] | None = None
        #: Why the channel has gone while packets wait; "" while it is there.
        self._lost = ""

    # What Client adds

    def fail(self, error: MqttError) -> None:
        """End the connection because the peer broke a rule."""
        raise NotImplementedError

    def fail_of_ours(self) -> None:
        """End the connection because of an exception that nobody expected."""
        raise NotImplementedError

    def disconnect(
        self, reason_code: ReasonCode, reason: str = "", websocket_code: int = 1000
    ) -> None:
        """End the connection."""
        raise NotImplementedError

    def end(self, reason: str) -> None:
        """Forget the connection."""
        raise NotImplementedError

    # From the channel

    def data_received(self, data: bytes) -> None:
        """Bytes from the client, in any chunking."""
        edge = self.edge
        self.seen_s = edge.tick_s
        edge.counters.bytes_received += len(data)
        connection = self.connection
        packets = connection.receive(data)
        if packets:
            try:
                if self.halted:
                    self._keep(packets)
                else:
                    self._process(packets)
            except MqttError as error:
                self.fail(error)
            except Exception:
                self.fail_of_ours()
        if connection.error is not None:
            self._stream_failed(connection.error)

    def _stream_failed(self, error: MqttError) -> None:
        """Nothing more can be decoded; what came before that still has its turn."""
        if self._auth is not None or not self.halted:
            self.fail(error)
        else:
            self._adjust_reading()

    def connection_lost(self, reason: str) -> None:
        """The channel is gone. What was read before that may have its turn, for a while."""
        if self._backlog and self.connected and not self.closed and self._auth is None:
            self._lost = reason
            self.edge.later(LINGER_S, self._linger_ended)
            return
        self.end(reason)

    def _linger_ended(self) -> None:
        self.end(self._lost)

    # In order

    def _process(self, packets: Iterable[Packet]) -> None:
        edge = self.edge
        received = edge.counters.packets_received
        left = iter(packets)
        for packet in left:
            kind = type(packet)
            if kind is Publish:
                if edge.is_holding:
                    self._hold_back(packet, left)
                    return
                received[3] += 1
                self.inbound.on_publish(packet)  # type: ignore[arg-type]  # kind says so
            elif kind is PubAck:
                received[4] += 1
                self.delivery.on_puback(packet.packet_id)  # type: ignore[union-attr]
            else:
                handle, number, needs_router = self.handlers[kind]
                if needs_router and edge.is_holding:
                    self._hold_back(packet, left)
                    return
                received[number] += 1
                handle(self, packet)
            if self.halted:
                self._keep(left)
                return

    def _hold_back(self, packet: Packet, left: Iterable[Packet]) -> None:
        """Nobody takes this packet now."""
        self._holds |= LINK
        self.halted = True
        self.edge.held[self] = None
        self._keep(chain((packet,), left))

    def _keep(self, packets: Iterable[Packet]) -> None:
        """Let packets wait for their turn; those that need none are handled."""
        if self.closed:
            return
        edge = self.edge
        received = edge.counters.packets_received
        may_overtake = self.connected and (
            not self._holds & BUSY or self._busy_since_s + PATIENCE_S <= edge.tick_s
        )
        for packet in packets:
            kind = type(packet)
            if may_overtake and kind in _OVERTAKING:
                handle, number, _ = self.handlers[kind]
                received[number] += 1
                handle(self, packet)
                if self.closed:
                    return
            else:
                self._backlog.append(packet)
                self._backlog_bytes += OVERHEAD_BYTES
                if kind is Publish:
                    self._backlog_bytes += len(packet.topic) + len(packet.payload)  # type: ignore[union-attr]
        if self._auth is not None:
            self._look_for_auth()
        self._adjust_reading()

    def relieve(self) -> None:
        """Look at what waits once more: the wait may have become too long for some of it."""
        if self._backlog and self._holds & BUSY:
            waiting, self._backlog = self._backlog, []
            self._backlog_bytes = 0
            try:
                self._keep(waiting)
            except MqttError as error:
                self.fail(error)
            except Exception:
                self.fail_of_ours()

    def go_on(self) -> None:
        """Handle what has waited, now that nothing holds it back."""
        if self.closed or self._holds & WAITING or not self.halted:
            return
        self.halted = False
        waiting, self._backlog = self._backlog, []
        self._backlog_bytes = 0
        try:
            self._process(waiting)
        except MqttError as error:
            self.fail(error)
        except Exception:
            self.fail_of_ours()
        if self.halted:
            return  # again, or for ever
        if self._lost:
            self.end(self._lost)
        elif self.connection.error is not None:
            self.fail(self.connection.error)
        else:
            self._adjust_reading()

    def drop_backlog(self) -> None:
        """The connection ends before these had their turn.

        QoS 0 is lost, and counted; nothing else has been acknowledged, so a client sends it again.
        """
        counters = self.edge.counters
        for packet in self._backlog:
            if isinstance(packet, Publish) and not packet.qos:
                counters.packets_received[3] += 1
                counters.messages_received[0] += 1
                counters.published += 1
                counters.dropped["disconnected"] += 1
        self._backlog = []

    def waiting_disconnect(self) -> Disconnect | None:
        """The DISCONNECT that came and has not had its turn."""
        for packet in self._backlog:
            if isinstance(packet, Disconnect):
                return packet
        return None

    # Holds

    def pause_reading(self, reason: int) -> None:
        """Let packets wait, or read nothing, for a reason (``edge.holds``)."""
        self._holds |= reason
        if reason & WAITING:
            self.halted = True
            if reason == BUSY:
                self._busy_since_s = self.edge.tick_s
        self._adjust_reading()

    def resume_reading(self, reason: int) -> None:
        """That reason is gone. What waited is handled in the next turn of the event loop."""
        if not self._holds & reason:
            return
        self._holds &= ~reason
        if self.halted and not self._holds & WAITING:
            self.edge.soon(self.go_on)
        else:
            self._adjust_reading()

    def release(self, reason: int) -> None:
        """That reason is gone: handle what waited now."""
        self._holds &= ~reason
        self.go_on()

    def is_unread(self) -> bool:
        """Whether it is our doing that nothing comes from the client.

        Not when the client does not take what it is sent: then its keep alive decides.
        """
        return self._is_paused and bool(self.halted or self._holds & ~SLOW)

    def _adjust_reading(self) -> None:
        if self.closed:
            return
        paused = bool(self._holds & STOPPING) or (
            self.halted
            and self._auth is None
            and (
                not self.connected
                or self._backlog_bytes >= READ_AHEAD_BYTES
                or self.connection.error is not None
            )
        )
        if paused == self._is_paused:
            return
        self._is_paused = paused
        if paused:
            self.channel.pause_reading()
        else:
            self.seen_s = self.edge.tick_s
            self.channel.resume_reading()

    # Enhanced authentication

    async def next_auth(self) -> Auth | None:
        """Wait for the client's next AUTH; None when the connection ends before it.

        Before CONNACK nothing else may come but DISCONNECT [MQTT-3.1.2-30]; in a
        re-authentication other packets wait.
        """
        if self.closed:
            return None
        self._auth = asyncio.get_running_loop().create_future()
        self._adjust_reading()
        self._look_for_auth()
        try:
            return await self._auth
        finally:
            self._auth = None
            self._adjust_reading()

    def _look_for_auth(self) -> None:
        """Give the AUTH among the waiting packets to who waits for it."""
        assert self._auth is not None
        for position, packet in enumerate(self._backlog):
            if isinstance(packet, Auth):
                if not self._auth.done():
                    del self._backlog[position]
                    self._auth.set_result(packet)
                return
            if isinstance(packet, Disconnect):
                self.end("disconnect")
                self.channel.close()
                return
            if not self.connected:
                self.fail(
                    ProtocolViolation(
                        "a packet before authentication is complete", statement="MQTT-3.1.2-30"
                    )
                )
                return
        if self._backlog_bytes > self.edge.limits.max_queued_bytes:
            self.disconnect(ReasonCode.QUOTA_EXCEEDED)

    def end_auth(self) -> None:
        """Wake who waits for an AUTH: none will come."""
        if self._auth is not None and not self._auth.done():
            self._auth.set_result(None)
