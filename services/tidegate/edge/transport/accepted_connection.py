"""An accepted connection as its listener sees it, why it may be refused, and what is counted.

Below ``listener``, ``tls`` and the classes of connections (`ConnectionHandshake`, `StreamChannel`,
`WebSocketChannel`): they know each other by what is here. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import StrEnum
from typing import Protocol

from tidegate.edge.channel import CloseReason


class Refusal(StrEnum):
    """Why a connection ended before it had a handler (label values of a metric)."""

    MAX_CONNECTIONS = "max_connections"
    MAX_CONNECTIONS_PER_ADDRESS = "max_connections_per_address"
    DESCRIPTORS = "descriptors"
    ACCEPT_ERROR = "accept_error"
    PROXY_UNTRUSTED = "proxy_untrusted"
    PROXY_HEADER = "proxy_header"
    TLS_HANDSHAKE = "tls_handshake"
    NOT_MQTT = "not_mqtt"
    NOT_WEBSOCKET = "not_websocket"
    TIMEOUT = "timeout"
    UNFINISHED_BYTES = "unfinished_bytes"
    ABANDONED = "abandoned"
    WEBSOCKET_400 = "websocket_400"
    WEBSOCKET_403 = "websocket_403"
    WEBSOCKET_404 = "websocket_404"
    WEBSOCKET_405 = "websocket_405"
    WEBSOCKET_426 = "websocket_426"
    WEBSOCKET_431 = "websocket_431"
    INTERNAL_ERROR = "internal_error"


class AcceptedConnection(Protocol):
    """What a listener needs of a connection, in whichever of its stages."""

    transport: asyncio.Transport

    @property
    def client_address(self) -> str:
        """Where it comes from, as far as that is known."""

    def abort(self) -> None:
        """End it now."""

    def close(self, websocket_code: int = ...) -> None:
        """End it in the orderly way of its stage."""

    def abort_closing(self, reason: CloseReason) -> None:
        """End now what is already closing."""

    def end_unfinished(self) -> None:
        """End it now: it holds too much, and has no CONNACK."""


class HandshakingConnection(AcceptedConnection, Protocol):
    """A connection that has no handler yet."""

    deadline: float

    def expire(self) -> None:
        """End it: its deadline has passed."""


class PingedConnection(AcceptedConnection, Protocol):
    """A connection that is kept alive by pings of its transport (WebSocket)."""

    def sweep(self) -> None:
        """Send a ping if one is due; called `SWEEPS_PER_PING` times per interval."""


#: A ping is due after this many sweeps without traffic; the sweep runs that often per interval.
SWEEPS_PER_PING = 4


class ListenerCounters:
    """Plain integers, read by whoever exports them."""

    __slots__ = ("accept_pauses", "accepted", "refused", "reload_failures", "reloads")

    def __init__(self) -> None:
        self.accepted = 0
        #: How often accepting stopped because of ``accept_rate``.
        self.accept_pauses = 0
        #: Changed certificate files that were read, or could not be.
        self.reloads = 0
        self.reload_failures = 0
        self.refused: Counter[Refusal] = Counter()
