"""A connection before its protocol is known: PROXY header, TLS, first byte, HTTP upgrade.

An `Opening` is the protocol of a fresh transport. It reads as little as it needs, then hands the
transport, with the bytes that were read already, to the channel that fits, and is forgotten. Its
deadline is kept by the listener's sweep. Every way to fail here is one `Refusal`.
"""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from tidegate.edge.channel import CloseReason, Peer
from tidegate.edge.transport import proxy_protocol
from tidegate.edge.transport.forwarded import client_address
from tidegate.edge.transport.listener import Refusal, address_of
from tidegate.edge.transport.stream_channel import StreamChannel
from tidegate.edge.transport.websocket import MAX_HEAD_BYTES, Handshake, answer, head_size, refusal
from tidegate.edge.transport.websocket_channel import WebSocketChannel
from tidegate.runtime.config.model import ListenerProtocol

if TYPE_CHECKING:
    from tidegate.edge.transport.listener import Listener
    from tidegate.edge.transport.tls_transport import TlsTransport

#: From the request's first byte due to its empty line.
UPGRADE_TIMEOUT_S = 10.0
#: Until the first byte of a connection to an ``auto`` listener.
FIRST_BYTE_TIMEOUT_S = 10.0

_TLS_HANDSHAKE = 0x16
_MQTT_CONNECT = 0x10
_HTTP_GET = 0x47

_TLS_FIRST = frozenset({ListenerProtocol.TLS, ListenerProtocol.WSS})


class Stage(Enum):
    """What the next bytes must be."""

    PROXY = auto()
    DETECT = auto()
    TLS = auto()
    HTTP = auto()
    OVER = auto()


