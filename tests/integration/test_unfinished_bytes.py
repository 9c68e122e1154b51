"""What a listener holds of clients without CONNACK is bounded in sum, whatever it is.

Inputs: connections that send a part of a CONNECT, of a WebSocket frame, of an HTTP request or of a
TLS handshake, and no more. Observed: how many of them stay open, and that a client that begins
its CONNECT meanwhile can finish it.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Iterator

import pytest

from support import mqtt_bytes
from support.broker import Tidegate, all_listeners
from support.certificates import Certificates
from support.raw_client import Pipe, RawClient, frame
from support.recording_handler import until

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

BOUND_BYTES = 131_072
#: What each connection sends of a whole that is longer.
PART_BYTES = 12_000
CONNECTIONS = 30
#: As many parts fit; a listener ends more at once, so that the next time is some way off.
MOST = BOUND_BYTES // PART_BYTES
CONNECT = mqtt_bytes.connect("c", will=mqtt_bytes.Will("w", bytes(50_000)))
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
#: A ClientHello of 60,000 bytes, in records of 16,000.
HELLO = bytes.fromhex("1603013e80 01 00ea60 0303") + bytes(40_000)

PARTS: dict[str, tuple[str, bytes]] = {
    "connect": ("tcp", CONNECT[:PART_BYTES]),
    "connect on a Unix socket": ("unix", CONNECT[:PART_BYTES]),
    "connect on auto": ("auto", CONNECT[:PART_BYTES]),
    "request": ("ws", b"GET /mqtt HTTP/1.1\r\nX: " + b"x" * PART_BYTES),
    "frame": ("ws", UPGRADE + frame(CONNECT)[:PART_BYTES]),
    "connect in a frame": ("ws", UPGRADE + frame(CONNECT[:PART_BYTES])),
    "frame on auto": ("auto", UPGRADE + frame(CONNECT)[:PART_BYTES]),
    "hello": ("tls", HELLO[:PART_BYTES]),
    "hello on wss": ("wss", HELLO[:PART_BYTES]),
    "hello on auto": ("auto", HELLO[:PART_BYTES]),
}


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tidegate]:
    """Run a broker with a small bound, and no timeout that ends the connections instead."""
    directory = tmp_path_factory.mktemp("b")
    settings = {
        "listeners": all_listeners(directory, certificates.server, certificates.authority),
        "auth": {"allow_anonymous": True},
        "limits": {"max_unfinished_bytes": BOUND_BYTES, "connect_timeout_s": 60},
        "admin": {"enabled": False},
        "store": {"data_dir": str(directory / "data")},
    }
    broker = Tidegate(directory, settings, [])
    try:
        broker.start()
        yield broker
    finally:
        broker.cleanup()


async def _open(
    server: Tidegate, listener: str, context: ssl.SSLContext | None = None
) -> tuple[asyncio.Transport, Pipe]:
    loop = asyncio.get_running_loop()
    address = server.address(listener)
    if listener == "unix":
        return await loop.create_unix_connection(Pipe, address.path)
    name = "localhost" if context is not None else None
    return await loop.create_connection(
        Pipe, address.host, address.port, ssl=context, server_hostname=name
    )


async def _flood(
    server: Tidegate, listener: str, data: bytes, context: ssl.SSLContext | None = None
) -> int:
    """Open connections that send a part; return how many of them stay open."""
    opened: list[tuple[asyncio.Transport, Pipe]] = []
    try:
        for _ in range(CONNECTIONS):
            opened.append(await _open(server, listener, context))
            opened[-1][0].write(data)
        # Each further part ends others: so all have been looked at when so few are left.
        await until(lambda: sum(not pipe.ended for _, pipe in opened) <= MOST)
        return sum(not pipe.ended for _, pipe in opened)
    finally:
        for transport, pipe in opened:
            transport.abort()
            await pipe.wait_for_end(5)


@pytest.mark.parametrize("part", PARTS)
async def test_the_sum_is_bounded(server: Tidegate, part: str) -> None:
    listener, data = PARTS[part]
    assert await _flood(server, listener, data) > 0


async def test_the_sum_is_bounded_inside_tls(server: Tidegate, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=certificates.authority.certificate)
    for listener, data in (
        ("tls", CONNECT[:PART_BYTES]),
        ("wss", UPGRADE + frame(CONNECT)[:PART_BYTES]),
        ("auto", CONNECT[:PART_BYTES]),
    ):
        assert await _flood(server, listener, data, context) > 0


async def test_who_holds_little_is_not_ended(server: Tidegate) -> None:
    address = server.address("tcp")
    usual = mqtt_bytes.connect(secrets.token_hex(4))
    client = await RawClient.open(f"tcp://{address.host}:{address.port}")
    await client.pipe.write(usual[:9])
    await _flood(server, "tcp", CONNECT[:PART_BYTES])
    await client.pipe.write(usual[9:])
    await client.expect("CONNACK")


async def test_clients_with_connack_hold_what_they_like(server: Tidegate) -> None:
    for listener in ("tcp", "ws"):
        address = server.address(listener)
        path = "/mqtt" if listener == "ws" else ""
        clients = []
        for _ in range(CONNECTIONS):
            url = f"{listener}://{address.host}:{address.port}{path}"
            clients.append(await RawClient.open(url))
            await clients[-1].connect(secrets.token_hex(4))
        publish = mqtt_bytes.publish("t", bytes(20_000), qos=1, packet_id=1)
        if listener == "ws":
            publish = frame(publish)
        for client in clients:
            await client.pipe.write(publish[:PART_BYTES])
        for client in clients:
            await client.pipe.write(publish[PART_BYTES:])
            await client.expect("PUBACK")


async def test_places_are_free_again_when_connections_have_ended(server: Tidegate) -> None:
    for _ in range(3 * MOST):
        transport, pipe = await _open(server, "tcp")
        transport.write(CONNECT[:PART_BYTES])
        transport.write_eof()
        await pipe.wait_for_end(5)
        transport.abort()
    opened = [await _open(server, "tcp") for _ in range(MOST // 2)]
    for transport, _pipe in opened:
        transport.write(CONNECT[:PART_BYTES])
    address = server.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}")
    await client.connect(secrets.token_hex(4))  # when the parts have come
    assert not any(pipe.ended for _, pipe in opened)
    for transport, pipe in opened:
        transport.abort()
        await pipe.wait_for_end(5)
