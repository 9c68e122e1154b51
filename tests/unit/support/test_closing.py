"""Servers that end while somebody is connecting, connections that are reset while they end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest

from support.certificates import Certificates
from support.closing import close_server, reset


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


async def test_a_tls_connection_that_is_just_being_lost_can_be_reset(
    certificates: Certificates,
) -> None:
    lost: list[Exception | None] = []

    class Client(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer.transport)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    trust = ssl.create_default_context(cafile=certificates.authority.certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            Client, *server.sockets[0].getsockname(), ssl=trust, server_hostname="localhost"
        )
        async with asyncio.timeout(10):
            while transport.get_extra_info("socket") is not None:
                await asyncio.sleep(0)
        assert not lost, "too late to show it"
        reset(transport)
        async with asyncio.timeout(10):
            while not lost:
                await asyncio.sleep(0)
    finally:
        await close_server(server)
