"""WebSocket channels over sockets, as clients and proxies use them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from support.certificates import Authority
from support.recording_handler import until
from support.running_listeners import Running, running
from tidegate.edge.transport.accepted_connection import Refusal

BIG = b"\x30" + bytes(range(256)) * 2048
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n"
)
MQTT = [Subprotocol("mqtt")]


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def client(server: Running, path: str = "/mqtt", **options: Any) -> Any:
    address = server.listeners.addresses[server.state.label][0]
    scheme = "wss" if "ssl" in options else "ws"
    options.setdefault("subprotocols", MQTT)
    return websocket_connect(f"{scheme}://{address}{path}", max_size=None, **options)


async def raw(server: Running, *extra: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent its request (and more) and read the answer's head."""
    reader, writer = await server.connect()
    writer.write(REQUEST + b"\r\n" + b"".join(extra))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def test_bytes_go_both_ways_and_the_peer_is_known() -> None:
    async with running({"protocol": "ws"}) as server, client(server, "/mqtt?a=b") as socket:
        assert socket.subprotocol == "mqtt"
        await socket.send(b"\x10hello")
        assert await socket.recv() == b"\x10hello"
        peer = server.handlers[0].channel.peer
        assert (peer.transport, peer.websocket_subprotocol) == ("ws", "mqtt")


async def test_secure_websocket(tmp_path: Any) -> None:
    import ssl

    authority = Authority(tmp_path)
    pair = authority.server("localhost")
    tls = {"certificates": [{"certificate": pair.certificate, "key": pair.key}]}
    context = ssl.create_default_context(cafile=str(authority.certificate))
    async with (
        running({"protocol": "wss", "tls": tls}) as server,
        client(server, ssl=context, server_hostname="localhost") as socket,
    ):
        await socket.send(BIG)
        assert await socket.recv() == BIG
        peer = server.handlers[0].channel.peer
        assert (peer.transport, peer.tls.server_name) == ("wss", "localhost")


async def test_every_packet_is_one_frame_and_all_are_one_write() -> None:
    async with running({"protocol": "ws"}, echo=False) as server:
        reader, _ = await raw(server)
        await until(lambda: server.handlers)
        server.handlers[0].channel.write([b"one", b"two" * 50, b"x" * 70_000])
        expected = b"\x82\x03one" + b"\x82\x7e\x00\x96" + b"two" * 50
        expected += b"\x82\x7f" + (70_000).to_bytes(8, "big") + b"x" * 70_000
        assert await reader.readexactly(len(expected)) == expected


@pytest.mark.statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
async def test_a_packet_over_several_frames_and_several_packets_in_one() -> None:
    async with running({"protocol": "ws"}, echo=False) as server:
        _, writer = await raw(server)
        wire = (
            frame(2, b"\x10") + frame(2, b"rest", fin=False) + frame(9, b"") + frame(0, b" of it")
        )
        for byte in wire:
            writer.write(bytes([byte]))
            await writer.drain()
        await until(lambda: server.handlers and server.handlers[0].data == b"\x10rest of it")


async def test_data_sent_along_with_the_handshake_is_kept() -> None:
    async with running({"protocol": "ws"}) as server:
        reader, _ = await raw(server, frame(2, b"\x10early"), frame(2, b"later")[:5])
        assert await reader.readexactly(8) == b"\x82\x06\x10early"


