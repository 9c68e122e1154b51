"""The packets of one client in their order, and when its socket is read.

Owned by a ``Client``, fed by the client's channel. Packets are handled in the order they came. When
one must wait (an answer that keeps the order is outstanding, too many publishes are unacknowledged,
no router takes publishes), those behind it wait with it, but reading goes on until
``READ_AHEAD_BYTES`` wait, so that PINGREQ is answered and the acknowledgements of what goes out are
taken meanwhile: neither needs an order. (Behind SUBSCRIBE and the like they keep it all the same,
unless that takes longer than ``PATIENCE_S``.) It never looks into a packet beyond its type: what it
means is the business of ``dispatch``, and of who handles PUBLISH and PUBACK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, cast

from tidegate.edge.client.absent import ENDED_OWNER
from tidegate.edge.client.state import (
    ANSWERING,
    CLOSED,
    CONNECTED,
    NO_ROUTER,
    QUEUEING,
    SLOW,
    STOPPING,
    ClientState,
)
from tidegate.mqtt.enums import PacketType, ReasonCode
from tidegate.mqtt.errors import MqttError, ProtocolViolation
from tidegate.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from tidegate.edge.channel import Channel
    from tidegate.edge.client.context import EdgeContext
    from tidegate.mqtt.connection import ServerConnection

#: What may wait for a client, besides one packet; about what the packets take in memory.
READ_AHEAD_BYTES: Final = 65_536
#: The same before CONNACK. As long as less waits, the end of the connection is noticed.
EARLY_BYTES: Final = 4096
#: What a waiting packet costs beside its topic and payload.
OVERHEAD_BYTES: Final = 200
#: How long a PINGREQ waits for its turn behind SUBSCRIBE, UNSUBSCRIBE or AUTH.
PATIENCE_S: Final = 1.0
#: How long packets that were read before the connection was lost may still wait for their turn.
LINGER_S: Final = 2.0

#: Packets for which the order does not matter: they never wait once the client is connected.
_OVERTAKING: Final = frozenset({PingReq, PubAck, PubRec, PubComp})
#: Packets that only a router can answer. PUBLISH is one too, and is not looked up here.
_FOR_A_ROUTER: Final = frozenset({PubRel, Subscribe, Unsubscribe})
#: Under which number a type of packet is counted.
_NUMBERS: Final[dict[type, PacketType]] = {
    Connect: PacketType.CONNECT,
    PubAck: PacketType.PUBACK,
    PubRec: PacketType.PUBREC,
    PubRel: PacketType.PUBREL,
    PubComp: PacketType.PUBCOMP,
    Subscribe: PacketType.SUBSCRIBE,
    Unsubscribe: PacketType.UNSUBSCRIBE,
    PingReq: PacketType.PINGREQ,
    Disconnect: PacketType.DISCONNECT,
    Auth: PacketType.AUTH,
}


class QueueOwner(Protocol):
    """The client, as its packet queue knows it."""

    state: ClientState
    channel: Channel

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""

    def fail(self, error: MqttError) -> None:
        """End the connection because the peer broke a rule."""

    def fail_internally(self) -> None:
        """End the connection because of an unexpected exception."""

    def disconnect(self, reason_code: ReasonCode) -> None:
        """End the connection."""

    def abandon(self, reason: str) -> None:
        """Close the channel without a packet, and end the connection."""

    def end(self, reason: str) -> None:
        """Forget the connection."""


C = TypeVar("C", bound=QueueOwner)


def _ended(_packet: object) -> None:
    raise AssertionError("a packet of a client that has ended")


class _Backlog:
    """Packets that wait, and about how many bytes they take."""

    __slots__ = ("packets", "size_bytes")

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.size_bytes = 0

    def add(self, packet: Packet) -> None:
        self.packets.append(packet)
        self.size_bytes += OVERHEAD_BYTES
        if isinstance(packet, Publish):
            self.size_bytes += len(packet.topic) + len(packet.payload)


class PacketQueue(Generic[C]):
    """See the module's docstring. ``data_received`` and ``connection_lost`` are for the channel."""

    __slots__ = (
        "_auth",
        "_backlog",
        "_busy_since_s",
        "_connection",
        "_context",
        "_dispatch",
        "_is_paused",
        "_lost",
        "_owner",
        "_pause_reasons",
        "halted",
        "on_puback",
        "on_publish",
        "received_bytes",
        "received_packets",
        "seen_s",
    )

    def __init__(
        self,
        context: EdgeContext,
        connection: ServerConnection,
        owner: C,
        dispatch: Callable[[C, Packet], None],
    ) -> None:
        """``dispatch`` handles every packet, PUBLISH and PUBACK until it sets who does."""
        self._context = context
        self._connection = connection
        self._owner = owner
        self._dispatch = dispatch
        #: Called directly, for there are many of them; None: ``dispatch`` is called.
        self.on_publish: Callable[[Publish], None] | None = None
        self.on_puback: Callable[[int], None] | None = None
        #: Closed, or packets wait: nothing may be handled before its turn.
        self.halted = False
        #: When something came last; the loop's clock.
        self.seen_s = context.tick_s
        self.received_packets = 0
        self.received_bytes = 0
        self._pause_reasons = 0
        self._is_paused = False
        #: None: no packet waits.
        self._backlog: _Backlog | None = None
        self._busy_since_s = 0.0
        self._auth: asyncio.Future[Auth | None] | None = None
        #: Why the channel was lost while packets wait; "": it is open.
        self._lost = ""

    # From the channel

    def data_received(self, data: bytes) -> None:
        """Bytes from the client, in any chunking."""
        context = self._context
        self.seen_s = context.tick_s
        size = len(data)
        self.received_bytes += size
        context.counters.bytes_received += size
        connection = self._connection
        packets = connection.receive(data)
        if packets:
            self.received_packets += len(packets)
            try:
                if self.halted:
                    self._keep(packets)
                else:
                    self._process(packets)
            except MqttError as error:
                self._owner.fail(error)
            except Exception:
                self._owner.fail_internally()
        elif self._owner.state is not CONNECTED:
            self._hold_early()
        if connection.error is not None:
            self._stream_failed(connection.error)

    def _stream_failed(self, error: MqttError) -> None:
        """Nothing more can be decoded; what came before that still has its turn."""
        if self._auth is not None or not self.halted:
            self._owner.fail(error)
        else:
            self._adjust_reading()

    def connection_lost(self, reason: str) -> None:
        """The channel was lost. What was read before that is still handled, for a while."""
        if self._backlog is not None and self._owner.state is not CLOSED and self._auth is None:
            self._lost = reason
            self._context.later(LINGER_S, self._linger_ended)
            return
        self._owner.end(reason)

    def _linger_ended(self) -> None:
        self._owner.end(self._lost)

    # In order

    def _process(self, packets: Iterable[Packet]) -> None:
        context = self._context
        received = context.counters.packets_received
        left = iter(packets)
        for packet in left:
            kind = type(packet)
            if kind is Publish:
                if context.is_publishing_paused:
                    self._wait_for_router(packet, left)
                    return
                received[3] += 1
                on_publish = self.on_publish
                if on_publish is not None:
                    on_publish(packet)  # type: ignore[arg-type]  # kind says so
                else:
                    self._dispatch(self._owner, packet)
            elif kind is PubAck and self.on_puback is not None:
                received[4] += 1
                self.on_puback(packet.packet_id)  # type: ignore[union-attr]
            else:
                if context.is_publishing_paused and kind in _FOR_A_ROUTER:
                    self._wait_for_router(packet, left)
                    return
                received[_NUMBERS[kind]] += 1
                self._dispatch(self._owner, packet)
            if self.halted:
                self._keep(left)
                return

    def _wait_for_router(self, packet: Packet, left: Iterable[Packet]) -> None:
        """No router takes this packet now."""
        self._pause_reasons |= NO_ROUTER
        self.halted = True
        self._context.waiting_for_router[self] = None
        self._keep(chain((packet,), left))

    def _keep(self, packets: Iterable[Packet]) -> None:
        """Let packets wait for their turn; those that need none are handled."""
        owner = self._owner
        if owner.state is CLOSED:
            return
        context = self._context
        received = context.counters.packets_received
        may_overtake = owner.state is CONNECTED and (
            not self._pause_reasons & ANSWERING or self._busy_since_s + PATIENCE_S <= context.tick_s
        )
        for packet in packets:
            kind = type(packet)
            if may_overtake and kind in _OVERTAKING:
                received[_NUMBERS[kind]] += 1
                if kind is PubAck and self.on_puback is not None:
                    self.on_puback(packet.packet_id)  # type: ignore[union-attr]
                else:
                    self._dispatch(owner, packet)
                if owner.is_closed:
                    return
            else:
                if self._backlog is None:
                    self._backlog = _Backlog()
                self._backlog.add(packet)
        if self._auth is not None:
            self._look_for_auth()
        if owner.state is CONNECTED:
            self._adjust_reading()
        else:
            self._hold_early()

    def _hold_early(self) -> None:
        """Report what is held of a client that has no CONNACK yet, and perhaps read no more."""
        if self._owner.state is not CLOSED:
            size = self._waiting_bytes() + self._connection.early_bytes
            # A whole CONNECT of usual size takes no more than the connection itself.
            if size > EARLY_BYTES or not self.halted:
                self._owner.channel.hold_unfinished(size)
            self._adjust_reading()

    def let_overtake(self) -> None:
        """Look at what waits once more: the wait may have become too long for some of it."""
        waiting = self._backlog
        if waiting is not None and self._pause_reasons & ANSWERING:
            self._backlog = None
            try:
                self._keep(waiting.packets)
            except MqttError as error:
                self._owner.fail(error)
            except Exception:
                self._owner.fail_internally()

    def _resume(self) -> None:
        """Handle what has waited, unless something still pauses it."""
        owner = self._owner
        if owner.state is CLOSED or self._pause_reasons & QUEUEING or not self.halted:
            return
        self.halted = False
        waiting, self._backlog = self._backlog, None
        try:
            if waiting is not None:
                self._process(waiting.packets)
        except MqttError as error:
            owner.fail(error)
        except Exception:
            owner.fail_internally()
        if self.halted:
            return  # again, or for ever
        if self._lost:
            owner.end(self._lost)
        elif self._connection.error is not None:
            owner.fail(self._connection.error)
        else:
            self._adjust_reading()

    # The end

    def stop(self) -> None:
        """The connection has ended: handle nothing more, and wake who waits for an AUTH.

        The client is not referred to any more, nor what handles its packets.
        """
        self.halted = True
        self._owner = cast("C", ENDED_OWNER)  # a QueueOwner, like the client
        self.on_publish = self.on_puback = _ended
        self._context.waiting_for_router.pop(self, None)
        if self._auth is not None and not self._auth.done():
            self._auth.set_result(None)

    def drop_backlog(self) -> None:
        """The connection ends before these had their turn.

        QoS 0 is lost, and counted; nothing else has been acknowledged, so a client sends it again.
        """
        if self._backlog is None:
            return
        counters = self._context.counters
        for packet in self._backlog.packets:
            if isinstance(packet, Publish) and not packet.qos:
                counters.packets_received[3] += 1
                counters.messages_received[0] += 1
                counters.published += 1
                counters.dropped["disconnected"] += 1
        self._backlog = None

    def waiting_disconnect(self) -> Disconnect | None:
        """The DISCONNECT that came and has not had its turn."""
        for packet in self._backlog.packets if self._backlog is not None else ():
            if isinstance(packet, Disconnect):
                return packet
        return None

    # Pausing

    def pause_reading(self, reason: int) -> None:
        """Let packets wait, or read nothing, for a reason (``edge.client.state``)."""
        self._pause_reasons |= reason
        if reason & QUEUEING:
            self.halted = True
            if reason == ANSWERING:
                self._busy_since_s = self._context.tick_s
        self._adjust_reading()

    def resume_reading(self, reason: int) -> None:
        """Remove a pause reason. What waited is handled in the next turn of the event loop."""
        if not self._pause_reasons & reason:
            return
        self._pause_reasons &= ~reason
        if self.halted and not self._pause_reasons & QUEUEING:
            self._context.soon(self._resume)
        else:
            self._adjust_reading()

    def resume(self, reason: int) -> None:
        """Remove a pause reason and handle what waited now."""
        self._pause_reasons &= ~reason
        self._resume()

    def is_unread(self) -> bool:
        """Whether it is our doing that nothing comes from the client.

        Not when the client does not take what it is sent: then its keep alive decides.
        """
        return self._is_paused and bool(self.halted or self._pause_reasons & ~SLOW)

    def _adjust_reading(self) -> None:
        state = self._owner.state
        if state is CLOSED:
            return
        paused = bool(self._pause_reasons & STOPPING) or (
            self.halted
            and self._auth is None
            and (self._connection.error is not None or self._is_far_ahead())
        )
        if paused == self._is_paused:
            return
        self._is_paused = paused
        if paused:
            self._owner.channel.pause_reading()
        else:
            self.seen_s = self._context.tick_s
            self._owner.channel.resume_reading()

    def _is_far_ahead(self) -> bool:
        if self._owner.state is CONNECTED:
            return self._waiting_bytes() >= READ_AHEAD_BYTES
        return self._waiting_bytes() + self._connection.unfinished_bytes >= EARLY_BYTES

    def _waiting_bytes(self) -> int:
        return self._backlog.size_bytes if self._backlog is not None else 0

    # Enhanced authentication

    async def next_auth(self) -> Auth | None:
        """Wait for the client's next AUTH; None when the connection ends before it.

        Before CONNACK nothing else may come but DISCONNECT [MQTT-3.1.2-30]; in a
        re-authentication other packets wait.
        """
        if self._owner.state is CLOSED:
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
        owner, backlog = self._owner, self._backlog
        for position, packet in enumerate(backlog.packets if backlog is not None else ()):
            if isinstance(packet, Auth):
                if backlog is not None and not self._auth.done():
                    del backlog.packets[position]
                    if not backlog.packets:
                        self._backlog = None
                    self._auth.set_result(packet)
                return
            if isinstance(packet, Disconnect):
                owner.abandon("disconnect")
                return
            if owner.state is not CONNECTED:
                owner.fail(
                    ProtocolViolation(
                        "packet received before authentication completed",
                        statement="MQTT-3.1.2-30",
                    )
                )
                return
        if self._waiting_bytes() > self._context.limits.max_queued_bytes:
            owner.disconnect(ReasonCode.QUOTA_EXCEEDED)
