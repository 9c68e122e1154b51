"""The stream of an edge to one router, on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from h2.errors import ErrorCodes
from h2.events import Event, ResponseReceived, TrailersReceived

from tidegate.link.frame_stream import StreamFailed
from tidegate.link.http2.connection import CLOSE_S, Connection
from tidegate.link.http2.status import problem_in
from tidegate.link.http2.stream import Stream
from tidegate.link.http2.tls import client_context
from tidegate.runtime.config.model import LinkTlsConfig

#: The longest message that is accepted, of either end: many times the largest MQTT packet.
MAX_MESSAGE_BYTES: Final = 1 << 30
#: The number of a client's first stream, which is the only one.
_STREAM: Final = 1


class ClientConnection(Connection):
    """A connection with one stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, is_client=True)

    def request(
        self,
        path: str,
        scheme: str,
        authority: str,
        parse: Callable[[bytes | memoryview], Any],
    ) -> Stream[Any, Any]:
        """Begin a call. Raises StreamFailed."""
        if self.is_closed:
            raise StreamFailed(self.reason)
        stream: Stream[Any, Any] = Stream(self, _STREAM, parse, MAX_MESSAGE_BYTES)
        headers = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"tidegate"),
        ]
        self.send_headers(_STREAM, headers)
        self.begin(stream)
        return stream

    def on_headers(self, event: Event) -> None:
        """See Connection: the response, and how the call has ended."""
        if not isinstance(event, ResponseReceived | TrailersReceived):
            return
        stream = self.streams.get(event.stream_id or 0)
        if stream is None:
            return
        headers = dict(event.headers)
        status = headers.get(b":status", b"200")
        problem = "" if status == b"200" else f"HTTP status {status.decode('ascii', 'replace')}"
        if not problem and event.stream_ended is not None:
            problem = problem_in(headers)
        if problem:
            self.forget(stream)
            stream.fail(problem)
            self.reset(stream.number, ErrorCodes.CANCEL)

    def on_end(self, stream: Stream[Any, Any]) -> None:
        """See Connection: a call ends with the response."""
        self.forget(stream)
        stream.end_writing("router has ended the stream")


@contextlib.asynccontextmanager
async def open_stream(
    address: str,
    path: str,
    parse: Callable[[bytes | memoryview], Any],
    tls: LinkTlsConfig,
    timeout_s: float,
) -> AsyncIterator[Stream[Any, Any]]:
    """Connect to HOST:PORT or unix:PATH and begin a call, which ends with the block.

    Raises OSError or StreamFailed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _connect(address, tls)
    except TimeoutError:
        raise StreamFailed("no connection in time") from None
    try:
        scheme = "http" if tls.ca is None else "https"
        stream = connection.request(path, scheme, tls.server_name, parse)
        yield stream
        connection.reset(stream.number, ErrorCodes.CANCEL)
    finally:
        connection.close(ErrorCodes.NO_ERROR, "")


async def _connect(address: str, tls: LinkTlsConfig) -> ClientConnection:
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    context = client_context(tls)
    if context is not None:
        options = {
            "ssl": context,
            "server_hostname": tls.server_name,
            "ssl_shutdown_timeout": CLOSE_S,
        }

    def make() -> ClientConnection:
        return ClientConnection(loop)

    if address.startswith("unix:"):
        _, connection = await loop.create_unix_connection(
            make, address.removeprefix("unix:"), **options
        )
    else:
        host, _, port = address.rpartition(":")
        _, connection = await loop.create_connection(make, host.strip("[]"), int(port), **options)
    return connection
