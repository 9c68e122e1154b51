"""Byte-stream channels: MQTT straight on a transport (TCP, Unix socket, or TLS on top of either).

`StreamChannel` is the asyncio protocol and the channel in one object, because memory per idle
connection counts. It has no per-connection task, timer or closure: deadlines are kept by the
listener's sweep. What it reads goes to its handler without a call in between: the transport is
given the handler's own ``data_received``. Made by the acceptor or by a `ConnectionHandshake`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from typing import cast

from tidegate.edge.channel import CloseReason, Handler, Peer
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.listener import Listener

log = logging.getLogger(__name__)


def discard(data: bytes) -> None:
    """Drop what is received after our FIN, until the peer's."""


class StreamChannel(asyncio.Protocol):
    """A connection that carries MQTT packets back to back."""

    __slots__ = (
        "_is_paused",
        "_listener",
        "_paused_data",
        "_reason",
        "data_received",
        "handler",
        "peer",
        "transport",
    )

    # The three below are set once the connection is admitted, before any other object has it.
    peer: Peer
    handler: Handler | None
    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.handler = None
        self._paused_data: list[bytes] | None = None
        self._is_paused = False
        #: Why it ends, once we have decided that it does; until then empty.
        self._reason = ""
        self.data_received = discard  # type: ignore[method-assign]  # a slot: see the module

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start at once: a plain listener needs no handshake."""
        stream = cast(asyncio.Transport, transport)
        if self._listener.admit(self, stream):
            self.start(stream, self._listener.peer_of(stream), b"")

    def start(
        self, transport: asyncio.Transport, peer: Peer, data: bytes, accepted_s: float = 0.0
    ) -> None:
        """Give the connection its handler, then the bytes that were read already."""
        self.transport = transport
        self.peer = peer
        transport.set_write_buffer_limits(self._listener.config.write_high_water_bytes)
        # What the handler writes from its constructor goes out; what it raises ends the connection.
        try:
            self.handler = self._listener.handler_factory(self, accepted_s)
        except Exception:
            log.exception("handler creation failed", extra={"listener": peer.listener})
            self._end(CloseReason.INTERNAL_ERROR)
            transport.abort()
            return
        if self._reason:
            return
        if self._is_paused:
            # A transport that is just being made starts reading whatever we ask of it.
            self._paused_data = [data] if data else []
            self.data_received = self._buffer_data  # type: ignore[method-assign]
            transport.set_protocol(self)
            return
        if data:
            self._set_receiver()
            transport.set_protocol(self)
            self._deliver(data)
        else:
            self.data_received = self._first_received  # type: ignore[method-assign]
            transport.set_protocol(self)

    def _first_received(self, data: bytes) -> None:
        """Deliver the first bytes when it is their turn, and the others without a question."""
        listener = self._listener
        if not listener.begin_work(self.peer.address):
            self._paused_data = [data]
            self.data_received = self._buffer_data  # type: ignore[method-assign]
            self.transport.set_protocol(self)
            self.transport.pause_reading()
            listener.let_wait(self, self.peer.address)
            listener.unfinished.hold(self, len(data))
            return
        try:
            self._set_receiver()
            self.transport.set_protocol(self)
            self.data_received(data)
        finally:
            listener.total.work.end()

    def resume_work(self) -> None:
        """Deliver the first bytes: it is this connection's turn."""
        self._listener.unfinished.release(self)
        self._deliver_paused()

    def _set_receiver(self) -> None:
        assert self.handler is not None
        self.data_received = self.handler.data_received  # type: ignore[method-assign]

    def _buffer_data(self, data: bytes) -> None:
        assert self._paused_data is not None
        self._paused_data.append(data)
        self.transport.pause_reading()

    def _deliver(self, data: bytes) -> None:
        """Deliver bytes that were read earlier; an exception ends the connection."""
        try:
            self.data_received(data)
        except Exception:
            log.exception("handler failed", extra={"listener": self.peer.listener})
            self._end(CloseReason.INTERNAL_ERROR)
            self.transport.abort()

    def pause_writing(self) -> None:
        """Pass it on: the write buffer is above its high-water mark."""
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on: the write buffer is below its low-water mark."""
        if self.handler is not None:
            self.handler.resume_writing()

    def eof_received(self) -> bool | None:
        """Let the transport flush and close: MQTT has no half-open connections."""
        if not self._reason:
            self._end(CloseReason.PEER_CLOSED)
            if self.transport.get_write_buffer_size():
                self._listener.linger(self)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Call the handler, once, and break the reference cycles."""
        reason = self._reason or reason_for(exc)
        self._reason = reason
        self.data_received = discard  # type: ignore[method-assign]
        self._paused_data = None
        self._listener.remove(self)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.connection_lost(reason)

    @property
    def client_address(self) -> str:
        """Where it comes from, behind trusted proxies."""
        return self.peer.address

    # Called by the handler.

    def write(self, packets: Sequence[bytes]) -> None:
        """Send whole packets, in order, in one system call where possible."""
        if not self._reason:
            self.transport.write(packets[0] if len(packets) == 1 else b"".join(packets))

    def pause_reading(self) -> None:
        """Stop delivering until `resume_reading` (idempotent)."""
        self._is_paused = True
        if not self._reason and self._paused_data is None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading` (idempotent). What was read meanwhile is delivered soon."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._reason:
            return
        if self._paused_data is not None:
            asyncio.get_running_loop().call_soon(self._deliver_paused)
        else:
            self.transport.resume_reading()

    def _deliver_paused(self) -> None:
        data = self._paused_data
        if data is None or self._is_paused or self._reason:
            return
        self._paused_data = None
        self._set_receiver()
        self.transport.set_protocol(self)
        if data:
            self._deliver(b"".join(data))
        if not self._is_paused and not self._reason:
            self.transport.resume_reading()

    def hold_unfinished(self, size: int) -> None:
        """Note how many bytes the handler holds of a client that has no CONNACK yet."""
        if not self._reason:
            self._listener.unfinished.hold(self, size)

    def accepted(self) -> None:
        """Note that CONNACK is sent."""
        self._listener.unfinished.release(self)
        self._listener.note_outcome(self.peer.address, is_accepted=True)

    def failed(self) -> None:
        """Note that it ends without a CONNACK that accepts."""
        self._listener.note_outcome(self.peer.address, is_accepted=False)

    def end_unfinished(self) -> None:
        """End it now: it holds too much, and has no CONNACK."""
        self._listener.refuse(Refusal.UNFINISHED_BYTES, address=self.peer.address)
        self.abort()

    def close(self, websocket_code: int = 1000) -> None:
        """Flush, send FIN, and drop what the peer still sends until it closes too.

        Closing a socket with unread bytes would reset the connection, and the peer might never
        read our last packet. Both steps are bounded by the listener's sweep.
        """
        if self._reason:
            return
        self._end(CloseReason.LOCAL_CLOSE)
        self._listener.linger(self)
        self._send_fin()

    def _send_fin(self) -> None:
        """End our side of the stream, and go on reading until the peer ends its side."""
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

    def abort_closing(self, reason: CloseReason) -> None:
        """End a closing connection whose peer did not read what was left, or did not close."""
        self._reason = reason
        self.transport.abort()

    def _end(self, reason: CloseReason) -> None:
        self._reason = reason
        self._paused_data = None
        self.data_received = discard  # type: ignore[method-assign]


def reason_for(exc: Exception | None) -> CloseReason:
    """Return the reason for the exception that a transport ended with."""
    if exc is None:
        return CloseReason.PEER_CLOSED
    if isinstance(exc, ssl.SSLError):
        return CloseReason.TLS_ERROR
    if isinstance(exc, TimeoutError):
        return CloseReason.TIMEOUT
    if isinstance(exc, OSError):
        return CloseReason.RESET
    return CloseReason.INTERNAL_ERROR
