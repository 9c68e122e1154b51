"""How many connections one client address may have, wherever the address comes from."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from support.recording_handler import until
from support.running_listeners import Running, running
from tidegate.edge.transport.accepted_connection import Refusal

PROXIES = {"trusted_proxies": ["127.0.0.0/8"]}
REASON = Refusal.MAX_CONNECTIONS_PER_ADDRESS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.server("localhost", file="server")
    return made


def proxied(source: str) -> bytes:
    version, destination = ("TCP6", "::1") if ":" in source else ("TCP4", "127.0.0.1")
    return f"PROXY {version} {source} {destination} 1 2\r\n".encode()


def upgrade(forwarded_for: str) -> bytes:
    return (
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"X-Forwarded-For: {forwarded_for}\r\n\r\n"
    ).encode()


async def is_taken(server: Running, data: bytes = b"", **options: Any) -> bool:
    """Connect, send; return whether a handler gets the connection."""
    handlers, refused = len(server.handlers), server.listeners.refused()
    _reader, writer = await server.connect(**options)
    writer.write(data)
    await until(lambda: len(server.handlers) > handlers or server.listeners.refused() != refused)
    return len(server.handlers) > handlers


async def test_one_address_has_no_more_than_its_number(authority: Authority) -> None:
    pair = {
        "certificate": authority.directory / "server.pem",
        "key": authority.directory / "server.key",
    }
    tls = {"tls": {"certificates": [pair]}}
    listeners: list[dict[str, Any]] = [{"protocol": "tcp", "name": "tcp"}, {"protocol": "ws"}]
    listeners += [{"protocol": "tls", **tls}, {"protocol": "wss", **tls}, {"protocol": "auto"}]
    async with running(*listeners) as server:
        server.listeners.limit_addresses(2, 64)
        await server.connect("tcp")
        await server.connect("auto-0")  # without a byte: handshakes count as well
        await until(lambda: server.open_connections() == 2)
        for label in ("tcp", "tls-0", "ws-0", "wss-0", "auto-0"):
            reader, _writer = await server.connect(label)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert server.listeners.refused()[label, REASON] == 1
        assert await is_taken(server, b"", label="tcp", local_addr=("127.0.0.2", 0))


async def test_a_place_is_free_when_its_connection_has_ended() -> None:
    async with running({"protocol": "tcp"}) as server:
        server.listeners.limit_addresses(1, 64)
        for _ in range(3):
            _reader, writer = await server.connect()
            await until(lambda: server.open_connections() == 1)
            writer.close()
            await until(lambda: server.open_connections() == 0)
        assert server.refused(REASON) == 0


async def test_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    listener = {"protocol": "unix", "address": str(tmp_path / "s"), "port": 0}
    async with running(listener) as server:
        server.listeners.limit_addresses(1, 64)
        assert await is_taken(server)
        assert await is_taken(server)


@pytest.mark.parametrize("protocol", ["tcp", "auto"])
async def test_trusted_proxies_are_looked_through(protocol: str) -> None:
    options = {"protocol": protocol, "proxy_protocol": "required", **PROXIES}
    async with running(options) as server:
        server.listeners.limit_addresses(1, 64)
        # Health checks of the proxy itself, and headers that are not complete.
        for beginning in (b"", b"PROXY", b"PROXY UNKNOWN\r\n"):
            _reader, writer = await server.connect()
            writer.write(beginning)
        await until(lambda: len(server.handlers) == (protocol == "tcp"))
        for source in ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "2001:db8::1"):
            assert await is_taken(server, proxied(source) + b"\x10x")
        for source in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.3", "2001:db8::ffff"):
            assert not await is_taken(server, proxied(source) + b"\x10x")
        assert server.refused(REASON) == 4


async def test_x_forwarded_for_names_the_address() -> None:
    async with running({"protocol": "ws", **PROXIES}) as server:
        server.listeners.limit_addresses(1, 64)
        assert await is_taken(server, upgrade("192.0.2.1"))
        assert await is_taken(server, upgrade("192.0.2.1, 192.0.2.2"))
        assert not await is_taken(server, upgrade("6.6.6.6, 192.0.2.1"))
        assert server.refused(REASON) == 1


async def test_x_forwarded_for_of_others_names_nothing() -> None:
    async with running({"protocol": "ws"}) as server:
        server.listeners.limit_addresses(1, 64)
        assert await is_taken(server, upgrade("192.0.2.1"))
        assert not await is_taken(server, upgrade("192.0.2.2"))


async def test_ipv6_addresses_count_by_their_prefix() -> None:
    async with running({"protocol": "tcp", "proxy_protocol": "required", **PROXIES}) as server:
        server.listeners.limit_addresses(1, 56)
        assert await is_taken(server, proxied("2001:db8:0:100::1"))
        assert not await is_taken(server, proxied("2001:db8:0:1ff::1"))
        assert await is_taken(server, proxied("2001:db8:0:200::1"))
        server.listeners.limit_addresses(1, 128)
        assert await is_taken(server, proxied("2001:db8:0:1ff::1"))
        assert not await is_taken(server, proxied("2001:db8:0:200::1"))


async def test_a_limit_that_is_set_later_counts_what_is_open() -> None:
    async with running({"protocol": "tcp"}) as server:
        _reader, first = await server.connect()
        await server.connect()
        await until(lambda: len(server.handlers) == 2)
        server.listeners.limit_addresses(2, 64)
        assert not await is_taken(server)
        first.close()
        await until(lambda: server.open_connections() == 1)
        assert await is_taken(server)
        server.listeners.limit_addresses(0, 64)
        assert await is_taken(server)
        server.listeners.limit_addresses(4, 64)
        assert await is_taken(server)
        assert not await is_taken(server)


async def test_a_flood_from_one_address_leaves_nothing_counted() -> None:
    async with running({"protocol": "tcp"}) as server:
        server.listeners.limit_addresses(3, 64)
        opened = await asyncio.gather(*(server.connect() for _ in range(50)))
        await until(lambda: server.refused(REASON) == 47)
        for _reader, writer in opened:
            writer.transport.abort()
        await until(lambda: server.open_connections() == 0)
        assert await is_taken(server)
