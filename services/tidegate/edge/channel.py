"""The seam between listeners and clients: a listener makes channels, a client lives on one.

A channel is a byte stream with a peer, whatever carries it (TCP, TLS, WebSocket, Unix socket).
``edge.transport`` implements `Channel` and knows no MQTT; ``edge.client`` implements `Handler` and
knows no sockets; ``edge.auth`` reads a `Peer`. A WebSocket channel reassembles incoming frames into
the byte stream and sends every packet as one unfragmented binary frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol


class CloseReason(StrEnum):
    """Every word that ``Handler.connection_lost`` can be given."""

    PEER_CLOSED = "peer_closed"
    """The peer ended the stream in the orderly way of its transport."""
    RESET = "reset"
    """The peer, or the network, broke the connection."""
    TIMEOUT = "timeout"
    """The kernel gave up on a silent peer (TCP keepalive or retransmission)."""
    TLS_ERROR = "tls_error"
    """A TLS record was not acceptable."""
    WEBSOCKET_ERROR = "websocket_error"
    """The peer broke a WebSocket rule: text, masking, size, reserved bits."""
    WRITE_TIMEOUT = "write_timeout"
    """We closed, and the peer did not read what was left within the bound."""
    LOCAL_CLOSE = "local_close"
    """``Channel.close``."""
    ABORTED = "aborted"
    """``Channel.abort``, or the listeners' own deadline."""
    INTERNAL_ERROR = "internal_error"
    """The handler raised."""


@dataclass(slots=True, frozen=True)
class TlsPeer:
    """What TLS says of a peer.

    ``certificate_common_name`` and ``certificate_subject`` (RFC 2253 form) come from a *verified*
    client certificate (or a PROXY v2 TLV of a trusted proxy, common name only), else empty.
    """

    version: str = ""
    certificate_common_name: str = ""
    certificate_subject: str = ""
    server_name: str = ""


NO_TLS: Final = TlsPeer()


@dataclass(slots=True)
class Peer:
    """Who is at the other end. ``address``/``port`` are the client's own, behind trusted proxies.

    ``transport`` is one of tcp, tls, ws, wss, unix. Never changed.
    """

    address: str
    port: int
    transport: str
    listener: str
    websocket_subprotocol: str = ""
    tls: TlsPeer = NO_TLS


class Channel(Protocol):
    """What a client writes to. All methods are synchronous and never raise after closing."""

    peer: Peer

    def write(self, packets: Sequence[bytes]) -> None:
        """Send whole packets, in order, in one system call where possible."""

    def pause_reading(self) -> None:
        """Stop delivering ``data_received`` until ``resume_reading`` (idempotent)."""

    def resume_reading(self) -> None:
        """Undo ``pause_reading`` (idempotent)."""

    def hold_unfinished(self, size: int) -> None:
        """Note how many bytes the handler holds of a client that has no CONNACK yet.

        May end the connection.
        """

    def accepted(self) -> None:
        """CONNACK is sent: ``hold_unfinished`` is not called any more."""

    def failed(self) -> None:
        """It ends, or has ended, without a CONNACK that accepts."""

    def close(self, websocket_code: int = 1000) -> None:
        """Flush what is buffered, then close (WebSocket: a close frame with that code first)."""

    def abort(self) -> None:
        """Drop the connection now, with what is still buffered."""


class Handler(Protocol):
    """What a channel feeds. Called from the event loop, one at a time per channel."""

    def data_received(self, data: bytes) -> None:
        """Some bytes of the stream; never empty."""

    def pause_writing(self) -> None:
        """The write buffer is above its high-water mark."""

    def resume_writing(self) -> None:
        """The write buffer is below its low-water mark again."""

    def connection_lost(self, reason: str) -> None:
        """The channel has ended (called exactly once). ``reason`` is a `CloseReason` value."""


#: Called by a listener for each connection, after TLS and the WebSocket handshake, with the time
#: when it was accepted, by the event loop's clock; 0: just now.
HandlerFactory = Callable[[Channel, float], Handler]
