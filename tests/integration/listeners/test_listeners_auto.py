"""One port for everything, and what proxies say in front of it."""

from __future__ import annotations

import contextlib
import gc
import ssl
import struct
import weakref
from typing import Any

import pytest

from support.certificates import Authority
from support.recording_handler import until
from support.running_listeners import Running, running
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.proxy_protocol import V2_SIGNATURE

REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
LOCALHOST = ["127.0.0.0/8"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.server("localhost", file="server")
    return made


def auto(authority: Authority, **options: Any) -> dict[str, Any]:
    directory = authority.directory
    pair = {"certificate": directory / "server.pem", "key": directory / "server.key"}
    return {"protocol": "auto", "tls": {"certificates": [pair]}, **options}


def v2(common_name: bytes = b"") -> bytes:
    def tlv(kind: int, value: bytes) -> bytes:
        return struct.pack("!BH", kind, len(value)) + value

    body = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack("!HH", 4711, 443)
    if common_name:
        body += tlv(0x20, b"\x07\x00\x00\x00\x00" + tlv(0x22, common_name))
    return V2_SIGNATURE + b"\x21\x11" + struct.pack("!H", len(body)) + body


LOCAL = V2_SIGNATURE + b"\x20\x00\x00\x00"


class Tunnel:
    """A TLS client on memory buffers, which can send something in front of its handshake."""

    def __init__(self, context: ssl.SSLContext, server: Running) -> None:
        self._server = server
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def open(self, before: bytes, *, size: int = 65_536) -> None:
        self._reader, self._writer = await self._server.connect()
        self._writer.write(before)
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._send(size)
                self._incoming.write(await self._reader.read(65_536))
            else:
                await self._send(size)
                return

    async def _send(self, size: int) -> None:
        data = self._outgoing.read()
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()

    async def exchange(self, data: bytes) -> bytes:
        self.ssl.write(data)
        await self._send(65_536)
        while True:
            try:
                return self.ssl.read(65_536)
            except ssl.SSLWantReadError:
                data = await self._reader.read(65_536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()


def tunnel(authority: Authority, server: Running, alpn: list[str] | None = None) -> Tunnel:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if alpn:
        context.set_alpn_protocols(alpn)
    return Tunnel(context, server)


async def refuses(server: Running, data: bytes, reason: Refusal) -> None:
    reader, writer = await server.connect()
    writer.write(data)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(-1) == b""
    await until(lambda: server.refused(reason) == 1)
    assert not server.handlers


@pytest.mark.parametrize("before", [b"", V1, v2(), LOCAL], ids=["none", "v1", "v2", "local"])
@pytest.mark.parametrize("size", [1, 65_536], ids=["bytewise", "at once"])
async def test_every_protocol_on_one_port(authority: Authority, before: bytes, size: int) -> None:
    config = auto(authority, proxy_protocol="optional", trusted_proxies=LOCALHOST)
    async with running(config) as server:
        reader, writer = await server.connect()
        data = before + b"\x10mqtt"
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
        assert await reader.readexactly(5) == b"\x10mqtt"

        reader, writer = await server.connect()
        data = before + REQUEST + b"\x82\x81\x00\x00\x00\x00x"
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(3) == b"\x82\x01x"

        for alpn in (None, ["mqtt"], ["h2", "mqtt"]):
            secure = tunnel(authority, server, alpn)
            await secure.open(before, size=size)
            assert await secure.exchange(b"\x10tls") == b"\x10tls"
        for alpn in (None, ["http/1.1"], ["h2", "http/1.1"]):
            secure = tunnel(authority, server, alpn)
            await secure.open(before, size=size)
            assert (await secure.exchange(REQUEST)).startswith(b"HTTP/1.1 101 ")

        peers = [handler.channel.peer for handler in server.handlers]
        assert [peer.transport for peer in peers] == ["tcp", "ws"] + ["tls"] * 3 + ["wss"] * 3
        expected = "203.0.113.7" if before in (V1, v2()) else "127.0.0.1"
        assert {peer.address for peer in peers} == {expected}
        if expected != "127.0.0.1":
            assert {peer.port for peer in peers} == {4711}


async def test_alpn_prefers_mqtt(authority: Authority) -> None:
    async with running(auto(authority)) as server:
        secure = tunnel(authority, server, ["http/1.1", "mqtt"])
        await secure.open(b"")
        assert secure.ssl.selected_alpn_protocol() == "mqtt"


async def test_with_alpn_mqtt_the_handler_does_not_wait_for_a_byte(authority: Authority) -> None:
    async with running(auto(authority)) as server:
        await tunnel(authority, server, ["mqtt"]).open(b"")
        await until(lambda: server.handlers)


@pytest.mark.parametrize("data", [b"\x20", b"SSH-2.0-x\r\n", b"PROXY TCP4 1.2.3.4", b"\x00" * 99])
async def test_anything_else_is_closed_and_counted(authority: Authority, data: bytes) -> None:
    async with running(auto(authority)) as server:
        await refuses(server, data, Refusal.NOT_MQTT)


async def test_anything_else_inside_tls_is_closed_and_counted(authority: Authority) -> None:
    async with running(auto(authority)) as server:
        secure = tunnel(authority, server)
        await secure.open(b"")
        with pytest.raises(ssl.SSLError):
            await secure.exchange(b"\x16\x03\x01")
        assert server.refused(Refusal.NOT_MQTT) == 1


@pytest.mark.parametrize("first", [0x10, 0x11, 0x12, 0x18])
async def test_a_connect_of_mqtt_3_1_may_have_flags(first: int) -> None:
    async with running({"protocol": "auto"}) as server:
        _, writer = await server.connect()
        writer.write(bytes((first,)))
        await until(lambda: len(server.handlers) == 1)
        writer.close()


async def test_tls_without_certificates_is_not_taken() -> None:
    async with running({"protocol": "auto"}) as server:
        await refuses(server, b"\x16\x03\x01\x00\x05", Refusal.NOT_MQTT)


async def test_a_silent_connection_is_dropped(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.edge.transport.handshake.FIRST_BYTE_TIMEOUT_S", 0.05)
    async with running(auto(authority)) as server:
        await refuses(server, b"", Refusal.TIMEOUT)


async def test_one_that_leaves_at_once_is_counted(authority: Authority) -> None:
    async with running(auto(authority)) as server:
        _, writer = await server.connect()
        writer.close()
        await until(lambda: server.refused(Refusal.ABANDONED) == 1)


@pytest.mark.parametrize("protocol", ["tcp", "auto"])
async def test_a_required_header_must_be_there(authority: Authority, protocol: str) -> None:
    options = {"proxy_protocol": "required", "trusted_proxies": LOCALHOST, "protocol": protocol}
    async with running(auto(authority, **options)) as server:
        reader, writer = await server.connect()
        writer.write(v2(b"device-7") + b"\x10x")
        assert await reader.readexactly(2) == b"\x10x"
        peer = server.handlers[0].channel.peer
        assert (peer.address, peer.port) == ("203.0.113.7", 4711)
        assert peer.tls.certificate_common_name == "device-7"
        server.handlers.clear()
        await refuses(server, b"\x10x", Refusal.PROXY_HEADER)


async def test_a_required_header_is_believed_from_trusted_proxies_only() -> None:
    config = {"protocol": "tcp", "proxy_protocol": "required", "trusted_proxies": ["10.0.0.0/8"]}
    async with running(config) as server:
        await refuses(server, V1, Refusal.PROXY_UNTRUSTED)


async def test_an_optional_header_is_not_read_from_others() -> None:
    config = {"protocol": "tcp", "proxy_protocol": "optional", "trusted_proxies": ["10.0.0.0/8"]}
    async with running(config) as server:
        reader, writer = await server.connect()
        writer.write(V1)
        assert await reader.readexactly(len(V1)) == V1
        assert server.handlers[0].channel.peer.address == "127.0.0.1"


@pytest.mark.parametrize("data", [b"PROXY TCP4 nonsense\r\n", V2_SIGNATURE + b"\x31\x11\x00\x0c"])
async def test_a_malformed_header_is_closed_and_counted(data: bytes) -> None:
    config = {"protocol": "tcp", "proxy_protocol": "optional", "trusted_proxies": LOCALHOST}
    async with running(config) as server:
        await refuses(server, data, Refusal.PROXY_HEADER)


async def test_a_header_that_takes_too_long_is_dropped() -> None:
    config = {
        "protocol": "tcp",
        "proxy_protocol": "required",
        "trusted_proxies": LOCALHOST,
        "proxy_protocol_timeout_s": 0.05,
    }
    async with running(config) as server:
        await refuses(server, b"PROXY TC", Refusal.PROXY_HEADER)


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("data", [b"\x10x", REQUEST + b"\x82\x81\x00\x00\x00\x00x"])
async def test_an_ended_connection_does_not_wait_for_the_collector(
    authority: Authority, data: bytes, is_tls: bool
) -> None:
    async with running(auto(authority)) as server:
        gc.collect()
        gc.disable()
        try:
            options: dict[str, Any] = {}
            if is_tls:
                options["ssl"] = ssl.create_default_context(cafile=str(authority.certificate))
                options["server_hostname"] = "localhost"
            _, writer = await server.connect(**options)
            writer.write(data)
            await until(lambda: server.handlers and server.handlers[0].data)
            handler = weakref.ref(server.handlers[0])
            writer.close()
            await until(lambda: not server.open_connections())
            server.handlers.clear()
            await until(lambda: handler() is None)
        finally:
            gc.enable()
