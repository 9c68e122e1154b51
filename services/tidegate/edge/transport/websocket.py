"""WebSocket without I/O: the opening handshake and the frames, on the ``websockets`` library.

The only module that imports ``websockets``; called by `ConnectionHandshake` and by
`WebSocketChannel`. The library has every protocol rule; here is what MQTT and the configuration add
(subprotocols, paths, origins, an error that says what is wrong) and a fast path around the library
for what nearly all traffic consists of: whole, masked, binary frames.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from websockets.datastructures import Headers, MultipleValuesError
from websockets.exceptions import (
    HeaderLineTooLong,
    InvalidHandshake,
    RequestLineTooLong,
    TooManyHeaders,
)
from websockets.frames import Frame, Opcode
from websockets.headers import parse_connection, parse_subprotocol, parse_upgrade
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # the pure wheel
    from websockets.utils import apply_mask

#: Subprotocols that mean MQTT; the exact word the client offered is echoed. ``mqtt`` is the one of
#: [MQTT-6.0.0-4]; the others are what clients in the field offer instead (![MQTT-6.0.0-4]).
SUBPROTOCOLS: Final = frozenset({"mqtt", "mqttv3.1", "mqttv3.1.1", "mqttv5"})

#: As many connections offer the same word, they share it.
_ONE_OBJECT: Final = {word: word for word in SUBPROTOCOLS}

#: Request line and headers together: enough for the cookies of a whole domain.
MAX_HEAD_BYTES: Final = 16_384

#: Added to the packet limit to get the frame limit: clients put several packets into one frame.
FRAME_SLACK_BYTES: Final = 1_048_576

CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_UNSUPPORTED_DATA: Final = 1003
CLOSE_TOO_BIG: Final = 1009

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
# The library would log one INFO line per connection.
_LIBRARY_LOG: Final = logging.getLogger("tidegate.edge.transport.websocket.library")
_LIBRARY_LOG.setLevel(logging.ERROR)

_TOO_LARGE: Final = (RequestLineTooLong, HeaderLineTooLong, TooManyHeaders)

_PROXY_HINT: Final = (
    "If nginx is in front, it needs proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade "
    'and proxy_set_header Connection "upgrade".'
)


class HandshakeRefusedError(Exception):
    """The request is answered with an HTTP error whose body is ``message``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True, frozen=True)
class HandshakeResult:
    """The response to a request: 101 and what was agreed, or an error to send before closing."""

    status: int
    response: bytes
    message: str = ""
    subprotocol: str = ""
    forwarded_for: tuple[str, ...] = ()


