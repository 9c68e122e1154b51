"""Servers that end while somebody is connecting: no socket is left open."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from support.closing import close_server


@pytest.mark.parametrize("turns", range(5))
async def test_a_connection_that_is_just_accepted_is_not_lost(turns: int) -> None:
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        await close_server(server)
        # Served, or never accepted.
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(loop.sock_recv(client, 1), 10) == b""
    assert not faults
