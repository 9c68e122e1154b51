"""The proxy that cuts processes off from each other: bytes, silence, resets.

Inputs: connections through it to an echo server. Observed: what comes back, and how it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from support.faulting_proxy import End, FaultingProxy
from support.virtual_time import VirtualLoop, in_virtual_time
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

    async def ask_directly(self) -> None:
        """Let a byte go to and fro without the proxy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"x")
        await reader.readexactly(1)
        writer.close()

    async def connect_and_read(self) -> bytes:
        """Open a connection and wait for a byte that nobody sends."""
        reader, _ = await self.connect()
        return await reader.readexactly(1)


class Way:
    """Both ends of a connection through a proxy, without sockets, in virtual time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.began_s = self.loop.time()
        self.proxy = FaultingProxy(lambda: None)
        #: When it came to the far end, and what.
        self.arrived: list[tuple[float, bytes]] = []
        self.near, far = self._end(), self._end()
        self.near.join(far)

    def _end(self) -> End:
        transport: Any = SimpleNamespace(
            get_extra_info=lambda _: SimpleNamespace(setsockopt=lambda *_: None),
            set_write_buffer_limits=lambda _: None,
            is_closing=lambda: False,
            resume_reading=lambda: None,
            write=lambda data: self.arrived.append((self.loop.time(), data)),
        )
        end = End(self.proxy)
        end.connection_made(transport)
        return end


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
    answers = [asyncio.create_task(stream.readexactly(1)) for stream in (reader, fresh)]
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):  # time enough for an answer
            await path.ask_directly()
        assert not any(answer.done() for answer in answers)
        assert path.proxy.forwarded_bytes == before
        path.proxy.heal()
        assert await asyncio.gather(*answers) == [b"a", b"b"]
    writer.close()
    other.close()


@in_virtual_time
async def test_a_delay_keeps_the_order() -> None:
    way = Way()
    way.proxy.delay_s = 0.25
    for number in range(5):
        way.near.data_received(b"%d" % number)
        await asyncio.sleep(0.125)
    await asyncio.sleep(0.25)
    sent_s = [way.began_s + number * 0.125 for number in range(5)]
    assert way.arrived == [(when + 0.25, b"%d" % number) for number, when in enumerate(sent_s)]


@in_virtual_time
async def test_a_delay_that_becomes_shorter_does_not_change_what_is_on_its_way() -> None:
    way = Way()
    way.proxy.delay_s = 0.5
    way.near.data_received(b"first")
    way.proxy.delay_s = 0.125
    way.near.data_received(b"later")
    await asyncio.sleep(1)
    assert way.arrived == [(way.began_s + 0.5, b"first"), (way.began_s + 0.5, b"later")]


@in_virtual_time
async def test_a_late_timer_does_not_change_the_order() -> None:
    """The machine is busy when a delay ends: what came later is there before the timer is."""
    way = Way()
    way.proxy.delay_s = 0.25
    way.near.data_received(b"first")
    way.proxy.delay_s = 0.0
    way.loop.block(0.5)
    way.near.data_received(b"later")
    await asyncio.sleep(0.01)
    assert way.arrived == [(way.began_s + 0.5, b"first"), (way.began_s + 0.5, b"later")]


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
