"""A connection before its protocol is known: PROXY header, TLS, first byte, HTTP upgrade.

A `ConnectionHandshake` is the protocol of a new transport, made by the acceptor. It reads as little
as it needs, then hands the transport, with the bytes that were read already, to a `StreamChannel`
or a `WebSocketChannel`. Its deadline is kept by the listener's sweep. Every failure is one
`Refusal`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from tidegate.edge.channel import NO_TLS, CloseReason, Peer, TlsPeer
from tidegate.edge.transport import proxy_protocol
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.forwarded import client_address
from tidegate.edge.transport.listener import Listener, peer_address
from tidegate.edge.transport.stream_channel import StreamChannel
from tidegate.edge.transport.unfinished_work import WaitingConnection
from tidegate.edge.transport.websocket import (
    MAX_HEAD_BYTES,
    HandshakeResult,
    answer_handshake,
    head_size,
    http_error,
)
from tidegate.edge.transport.websocket_channel import WebSocketChannel
from tidegate.mqtt.first_bytes import (
    HTTP_REQUEST,
    PROXY_HEADER,
    TLS_CLIENT_HELLO,
    protocol_of,
)
from tidegate.runtime.config.model import ListenerProtocol

if TYPE_CHECKING:
    from tidegate.edge.transport.tls_transport import TlsTransport

#: From the start of the HTTP stage to the empty line that ends the request head.
UPGRADE_TIMEOUT_S = 10.0
#: Until the first byte of a connection to an ``auto`` listener.
FIRST_BYTE_TIMEOUT_S = 10.0

_TLS_HANDSHAKE = 0x16
#: The packet type; MQTT 3.1 does not use the other four bits.
_MQTT_CONNECT = 0x10
_HTTP_GET = 0x47


class Stage(Enum):
    """What the next bytes must be."""

    PROXY = auto()
    DETECT = auto()
    TLS = auto()
    HTTP = auto()
    DONE = auto()


class ConnectionHandshake(asyncio.Protocol):
    """One connection that has no channel yet."""

    __slots__ = (
        "_accepted_s",
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
        self._stage = Stage.DONE
        self._tls: TlsTransport | None = None
        self._address = ""
        self._port = 0
        self._common_name = ""
        self._accepted_s = 0.0
        self.deadline = 0.0
        self.transport: asyncio.Transport

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Choose the first stage."""
        listener = self._listener
        stream = cast(asyncio.Transport, transport)
        if not listener.admit(self, stream):
            return
        listener.handshakes.add(self)
        self._accepted_s = listener.loop.time()
        self._address, self._port = peer_address(stream)
        wants_proxy = listener.config.proxy_protocol
        if wants_proxy != "off" and self._address in listener.trusted:
            self._enter(Stage.PROXY, listener.config.proxy_protocol_timeout_s)
        elif wants_proxy == "required":
            self._refuse(Refusal.PROXY_UNTRUSTED, "not from a trusted proxy")
        else:
            self._enter_protocol()

    def data_received(self, data: bytes) -> None:
        """Collect what the stage needs, and go on."""
        if self._stage is Stage.DONE:
            return
        self._buffer = self._buffer + data if self._buffer else data
        listener = self._listener
        if not listener.begin_work(self._address):
            self.transport.pause_reading()
            listener.let_wait(self, self._address)
            self._hold(len(self._buffer))
            return
        try:
            self._handle_buffer()
        finally:
            listener.total.work.end()

    def resume_work(self) -> None:
        """Handle what was received while other connections were handled."""
        if self._stage is not Stage.DONE:
            self.transport.resume_reading()
            self._handle_buffer()

    def _handle_buffer(self) -> None:
        self._advance()
        if self._buffer:
            self._hold(len(self._buffer))

    def _hold(self, size: int) -> None:
        """Note what is held of what is not complete; may end the connection."""
        if self._stage is not Stage.DONE:
            self._listener.unfinished.hold(self, size)

    def eof_received(self) -> bool | None:
        """Let the transport close: a handshake cannot end without the peer."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it, unless it was counted when it was refused."""
        if self._stage is not Stage.DONE:
            self._count_lost(exc)
        self._end()
        self._listener.remove(self)

    def _count_lost(self, exc: Exception | None) -> None:
        stage, tls = self._stage, self._tls
        if stage is Stage.TLS and tls is not None:
            if isinstance(exc, ssl.SSLError):
                protocol = protocol_of(tls.first_bytes)
                if protocol and protocol != TLS_CLIENT_HELLO:
                    detail = self._unexpected(protocol)
                else:
                    # Of a client certificate it says what is wrong: "certificate revoked".
                    detail = getattr(exc, "verify_message", "") or exc.reason or ""
                self._count(Refusal.TLS_HANDSHAKE, detail)
                return
            has_sent = bool(tls.first_bytes)
        else:
            has_sent = bool(self._buffer)
        # A health probe connects and leaves; that is no news.
        level = logging.INFO if has_sent else logging.DEBUG
        self._listener.refuse(Refusal.ABANDONED, stage.name.lower(), self._address, level)

    def pause_writing(self) -> None:
        """Do nothing: what is sent during a handshake is small."""

    def resume_writing(self) -> None:
        """Do nothing (see `pause_writing`)."""

    # Called by the listener.

    @property
    def client_address(self) -> str:
        """Where it comes from, as far as that is known."""
        return self._address

    def expire(self) -> None:
        """Refuse it: its deadline has passed."""
        stage = self._stage
        reason = Refusal.PROXY_HEADER if stage is Stage.PROXY else Refusal.TIMEOUT
        self._refuse(reason, f"timeout during {stage.name.lower()}")

    def abort(self) -> None:
        """End it now; it has no handler to call."""
        self._end()
        self.transport.abort()

    def end_unfinished(self) -> None:
        """End it now: it holds too much."""
        self._refuse(Refusal.UNFINISHED_BYTES, f"during {self._stage.name.lower()}")

    def close(self, websocket_code: int = 1000) -> None:
        """End it now: the peer has no MQTT session to end in order."""
        self.abort()

    def abort_closing(self, reason: CloseReason) -> None:
        """End it now: the peer did not read an HTTP error."""
        self.abort()

    # Stages.

    def _enter(self, stage: Stage, timeout_s: float) -> None:
        self._stage = stage
        listener = self._listener
        self.deadline = min(
            listener.loop.time() + timeout_s, self._accepted_s + listener.connect_timeout_s
        )

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
        # "off": the settings have changed since the connection was accepted.
        if self._listener.config.proxy_protocol != "required" and not (
            proxy_protocol.may_be_header(data)
        ):
            self._enter_protocol()
            return
        try:
            header = proxy_protocol.parse(data)
        except proxy_protocol.ProxyHeaderError as exc:
            protocol = protocol_of(data)
            is_other = protocol and protocol != PROXY_HEADER
            self._refuse(Refusal.PROXY_HEADER, f"{exc}, but {protocol}" if is_other else str(exc))
            return
        if header is None:
            return
        self._buffer = data[header.size :]
        if header.address:
            self._address, self._port = header.address, header.port
            self._common_name = header.common_name
            if not self._is_admitted(header.address):
                return
        self._enter_protocol()

    def _is_admitted(self, address: str) -> bool:
        """Whether the client behind a proxy may have one more connection; ends it if not."""
        listener = self._listener
        if not listener.total.addresses.limit or listener.admit_address(self, address):
            return True
        self.abort()
        return False

    def _enter_protocol(self) -> None:
        """Enter the stage after the PROXY header, as configured."""
        match self._listener.config.protocol:
            case ListenerProtocol.TCP | ListenerProtocol.UNIX:
                self._open_stream()
            case ListenerProtocol.TLS | ListenerProtocol.WSS:
                self._start_tls()
            case ListenerProtocol.WS:
                self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
                self._advance()
            case ListenerProtocol.AUTO:
                self._enter(Stage.DETECT, FIRST_BYTE_TIMEOUT_S)
                self._advance()

    def _detect(self, first: int) -> None:
        if first & 0xF0 == _MQTT_CONNECT and first != _TLS_HANDSHAKE:
            self._open_stream()
        elif first == _HTTP_GET:
            self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
            self._read_request()
        elif first == _TLS_HANDSHAKE and self._tls is None and self._listener.tls is not None:
            self._start_tls()
        else:
            protocol = protocol_of(self._buffer)
            self._refuse(
                Refusal.NOT_MQTT,
                self._unexpected(protocol) if protocol else f"first byte 0x{first:02x}",
            )

    def _start_tls(self) -> None:
        from tidegate.edge.transport.tls_transport import TlsTransport  # noqa: PLC0415  # only where TLS is on

        contexts = self._listener.tls
        assert contexts is not None
        self._enter(Stage.TLS, self._listener.config.tls.handshake_timeout_s)
        raw = self.transport
        self._tls = TlsTransport(contexts.current, raw, self, self)
        data, self._buffer = self._buffer, b""
        self.transport = self._tls
        raw.set_protocol(self._tls)
        if data:
            self._tls.receive(data)

    # Called by the TLS transport.

    def hold_unfinished(self, size: int) -> None:
        """Note how much has been received of a TLS handshake that is not done."""
        self._hold(size)

    def begin_work(self, connection: WaitingConnection) -> bool:
        """Whether ``connection`` may go on with TLS at once; if not, it waits."""
        if self._listener.begin_work(self._address):
            return True
        self._listener.let_wait(connection, self._address)
        return False

    def end_work(self) -> None:
        """Note that what `begin_work` allowed is done."""
        self._listener.total.work.end()

    def tls_established(self, protocol: str | None) -> None:
        """Enter the stage after TLS; ``protocol`` is what ALPN agreed on, if it did."""
        match self._listener.config.protocol, protocol:
            case (ListenerProtocol.TLS, _) | (ListenerProtocol.AUTO, "mqtt"):
                self._open_stream()
            case (ListenerProtocol.WSS, _) | (ListenerProtocol.AUTO, "http/1.1"):
                self._enter(Stage.HTTP, UPGRADE_TIMEOUT_S)
            case _:
                self._enter(Stage.DETECT, FIRST_BYTE_TIMEOUT_S)

    def _read_request(self) -> None:
        data = self._buffer
        protocol = protocol_of(data)
        is_other = protocol not in {"", HTTP_REQUEST}
        if is_other or not (data[:1].isalpha() or data[:1] in {b"\r", b"\n"}):
            detail = self._unexpected(protocol) if is_other else f"first byte 0x{data[0]:02x}"
            self._refuse(Refusal.NOT_WEBSOCKET, detail)
            return
        size = head_size(data)
        if (size or len(data)) > MAX_HEAD_BYTES:
            self._send_http_error(
                http_error(431, f"The request head is larger than {MAX_HEAD_BYTES} bytes.")
            )
            return
        if not size:
            return
        result = answer_handshake(data[:size], self._listener.policy)
        if result.status != 101:
            self._send_http_error(result)
            return
        address = (self._address, self._port)
        if result.forwarded_for:
            address = client_address(result.forwarded_for, address, self._listener.trusted)
            if not self._is_admitted(address[0]):
                return
        self.transport.write(result.response)
        self._open_websocket(result, address, data[size:])

    def _unexpected(self, protocol: str) -> str:
        """Say what came, and which setting is the likely cause."""
        if protocol == PROXY_HEADER:
            if self._listener.config.proxy_protocol == "off":
                return f"{protocol}, but proxy_protocol is off"
            return f"{protocol} that is the second one, or not from trusted_proxies"
        match self._stage:
            case Stage.TLS:
                return f"{protocol} in place of TLS"
            case Stage.HTTP:
                return f"{protocol} in place of a WebSocket handshake"
        if protocol == TLS_CLIENT_HELLO and self._listener.tls is None:
            return f"{protocol}, but there is no certificate"
        return f"{protocol} in place of MQTT or WebSocket"

    # Ends.

    def _send_http_error(self, result: HandshakeResult) -> None:
        self._count(Refusal(f"websocket_{result.status}"), result.message)
        self._end()
        self._listener.linger(self)
        self.transport.write(result.response)
        try:
            self.transport.write_eof()
        except OSError:
            self.transport.abort()

    def _refuse(self, reason: Refusal, detail: str) -> None:
        self._count(reason, detail)
        self.abort()

    def _count(self, reason: Refusal, detail: str) -> None:
        self._listener.refuse(reason, detail, self._address)

    def _end(self) -> None:
        self._stage = Stage.DONE
        self._buffer = b""
        self._listener.handshakes.discard(self)
        self._listener.unfinished.release(self)

    def _hand_over(self, channel: StreamChannel, peer: Peer, data: bytes) -> None:
        self._end()
        self._listener.replace(self, channel)
        channel.start(self.transport, peer, data, self._accepted_s)

    def _open_stream(self) -> None:
        listener = self._listener
        kind = listener.stream_kind if self._tls is None else "tls"
        peer = self._peer(kind, (self._address, self._port))
        self._hand_over(StreamChannel(listener), peer, self._buffer)

    def _open_websocket(
        self, result: HandshakeResult, address: tuple[str, int], data: bytes
    ) -> None:
        listener = self._listener
        peer = self._peer("ws" if self._tls is None else "wss", address, result)
        self._hand_over(WebSocketChannel(listener), peer, data)

    def _peer(
        self, kind: str, address: tuple[str, int], result: HandshakeResult | None = None
    ) -> Peer:
        tls, shared = self._tls, self._listener.shared
        subprotocol = result.subprotocol if result is not None else ""
        if tls is None:
            name = self._common_name  # a proxy's word
            known = TlsPeer(certificate_common_name=name) if name else NO_TLS
        else:
            names = tls.peer_certificate()
            common_name = names.common_name or self._common_name
            known = shared(TlsPeer(tls.version(), common_name, names.subject, tls.server_name()))
        return Peer(shared(address[0]), address[1], kind, self._listener.label, subprotocol, known)