class HandshakePolicy:
    """What a listener accepts, compiled once."""

    __slots__ = ("_origins", "_paths")

    def __init__(self, paths: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self._paths = frozenset(paths)
        self._origins: re.Pattern[str] | None = None
        if allowed_origins and "*" not in allowed_origins:
            alternatives = (
                re.escape(origin.lower()).replace(r"\*", "[a-z0-9.-]+")
                for origin in allowed_origins
            )
            self._origins = re.compile("|".join(f"(?:{each})" for each in alternatives))

    def check(self, request: Request) -> str:
        """Return the subprotocol to echo, or "" if the client offered none.

        A client that offers none breaks [MQTT-6.0.0-3], and is accepted: the path says that it is
        MQTT. Raises `HandshakeRefusedError`.
        """
        headers = request.headers
        if request.method != "GET":
            raise HandshakeRefusedError(405, "A WebSocket handshake must be a GET request.")
        path = request.path.partition("?")[0]
        if path not in self._paths:
            known = ", ".join(sorted(self._paths))
            raise HandshakeRefusedError(
                404, f"No MQTT endpoint at this path. WebSocket paths: {known}."
            )
        if request.protocol != "HTTP/1.1":
            raise HandshakeRefusedError(
                400,
                f"A WebSocket handshake requires HTTP/1.1, not {request.protocol}. {_PROXY_HINT}",
            )
        _check_upgrade(headers)
        _check_version(headers)
        self._check_origin(headers)
        return _choose_subprotocol(headers)

    def _check_origin(self, headers: Headers) -> None:
        """Refuse other origins. Browsers always send one; a client without one is no browser."""
        if self._origins is None:
            return
        try:
            origin = headers.get("Origin")
        except MultipleValuesError:
            raise HandshakeRefusedError(400, "More than one Origin header.") from None
        if origin is not None and self._origins.fullmatch(origin.lower()) is None:
            raise HandshakeRefusedError(403, "This origin is not allowed.")


def _check_upgrade(headers: Headers) -> None:
    try:
        connection = [o for v in headers.get_all("Connection") for o in parse_connection(v)]
        upgrade = [u for v in headers.get_all("Upgrade") for u in parse_upgrade(v)]
    except InvalidHandshake as exc:
        raise HandshakeRefusedError(400, f"Malformed handshake: {exc}.") from exc
    if "upgrade" not in {option.lower() for option in connection} or "websocket" not in {
        protocol.lower() for protocol in upgrade
    }:
        raise HandshakeRefusedError(
            426,
            f"This is an MQTT over WebSocket endpoint; the request has no Upgrade. {_PROXY_HINT}",
        )


def _check_version(headers: Headers) -> None:
    versions = headers.get_all("Sec-WebSocket-Version")
    if versions != ["13"]:
        raise HandshakeRefusedError(426, "Sec-WebSocket-Version must be 13.")


def _choose_subprotocol(headers: Headers) -> str:
    """Return the first supported one, as the client spelled it [MQTT-6.0.0-4]."""
    try:
        offered = [
            s for v in headers.get_all("Sec-WebSocket-Protocol") for s in parse_subprotocol(v)
        ]
    except InvalidHandshake as exc:
        raise HandshakeRefusedError(400, f"Malformed handshake: {exc}.") from exc
    for subprotocol in offered:
        if subprotocol.lower() in SUBPROTOCOLS:
            return _ONE_OBJECT.get(subprotocol, subprotocol)
    if offered:
        known = ", ".join(sorted(SUBPROTOCOLS))
        raise HandshakeRefusedError(
            400, f"No offered subprotocol is supported. Supported: {known}."
        )
    return ""


def head_size(data: bytes) -> int:
    """Return the length of the request head with its empty line; 0 while it is incomplete."""
    match = _HEAD_END.search(data)
    return match.end() if match else 0


def answer_handshake(head: bytes, policy: HandshakePolicy) -> HandshakeResult:
    """Answer a complete request head.

    Never raises for what a peer sent: a refusal is a `HandshakeResult` with an error status.
    """
    library = _Library(logger=_LIBRARY_LOG)
    try:
        return _answer(library, head, policy)
    finally:
        library.close_parser()


def _answer(library: _Library, head: bytes, policy: HandshakePolicy) -> HandshakeResult:
    library.receive_data(head)
    events = library.events_received()
    if not events or not isinstance(events[0], Request):
        if isinstance(library.handshake_exc, _TOO_LARGE):
            return http_error(431, "The request head is too large.")
        return http_error(400, "This is not a WebSocket handshake request.")
    request = events[0]
    try:
        subprotocol = policy.check(request)
    except HandshakeRefusedError as exc:
        return http_error(exc.status, exc.message)
    response = library.accept(request)
    if response.status_code != 101:
        status = response.status_code if response.status_code < 500 else 400
        message = response.body.decode(errors="replace").partition("\n")[0]
        return http_error(status, message)
    return HandshakeResult(
        101,
        response.serialize(),
        subprotocol=subprotocol,
        forwarded_for=tuple(request.headers.get_all("X-Forwarded-For")),
    )


_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
}


def http_error(status: int, message: str) -> HandshakeResult:
    """Return an HTTP error whose body is ``message``, for the person who debugs the client."""
    body = message.encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Error')}",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
    ]
    if status == 405:
        lines.append("Allow: GET")
    if status == 426:
        lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    return HandshakeResult(status, "\r\n".join([*lines, "", ""]).encode() + body, message)


_SHORT_HEADERS: Final = tuple(bytes((0x82, size)) for size in range(126))


def binary_frame_header(size: int) -> bytes:
    """Return the header of an unfragmented, unmasked binary frame of ``size`` bytes of payload."""
    if size < 126:
        return _SHORT_HEADERS[size]
    if size < 65_536:
        return b"\x82\x7e" + size.to_bytes(2, "big")
    return b"\x82\x7f" + size.to_bytes(8, "big")


_KNOWN_OPCODES: Final = frozenset({0, 1, 2, 8, 9, 10})


