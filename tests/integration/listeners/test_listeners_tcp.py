"""Plain TCP and Unix sockets: bytes, backpressure, ends, limits."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from support.closing import reset
from support.recording_handler import RecordingHandler, until
from support.running_listeners import Running, running, unsent_bytes
from tidegate.edge.transport import listener as state_module
from tidegate.edge.transport.accepted_connection import Refusal

BIG = b"\x30" + bytes(range(256)) * 4096


async def slow_reader(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose reader takes nothing unless asked."""
    reader, writer = await server.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: server.handlers)
    return reader, writer


async def test_bytes_go_both_ways() -> None:
    async with running({"protocol": "tcp"}) as server:
        reader, writer = await server.connect()
        writer.write(b"\x10hello")
        assert await reader.readexactly(6) == b"\x10hello"
        writer.close()
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].lost == ["peer_closed"]
        assert server.open_connections() == 0


async def test_the_peer_is_named() -> None:
    async with running({"protocol": "tcp", "name": "devices"}) as server:
        _, writer = await server.connect()
        await until(lambda: server.handlers)
        peer = server.handlers[0].channel.peer
        own = writer.get_extra_info("sockname")
        assert (peer.address, peer.port) == own[:2]
        assert (peer.transport, peer.listener) == ("tcp", "devices")


async def test_several_packets_are_one_write_and_keep_their_order() -> None:
    async with running({"protocol": "tcp"}) as server:
        reader, _ = await server.connect()
        await until(lambda: server.handlers)
        server.handlers[0].channel.write([b"one", b"two", b"three"])
        assert await reader.readexactly(11) == b"onetwothree"


async def test_a_handler_may_write_before_anything_is_read() -> None:
    async with running({"protocol": "tcp"}) as server:
        server.handlers.on_made = lambda handler: handler.channel.write([b"banner"])
        reader, _ = await server.connect()
        assert await reader.readexactly(6) == b"banner"


async def test_nothing_is_delivered_while_paused_and_nothing_is_lost() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        _, writer = await server.connect()
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        handler.channel.pause_reading()
        handler.channel.pause_reading()
        writer.write(BIG)
        await asyncio.sleep(0)
        assert handler.data == b""
        handler.channel.resume_reading()
        handler.channel.resume_reading()
        await until(lambda: len(handler.data) == len(BIG))
        assert handler.data == BIG


async def test_a_handler_may_pause_from_its_constructor() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        server.handlers.on_made = lambda handler: handler.channel.pause_reading()
        _, writer = await server.connect()
        writer.write(b"early")
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        # A second connection proves that the loop has had time to read what the first one sent.
        server.handlers.on_made = None
        _, other = await server.connect()
        other.write(b"x")
        await until(lambda: len(server.handlers) == 2 and server.handlers[1].data)
        assert handler.data == b""
        handler.channel.resume_reading()
        await until(lambda: handler.data == b"early")
        writer.write(b", late")
        await until(lambda: handler.data == b"early, late")


async def test_a_slow_peer_pauses_and_resumes_the_handler() -> None:
    config = {"protocol": "tcp", "write_high_water_bytes": 65_536}
    async with running(config, echo=False) as server:
        reader, writer = await slow_reader(server)
        handler = server.handlers[0]
        sent = 0
        while not handler.write_pauses:
            handler.channel.write([BIG])
            sent += len(BIG)
        assert unsent_bytes(handler) > 65_536
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await reader.readexactly(sent)) == sent
        await until(lambda: handler.write_pauses == [True, False])


async def test_close_sends_what_is_buffered_first() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        reader, writer = await slow_reader(server)
        handler = server.handlers[0]
        handler.channel.write([BIG] * 8)
        handler.channel.close()
        handler.channel.write([b"too late"])
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await reader.read(-1) == BIG * 8
        writer.close()
        await until(lambda: handler.lost)
        assert handler.lost == ["local_close"]


async def test_close_does_not_reset_a_peer_that_is_still_sending() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        reader, writer = await server.connect()
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        writer.write(BIG)
        handler.channel.write([b"goodbye"])
        handler.channel.close()
        writer.write(BIG)
        assert await reader.read(-1) == b"goodbye"
        await writer.drain()
        writer.close()
        await until(lambda: handler.lost)


async def test_a_peer_that_does_not_read_is_dropped_after_the_flush_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_module, "FLUSH_TIMEOUT_S", 0.05)
    async with running({"protocol": "tcp"}, echo=False) as server:
        await slow_reader(server)
        handler = server.handlers[0]
        handler.channel.write([BIG] * 16)
        assert unsent_bytes(handler)
        handler.channel.close()
        await until(lambda: handler.lost)
        assert handler.lost == ["write_timeout"]


async def test_a_peer_that_does_not_close_is_dropped_after_the_linger_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_module, "LINGER_TIMEOUT_S", 0.05)
    async with running({"protocol": "tcp"}, echo=False) as server:
        _reader, _writer = await server.connect()
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        handler.channel.close()
        handler.channel.close()
        await until(lambda: handler.lost)
        assert handler.lost == ["local_close"]


