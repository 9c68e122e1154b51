"""The other end of a connection of ``tidegate.link.http2``, played by h2; bytes, no sockets.

A test sends what the peer would send, in whatever pieces, and looks at the frames that come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tidegate.link.http2 import frames
from tidegate.link.http2.client import ClientConnection
from tidegate.link.http2.connection import Connection
from tidegate.link.http2.frames import HEADER, HEADER_BYTES, MESSAGE, PREFACE
from tidegate.link.http2.method import Method
from tidegate.link.http2.server import Listener, ServerConnection
from tidegate.link.http2.stream import Stream
from tidegate.runtime.telemetry.counters import Counters

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test/Echo"),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class Frame(NamedTuple):
    """A frame that was sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def split(data: bytes) -> list[Frame]:
    """Return the frames in what was sent; it has whole ones only."""
    found = []
    data = data.removeprefix(PREFACE)
    while data:
        high, low, kind, flags, stream = HEADER.unpack_from(data)
        end = HEADER_BYTES + (high << 16 | low)
        assert len(data) >= end
        found.append(Frame(kind, flags, stream, data[HEADER_BYTES:end]))
        data = data[end:]
    return found


def message(payload: bytes, *, compressed: int = 0) -> bytes:
    """Return a gRPC message."""
    return MESSAGE.pack(compressed, len(payload)) + payload


class Wire(asyncio.Transport):
    """What a connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_closed = self.is_aborted = False
        self.unsent_bytes = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Accept anything."""

    def get_write_buffer_size(self) -> int:
        """Return what the test says."""
        return self.unsent_bytes

    def write(self, data: Any) -> None:
        """Keep it."""
        self.sent += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Keep them."""
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def abort(self) -> None:
        """Note it."""
        self.is_closed = self.is_aborted = True


class Peer:
    """See the module's docstring."""

    def __init__(self, connection: Connection, *, is_client: bool) -> None:
        self.connection = connection
        self.wire = Wire()
        self.h2 = H2Connection(H2Configuration(client_side=is_client))
        self.h2.initiate_connection()
        self._seen = 0
        connection.connection_made(self.wire)
        self.frames()

    @classmethod
    def of_server(cls, listener: Listener) -> Peer:
        """Return a client of a new connection of a listener."""
        peer = cls.silent(listener)
        peer.flush()
        return peer

    @classmethod
    def silent(cls, listener: Listener) -> Peer:
        """Return the same before it has sent anything."""
        return cls(ServerConnection(asyncio.get_running_loop(), listener), is_client=True)

    @classmethod
    def of_client(cls) -> Peer:
        """Return the server of a new connection that an edge has made."""
        peer = cls(ClientConnection(asyncio.get_running_loop()), is_client=False)
        peer.h2.receive_data(bytes(peer.wire.sent))
        peer.flush()
        return peer

    def frames(self) -> list[Frame]:
        """Return the frames that the connection has sent since the last call."""
        new = bytes(self.wire.sent[self._seen :])
        self._seen = len(self.wire.sent)
        return split(new)

    def send(self, data: bytes, piece: int = 65_536) -> None:
        """Have the connection receive bytes, a piece at a time."""
        for begin in range(0, len(data), piece):
            if self.wire.is_closed:
                return
            part = data[begin : begin + piece]
            buffer = self.connection.get_buffer(-1)
            buffer[: len(part)] = part
            self.connection.buffer_updated(len(part))

    def flush(self) -> None:
        """Send what h2 has to send."""
        self.send(self.h2.data_to_send())

    def request(self, headers: list[tuple[bytes, bytes]] | None = None, stream: int = 1) -> None:
        """Begin a call."""
        self.h2.send_headers(stream, headers or REQUEST)
        self.flush()

    def set(self, setting: SettingCodes, value: int) -> None:
        """Change a setting."""
        self.h2.update_settings({setting: value})
        self.flush()

    def lose(self) -> None:
        """End the connection."""
        self.wire.is_closed = True
        self.connection.connection_lost(None)


class Bytes(bytes):
    """Stands for a message of protobuf."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return itself."""
        return bytes(self)


class Calls:
    """A listener with one method, whose calls the test plays."""

    def __init__(self, limit_bytes: int = 1 << 24) -> None:
        self.streams: list[Stream[bytes, Bytes]] = []
        self.got: list[bytes] = []
        self.ended: list[BaseException | None] = []
        self.play: Callable[[Stream[bytes, Bytes]], Awaitable[None]] = self.collect
        self.listener = Listener(
            {"/test/Echo": Method(bytes, self._serve, limit_bytes)}, Counters()
        )

    async def _serve(self, stream: Stream[Any, Any]) -> None:
        self.streams.append(stream)
        try:
            await self.play(stream)
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)

    async def collect(self, stream: Stream[bytes, Bytes]) -> None:
        """Take all messages."""
        await stream.receive(self.got.append)


async def called(calls: Calls) -> Peer:
    """Return a peer with one call under way."""
    peer = Peer.of_server(calls.listener)
    peer.request()
    await turns()
    peer.frames()
    return peer


async def turns() -> None:
    """Let tasks go on that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def data(payload: bytes, flags: int = 0, stream: int = 1) -> bytes:
    """Return a DATA frame."""
    return frames.frame(frames.DATA, flags, stream, payload)


def code_of_goaway(peer: Peer) -> ErrorCodes:
    """Return the error that the connection was closed with."""
    found = [one for one in peer.frames() if one.kind == frames.GOAWAY]
    assert peer.wire.is_closed
    assert len(found) == 1
    return ErrorCodes(frames.read_goaway(found[0].payload)[1])


def call_of(peer: Peer) -> Stream[bytes, Bytes]:
    """Have the edge begin a call."""
    assert isinstance(peer.connection, ClientConnection)
    stream: Stream[bytes, Bytes] = peer.connection.request("/test/Echo", "http", "test", bytes)
    peer.h2.receive_data(b"".join(frames.frame(*one) for one in peer.frames()))
    return stream
