"""What all connections of one listener share: its configuration, its counters, its sweeps.

Connections register here and leave here; the acceptor and the `Listeners` look after time. There is
one object per listener and nothing per connection but an entry in a set (and, while it is opening
or closing, in a dictionary with its deadline).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from tidegate.edge.channel import CloseReason, HandlerFactory, Peer
from tidegate.edge.transport.forwarded import TrustedNetworks
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

if TYPE_CHECKING:
    from tidegate.edge.transport.tls import TlsContexts
    from tidegate.edge.transport.websocket import HandshakePolicy, WebSocketFrames
    from tidegate.edge.transport.websocket_channel import WebSocketChannel

log = logging.getLogger(__name__)

#: From `Channel.close` until what is buffered must have been taken by the peer.
FLUSH_TIMEOUT_S = 10.0
#: From our last byte until the peer must have closed as well.
LINGER_TIMEOUT_S = 2.0
#: Refusals written to the log per listener and sweep; all of them are counted.
LOGGED_REFUSALS_PER_SWEEP = 5


class Refusal(StrEnum):
    """Why a connection ended before it had a handler (label values of a metric)."""

    MAX_CONNECTIONS = "max_connections"
    ACCEPT_ERROR = "accept_error"
    PROXY_UNTRUSTED = "proxy_untrusted"
    PROXY_HEADER = "proxy_header"
    TLS_HANDSHAKE = "tls_handshake"
    NOT_MQTT = "not_mqtt"
    TIMEOUT = "timeout"
    ABANDONED = "abandoned"
    WEBSOCKET_400 = "websocket_400"
    WEBSOCKET_403 = "websocket_403"
    WEBSOCKET_404 = "websocket_404"
    WEBSOCKET_405 = "websocket_405"
    WEBSOCKET_426 = "websocket_426"
    WEBSOCKET_431 = "websocket_431"
    INTERNAL_ERROR = "internal_error"


class Connection(Protocol):
    """What a listener needs of a connection, in whichever of its stages."""

    transport: asyncio.Transport

    def abort(self) -> None:
        """End it now."""

    def close(self, websocket_code: int = ...) -> None:
        """End it in the orderly way of its stage."""

    def give_up(self, reason: CloseReason) -> None:
        """End what is already closing."""


class Opening(Connection, Protocol):
    """A connection whose protocol is not known yet."""

    deadline: float

    def expire(self) -> None:
        """Its deadline has passed."""


class ListenerCounters:
    """Plain integers, read by whoever exports them."""

    __slots__ = ("accept_pauses", "accepted", "refused", "reload_failures", "reloads")

    def __init__(self) -> None:
        self.accepted = 0
        #: How often accepting stopped because of ``accept_rate``.
        self.accept_pauses = 0
        #: Certificate files that changed and were taken, or could not be.
        self.reloads = 0
        self.reload_failures = 0
        self.refused: Counter[Refusal] = Counter()


class ConnectionTotal:
    """How many connections all listeners have together, and how many they may have (0: any)."""

    __slots__ = ("_nobody", "limit", "open")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self._nobody: asyncio.Event | None = None

    def leave(self) -> None:
        """One is gone."""
        self.open -= 1
        if self.open == 0 and self._nobody is not None:
            self._nobody.set()

    async def wait_for_none(self, timeout_s: float) -> bool:
        """Wait until all are gone; False if some are left after ``timeout_s``."""
        if self.open == 0:
            return True
        self._nobody = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._nobody.wait()
        except TimeoutError:
            return False
        return True


class Listener:
    """One listener: what its connections read, and where they are kept."""

    __slots__ = (
        "_log_budget",
        "closing",
        "config",
        "connect_timeout_s",
        "connections",
        "counters",
        "frames_class",
        "handler_factory",
        "is_over",
        "label",
        "loop",
        "max_frame_bytes",
        "openings",
        "policy",
        "tls",
        "total",
        "trusted",
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
        self.change(
            config,
            handler_factory,
            max_frame_bytes=max_frame_bytes,
            policy=policy,
            tls=tls,
            connect_timeout_s=connect_timeout_s,
        )
        self.counters = ListenerCounters()
        #: Nobody looks after those who come now: they were accepted when it was removed.
        self.is_over = False
        #: Every socket that is open, in any stage.
        self.connections: set[Connection] = set()
        #: Those whose protocol is not known yet.
        self.openings: set[Opening] = set()
        #: Those we have closed: flush deadline, then (negative) the deadline for the peer's FIN.
        self.closing: dict[Connection, float] = {}
        self.websockets: set[WebSocketChannel] = set()
        self._log_budget = LOGGED_REFUSALS_PER_SWEEP

    def change(
        self,
        config: ListenerConfig,
        handler_factory: HandlerFactory,
        *,
        max_frame_bytes: int,
        policy: HandshakePolicy,
        tls: TlsContexts | None,
        connect_timeout_s: float,
    ) -> None:
        """Go by other settings; connections that have their handler keep what it was made with."""
        self.config = config
        self.label = config.label
        self.handler_factory = handler_factory
        self.max_frame_bytes = max_frame_bytes
        self.policy = policy
        self.tls = tls
        #: Bound of every stage before a connection has its handler.
        self.connect_timeout_s = connect_timeout_s
        self.trusted = TrustedNetworks(config.trusted_proxies)

    def admit(self, connection: Connection, transport: asyncio.Transport) -> bool:
        """Take a new connection in, or drop it because there are too many, or it is too late."""
        connection.transport = transport
        if self.is_over:
            connection.abort()
            return False
        limit = self.config.max_connections
        total = self.total
        if (limit and len(self.connections) >= limit) or (
            total.limit and total.open >= total.limit
        ):
            self.refuse(Refusal.MAX_CONNECTIONS)
            connection.abort()
            return False
        self.connections.add(connection)
        total.open += 1
        self.counters.accepted += 1
        return True

    def replace(self, opening: Opening, channel: Connection) -> None:
        """A connection has left its opening stage."""
        self.connections.discard(opening)
        self.connections.add(channel)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.total.leave()
        self.closing.pop(connection, None)

    def linger(self, connection: Connection) -> None:
        """Bound the end of a connection that is closing."""
        self.closing[connection] = self.loop.time() + FLUSH_TIMEOUT_S

    def refuse(self, reason: Refusal, detail: str = "", address: str = "") -> None:
        """Count a connection that ends before it had a handler; log some of them."""
        self.counters.refused[reason] += 1
        if self._log_budget > 0:
            self._log_budget -= 1
            log.info(
                "connection refused",
                extra={
                    "listener": self.label,
                    "reason": reason.value,
                    "detail": detail,
                    "address": address,
                },
            )

    def peer_of(self, transport: asyncio.Transport) -> Peer:
        """The peer of a plain connection, as the socket says."""
        address, port = address_of(transport)
        kind = "unix" if self.config.protocol is ListenerProtocol.UNIX else "tcp"
        return Peer(address, port, kind, self.label)

    def sweep(self, now: float) -> None:
        """End what has passed its deadline; called about twice a second."""
        self._log_budget = LOGGED_REFUSALS_PER_SWEEP
        if self.openings:
            for opening in [each for each in self.openings if each.deadline <= now]:
                opening.expire()
        if self.closing:
            self._sweep_closing(now)

    def _sweep_closing(self, now: float) -> None:
        for connection, deadline in list(self.closing.items()):
            if deadline < 0:
                if now >= -deadline:
                    connection.give_up(CloseReason.LOCAL_CLOSE)
            elif connection.transport.get_write_buffer_size() == 0:
                self.closing[connection] = -(now + LINGER_TIMEOUT_S)
            elif now >= deadline:
                connection.give_up(CloseReason.WRITE_TIMEOUT)


def address_of(transport: asyncio.Transport) -> tuple[str, int]:
    """Address and port of the other end; a Unix socket's is ``("", 0)``."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and len(name) >= 2:
        address = str(name[0])
        # A link-local IPv6 address may carry its scope, which is no part of who it is.
        return address.partition("%")[0], int(name[1])
    return "", 0
