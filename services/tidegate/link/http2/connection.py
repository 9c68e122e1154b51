"""One connection of HTTP/2, as an asyncio protocol; what client and server have in common.

``h2`` has the connection: preface, SETTINGS, HEADERS and HPACK, PING, RST_STREAM, the states of
streams, and the error for everything that is out of order. DATA, WINDOW_UPDATE and GOAWAY are read
and made here: flow control is ours alone, and a DATA frame of an established stream costs no more
than finding the message in it. (``h2`` sees an empty DATA frame where one ends a stream, or belongs
to none.) ``client`` and ``server`` add what they do with headers.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RemoteSettingsChanged, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from tidegate.link.http2 import frames
from tidegate.link.http2.frames import DATA, HEADER, HEADER_BYTES
from tidegate.link.http2.stream import Stream
from tidegate.link.http2.tls import ALPN

log = logging.getLogger(__name__)

#: What a peer may send on one stream, and on all together, before it is given more.
WINDOW_BYTES: Final = 4_194_304
CONNECTION_WINDOW_BYTES: Final = 16_777_216
#: The longest DATA frame, and the longest of all others.
FRAME_BYTES: Final = 262_144
CONTROL_FRAME_BYTES: Final = 65_536
HEADER_LIST_BYTES: Final = 16_384
#: Streams at the same time: an edge has one, a health check another one.
MAX_STREAMS: Final = 16
#: Read from the socket at once.
READ_BYTES: Final = 65_536
#: Unsent bytes from which on writers wait.
HIGH_WATER_BYTES: Final = 262_144
#: … and with which the connection of a peer is closed that asks and does not read the answers.
MAX_UNSENT_BYTES: Final = HIGH_WATER_BYTES + 1_048_576
#: How long a connection that is closed may take to send what it has.
CLOSE_S: Final = 1.0


class ConnectionFailed(Exception):
    """The peer has broken a rule of the protocol."""

    def __init__(self, code: ErrorCodes, text: str) -> None:
        super().__init__(text)
        self.code = code


class Connection(asyncio.BufferedProtocol):
    """See the module's docstring.

    ``room`` is what may be sent on all streams, ``peer_window_bytes`` the room of a new stream,
    ``frame_bytes`` the longest frame that the peer accepts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_client: bool) -> None:
        self.loop = loop
        self.room = frames.INITIAL_WINDOW_BYTES
        self.peer_window_bytes = frames.INITIAL_WINDOW_BYTES
        self.window_bytes = WINDOW_BYTES
        self.frame_bytes = frames.INITIAL_FRAME_BYTES
        #: Whether writers have to wait for the socket.
        self.is_paused = False
        #: Whether something has arrived since it was set to False.
        self.heard = False
        #: Streams by number, and those of them on which the peer may still send.
        self.streams: dict[int, Stream[Any, Any]] = {}
        self._receiving: dict[int, Stream[Any, Any]] = {}
        self._h2 = _connection(is_client=is_client)
        self._is_client = is_client
        self._window = CONNECTION_WINDOW_BYTES
        self._view = memoryview(bytearray(READ_BYTES))
        self._rest = b""
        self._preface_left = 0 if is_client else len(frames.PREFACE)
        #: Whether the other end has begun HTTP/2.
        self.has_settings = False
        self._in_headers = False
        #: Of a DATA frame that has arrived in part: its stream, and how much is missing.
        self._partial: Stream[Any, Any] | None = None
        self._partial_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._closing: asyncio.TimerHandle | None = None
        #: Give bytes, or several pieces of them, to the socket.
        self.write: Callable[[bytes], object] = _discard
        self.write_pieces: Callable[[Sequence[bytes | memoryview]], object] = _discard
        self.is_closed = False
        #: Why it is closed.
        self.reason = ""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send settings; close a TLS connection that has not agreed upon HTTP/2."""
        # Never an isinstance check: uvloop's transports of TLS are none of asyncio's classes.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        self.write = transport.write
        self.write_pieces = transport.writelines
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            self.abort("the peer does not offer HTTP/2 over TLS (ALPN)")
            return
        self._h2.initiate_connection()
        more = CONNECTION_WINDOW_BYTES - frames.INITIAL_WINDOW_BYTES
        transport.write(self._h2.data_to_send() + frames.window_update(0, more))

    def connection_lost(self, error: Exception | None) -> None:
        """End all streams."""
        self._end(str(error) if error else "connection closed")
        if self._closing is not None:
            self._closing.cancel()

    def pause_writing(self) -> None:
        """The socket takes nothing more."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.is_paused = False
        for stream in self.streams.values():
            stream.wake_writer()

    def get_buffer(self, _size_hint: int) -> memoryview:
        """Return where to read to."""
        return self._view  # asyncio's TLS slices it, so it cannot be a bytearray

    def buffer_updated(self, count: int) -> None:
        """Handle what was read."""
        if self.is_closed:
            return
        self.heard = True
        data = self._view[:count]
        if self._rest:
            data = memoryview(self._rest + data)
            self._rest = b""
        try:
            self._read(data)
        except ConnectionFailed as error:
            self.close(error.code, str(error))
        except ProtocolError as error:
            self._flush()  # it has a GOAWAY
            self._close(str(error))
        except Exception:  # a fault of ours, or of h2's, in one connection
            log.exception("connection of the link failed")
            self.close(ErrorCodes.INTERNAL_ERROR, "internal error")

    # Frames that arrive

    def _read(self, data: memoryview) -> None:
        at, end = 0, len(data)
        if self._preface_left:
            at = min(self._preface_left, end)
            self._h2.receive_data(bytes(data[:at]))
            self._preface_left -= at
        if self._partial_bytes:
            at = min(self._partial_bytes, end)
            self._partial_bytes -= at
            assert self._partial is not None
            self._feed(self._partial, data, 0, at)
        receiving = self._receiving
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, number = HEADER.unpack_from(data, at)
            size = high << 16 | low
            begin = at + HEADER_BYTES
            after = begin + size
            if kind == DATA and not flags and number in receiving and not self._in_headers:
                stream = receiving[number]
                self._take_window(stream, size)
                if after > end:
                    self._partial, self._partial_bytes = stream, after - end
                    self._feed(stream, data, begin, end)
                    return
                self._feed(stream, data, begin, after)
            else:
                if size > (FRAME_BYTES if kind == DATA else CONTROL_FRAME_BYTES):
                    raise ConnectionFailed(ErrorCodes.FRAME_SIZE_ERROR, "frame is too long")
                if after > end:
                    break
                self._on_frame(kind, flags, number & frames.STREAM_MASK, bytes(data[at:after]))
                if self.is_closed:
                    return
            at = after
        if at < end:
            self._rest = bytes(data[at:])

    def _take_window(self, stream: Stream[Any, Any] | None, size: int) -> None:
        if size > FRAME_BYTES:
            raise ConnectionFailed(ErrorCodes.FRAME_SIZE_ERROR, "frame is too long")
        self._window -= size
        if stream is not None:
            stream.window -= size
        if self._window < 0 or (stream is not None and stream.window < 0):
            raise ConnectionFailed(ErrorCodes.FLOW_CONTROL_ERROR, "window exceeded")

    def _feed(self, stream: Stream[Any, Any], data: memoryview, begin: int, stop: int) -> None:
        stream.feed(data, begin, stop)
        if stream.window < WINDOW_BYTES // 2 or self._window < CONNECTION_WINDOW_BYTES // 2:
            self.return_window(stream)

    def return_window(self, stream: Stream[Any, Any] | None) -> None:
        """Have the peer send more, after half of a window."""
        update = b""
        if self._window < CONNECTION_WINDOW_BYTES // 2:
            update = frames.window_update(0, CONNECTION_WINDOW_BYTES - self._window)
            self._window = CONNECTION_WINDOW_BYTES
        if (
            stream is not None
            and stream.window < WINDOW_BYTES // 2
            and not stream.has_unread
            and stream.number in self._receiving
        ):
            update += frames.window_update(stream.number, WINDOW_BYTES - stream.window)
            stream.window = WINDOW_BYTES
        if update:
            self._send(update)

    def _on_frame(self, kind: int, flags: int, number: int, frame: bytes) -> None:
        """Handle a whole frame that is not simply more of a stream."""
        if not self.has_settings:
            if kind != frames.SETTINGS:
                raise ConnectionFailed(ErrorCodes.PROTOCOL_ERROR, "SETTINGS must be sent first")
            self.has_settings = True
        if self._in_headers or kind not in {DATA, frames.WINDOW_UPDATE, frames.GOAWAY}:
            if kind in {frames.HEADERS, frames.CONTINUATION}:
                self._in_headers = not flags & frames.END_HEADERS
            self._on_events(self._h2.receive_data(frame))
        elif kind == DATA:
            self._on_data(flags, number, frame)
        else:
            try:
                if kind == frames.GOAWAY:
                    self._on_goaway(*frames.read_goaway(frame[HEADER_BYTES:]))
                else:
                    self._on_window(number, frames.read_window_update(frame[HEADER_BYTES:]))
            except struct.error:
                raise ConnectionFailed(ErrorCodes.FRAME_SIZE_ERROR, "frame too short") from None

    def _on_data(self, flags: int, number: int, frame: bytes) -> None:
        """Handle DATA that is padded, ends its stream, or belongs to none."""
        begin, stop = HEADER_BYTES, len(frame)
        stream = self._receiving.get(number)
        self._take_window(stream, stop - begin)
        if flags & frames.PADDED:
            if begin == stop or frame[begin] >= stop - begin:
                raise ConnectionFailed(ErrorCodes.PROTOCOL_ERROR, "padding is too long")
            stop -= frame[begin]
            begin += 1
        if stream is not None:
            self._feed(stream, memoryview(frame), begin, stop)
            if not flags & frames.END_STREAM:
                return
        else:
            self.return_window(None)
        ends = flags & frames.END_STREAM
        self._on_events(self._h2.receive_data(frames.frame(DATA, ends, number, b"")))

    def _on_window(self, number: int, increment: int) -> None:
        if not increment:
            raise ConnectionFailed(ErrorCodes.PROTOCOL_ERROR, "window incremented by 0")
        if not number:
            self.room += increment
            room = self.room
            for stream in self.streams.values():
                stream.wake_writer()
        else:
            found = self.streams.get(number)
            if found is None:
                if self._is_idle(number):
                    raise ConnectionFailed(ErrorCodes.PROTOCOL_ERROR, "no such stream")
                return
            found.room += increment
            room = found.room
            found.wake_writer()
        if room > frames.MAX_WINDOW_BYTES:
            raise ConnectionFailed(ErrorCodes.FLOW_CONTROL_ERROR, "window is too large")

    def _is_idle(self, number: int) -> bool:
        """Whether a stream with this number has not begun yet."""
        if (number % 2 == 1) is self._is_client:
            return number >= self._h2.get_next_available_stream_id()
        return number > self._h2.highest_inbound_stream_id

    def _on_goaway(self, last_stream: int, code: int) -> None:
        """The peer begins no more streams; those that it has go on to their end."""
        log.debug("peer of the link closes its connection", extra={"code": code})
        if self._is_client:
            for stream in [one for one in self.streams.values() if one.number > last_stream]:
                self.forget(stream)
                stream.fail("router accepts no more streams")

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StreamEnded):
                self._on_end(event.stream_id)
            elif isinstance(event, StreamReset):
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    self.forget(stream)
                    stream.fail(f"stream was reset: {_name_of(event.error_code)}")
            elif isinstance(event, RemoteSettingsChanged):
                self._on_settings(event)
            else:
                self.on_headers(event)
        self._flush()

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        changed = event.changed_settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if changed is not None:
            more = changed.new_value - self.peer_window_bytes
            self.peer_window_bytes = changed.new_value
            for stream in self.streams.values():
                stream.room += more
                if stream.room > frames.MAX_WINDOW_BYTES:
                    raise ConnectionFailed(ErrorCodes.FLOW_CONTROL_ERROR, "window is too large")
                stream.wake_writer()
        self.frame_bytes = self._h2.max_outbound_frame_size

    def _on_end(self, number: int) -> None:
        stream = self._receiving.pop(number, None)
        if stream is not None:
            stream.end_of_peer()
            self.on_end(stream)

    # What client and server add

    def on_headers(self, event: Event) -> None:
        """Handle an event of h2 that brings headers."""

    def on_end(self, stream: Stream[Any, Any]) -> None:
        """The peer sends nothing more on a stream."""

    # Streams

    def begin(self, stream: Stream[Any, Any]) -> None:
        """Have a stream get what arrives for it."""
        self.streams[stream.number] = stream
        if not stream.peer_ended:
            self._receiving[stream.number] = stream

    def forget(self, stream: Stream[Any, Any]) -> None:
        """A stream has ended: what still arrives for it is ignored."""
        self.streams.pop(stream.number, None)
        self._receiving.pop(stream.number, None)

    def send_headers(
        self, number: int, headers: list[tuple[bytes, bytes]], *, ends: bool = False
    ) -> None:
        """Send headers, or trailers."""
        if not self.is_closed:
            self._h2.send_headers(number, headers, end_stream=ends)
            self._flush()

    def reset(self, number: int, code: ErrorCodes) -> None:
        """Send RST_STREAM, unless the stream has ended."""
        if not self.is_closed:
            try:
                self._h2.reset_stream(number, code)
            except ProtocolError:
                return
            self._flush()

    # The end

    def ping(self) -> None:
        """Have the peer send something."""
        if not self.is_closed:
            self._h2.ping(b"tidegate")
            self._flush()

    def close(self, code: ErrorCodes, text: str) -> None:
        """Send GOAWAY and what is unsent, then close."""
        if not self.is_closed:
            self._send(frames.goaway(self._h2.highest_inbound_stream_id, code, text))
            self._close(text)

    def abort(self, text: str) -> None:
        """Close at once."""
        self._end(text)
        if self._transport is not None:
            self._transport.abort()

    def _close(self, text: str) -> None:
        self._end(text)
        if self._transport is not None:
            self._transport.close()
            self._closing = self.loop.call_later(CLOSE_S, self._transport.abort)

    def _end(self, text: str) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.reason = text
        self.write = self.write_pieces = _discard
        streams = list(self.streams.values())
        self.streams.clear()
        self._receiving.clear()
        for stream in streams:
            stream.fail(text)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Send what does not wait for room."""
        self.write(data)
        transport = self._transport
        if self.is_paused and transport is not None:
            if transport.get_write_buffer_size() <= MAX_UNSENT_BYTES:
                return
            self.abort("the peer does not read")


def _connection(*, is_client: bool) -> H2Connection:
    made = H2Connection(H2Configuration(client_side=is_client, header_encoding=None))
    settings = {
        SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
        SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
        SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
    }
    if is_client:
        settings[SettingCodes.ENABLE_PUSH] = 0
    made.local_settings = Settings(client=is_client, initial_values=settings)
    made.max_inbound_frame_size = FRAME_BYTES
    made.decoder.max_header_list_size = HEADER_LIST_BYTES
    return made


def _name_of(code: ErrorCodes | int) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)


def _discard(_data: object) -> None:
    pass
