"""One listener: what all its connections share, and the sweep that keeps their deadlines.

Owns the set of open connections, the counters, and the settings that connections read. Connections
are added by `Listener.admit` and taken out by `Listener.remove`; `Listeners` calls ``sweep``. There
is one object per listener and nothing per connection but an entry in a set (and, during its
handshake or while it closes, in another with a deadline).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from tidegate.core.second_chance import SecondChance
from tidegate.edge.channel import CloseReason, HandlerFactory, Peer
from tidegate.edge.transport.accepted_connection import (
    AcceptedConnection,
    HandshakingConnection,
    ListenerCounters,
    PingedConnection,
    Refusal,
)
from tidegate.edge.transport.address_limit import AddressLimit
from tidegate.edge.transport.forwarded import TrustedNetworks
from tidegate.edge.transport.unfinished_bytes import UnfinishedBytes
from tidegate.edge.transport.unfinished_work import UnfinishedWork, WaitingConnection
from tidegate.runtime.config.addresses import unmapped
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

if TYPE_CHECKING:
    from tidegate.edge.transport.tls import TlsContexts
    from tidegate.edge.transport.websocket import HandshakePolicy, WebSocketFrames

log = logging.getLogger(__name__)

T = TypeVar("T")

#: From `Channel.close` until what is buffered must have been taken by the peer.
FLUSH_TIMEOUT_S = 10.0
#: From our last byte until the peer must have closed as well.
LINGER_TIMEOUT_S = 2.0
#: Values that are kept for other connections with equal ones.
MAX_SHARED: Final = 1_000
#: Faults of peers written to the log per listener and sweep; all of them are counted.
LOGGED_FAULTS_PER_SWEEP = 5


#: Listener, reason, detail and address ("": not known) of a connection that is refused.
OnRefused: TypeAlias = "Callable[[str, str, str, str], None]"


def _ignore(*_: object) -> None:
    """Do nothing."""


class ConnectionTotal:
    """What all listeners have together: connections, how many they may be, and their work."""

    __slots__ = (
        "_none_open",
        "addresses",
        "limit",
        "on_no_room",
        "on_refused",
        "open",
        "room",
        "work",
    )

    def __init__(self, limit: int) -> None:
        #: By the configuration; 0 means no limit there.
        self.limit = limit or sys.maxsize
        #: By the limit of open files; set by `DescriptorGuard`.
        self.room = sys.maxsize
        #: Called for each connection that is refused for want of room.
        self.on_no_room: Callable[[], None] = _ignore
        #: Called for each connection that ends before it has a handler, but for health probes.
        self.on_refused: OnRefused = _ignore
        self.open = 0
        self.addresses = AddressLimit()
        self.work = UnfinishedWork()
        self._none_open: asyncio.Event | None = None

    def remove(self) -> None:
        """Count a connection that has ended."""
        self.open -= 1
        if self.open == 0 and self._none_open is not None:
            self._none_open.set()

    async def wait_for_none(self, timeout_s: float) -> bool:
        """Wait until all have ended; False if some are open after ``timeout_s``."""
        if self.open == 0:
            return True
        self._none_open = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._none_open.wait()
        except TimeoutError:
            return False
        return True


class Listener:
    """One listener: what its connections read, and where they are kept."""

    __slots__ = (
        "_log_budget",
        "_shared",
        "closing",
        "config",
        "connect_timeout_s",
        "connections",
        "counters",
        "frames_class",
        "handler_factory",
        "handshakes",
        "is_closed",
        "label",
        "loop",
        "max_frame_bytes",
        "policy",
        "stream_kind",
        "tls",
        "total",
        "trusted",
        "unfinished",
        "websockets",
    )

    def __init__(
        self,
        config: ListenerConfig,
        handler_factory: HandlerFactory,
        *,
        loop: asyncio.AbstractEventLoop,
        total: ConnectionTotal,
        max_frame_bytes: int,
        policy: HandshakePolicy,
        frames_class: type[WebSocketFrames],
        tls: TlsContexts | None,
        connect_timeout_s: float,
    ) -> None:
        self.loop = loop
        self.total = total
        self.frames_class = frames_class
        self.reconfigure(
            config,
            handler_factory,
            max_frame_bytes=max_frame_bytes,
            policy=policy,
            tls=tls,
            connect_timeout_s=connect_timeout_s,
        )
        self.counters = ListenerCounters()
        #: It was removed, or the process ends: whatever was still being accepted is aborted.
        self.is_closed = False
        #: Every socket that is open, in any stage.
        self.connections: set[AcceptedConnection] = set()
        #: Those that have no handler yet.
        self.handshakes: set[HandshakingConnection] = set()
        #: Those we have closed: flush deadline, then (negative) the deadline for the peer's FIN.
        self.closing: dict[AcceptedConnection, float] = {}
        self.websockets: set[PingedConnection] = set()
        self.unfinished = UnfinishedBytes()
        self._log_budget = LOGGED_FAULTS_PER_SWEEP
        self._shared: SecondChance[Any, Any] = SecondChance(MAX_SHARED)

    def reconfigure(
        self,
        config: ListenerConfig,
        handler_factory: HandlerFactory,
        *,
        max_frame_bytes: int,
        policy: HandshakePolicy,
        tls: TlsContexts | None,
        connect_timeout_s: float,
    ) -> None:
        """Take other settings; connections that have a handler keep what it was made with."""
        self.config = config
        self.label = config.label
        #: What carries MQTT without TLS and without WebSocket.
        self.stream_kind = "unix" if config.protocol is ListenerProtocol.UNIX else "tcp"
        self.handler_factory = handler_factory
        self.max_frame_bytes = max_frame_bytes
        self.policy = policy
        self.tls = tls
        #: Bound of every stage before a connection has its handler.
        self.connect_timeout_s = connect_timeout_s
        self.trusted = TrustedNetworks(config.trusted_proxies)

    def admit(self, connection: AcceptedConnection, transport: asyncio.Transport) -> bool:
        """Add a new connection; abort it if there are too many, or the listener is closed."""
        connection.transport = transport
        if self.is_closed:
            connection.abort()
            return False
        limit = self.config.max_connections
        total = self.total
        if (
            total.open >= total.room
            or total.open >= total.limit
            or (limit and len(self.connections) >= limit)
        ):
            if total.open >= total.room:
                # Its log line is that of `DescriptorGuard`.
                self.counters.refused[Refusal.DESCRIPTORS] += 1
                total.on_refused(self.label, Refusal.DESCRIPTORS.value, "", "")
                total.on_no_room()
            else:
                self.refuse(Refusal.MAX_CONNECTIONS)
            connection.abort()
            return False
        if total.addresses.limit and not self.admit_address(connection, peer_address(transport)[0]):
            connection.abort()
            return False
        self.connections.add(connection)
        total.open += 1
        self.counters.accepted += 1
        return True

    def admit_address(self, connection: AcceptedConnection, address: str) -> bool:
        """Count a connection as one of ``address``; False, and counted, if that has too many.

        To be called while ``total.addresses.limit`` is not 0; the caller ends the connection.
        """
        if self.total.addresses.admit(connection, address, self.trusted):
            return True
        self.refuse(Refusal.MAX_CONNECTIONS_PER_ADDRESS, address=address)
        return False

    def replace(self, handshake: HandshakingConnection, channel: AcceptedConnection) -> None:
        """Put a channel in the place of the handshake that it came from."""
        self.connections.discard(handshake)
        self.connections.add(channel)
        if self.total.addresses.limit:
            self.total.addresses.replace(handshake, channel)

    def remove(self, connection: AcceptedConnection) -> None:
        """Take out a connection that has ended (idempotent)."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.total.remove()
            if self.total.addresses.limit:
                self.total.addresses.remove(connection)
            self.unfinished.release(connection)
        self.closing.pop(connection, None)

    def note_outcome(self, address: str, *, is_accepted: bool) -> None:
        """Note whether a connection has got CONNACK, or has ended without one that accepts."""
        outcomes = self.total.work.outcomes
        if not is_accepted:
            outcomes.add_failure()
        if outcomes.many_fail():
            source = self.total.addresses.key_of(address, self.trusted)
            outcomes.add_of(source, is_accepted=is_accepted)

    def begin_work(self, address: str) -> bool:
        """Whether bytes may be handled at once: see `UnfinishedWork`; if so, end it afterwards."""
        work = self.total.work
        if work.outcomes.many_fail():
            return work.begin(self.total.addresses.key_of(address, self.trusted))
        return work.begin()

    def let_wait(self, connection: WaitingConnection, address: str) -> None:
        """Let a connection wait until its bytes may be handled: see `UnfinishedWork`.

        As long as only a trusted proxy's address is known, each counts as an address of its own: a
        client does not wait for what others do behind the same proxy.
        """
        key = self.total.addresses.key_of(address, self.trusted)
        self.total.work.wait(connection, key or connection)

    def linger(self, connection: AcceptedConnection) -> None:
        """Bound the end of a connection that is closing."""
        self.closing[connection] = self.loop.time() + FLUSH_TIMEOUT_S

    def refuse(
        self, reason: Refusal, detail: str = "", address: str = "", level: int = logging.INFO
    ) -> None:
        """Count a connection that ends before it had a handler; log some of them.

        ``level`` below INFO: it is no news, and not recorded.
        """
        self.counters.refused[reason] += 1
        self.note_outcome(address, is_accepted=False)
        if level >= logging.INFO:
            self.total.on_refused(self.label, reason.value, detail, address)
        if log.isEnabledFor(level) and self.may_log():
            log.log(
                level,
                "connection refused",
                extra={
                    "listener": self.label,
                    "reason": reason.value,
                    "detail": detail,
                    "address": address,
                },
            )

    def may_log(self) -> bool:
        """Whether one more line about a peer's fault may be logged before the next sweep."""
        if self._log_budget <= 0:
            return False
        self._log_budget -= 1
        return True

    def shared(self, value: T) -> T:
        """Return the equal object that other connections have, which is never changed.

        Behind a load balancer they have few addresses, and what TLS says of devices is mostly the
        same.
        """
        found: T | None = self._shared.find(value)
        if found is None:
            self._shared.add(value, value)
            return value
        return found

    def peer_of(self, transport: asyncio.Transport) -> Peer:
        """Return the peer of a plain connection, as the socket names it."""
        address, port = peer_address(transport)
        return Peer(self.shared(address), port, self.stream_kind, self.label)

    def sweep(self, now: float) -> None:
        """End what has passed its deadline; called about twice a second."""
        self._log_budget = LOGGED_FAULTS_PER_SWEEP
        if self.handshakes:
            for handshake in [each for each in self.handshakes if each.deadline <= now]:
                handshake.expire()
        if self.closing:
            self._sweep_closing(now)

    def _sweep_closing(self, now: float) -> None:
        for connection, deadline in list(self.closing.items()):
            if deadline < 0:
                if now >= -deadline:
                    connection.abort_closing(CloseReason.LOCAL_CLOSE)
            elif connection.transport.get_write_buffer_size() == 0:
                self.closing[connection] = -(now + LINGER_TIMEOUT_S)
            elif now >= deadline:
                connection.abort_closing(CloseReason.WRITE_TIMEOUT)


def peer_address(transport: asyncio.Transport) -> tuple[str, int]:
    """Return address and port of the other end; those of a Unix socket are ``("", 0)``."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and len(name) >= 2:
        address: str = name[0]
        if ":" in address:
            # A link-local IPv6 address may carry its scope, which is no part of the address.
            address = unmapped(address.partition("%")[0])
        return address, name[1]
    return "", 0
