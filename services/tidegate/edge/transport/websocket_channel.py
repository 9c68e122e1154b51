"""The WebSocket channel: a byte stream in frames, on any transport.

Made by a `ConnectionHandshake` after the upgrade. Incoming payloads are joined into the stream,
wherever frames begin and end; outgoing, every packet is one unfragmented binary frame, and all
packets of a call are one write. The rules of the frames are in ``websocket``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tidegate.edge.channel import CloseReason, Peer
from tidegate.edge.transport.accepted_connection import SWEEPS_PER_PING
from tidegate.edge.transport.listener import Listener
from tidegate.edge.transport.stream_channel import StreamChannel
from tidegate.edge.transport.websocket import WebSocketFrames, binary_frame_header

log = logging.getLogger(__name__)


class WebSocketChannel(StreamChannel):
    """A connection that carries MQTT packets in WebSocket frames."""

    __slots__ = ("_early_bytes", "_frames", "_idle_sweeps")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._frames: WebSocketFrames = listener.frames_class(listener.max_frame_bytes)
        self._idle_sweeps = 0
        #: What the handler holds of a client without CONNACK; -1: the client has it.
        self._early_bytes = 0

    def start(
        self, transport: asyncio.Transport, peer: Peer, data: bytes, accepted_s: float = 0.0
    ) -> None:
        """Give the connection its handler, then the frames that came with the handshake."""
        self._listener.websockets.add(self)
        super().start(transport, peer, data, accepted_s)

    def _set_receiver(self) -> None:
        assert self.handler is not None
        self.data_received = self._frames_received  # type: ignore[method-assign]

    def _frames_received(self, data: bytes) -> None:
        self._idle_sweeps = 0
        frames = self._frames
        frames.receive(data)
        received = frames.received
        if received is not None:
            frames.received = None
            payload = received[0] if len(received) == 1 else b"".join(received)
            handler = self.handler
            if handler is not None and not self._reason:
                handler.data_received(payload)
        if self._early_bytes >= 0:
            self._report_unfinished()
        if frames.outgoing or frames.is_closed:
            self._flush()

    def hold_unfinished(self, size: int) -> None:
        """Note how many bytes the handler holds of a client that has no CONNACK yet."""
        self._early_bytes = size

    def _report_unfinished(self) -> None:
        size = self._early_bytes + self._frames.unfinished_bytes
        if size and not self._reason:
            self._listener.unfinished.hold(self, size)

    def accepted(self) -> None:
        """Note that CONNACK is sent."""
        self._early_bytes = -1
        super().accepted()

    def _flush(self) -> None:
        """Write what the frames have to send, and close if they are closed."""
        frames = self._frames
        if frames.outgoing is not None:
            self.transport.write(b"".join(frames.outgoing))
            frames.outgoing = None
        if not frames.is_closed:
            return
        if not self._reason:
            failed = frames.has_failed
            self._end(CloseReason.WEBSOCKET_ERROR if failed else CloseReason.PEER_CLOSED)
            self._listener.linger(self)
            if failed:
                if self._listener.may_log():
                    log.info(
                        "websocket protocol error",
                        extra={
                            "listener": self.peer.listener,
                            "address": self.peer.address,
                            "code": frames.close_code,
                        },
                    )
                # Let the peer read our close frame before the connection is reset.
                self._send_fin()
                return
        self.data_received = self._ignore  # type: ignore[method-assign]
        self.transport.close()

    def _ignore(self, data: bytes) -> None:
        """Drop what arrives after the closing handshake."""

    def write(self, packets: Sequence[bytes]) -> None:
        """Send every packet as one frame, all of them in one write."""
        if self._reason:
            return
        self._idle_sweeps = 0
        parts = []
        for packet in packets:
            parts.append(binary_frame_header(len(packet)))
            parts.append(packet)
        self.transport.write(b"".join(parts))

    def close(self, websocket_code: int = 1000) -> None:
        """Flush, send a close frame, and wait for the peer's, within the listener's bounds."""
        if self._reason:
            return
        self._end(CloseReason.LOCAL_CLOSE)
        self._listener.linger(self)
        self._frames.close(websocket_code)
        self.data_received = self._frames_received  # type: ignore[method-assign]
        self.transport.set_protocol(self)
        self._flush()
        if not self._frames.is_closed:
            self.transport.resume_reading()

    def sweep(self) -> None:
        """Send a ping if nothing was received or sent for a whole interval."""
        self._idle_sweeps += 1
        if self._idle_sweeps >= SWEEPS_PER_PING and not self._reason:
            self._idle_sweeps = 0
            self._frames.ping()
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Call the handler, once."""
        self._listener.websockets.discard(self)
        self._frames.drop_library()
        super().connection_lost(exc)
