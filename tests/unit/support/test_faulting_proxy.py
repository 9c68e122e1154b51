"""The proxy that cuts processes off from each other: bytes, silence, resets.

Inputs: connections through it to an echo server. Observed: what comes back, and how it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from support.faulting_proxy import FaultingProxy
from support.waiting import wait_for_async

DEADLINE_S = 10


@dataclass(slots=True)
class Path:
    """A proxy, and the port it forwards to (0: nobody there)."""

    proxy: FaultingProxy
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection through the proxy."""
        host, _, port = self.proxy.address.partition(":")
        return await asyncio.open_connection(host, int(port))

    async def connect_and_read(self) -> bytes:
        """Open a connection and wait for a byte that nobody sends."""
        reader, _ = await self.connect()
        return await reader.readexactly(1)


@pytest.fixture
async def path() -> AsyncIterator[Path]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = Path(FaultingProxy(lambda: None), server.sockets[0].getsockname()[1])
    made.proxy = FaultingProxy(lambda: ("127.0.0.1", made.port) if made.port else None)
    await made.proxy.start()
    yield made
    await made.proxy.stop()
    server.close()
    await server.wait_closed()


async def test_passes_bytes_both_ways(path: Path) -> None:
    reader, writer = await path.connect()
    sent = bytes(range(256)) * 20_000
    writer.write(sent)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_a_cut_resets_old_and_new_connections(path: Path) -> None:
    reader, writer = await path.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    path.proxy.cut()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await path.connect_and_read()
        path.proxy.heal()
        again, other = await path.connect()
        other.write(b"y")
        assert await again.readexactly(1) == b"y"
    writer.close()
    other.close()


async def test_a_black_hole_says_nothing_until_it_heals(path: Path) -> None:
    reader, writer = await path.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    path.proxy.blackhole()
    before = path.proxy.forwarded_bytes
    fresh, other = await path.connect()
    writer.write(b"a")
    other.write(b"b")
    for stream in (reader, fresh):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.readexactly(1)
    assert path.proxy.forwarded_bytes == before
    path.proxy.heal()
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readexactly(1) == b"a"
        assert await fresh.readexactly(1) == b"b"
    writer.close()
    other.close()


async def test_a_delay_keeps_the_order(path: Path) -> None:
    reader, writer = await path.connect()
    path.proxy.delay_s = 0.02
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in range(20):
        writer.write(b"%02d" % number)
        await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readexactly(40) == b"".join(b"%02d" % n for n in range(20))
    assert loop.time() - started >= 0.04
    writer.close()


async def test_a_late_timer_does_not_change_the_order(path: Path) -> None:
    """The machine is busy when a delay ends: what came later is there before the timer is."""
    reader, writer = await path.connect()
    path.proxy.delay_s = 0.3
    loop = asyncio.get_running_loop()
    writer.write(b"first")
    await wait_for_async(
        lambda: any(end.is_delaying for end in path.proxy.ends), DEADLINE_S, "it is on its way"
    )
    due_s = loop.time() + path.proxy.delay_s
    path.proxy.delay_s = 0.0
    writer.write(b"later")
    while loop.time() <= due_s:  # nothing of the loop runs meanwhile
        pass
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readexactly(10) == b"firstlater"
    writer.close()


async def test_the_end_of_one_side_ends_the_other(path: Path) -> None:
    _, writer = await path.connect()
    await wait_for_async(lambda: len(path.proxy.ends) == 2, DEADLINE_S, "both ends")
    writer.close()
    await wait_for_async(lambda: not path.proxy.ends, DEADLINE_S, "no ends")


async def test_nobody_behind_it_is_a_reset(path: Path) -> None:
    path.port = 0
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await path.connect_and_read()