class Opening(asyncio.Protocol):
    """One connection on its way to a channel."""

    __slots__ = (
        "_address",
        "_buffer",
        "_common_name",
        "_listener",
        "_port",
        "_stage",
        "_tls",
        "deadline",
        "transport",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = b""
        self._stage = Stage.OVER
        self._tls: TlsTransport | None = None
        self._address = ""
        self._port = 0
        self._common_name = ""
        self.deadline = 0.0
        self.transport: asyncio.Transport

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Choose the first stage."""
        listener = self._listener
        stream = cast(asyncio.Transport, transport)
        if not listener.admit(self, stream):
            return
        listener.openings.add(self)
        self._address, self._port = address_of(stream)
        wants_proxy = listener.config.proxy_protocol
        if wants_proxy != "off" and self._address in listener.trusted:
            self._enter(Stage.PROXY, listener.config.proxy_protocol_timeout_s)
        elif wants_proxy == "required":
            self._refuse(Refusal.PROXY_UNTRUSTED, "not from a trusted proxy")
        else:
            self._choose()

    def data_received(self, data: bytes) -> None:
        """Collect what the stage needs."""
        if self._stage is Stage.OVER:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def eof_received(self) -> bool | None:
        """Nothing can come of it any more."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it, unless it was counted when we ended it."""
        if self._stage is not Stage.OVER:
            if self._stage is Stage.TLS and isinstance(exc, ssl.SSLError):
                self._count(Refusal.TLS_HANDSHAKE, exc.reason or "")
            else:
                self._count(Refusal.ABANDONED, self._stage.name.lower())
        self._leave()
        self._listener.forget(self)

    def pause_writing(self) -> None:
        """Nothing that is sent here is large."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # Called by the listener.

    def expire(self) -> None:
        """The deadline has passed."""
        stage = self._stage
        reason = Refusal.PROXY_HEADER if stage is Stage.PROXY else Refusal.TIMEOUT
        self._refuse(reason, f"timeout in stage {stage.name.lower()}")

    def abort(self) -> None:
        """End it now (nobody is told: it has no handler)."""
        self._leave()
        self.transport.abort()

    def close(self, websocket_code: int = 1000) -> None:
        """The same: nothing has been promised to the peer yet."""
        self.abort()

    def give_up(self, reason: CloseReason) -> None:
        """End an answer that the peer did not take."""
        self.abort()

    # Stages.

    def _enter(self, stage: Stage, timeout_s: float) -> None:
        self._stage = stage
        bound_s = min(timeout_s, self._listener.connect_timeout_s)
        self.deadline = self._listener.loop.time() + bound_s

    def _advance(self) -> None:
        if self._stage is Stage.PROXY:
            self._read_proxy_header()
        if self._stage is Stage.DETECT and self._buffer:
            self._detect(self._buffer[0])
        elif self._stage is Stage.HTTP and self._buffer:
            self._read_request()

    def _read_proxy_header(self) -> None:
        data = self._buffer
        if not data:
            return
        # "off" by now: the settings have changed since it came, when a header was expected.
        if self._listener.config.proxy_protocol != "required" and not (
            proxy_protocol.may_be_header(data)
        ):
            self._choose()
            return
        try:
            header = proxy_protocol.parse(data)
        except proxy_protocol.ProxyHeaderError as exc:
            self._refuse(Refusal.PROXY_HEADER, str(exc))
            return
        if header is None:
            return
        self._buffer = data[header.size :]
        if header.address:
            self._address, self._port = header.address, header.port
            self._common_name = header.common_name
        self._choose()

    def _choose(self) -> None:
        """What comes after the PROXY header, if there is one, is known from the configuration."""
        match self._listener.config.protocol:
            case ListenerProtocol.TCP | ListenerProtocol.UNIX:
                self._become_stream()
            case ListenerProtocol.TLS | ListenerProtocol.WSS:
                self._start_tls()
            case ListenerProtocol.WS:
                self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
                self._advance()
            case ListenerProtocol.AUTO:
                self._enter(Stage.DETECT, FIRST_BYTE_TIMEOUT_S)
                self._advance()

    def _detect(self, first: int) -> None:
        if first == _MQTT_CONNECT:
            self._become_stream()
        elif first == _HTTP_GET:
            self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
            self._read_request()
        elif first == _TLS_HANDSHAKE and self._tls is None and self._listener.tls is not None:
            self._start_tls()
        else:
            self._refuse(Refusal.NOT_MQTT, f"first byte 0x{first:02x}")

    def _start_tls(self) -> None:
        from tidegate.edge.transport.tls_transport import TlsTransport  # noqa: PLC0415  # only where TLS is on

        contexts = self._listener.tls
        assert contexts is not None
        self._enter(Stage.TLS, self._listener.config.tls.handshake_timeout_s)
        raw = self.transport
        self._tls = TlsTransport(contexts.current, raw, self)
        data, self._buffer = self._buffer, b""
        self.transport = self._tls
        raw.set_protocol(self._tls)
        if data:
            self._tls.data_received(data)

    def tls_established(self, protocol: str | None) -> None:
        """The handshake is done; ``protocol`` is what ALPN agreed on, if it did."""
        match self._listener.config.protocol, protocol:
            case (ListenerProtocol.TLS, _) | (ListenerProtocol.AUTO, "mqtt"):
                self._become_stream()
            case (ListenerProtocol.WSS, _) | (ListenerProtocol.AUTO, "http/1.1"):
                self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
            case _:
                self._enter(Stage.DETECT, FIRST_BYTE_TIMEOUT_S)

    def _read_request(self) -> None:
        data = self._buffer
        size = head_size(data)
        if (size or len(data)) > MAX_HEAD_BYTES:
            self._answer_refused(refusal(431, f"A request may have {MAX_HEAD_BYTES} bytes."))
            return
        if not size:
            return
        handshake = answer(data[:size], self._listener.policy)
        if handshake.status != 101:
            self._answer_refused(handshake)
            return
        self.transport.write(handshake.response)
        self._become_websocket(handshake, data[size:])

    # Ends.

    def _answer_refused(self, handshake: Handshake) -> None:
        self._count(Refusal(f"websocket_{handshake.status}"), handshake.sentence)
        self._leave()
        self._listener.linger(self)
        self.transport.write(handshake.response)
        try:
            self.transport.write_eof()
        except OSError:
            self.transport.abort()

    def _refuse(self, reason: Refusal, detail: str) -> None:
        self._count(reason, detail)
        self.abort()

    def _count(self, reason: Refusal, detail: str) -> None:
        self._listener.refuse(reason, detail, self._address)

    def _leave(self) -> None:
        self._stage = Stage.OVER
        self._buffer = b""
        self._listener.openings.discard(self)

    def _hand_over(self, channel: StreamChannel, peer: Peer, data: bytes) -> None:
        self._leave()
        self._listener.replace(self, channel)
        channel.begin(self.transport, peer, data)

    def _become_stream(self) -> None:
        listener = self._listener
        if listener.config.protocol is ListenerProtocol.UNIX:
            kind = "unix"
        else:
            kind = "tcp" if self._tls is None else "tls"
        peer = self._peer(kind, (self._address, self._port))
        self._hand_over(StreamChannel(listener), peer, self._buffer)

    def _become_websocket(self, handshake: Handshake, data: bytes) -> None:
        listener = self._listener
        address = (self._address, self._port)
        if handshake.forwarded_for:
            address = client_address(handshake.forwarded_for, address, listener.trusted)
        peer = self._peer("ws" if self._tls is None else "wss", address, handshake)
        self._hand_over(WebSocketChannel(listener), peer, data)

    def _peer(
        self, kind: str, address: tuple[str, int], handshake: Handshake | None = None
    ) -> Peer:
        tls = self._tls
        headers = handshake.headers if handshake is not None else ()
        subprotocol = handshake.subprotocol if handshake is not None else ""
        if tls is None:
            return Peer(
                *address,
                kind,
                self._listener.label,
                certificate_common_name=self._common_name,
                http_headers=headers,
                websocket_subprotocol=subprotocol,
            )
        common_name, subject = tls.peer_certificate()
        return Peer(
            *address,
            kind,
            self._listener.label,
            tls_version=tls.version(),
            certificate_common_name=common_name or self._common_name,
            certificate_subject=subject,
            server_name=tls.server_name(),
            http_headers=headers,
            websocket_subprotocol=subprotocol,
        )
