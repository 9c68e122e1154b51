"""Connections of the link leave the reserve of open files free: who has not begun makes room."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.certificates import Authority
from tidegate.link.http2.client import ClientConnection
from tidegate.link.http2.server import Listener
from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.process.descriptors import DescriptorBudget
from tidegate.runtime.telemetry.counters import Counters

ROOM = 3


class _Budget(DescriptorBudget):
    """There is room for three connections."""

    __slots__ = ()

    def room(self, connections: int) -> int:
        return ROOM


class _Link:
    """A listener with little room, and what connects to it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.listener = Listener({}, self.counters, _Budget())
        self._port = 0
        self._sockets: list[socket.socket] = []

    async def start(self, tls: LinkTlsConfig) -> None:
        address = await self.listener.start("127.0.0.1:0", tls)
        self._port = int(address.rpartition(":")[2])

    async def silent(self) -> socket.socket:
        """Connect, and send nothing."""
        one = socket.socket()
        one.setblocking(False)
        self._sockets.append(one)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self._port))
        return one

    async def edge(self) -> ClientConnection:
        """Connect as an edge does, and return when HTTP/2 has begun."""
        loop = asyncio.get_running_loop()
        begun = self._count_begun()
        _, edge = await loop.create_connection(
            lambda: ClientConnection(loop), "127.0.0.1", self._port
        )
        async with asyncio.timeout(10):
            while not (edge.has_settings and self._count_begun() == begun + 1):
                await asyncio.sleep(0)
        return edge

    def _count_begun(self) -> int:
        return sum(one.has_settings for one in self.listener.connections)

    async def stop(self) -> None:
        for one in self._sockets:
            one.close()
        await self.listener.stop()


async def _is_closed(one: socket.socket) -> bool:
    async with asyncio.timeout(10):
        try:
            while await asyncio.get_running_loop().sock_recv(one, 4096):
                pass
        except ConnectionError:
            pass
        return True


@pytest.fixture
async def link() -> AsyncIterator[_Link]:
    made = _Link()
    yield made
    await made.stop()


async def test_the_oldest_that_has_not_begun_makes_room(
    link: _Link, caplog: pytest.LogCaptureFixture
) -> None:
    await link.start(LinkTlsConfig())
    silent = [await link.silent() for _ in range(ROOM)]
    edges = [await link.edge() for _ in range(2)]
    assert [await _is_closed(one) for one in silent[:2]] == [True, True]
    assert not any(edge.is_closed for edge in edges)
    assert link.counters.link_connections_closed == 2
    assert [record.message for record in caplog.records] == [
        "too many link connections, closing those that have not begun"
    ]
    for edge in edges:
        edge.abort("over")


async def test_edges_that_have_begun_stay_and_the_next_one_is_closed(link: _Link) -> None:
    await link.start(LinkTlsConfig())
    edges = [await link.edge() for _ in range(ROOM)]
    assert await _is_closed(await link.silent())
    assert link.counters.link_connections_closed == 1
    assert not any(edge.is_closed for edge in edges)
    edges.pop().abort("over")
    async with asyncio.timeout(10):
        while len(link.listener.connections) == ROOM:
            await asyncio.sleep(0)
    edges.append(await link.edge())
    for edge in edges:
        edge.abort("over")


async def test_a_tls_handshake_that_does_not_go_on_makes_room(link: _Link, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server("localhost")
    tls = LinkTlsConfig(ca=authority.certificate, certificate=pair.certificate, key=pair.key)
    await link.start(tls)
    silent = [await link.silent() for _ in range(ROOM + 2)]
    assert [await _is_closed(one) for one in silent[:2]] == [True, True]
