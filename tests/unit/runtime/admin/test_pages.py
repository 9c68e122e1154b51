"""Pages of other rooms at the admin server: permission, bodies, answers that go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest

from support.waiting import wait_for_async
from tidegate.runtime.admin.control import Control
from tidegate.runtime.admin.http import Request, Response, text_response
from tidegate.runtime.admin.server import AdminServer

DEADLINE_S = 5
MOST_BYTES = 100_000
TOKEN = "secret-token-of-this-test"  # it is none


class Pages:
    """A page that takes a body, and one that goes on until it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def size(self, request: Request) -> Response:
        return text_response(HTTPStatus.OK, str(len(await request.body(MOST_BYTES))))

    async def stream(self, request: Request) -> Response:
        return Response(HTTPStatus.OK, "text/plain", b"begin\n", stream=self._lines())

    async def _lines(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"line\n"
                await asyncio.sleep(0.01)
        finally:
            self.closed.set()


@pytest.fixture
async def pages() -> Pages:
    return Pages()


@pytest.fixture
async def server(pages: Pages, tmp_path: Path) -> AsyncIterator[AdminServer]:
    (tmp_path / "token").write_text(TOKEN)
    server = AdminServer(
        "127.0.0.1",
        0,
        ready=lambda: (True, "ready"),
        metrics=lambda: b"",
        control=Control(dict, handlers={"/size": pages.size, "/stream": pages.stream}),
        token_file=tmp_path / "token",
        timeout_s=0.5,
    )
    await server.start()
    yield server
    await server.stop()


def request(path: str, body: bytes = b"", token: str = TOKEN) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send(server: AdminServer, data: bytes) -> tuple[int, bytes]:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(-1)
        writer.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize("size", [0, 10, MOST_BYTES])
async def test_a_page_reads_its_body(server: AdminServer, size: int) -> None:
    assert await send(server, request("/size", bytes(size))) == (200, b"%d\n" % size)


async def test_a_body_is_read_for_pages_that_take_it_and_callers_that_may(
    server: AdminServer,
) -> None:
    announced = request("/size", b"")[:-5] + b"%d\r\n\r\n" % (MOST_BYTES + 1)
    assert (await send(server, announced))[0] == 413
    assert (await send(server, announced.replace(b"/size", b"/status")))[0] == 413
    assert (await send(server, announced.replace(TOKEN.encode(), b"wrong")))[0] == 401


async def test_an_answer_goes_on_until_its_reader_leaves(server: AdminServer, pages: Pages) -> None:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("/stream"))
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readline() == b"begin\n"
        for _ in range(100):  # longer than the timeout of a request
            assert await reader.readline() == b"line\n"
        writer.close()
        await pages.closed.wait()
    await wait_for_async(lambda: not server._http.connection_count, DEADLINE_S, "its place is free")


async def test_stopping_ends_an_answer_that_goes_on(server: AdminServer, pages: Pages) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("/stream"))
    await reader.readuntil(b"line\n")
    await server.stop()
    assert pages.closed.is_set()
    writer.close()
