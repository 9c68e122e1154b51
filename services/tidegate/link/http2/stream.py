"""One gRPC call on a connection: messages in both directions, carried by DATA frames.

Made by ``connection``'s two kinds, for a request that is sent or has arrived. Owns what has arrived
and is not read, a message that has arrived in part, and the stream's windows. All frames but DATA
are the connection's. A ``FrameStream``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError

from tidegate.link.frame_stream import StreamFailed
from tidegate.link.http2.frames import (
    DATA,
    DATA_WITH_MESSAGE,
    HEADER,
    MESSAGE,
    MESSAGE_HEADER_BYTES,
)
from tidegate.link.http2.status import CallRefused, Status


class StreamConnection(Protocol):
    """What a stream uses of its connection (see ``connection``)."""

    loop: asyncio.AbstractEventLoop
    room: int
    peer_window_bytes: int
    window_bytes: int
    frame_bytes: int
    is_paused: bool
    write: Callable[[bytes], object]
    write_pieces: Callable[[Sequence[bytes | memoryview]], object]

    def return_window(self, stream: Stream[Any, Any] | None) -> None:
        """Have the peer send more, after half of a window."""


class Message(Protocol):
    """A message of protobuf."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return it as bytes."""


I = TypeVar("I")  # noqa: E741 - what comes in
O = TypeVar("O", bound=Message)  # noqa: E741 - what goes out

#: The longest piece of a message that is given to the transport at once.
PIECE_BYTES: Final = 262_144