class _Library(ServerProtocol):
    """The library's protocol; it chooses the same subprotocol as `_choose_subprotocol`."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((each for each in subprotocols if each.lower() in SUBPROTOCOLS), None)

    def close_parser(self) -> None:
        """Break the reference cycle through the parser, so that no garbage collection is needed."""
        self.parser.close()


class WebSocketFrames:
    """The frames of one open connection, server side.

    Call `receive` with what the transport read; afterwards take `received` (payloads of binary
    frames, in order) and `outgoing` (bytes to write), each None when there are none, and look at
    `is_closed`. Data frames of any kind but binary end the connection with 1003 [MQTT-6.0.0-1];
    frame boundaries mean nothing to the byte stream [MQTT-6.0.0-2].
    """

    __slots__ = (
        "_buffer",
        "_library",
        "_max_frame_bytes",
        "_needed",
        "close_code",
        "has_failed",
        "is_closed",
        "is_closing",
        "outgoing",
        "received",
    )

    #: Whether text frames and empty messages are accepted; true in an echo server of the tests.
    accepts_text = False

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer: bytearray | None = None
        self._needed = 0
        #: Exists only while something other than whole binary frames is received.
        self._library: _Library | None = None
        self.received: list[bytes] | None = None
        self.outgoing: list[bytes] | None = None
        #: A close frame was sent.
        self.is_closing = False
        #: Nothing more may be sent or will be read: the transport is to be closed.
        self.is_closed = False
        #: The peer broke a rule.
        self.has_failed = False
        #: Ours if we ended it, the peer's if the peer did; 0 while open.
        self.close_code = 0

    def receive(self, data: bytes) -> None:
        """Read what has arrived, complete frames or not."""
        buffer = self._buffer
        if buffer is not None:
            buffer += data
            if len(buffer) < self._needed:
                return
            data = bytes(buffer)
            self._buffer = None
        position, end = 0, len(data)
        while position < end and not self.is_closed:
            if end - position < 2:
                self._buffer_rest(data, position, 2)
                return
            second = data[position + 1]
            size = second & 0x7F
            start = position + 6
            if size > 125:
                width = 2 if size == 126 else 8
                start += width
                if end - position < 2 + width:
                    self._buffer_rest(data, position, 2 + width)
                    return
                size = int.from_bytes(data[position + 2 : position + 2 + width], "big")
            first = data[position]
            if second < 0x80 or size > self._max_frame_bytes or not self._accepts(first):
                self._refuse(data[position:], first, second, size)
                return
            stop = start + size
            if stop > end:
                self._buffer_rest(data, position, stop - position)
                return
            if first == 0x82 and self._library is None:
                if size or self.accepts_text:
                    self._add_received(apply_mask(data[start:stop], data[start - 4 : start]))
            elif first == 0x8A and size < 126 and self._library is None:
                pass  # a pong: the answer to our ping, or unsolicited; both are ignored
            else:
                if first == 0x88 and not self.is_closing:
                    # A peer may close in the middle of a message (RFC 6455 §5.4, control frames
                    # between fragments); a library that has not seen its beginning accepts that.
                    self.drop_library()
                self._feed_library(data[position:stop])
            position = stop

    def _add_received(self, payload: bytes) -> None:
        if self.received is None:
            self.received = [payload]
        else:
            self.received.append(payload)

    def _add_outgoing(self, chunk: bytes) -> None:
        if self.outgoing is None:
            self.outgoing = [chunk]
        else:
            self.outgoing.append(chunk)

    @property
    def unfinished_bytes(self) -> int:
        """What has come of a frame that is not complete yet."""
        return len(self._buffer) if self._buffer is not None else 0

    def _buffer_rest(self, data: bytes, position: int, needed: int) -> None:
        self._buffer = bytearray(data[position:] if position else data)
        self._needed = needed

    def _accepts(self, first: int) -> bool:
        opcode = first & 0x0F
        return opcode in _KNOWN_OPCODES and (opcode != Opcode.TEXT or self.accepts_text)

    def _open_library(self) -> _Library:
        library = self._library
        if library is None:
            # Sizes are checked before it receives a frame; it does not check text for UTF-8.
            library = _Library(state=OPEN, max_size=None, logger=_LIBRARY_LOG)
            self._library = library
        return library

    def _feed_library(self, frame: bytes) -> None:
        library = self._open_library()
        library.receive_data(frame)
        for event in library.events_received():
            if isinstance(event, Frame):
                self._receive_frame(event)
        self._collect(library)
        if library.current_size is None and not self.is_closing:
            self.drop_library()

    def _receive_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.BINARY, Opcode.CONT):
            if frame.data:
                self._add_received(bytes(frame.data))
        elif frame.opcode == Opcode.CLOSE and not self.close_code:
            library = self._open_library()
            self.close_code = library.close_rcvd.code if library.close_rcvd else 1005

    def drop_library(self) -> None:
        """Drop the library: only whole binary frames are expected from now on, or nothing."""
        if self._library is not None:
            self._library.close_parser()
            self._library = None

    def _collect(self, library: ServerProtocol) -> None:
        for chunk in library.data_to_send():
            if chunk:
                self._add_outgoing(chunk)
            else:
                self.is_closed = True
        if library.parser_exc is not None:
            self.has_failed = True
        if library.close_sent is not None:
            self.is_closing = True
            if not self.close_code:
                self.close_code = library.close_sent.code

    def _refuse(self, data: bytes, first: int, second: int, size: int) -> None:
        """End the connection for a frame whose header already breaks a rule."""
        if second < 0x80 or first & 0x0F not in _KNOWN_OPCODES:
            self._feed_library(data[:2])
        elif size > self._max_frame_bytes:
            self.fail(CLOSE_TOO_BIG, f"frame larger than {self._max_frame_bytes} bytes")
        else:
            self.fail(CLOSE_UNSUPPORTED_DATA, "MQTT requires binary frames")

    def fail(self, code: int, reason: str) -> None:
        """End the connection at once, with a close frame that has ``code`` and ``reason``."""
        self.has_failed = True
        library = self._open_library()
        library.fail(code, reason)
        self._collect(library)

    def close(self, code: int) -> None:
        """Begin the closing handshake; it ends when the peer's close frame is received."""
        if self.is_closing or self.is_closed:
            return
        library = self._open_library()
        library.send_close(code)
        self._collect(library)

    def ping(self) -> None:
        """Put an empty ping into `outgoing`."""
        self._add_outgoing(b"\x89\x00")
