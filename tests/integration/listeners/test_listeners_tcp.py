"""Plain TCP: bytes, backpressure, ends."""

from __future__ import annotations

from support.recording_handler import until
from support.running_listeners import running


async def test_tcp_bytes_go_both_ways() -> None:
    async with running({"protocol": "tcp"}) as server:
        reader, writer = await server.connect()
        writer.write(b"\x10hello")
        assert await reader.readexactly(6) == b"\x10hello"
        writer.close()
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].lost == ["peer_closed"]
