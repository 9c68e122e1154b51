"""TLS between a transport and a protocol, on memory buffers.

A `TlsTransport` is the protocol of the transport below and the transport of the protocol above,
which is a `ConnectionHandshake` first and a channel later. It exists because a connection may turn
out to be TLS only after its first bytes were read (PROXY header, ``auto`` listener), and because
the event loop's own layer takes more memory, sends no alerts and loses what a peer sent before its
end (docs/adr/0040). OpenSSL reads and writes the `RecordBuffers` of the listener, which are empty
whenever anything else runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from sys import intern
from typing import Protocol, cast

from tidegate.edge.transport.certificate_names import (
    NO_NAMES,
    CertificateNames,
    names_of,
)
from tidegate.edge.transport.tls import ContextSet, ServerSslObject
from tidegate.edge.transport.unfinished_work import WaitingConnection

log = logging.getLogger(__name__)

#: What is kept to say which protocol came in the place of TLS.
_FIRST_BYTES = 16
_NO_PROTOCOL = asyncio.Protocol()
#: One for all: a dictionary of its own for each connection takes memory.
_NO_EXTRA: dict[str, object] = {}
#: The largest record; OpenSSL reads and writes one at a time.
_RECORD_BYTES = 16_384


def _without_frames(exc: ssl.SSLError) -> ssl.SSLError:
    """Return the error without the frames that refer to its connection: it is kept there."""
    return exc.with_traceback(None)


class TlsOwner(Protocol):
    """The `ConnectionHandshake` of a connection, until the TLS handshake is done."""

    def tls_established(self, protocol: str | None) -> None:
        """Go on, once; ``protocol`` is what ALPN agreed on, or None."""

    def hold_unfinished(self, size: int) -> None:
        """Note the bytes received of a handshake that is not done."""

    def begin_work(self, connection: WaitingConnection) -> bool:
        """Whether bytes may be handled at once; if so, call ``end_work`` afterwards.

        If not, ``connection`` waits, and its ``resume_work`` is called when it is its turn.
        """

    def end_work(self) -> None:
        """Note that what was begun is done."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One TLS connection, server side."""

    __slots__ = (
        "_below",
        "_context",
        "_deliver",
        "_error",
        "_incoming",
        "_is_closed",
        "_is_established",
        "_outgoing",
        "_owner",
        "_pending",
        "_protocol",
        "_ssl",
        "first_bytes",
        "unfinished_bytes",
    )

    def __init__(
        self,
        contexts: ContextSet,
        below: asyncio.Transport,
        protocol: asyncio.Protocol,
        owner: TlsOwner,
    ) -> None:
        super().__init__(_NO_EXTRA)
        self._below = below
        #: None once the handshake is done.
        self._owner: TlsOwner | None = owner
        #: What waits until handshakes may go on.
        self._pending = b""
        self._protocol = protocol
        self._deliver = protocol.data_received
        self._incoming = contexts.buffers.incoming
        self._outgoing = contexts.buffers.outgoing
        #: None from the first bytes on: what OpenSSL has for a connection is made then, when it is
        #: this connection's turn, and takes no memory of one that sends nothing.
        self._context: ssl.SSLContext | None = contexts.default
        self._ssl: ServerSslObject
        self._is_established = False
        #: The beginning of what was received until the handshake is done.
        self.first_bytes = b""
        #: How much has been received of a handshake that is not done.
        self.unfinished_bytes = 0
        #: Nothing more is read or written.
        self._is_closed = False
        self._error: ssl.SSLError | None = None

    # The protocol of the transport below.

    def data_received(self, data: bytes) -> None:
        """Decrypt everything that is complete and deliver it at once, after the handshake."""
        if self._is_closed:
            return
        owner = self._owner
        if owner is None:
            self._decrypt(data)
        elif owner.begin_work(self):
            try:
                self.receive(data)
            finally:
                owner.end_work()
        else:
            self._below.pause_reading()
            self._pending += data
            owner.hold_unfinished(self.unfinished_bytes + len(self._pending))

    def resume_work(self) -> None:
        """Go on with the handshake: it is this connection's turn."""
        if not self._is_closed:
            self._below.resume_reading()
            data, self._pending = self._pending, b""
            self.receive(data)

    def receive(self, data: bytes) -> None:
        """Take bytes of the handshake now."""
        self.unfinished_bytes += len(data)
        if len(self.first_bytes) < _FIRST_BYTES:
            self.first_bytes += data[:_FIRST_BYTES]
        incoming = self._incoming
        if self._context is not None:
            made = self._context.wrap_bio(incoming, self._outgoing, server_side=True)
            self._ssl = cast(ServerSslObject, made)
            self._context = None
        incoming.write(data)
        is_done = False
        rest = b""
        try:
            self._ssl.do_handshake()
            is_done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._note(exc)
        finally:
            if incoming.pending:
                rest = incoming.read()
        self._flush()
        if is_done:
            self._finish_handshake()
            if rest and not self._is_closed:
                self._decrypt(rest)
        elif self._error is not None:
            self._end_below()
        elif self._owner is not None:
            self._owner.hold_unfinished(self.unfinished_bytes)

    def _finish_handshake(self) -> None:
        self._is_established = True
        self.unfinished_bytes = 0
        self.first_bytes = b""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.tls_established(self._ssl.selected_alpn_protocol())

    def _decrypt(self, data: bytes) -> None:
        """Decrypt what is complete, leave the buffers empty, then deliver it at once."""
        incoming, read = self._incoming, self._ssl.read
        incoming.write(data)
        parts: list[bytes] = []
        append = parts.append
        is_end = False
        try:
            # With an empty buffer OpenSSL has nothing to return, and says so by an exception.
            while incoming.pending:
                part = read(_RECORD_BYTES)
                if not part:
                    is_end = True  # close_notify
                    break
                append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._note(exc)
        finally:
            if incoming.pending:
                incoming.read()  # what is behind an end, or an error
        if self._outgoing.pending:
            self._flush()  # an alert, or the answer to a key update
        if parts:
            self._deliver(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._error is not None:
            self._end_below()
        elif is_end and not self._is_closed:
            self._peer_closed()

    def _flush(self) -> None:
        """Send what OpenSSL has written: records, or the alert that says what is wrong."""
        data = self._outgoing.read()
        if data:
            self._below.write(data)

    def _note(self, exc: ssl.SSLError) -> None:
        """Send nothing more than what OpenSSL has prepared, and end for this reason."""
        self._is_closed = True
        self._error = _without_frames(exc)

    def _end_below(self) -> None:
        if self._below.get_write_buffer_size():
            # No sweep covers this connection, and a peer that does not read must not keep it open.
            self._below.abort()
        else:
            self._below.close()

    def _peer_closed(self) -> None:
        keep_open = self._protocol.eof_received()
        if not keep_open:
            self.close()

    def eof_received(self) -> bool | None:
        """An end without close_notify: MQTT and WebSocket frame themselves, so it is an end."""
        if self._is_established:
            self._protocol.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, with the TLS error if there was one."""
        self._is_closed = True
        self._owner = None
        self._pending = b""
        protocol = self._protocol
        # Channel and transport hold each other; OpenSSL's memory must not wait for the collector.
        self._protocol = _NO_PROTOCOL
        self._deliver = _NO_PROTOCOL.data_received
        error, self._error = self._error, None
        protocol.connection_lost(error or exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    # The transport of the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._is_closed or not data:
            return
        try:
            if len(data) <= _RECORD_BYTES:
                self._ssl.write(data)
                self._below.write(self._outgoing.read())
                return
            with memoryview(data) as view:
                records = []
                position = 0
                while position < len(view):
                    position += self._ssl.write(view[position : position + _RECORD_BYTES])
                    records.append(self._outgoing.read())
            self._below.write(b"".join(records))
        except ssl.SSLError as exc:
            self._note(exc)
            self._flush()
            self._below.abort()

    def write_eof(self) -> None:
        """Send close_notify and the transport's own end; what still arrives is not decrypted."""
        self._send_close_notify()
        self._below.write_eof()

    def close(self) -> None:
        """Send close_notify and close."""
        self._send_close_notify()
        self._below.close()

    def _send_close_notify(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if not self._is_established:
            return
        # It asks for the peer's close_notify, which is not waited for.
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._flush()

    def abort(self) -> None:
        """Drop the connection now."""
        self._is_closed = True
        self._below.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol from now on."""
        self._protocol = cast(asyncio.Protocol, protocol)
        self._deliver = self._protocol.data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that it delivers to."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether the transport below is."""
        return self._below.is_closing()

    def is_reading(self) -> bool:
        """Whether the transport below is."""
        return self._below.is_reading()

    def pause_reading(self) -> None:
        """Stop reading below: what was read is delivered already, nothing is kept here."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read below again."""
        self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Limits of the transport below (ciphertext, a little more than was written)."""
        self._below.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """It can, by close_notify and FIN."""
        return True

    # What the connection is.

    def version(self) -> str:
        """Such as TLSv1.3; the same object for all connections."""
        return intern(self._ssl.version() or "")

    def server_name(self) -> str:
        """The name the client asked for (SNI), or an empty string."""
        return intern(self._ssl.sni)

    def peer_certificate(self) -> CertificateNames:
        """Return the names in the verified client certificate; none without one."""
        der = self._ssl.getpeercert(binary_form=True)
        if not der:
            return NO_NAMES
        try:
            return names_of(der)
        except ValueError as exc:
            # OpenSSL has verified it, so the connection may stay, without an identity.
            log.warning("client certificate cannot be read", extra={"error": str(exc)})
            return NO_NAMES
