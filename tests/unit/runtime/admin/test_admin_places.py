"""Places of the admin server: who loses one when all are taken, and who keeps it.

A probe of Kubernetes waits one second and comes on a new connection each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import pytest

from support.waiting import wait_for_async
from tidegate.runtime.admin.http import (
    MAX_CONNECTIONS,
    Handler,
    HttpServer,
    Request,
    Response,
    text_response,
)

DEADLINE_S = 30
PROBE = b"GET /livez HTTP/1.1\r\n\r\n"
#: More than what sockets of both sides buffer.
LARGE = bytes(16 * 1024 * 1024)


class _Peer:
    """A connection to the server that sends what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def is_dropped(self) -> bool:
        """Whether the server has dropped it without a response."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    async def status(self) -> int:
        """The status of the response."""
        return int((await self.reader.readline()).split()[1])


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class _Served:
    """A server with its peers; all of it is closed in the end."""

    def __init__(self, http: HttpServer, stack: contextlib.AsyncExitStack) -> None:
        self.http = http
        self._stack = stack

    async def connect(self, request: bytes, address: str = "127.0.0.1") -> _Peer:
        before = self.http.connection_count, self.http.dropped_count
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.http.port, local_addr=(address, 0), limit=1024
        )
        self._stack.push_async_callback(_abort, writer)
        writer.write(request)
        await wait_for_async(
            lambda: (self.http.connection_count, self.http.dropped_count) != before,
            DEADLINE_S,
            "it has a place",
        )
        return _Peer(reader, writer)

    async def fill(self, request: bytes, address: str = "127.0.0.1") -> list[_Peer]:
        """Take all places."""
        return [await self.connect(request, address) for _ in range(MAX_CONNECTIONS)]

    async def probe(self, address: str = "127.0.0.1") -> int:
        """The status that a probe gets."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.http.port, local_addr=(address, 0)
            )
            self._stack.push_async_callback(_abort, writer)
            writer.write(PROBE)
            return await _Peer(reader, writer).status()


@contextlib.asynccontextmanager
async def _serving(handler: Handler, timeout_s: float = 60) -> AsyncIterator[_Served]:
    http = HttpServer("127.0.0.1", 0, handler, timeout_s)
    await http.start()
    async with asyncio.timeout(DEADLINE_S), contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(http.stop)
        yield _Served(http, stack)


async def _answer(_request: Request) -> Response:
    return text_response(HTTPStatus.OK, "alive")


def _unless_probe(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        return await (_answer if request.path == "/livez" else handler)(request)

    return answer


@pytest.mark.parametrize(
    "half",
    [b"", b"GET /livez HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "header", "body"],
)
async def test_the_oldest_unfinished_request_loses_its_place(half: bytes) -> None:
    """Dropping the newest, as before, drops the probe."""
    async with _serving(_answer) as served:
        held = await served.fill(half)
        assert await served.probe() == 200
        assert await held[0].is_dropped()
        assert served.http.dropped_count == 1
        held[1].writer.write(b"\r\n\r\n" if b"POST" not in half else b"12345")
        if half:
            assert await held[1].status() == 200, "the second has kept its place"


async def test_the_address_with_most_unfinished_requests_loses_a_place() -> None:
    """An oldest one whose address has few is a slow link, not a flood."""
    async with _serving(_answer) as served:
        slow = await served.connect(PROBE[:10])
        held = await served.fill(b"GET", "127.0.0.2")
        assert await held[0].is_dropped()
        slow.writer.write(PROBE[10:])
        assert await slow.status() == 200


async def test_a_whole_request_keeps_its_place() -> None:
    """While its handler works, newer connections take places of others, or none."""
    release = asyncio.Event()

    async def wait(_request: Request) -> Response:
        await release.wait()
        return text_response(HTTPStatus.OK, "done")

    async with _serving(_unless_probe(wait)) as served:
        asked = [await served.connect(b"GET /drain HTTP/1.1\r\n\r\n", "127.0.0.2")]
        asked += [
            await served.connect(b"GET /drain HTTP/1.1\r\n\r\n") for _ in range(MAX_CONNECTIONS - 2)
        ]
        half = await served.connect(b"GET")
        await wait_for_async(
            lambda: (
                [one.stage.name for one in served.http._connections].count("HANDLER") == len(asked)
            ),
            DEADLINE_S,
            "all requests are being answered",
        )
        assert await served.probe() == 200
        assert await half.is_dropped()
        await served.connect(b"GET /drain HTTP/1.1\r\n\r\n")
        await wait_for_async(
            lambda: all(one.stage.name == "HANDLER" for one in served.http._connections),
            DEADLINE_S,
            "all places are in use",
        )
        refused = await served.connect(PROBE)
        assert await refused.is_dropped()
        release.set()
        assert [await peer.status() for peer in asked] == [200] * len(asked)


async def test_a_response_that_is_not_read_loses_its_place() -> None:
    """One that is being read counts as newer than a half request."""

    async def large(_request: Request) -> Response:
        return Response(HTTPStatus.OK, "text/plain", LARGE)

    async with _serving(_unless_probe(large)) as served:
        slow = await served.fill(b"GET /metrics HTTP/1.1\r\n\r\n")
        await wait_for_async(
            lambda: all(one.stage.name == "RESPONSE_READ" for one in served.http._connections),
            DEADLINE_S,
            "all responses have begun",
        )
        first = next(iter(served.http._connections))
        assert await served.probe() == 200
        assert first not in served.http._connections
        half = await served.connect(b"GET")
        await served.connect(b"GET")
        await wait_for_async(
            lambda: served.http.connection_count == MAX_CONNECTIONS, DEADLINE_S, "full again"
        )
        assert await served.probe() == 200
        assert await half.is_dropped()
        assert not slow[1].reader.at_eof()


async def _slow_header(served: _Served) -> _Peer:
    return await served.connect(b"GET")


async def _slow_reader(served: _Served) -> _Peer:
    return await served.connect(b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("connect", [_slow_header, _slow_reader])
async def test_a_place_is_held_for_a_bounded_time(
    connect: Callable[[_Served], Awaitable[_Peer]],
) -> None:
    """From accept to the whole request, and from there to the response's end."""

    async def large(_request: Request) -> Response:
        return Response(HTTPStatus.OK, "text/plain", LARGE)

    async with _serving(large, timeout_s=0.1) as served:
        peer = await connect(served)
        await wait_for_async(lambda: not served.http.connection_count, DEADLINE_S, "it is dropped")
        assert not peer.writer.is_closing()
        assert served.http.dropped_count == 0


async def test_a_flood_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with _serving(_answer) as served:
        await served.fill(b"GET")
        for _ in range(5):
            await served.connect(b"GET")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["admin server: too many connections, unfinished ones dropped"]
