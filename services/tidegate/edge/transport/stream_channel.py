"""Byte-stream channels: MQTT straight on a transport (TCP, Unix socket, or TLS on top of either).

`StreamChannel` is the asyncio protocol and the channel in one object, because memory per idle
connection counts. It has no per-connection task, timer or closure: whatever needs time is swept
by the listener (`Listener`). What it reads goes to its handler without a call in between:
the transport is given the handler's own ``data_received``.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tidegate.edge.channel import CloseReason, Handler, Peer

if TYPE_CHECKING:
    from tidegate.edge.transport.listener import Listener

log = logging.getLogger(__name__)


def discard(data: bytes) -> None:
    """Take bytes that nobody wants any more (after our FIN, until the peer's)."""


class StreamChannel(asyncio.Protocol):
    """A connection that carries MQTT packets back to back."""

    __slots__ = (
        "_held",
        "_is_paused",
        "_listener",
        "_reason",
        "data_received",
        "handler",
        "peer",
        "transport",
    )

    # The three below are set once the connection is admitted, before anybody else sees the channel.
    peer: Peer
    handler: Handler | None
    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.handler = None
        self._held: list[bytes] | None = None
        self._is_paused = False
        #: Why it ends, once we have decided that it does; until then empty.
        self._reason = ""
        self.data_received = discard  # type: ignore[method-assign]  # a slot: see the module

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start right away: nothing stands before the first packet on this listener."""
        stream = cast(asyncio.Transport, transport)
        if self._listener.admit(self, stream):
            self.begin(stream, self._listener.peer_of(stream), b"")

    def begin(self, transport: asyncio.Transport, peer: Peer, data: bytes) -> None:
        """Give the connection its handler, then the bytes that were read already."""
        self.transport = transport
        self.peer = peer
        transport.set_write_buffer_limits(self._listener.config.write_high_water_bytes)
        # What the handler writes from its constructor goes out; what it raises ends the connection.
        try:
            self.handler = self._listener.handler_factory(self)
        except Exception:
            log.exception("handler could not be made", extra={"listener": peer.listener})
            self._end(CloseReason.INTERNAL_ERROR)
            transport.abort()
            return
        if self._reason:
            return
        if self._is_paused:
            # A transport that is just being made starts reading whatever we ask of it.
            self._held = [data] if data else []
            self.data_received = self._hold  # type: ignore[method-assign]
            transport.set_protocol(self)
            return
        self._set_receiver()
        transport.set_protocol(self)
        if data:
            self._feed(data)

    def _set_receiver(self) -> None:
        assert self.handler is not None
        self.data_received = self.handler.data_received  # type: ignore[method-assign]

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        self._held.append(data)
        self.transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        """Deliver bytes that did not just come from the transport, with its way of failing."""
        try:
            self.data_received(data)
        except Exception:
            log.exception("handler failed", extra={"listener": self.peer.listener})
            self._end(CloseReason.INTERNAL_ERROR)
            self.transport.abort()

    def pause_writing(self) -> None:
        """Tell the handler that the peer is slow."""
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Tell the handler that the peer has caught up."""
        if self.handler is not None:
            self.handler.resume_writing()

    def eof_received(self) -> bool | None:
        """Let the transport flush and close: half-open connections have no use here."""
        if not self._reason:
            self._end(CloseReason.PEER_CLOSED)
            if self.transport.get_write_buffer_size():
                self._listener.linger(self)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler, once, and break the reference cycles."""
        reason = self._reason or reason_for(exc)
        self._reason = reason
        self.data_received = discard  # type: ignore[method-assign]
        self._held = None
        self._listener.forget(self)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.connection_lost(reason)

    # Called by the handler.

    def write(self, packets: Sequence[bytes]) -> None:
        """Send whole packets, in order, in one system call where possible."""
        if not self._reason:
            self.transport.write(packets[0] if len(packets) == 1 else b"".join(packets))

    def pause_reading(self) -> None:
        """Stop delivering until `resume_reading` (idempotent)."""
        self._is_paused = True
        if not self._reason and self._held is None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading` (idempotent). What was held meanwhile is delivered soon."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._reason:
            return
        if self._held is not None:
            asyncio.get_running_loop().call_soon(self._release)
        else:
            self.transport.resume_reading()

    def _release(self) -> None:
        held = self._held
        if held is None or self._is_paused or self._reason:
            return
        self._held = None
        self._set_receiver()
        self.transport.set_protocol(self)
        if held:
            self._feed(b"".join(held))
        if not self._is_paused and not self._reason:
            self.transport.resume_reading()

    def close(self, websocket_code: int = 1000) -> None:
        """Flush, say goodbye (FIN), and take what the peer still sends until it closes too.

        Closing a socket with unread bytes would reset the connection, and the peer might never
        read our last packet. Both steps are bounded by the listener's sweep.
        """
        if self._reason:
            return
        self._end(CloseReason.LOCAL_CLOSE)
        self._listener.linger(self)
        self.transport.set_protocol(self)
        try:
            self.transport.write_eof()
        except OSError:
            self.transport.abort()
            return
        self.transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection now, with what is still buffered."""
        if not self._reason or self._reason == CloseReason.LOCAL_CLOSE:
            self._end(CloseReason.ABORTED)
        self.transport.abort()

    def give_up(self, reason: CloseReason) -> None:
        """End a lingering connection whose peer did not take what was left, or did not close."""
        self._reason = reason
        self.transport.abort()

    def _end(self, reason: CloseReason) -> None:
        self._reason = reason
        self._held = None
        self.data_received = discard  # type: ignore[method-assign]


def reason_for(exc: Exception | None) -> CloseReason:
    """The word for what a transport says of its end."""
    if exc is None:
        return CloseReason.PEER_CLOSED
    if isinstance(exc, ssl.SSLError):
        return CloseReason.TLS_ERROR
    if isinstance(exc, TimeoutError):
        return CloseReason.TIMEOUT
    if isinstance(exc, OSError):
        return CloseReason.RESET
    return CloseReason.INTERNAL_ERROR