async def test_a_request_in_pieces() -> None:
    async with running({"protocol": "ws"}) as server:
        reader, writer = await server.connect()
        for byte in REQUEST + b"\r\n" + frame(2, b"x"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(3) == b"\x82\x01x"


@pytest.mark.parametrize(
    ("path", "options", "status", "reason", "words"),
    [
        ("/nope", {}, 404, Refusal.WEBSOCKET_404, "WebSocket paths"),
        ("/mqtt", {"origin": "https://evil.net"}, 403, Refusal.WEBSOCKET_403, "origin"),
        ("/mqtt", {"subprotocols": ["chat"]}, 400, Refusal.WEBSOCKET_400, "mqttv3.1"),
    ],
)
async def test_refusals_are_http_answers_and_counted(
    path: str, options: dict[str, Any], status: int, reason: Refusal, words: str
) -> None:
    config = {"protocol": "ws", "allowed_origins": ["https://*.example.com"]}
    async with running(config) as server:
        with pytest.raises(InvalidStatus) as caught:
            await client(server, path, **options)
        assert caught.value.response.status_code == status
        assert words in caught.value.response.body.decode()
        assert server.refused(reason) == 1
        await until(lambda: server.open_connections() == 0)


async def test_an_http_1_0_upstream_gets_a_hint_for_its_configuration() -> None:
    async with running({"protocol": "ws"}) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /mqtt HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\nand a body")
        answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"proxy_http_version 1.1" in answer
        assert server.refused(Refusal.WEBSOCKET_400) == 1


async def test_a_request_that_is_too_long_is_refused() -> None:
    async with running({"protocol": "ws"}) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 431 ")
        assert server.refused(Refusal.WEBSOCKET_431) == 1


async def test_a_request_that_takes_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.edge.transport.handshake.UPGRADE_TIMEOUT_S", 0.05)
    async with running({"protocol": "ws"}) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /mqtt HTTP/1.1\r\n")
        assert await reader.read(-1) == b""
        assert server.refused(Refusal.TIMEOUT) == 1


async def closed_with(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    return socket.close_code or 0


@pytest.mark.statement("MQTT-6.0.0-1", "MQTT311-6.0.0-1")
async def test_a_text_frame_closes_with_1003() -> None:
    async with running({"protocol": "ws"}, echo=False) as server, client(server) as socket:
        await socket.send("text")
        assert await closed_with(socket) == 1003
        await until(lambda: server.handlers[0].lost == ["websocket_error"])


async def test_a_frame_over_the_limit_closes_with_1009() -> None:
    async with (
        running({"protocol": "ws"}, echo=False, max_packet_size_bytes=1000) as server,
        client(server) as socket,
    ):
        await socket.send(bytes(2_000_000))
        assert await closed_with(socket) == 1009
        await until(lambda: server.handlers[0].lost == ["websocket_error"])


async def test_an_unmasked_frame_closes_with_1002() -> None:
    async with running({"protocol": "ws"}, echo=False) as server:
        reader, writer = await raw(server)
        writer.write(b"\x82\x01x")
        answer = await reader.read(-1)
        assert answer[0] == 0x88
        assert answer[2:4] == (1002).to_bytes(2, "big")
        writer.close()
        await until(lambda: server.handlers[0].lost == ["websocket_error"])


async def test_pings_are_answered_between_fragments() -> None:
    async with running({"protocol": "ws"}, echo=False) as server:
        reader, writer = await raw(server)
        writer.write(frame(2, b"a", fin=False) + frame(9, b"are you there") + frame(0, b"b"))
        assert await reader.readexactly(15) == b"\x8a\x0dare you there"
        await until(lambda: server.handlers[0].data == b"ab")


async def test_an_idle_connection_is_pinged_and_a_busy_one_is_not() -> None:
    async with running({"protocol": "ws", "websocket_ping_s": 0.1}, echo=False) as server:
        reader, writer = await raw(server)
        _, _busy = await raw(server)
        assert await reader.readexactly(2) == b"\x89\x00"
        writer.write(frame(10, b""))
        assert await reader.readexactly(2) == b"\x89\x00"
        assert not server.handlers[0].lost


async def test_pings_can_be_off() -> None:
    async with running(
        {"protocol": "ws", "websocket_ping_s": 0, "name": "off"},
        {"protocol": "ws", "websocket_ping_s": 0.05, "name": "on"},
    ) as server:
        quiet, _ = await raw(server)
        reader, writer = await server.connect("on")
        writer.write(REQUEST + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(4) == b"\x89\x00" * 2
        server.handlers[0].channel.write([b"x"])
        assert await quiet.readexactly(3) == b"\x82\x01x"


async def test_the_peers_close_is_answered() -> None:
    async with running({"protocol": "ws"}) as server:
        async with client(server) as socket:
            await socket.send(b"x")
            assert await socket.recv() == b"x"
            await socket.close(1001, "leaving")
            assert socket.close_code == 1001
        await until(lambda: server.handlers[0].lost == ["peer_closed"])


async def test_our_close_flushes_and_says_why() -> None:
    async with running({"protocol": "ws"}, echo=False) as server, client(server) as socket:
        await until(lambda: server.handlers)
        channel = server.handlers[0].channel
        channel.write([b"last words"])
        channel.close(1008)
        channel.write([b"too late"])
        assert await socket.recv() == b"last words"
        assert await closed_with(socket) == 1008
        await until(lambda: server.handlers[0].lost == ["local_close"])


async def test_listeners_that_close_say_going_away() -> None:
    async with running({"protocol": "ws"}) as server, client(server) as socket:
        closing = asyncio.create_task(server.listeners.close(5.0))
        assert await closed_with(socket) == 1001
        await closing


async def test_a_peer_that_never_answers_our_close_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.edge.transport.listener.LINGER_TIMEOUT_S", 0.05)
    async with running({"protocol": "ws"}, echo=False) as server:
        await raw(server)
        await until(lambda: server.handlers)
        server.handlers[0].channel.close()
        await until(lambda: server.handlers[0].lost == ["local_close"])


async def test_nothing_is_delivered_while_paused_and_nothing_is_lost() -> None:
    async with running({"protocol": "ws"}, echo=False) as server:
        server.handlers.on_made = lambda handler: handler.channel.pause_reading()
        _, writer = await raw(server, frame(2, b"early"))
        writer.write(frame(2, BIG))
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        await asyncio.sleep(0)
        assert handler.data == b""
        handler.channel.resume_reading()
        await until(lambda: len(handler.data) == 5 + len(BIG))
        assert handler.data == b"early" + BIG
        handler.channel.pause_reading()
        writer.write(frame(2, b"late"))
        await asyncio.sleep(0)
        handler.channel.resume_reading()
        await until(lambda: handler.data.endswith(b"late"))


async def test_a_slow_peer_pauses_and_resumes_the_handler() -> None:
    config = {"protocol": "ws", "write_high_water_bytes": 65_536}
    async with running(config, echo=False) as server:
        reader, writer = await raw(server)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        sent = 0
        while not handler.write_pauses:
            handler.channel.write([BIG])
            sent += len(BIG) + 10
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await reader.readexactly(sent)) == sent
        await until(lambda: handler.write_pauses == [True, False])


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [(["127.0.0.1"], ("203.0.113.7", 4711)), (["10.0.0.0/8"], None), ([], None)],
)
async def test_forwarded_addresses_count_from_trusted_proxies_only(
    trusted: list[str], expected: tuple[str, int] | None
) -> None:
    config = {"protocol": "ws", "trusted_proxies": trusted}
    async with running(config) as server:
        headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7:4711"}
        async with client(server, additional_headers=headers):
            await until(lambda: server.handlers)
            peer = server.handlers[0].channel.peer
        assert (peer.address, peer.port) == (expected or ("127.0.0.1", peer.port))