async def test_abort_drops_what_is_buffered() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        await slow_reader(server)
        handler = server.handlers[0]
        handler.channel.write([BIG] * 16)
        handler.channel.abort()
        await until(lambda: handler.lost)
        assert handler.lost == ["aborted"]
        handler.channel.abort()
        handler.channel.close()
        handler.channel.write([b"x"])
        handler.channel.pause_reading()
        handler.channel.resume_reading()
        assert unsent_bytes(handler) == 0
        await asyncio.sleep(0)
        assert handler.lost == ["aborted"]


async def test_a_reset_and_a_close_have_different_reasons() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        _, writer = await server.connect()
        await until(lambda: server.handlers)
        reset(writer.transport)
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].lost == ["reset"]


async def test_a_handler_that_fails_costs_its_own_connection_only() -> None:
    async with running({"protocol": "tcp"}) as server:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, each: failures.append(each))

        def fail(handler: RecordingHandler) -> None:
            def data_received(data: bytes) -> None:
                raise RuntimeError("ours")

            handler.data_received = data_received  # type: ignore[method-assign]

        server.handlers.on_made = fail
        _, writer = await server.connect()
        server.handlers.on_made = None
        writer.write(b"x")
        await until(lambda: server.handlers and server.handlers[0].lost)
        assert server.handlers[0].lost == ["internal_error"]
        assert failures
        reader, writer = await server.connect()
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"


async def test_a_factory_that_fails_costs_its_own_connection_only() -> None:
    async with running({"protocol": "tcp"}) as server:

        def fail(handler: RecordingHandler) -> None:
            raise RuntimeError("ours")

        server.handlers.on_made = fail
        reader, _ = await server.connect()
        assert await reader.read(-1) == b""
        await until(lambda: server.open_connections() == 0)


async def test_too_many_connections_are_closed_and_counted() -> None:
    async with running({"protocol": "tcp", "max_connections": 2}) as server:
        kept = [await server.connect() for _ in range(2)]
        await until(lambda: len(server.handlers) == 2)
        reader, _ = await server.connect()
        assert await reader.read(-1) == b""
        assert server.refused(Refusal.MAX_CONNECTIONS) == 1
        kept[0][1].close()
        await until(lambda: server.open_connections() == 1)
        reader, writer = await server.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"


async def test_the_limit_of_all_listeners_together() -> None:
    configs = [{"protocol": "tcp", "name": "a"}, {"protocol": "tcp", "name": "b"}]
    async with running(*configs, max_connections=1) as server:
        _kept = await server.connect("a")
        await until(lambda: server.handlers)
        reader, _ = await server.connect("b")
        assert await reader.read(-1) == b""
        assert server.listeners.refused() == {("b", Refusal.MAX_CONNECTIONS): 1}


async def test_more_than_the_accept_rate_waits_in_the_kernel() -> None:
    config = {"protocol": "tcp", "accept_rate": 50.0, "accept_burst": 2}
    async with running(config) as server:
        clients = [await server.connect() for _ in range(6)]
        for reader, writer in clients:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert server.state.counters.accept_pauses > 0
        assert server.state.counters.accepted == 6
        assert not server.listeners.refused()


async def test_stop_accepting_keeps_the_connections_that_exist() -> None:
    async with running(
        {"protocol": "tcp"}, {"protocol": "tcp", "accept_rate": 9.0, "name": "r"}
    ) as s:
        reader, writer = await s.connect()
        await until(lambda: s.handlers)
        addresses = [address for each in s.listeners.addresses.values() for address in each]
        await s.listeners.stop_accepting()
        for address in addresses:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address.split(":"))
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"


async def test_close_ends_all_connections_within_its_deadline() -> None:
    async with running({"protocol": "tcp"}, echo=False) as server:
        reader, writer = await server.connect()
        await slow_reader(server)
        await until(lambda: len(server.handlers) == 2)
        server.handlers[1].channel.write([BIG] * 16)
        closing = asyncio.create_task(server.listeners.close(0.2))
        assert await reader.read(-1) == b""
        writer.close()
        await closing
        assert server.open_connections() == 0
        assert server.handlers[0].lost == ["local_close"]
        assert server.handlers[1].lost == ["aborted"]


async def test_star_listens_on_both_families() -> None:
    async with running({"protocol": "tcp", "address": "*"}) as server:
        addresses = server.listeners.addresses[server.state.label]
        for address in addresses:
            host, _, port = address.rpartition(":")
            target = "::1" if host == "[::]" else "127.0.0.1"
            reader, writer = await server.open(target, int(port))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()


async def test_a_start_that_fails_leaves_nothing_open() -> None:
    async with running({"protocol": "tcp"}) as server:
        port = int(server.listeners.addresses[server.state.label][0].rpartition(":")[2])
        with pytest.raises(OSError, match=f"port {port}"):
            async with running({"protocol": "tcp", "name": "x"}, {"name": "y", "port": port}):
                pass


@pytest.mark.parametrize("rate", [0.0, 1000.0])
async def test_unix_socket(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "mqtt.sock"
    config = {"protocol": "unix", "address": str(path), "unix_mode": 0o600, "accept_rate": rate}
    async with running(config) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await server.connect()
        writer.write(b"\x10x")
        assert await reader.readexactly(2) == b"\x10x"
        peer = server.handlers[0].channel.peer
        assert (peer.transport, peer.address, peer.port) == ("unix", "", 0)
        writer.close()
    assert not path.exists()