class Stream(Generic[I, O]):
    """See the module's docstring.

    ``room`` is what may be sent before the peer gives more, ``window`` what the peer may send.
    """

    __slots__ = (
        "_connection",
        "_limit_bytes",
        "_loop",
        "_parse",
        "_part",
        "_part_bytes",
        "_reader",
        "_sink",
        "_unread",
        "_write_failure",
        "_writer",
        "failure",
        "number",
        "on_failed",
        "peer_ended",
        "room",
        "window",
    )

    def __init__(
        self,
        connection: StreamConnection,
        number: int,
        parse: Callable[[bytes | memoryview], I],
        limit_bytes: int,
    ) -> None:
        """``limit_bytes``: the longest message that is accepted."""
        self.number = number
        self.room = connection.peer_window_bytes
        self.window = connection.window_bytes
        self.peer_ended = False
        self.failure: Exception | None = None
        self._write_failure: Exception | None = None
        #: Called when the connection has ended the stream before its end.
        self.on_failed: Callable[[], object] = _nothing
        self._connection = connection
        self._loop = connection.loop
        self._parse = parse
        self._limit_bytes = limit_bytes
        self._sink: Callable[[I], None] | None = None
        self._unread: deque[bytes] = deque()
        self._part = bytearray()
        #: Size of the message that ``_part`` is the beginning of; 0: its header is not complete.
        self._part_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # Called by the connection

    @property
    def has_unread(self) -> bool:
        """Whether messages wait for ``read``: the peer gets no more window meanwhile."""
        return bool(self._unread)

    def feed(self, data: memoryview, begin: int, stop: int) -> None:
        """Handle content of DATA frames: parts of messages, at any place divided."""
        if self._part:
            self._gather(data, begin, stop)
            return
        while stop - begin >= MESSAGE_HEADER_BYTES and self.failure is None:
            after = begin + self._size(data, begin)
            if after > stop:
                self._part_bytes = after - begin
                break
            if self.failure is None:
                self._take(data[begin + MESSAGE_HEADER_BYTES : after])
            begin = after
        if begin < stop and self.failure is None:
            self._part += data[begin:stop]

    def _gather(self, data: memoryview, begin: int, stop: int) -> None:
        part = self._part
        part += data[begin:stop]
        if not self._part_bytes:
            if len(part) < MESSAGE_HEADER_BYTES:
                return
            self._part_bytes = self._size(part, 0)
        size = self._part_bytes
        if len(part) < size or self.failure is not None:
            return
        self._part = bytearray()
        self._part_bytes = 0
        whole = memoryview(part)
        self._take(whole[MESSAGE_HEADER_BYTES:size])
        if len(part) > size:
            self.feed(whole, size, len(part))

    def _size(self, data: memoryview | bytearray, begin: int) -> int:
        """Return the size of the message that begins here, header included."""
        is_compressed, size = MESSAGE.unpack_from(data, begin)
        if is_compressed:
            self._break(CallRefused(Status.UNIMPLEMENTED, "compression is not supported"))
        elif size > self._limit_bytes:
            text = f"message of {size} bytes, more than {self._limit_bytes}"
            self._break(CallRefused(Status.RESOURCE_EXHAUSTED, text))
        return MESSAGE_HEADER_BYTES + int(size)

    def _take(self, message: memoryview) -> None:
        sink = self._sink
        if sink is None:
            self._unread.append(bytes(message))
            self._wake_reader()
            return
        try:
            sink(self._parse(message))
        except DecodeError:
            self._break(_unreadable())
        except Exception as error:  # it is raised by ``receive``
            self._break(error)

    def end_of_peer(self) -> None:
        """The peer sends nothing more."""
        if self._part:
            self.fail("stream ended within a message")
        self.peer_ended = True
        self._wake_reader()

    def fail(self, reason: str) -> None:
        """The connection has ended the stream."""
        if self.failure is None:
            self._break(StreamFailed(reason))
            self.on_failed()

    def _break(self, error: Exception) -> None:
        """Take and send nothing more; whoever reads or writes gets the error."""
        self.failure = self._write_failure = error
        self._sink = None
        self._part = bytearray()
        self._wake_reader()
        self.wake_writer()

    def end_writing(self, reason: str) -> None:
        """Nothing can be sent any more."""
        if self._write_failure is None:
            self._write_failure = StreamFailed(reason)
            self.wake_writer()

    def _wake_reader(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def wake_writer(self) -> None:
        """There may be room."""
        writer = self._writer
        if writer is not None and not writer.done():
            writer.set_result(None)

    # FrameStream

    async def read(self) -> I | None:
        """See FrameStream."""
        while not self._unread:
            if self.failure is not None:
                raise self.failure
            if self.peer_ended:
                return None
            self._reader = self._loop.create_future()
            await self._reader
        return self._next()

    def _next(self) -> I:
        message = self._unread.popleft()
        if not self._unread:
            self._connection.return_window(self)
        try:
            return self._parse(message)
        except DecodeError:
            raise _unreadable() from None

    async def receive(self, sink: Callable[[I], None]) -> None:
        """See FrameStream."""
        while self._unread:
            sink(self._next())
        self._sink = sink
        try:
            while self.failure is None and not self.peer_ended:
                self._reader = self._loop.create_future()
                await self._reader
        finally:
            self._sink = None
        if self.failure is not None:
            raise self.failure

    async def write(self, frame: O) -> None:
        """See FrameStream."""
        if self._write_failure is not None:
            raise self._write_failure
        message = frame.SerializeToString()
        message_bytes = len(message)
        size = message_bytes + MESSAGE_HEADER_BYTES
        connection = self._connection
        if (
            size <= self.room
            and size <= connection.room
            and size <= connection.frame_bytes
            and not connection.is_paused
        ):
            self.room -= size
            connection.room -= size
            header = DATA_WITH_MESSAGE.pack(
                size >> 16, size & 0xFFFF, DATA, 0, self.number, 0, message_bytes
            )
            connection.write(header + message)
            return
        await self._write_pieces(MESSAGE.pack(0, message_bytes), memoryview(message))

    async def _write_pieces(self, prefix: bytes, left: memoryview) -> None:
        """Send a message in as many DATA frames as it takes, as there is room."""
        connection = self._connection
        while prefix or left:
            size = min(self.room, connection.room, connection.frame_bytes, PIECE_BYTES)
            size = min(size, len(prefix) + len(left))
            if size <= 0 or connection.is_paused:
                self._writer = self._loop.create_future()
                await self._writer
                if self._write_failure is not None:
                    raise self._write_failure
                continue
            self.room -= size
            connection.room -= size
            header = HEADER.pack(size >> 16, size & 0xFFFF, DATA, 0, self.number) + prefix[:size]
            taken = max(size - len(prefix), 0)
            prefix = prefix[size:]
            connection.write_pieces((header, left[:taken]))
            left = left[taken:]


def _unreadable() -> CallRefused:
    return CallRefused(Status.INTERNAL, "message cannot be parsed")


def _nothing() -> None:
    pass
