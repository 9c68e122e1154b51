"""A connection has ``connect_timeout_s`` from accept for its CONNECT, however it comes.

Inputs: every kind of listener, and for each stage of a connection a peer that sends one byte of it
now and then. Observed: when it is closed, and under which reason that is counted.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable, Iterator

import pytest

from support import mqtt_bytes
from support.broker import Tidegate, all_listeners
from support.certificates import Certificates
from support.raw_client import Pipe, RawClient, frame
from tidegate.edge.transport.proxy_protocol import V2_SIGNATURE

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

TIMEOUT_S = 1.0
#: The tick of 0.5 s, twice (a clock that is read once per tick, and the look at it), and a sweep.
LATE_S = 2.0
#: Between two bytes: a timeout that begins anew with every byte takes ten times as long.
PAUSE_S = 0.2
CONNECT = mqtt_bytes.connect("slow" * 20)
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def _client_hello() -> bytes:
    """The first bytes of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


#: What comes at once, and what comes slowly, by listener.
BEGINNINGS: list[tuple[str, bytes, bytes]] = [
    ("tcp", b"", CONNECT),
    ("unix", b"", CONNECT),
    ("tls", b"", _client_hello()),
    ("ws", b"", UPGRADE),
    ("ws", UPGRADE, frame(CONNECT)),
    ("wss", b"", _client_hello()),
    ("auto", b"", CONNECT),
    ("auto", b"", UPGRADE),
    ("auto", b"", _client_hello()),
    ("auto", UPGRADE, frame(CONNECT)),
    ("proxied", b"", V2_SIGNATURE + b"\x21\x11\x00\x64" + bytes(100)),
    ("proxied", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", CONNECT),
]


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tidegate]:
    """Run a broker with a short timeout, and bounds of the stages that are longer."""
    directory = tmp_path_factory.mktemp("b")
    listeners = all_listeners(directory, certificates.server, certificates.authority)
    listeners.append(
        {
            "name": "proxied",
            "address": "127.0.0.1",
            "port": 0,
            "proxy_protocol": "optional",
            "trusted_proxies": ["127.0.0.0/8"],
            "proxy_protocol_timeout_s": 60,
        }
    )
    settings = {
        "listeners": listeners,
        "auth": {"allow_anonymous": True},
        "limits": {"connect_timeout_s": TIMEOUT_S},
        "admin": {"enabled": False},
        "store": {"data_dir": str(directory / "data")},
    }
    broker = Tidegate(directory, settings, [])
    try:
        broker.start()
        yield broker
    finally:
        broker.cleanup()


async def _closed_after(pipe: Pipe, slowly: bytes, send: Callable[[bytes], None]) -> float:
    """Send byte by byte until the connection is closed; return the seconds since it was opened."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for byte in slowly:
        send(bytes([byte]))
        try:
            await pipe.wait_for_end(PAUSE_S)
        except TimeoutError:
            continue
        return loop.time() - began_s
    raise AssertionError("the whole of it was accepted")


async def _drip(server: Tidegate, listener: str, at_once: bytes, slowly: bytes) -> float:
    loop = asyncio.get_running_loop()
    address = server.address(listener)
    if listener == "unix":
        transport, pipe = await loop.create_unix_connection(Pipe, address.path)
    else:
        transport, pipe = await loop.create_connection(Pipe, address.host, address.port)
    try:
        transport.write(at_once)
        return await _closed_after(pipe, slowly, transport.write)
    finally:
        transport.abort()


async def test_whatever_drips_in_is_closed_in_time_on_every_listener(server: Tidegate) -> None:
    took_s = await asyncio.gather(*(_drip(server, *each) for each in BEGINNINGS))
    for (listener, at_once, slowly), seconds in zip(BEGINNINGS, took_s, strict=True):
        stage = (listener, at_once[:8], slowly[:8])
        assert TIMEOUT_S * 0.9 < seconds < TIMEOUT_S + LATE_S, stage


async def test_time_spent_in_handshakes_is_not_given_again(
    server: Tidegate, certificates: Certificates
) -> None:
    context = ssl.create_default_context(cafile=certificates.authority.certificate)

    async def slow_after_handshake(listener: str) -> float:
        address = server.address(listener)
        began_s = asyncio.get_running_loop().time()
        path = "/mqtt" if listener == "wss" else ""
        scheme = "tls" if listener == "auto" else listener
        client = await RawClient.open(
            f"{scheme}://{address.host}:{address.port}{path}", ssl_context=context
        )
        for byte in frame(CONNECT) if listener == "wss" else CONNECT:
            await client.pipe.write(bytes([byte]))
            try:
                await client.pipe.wait_for_end(PAUSE_S)
            except TimeoutError:
                continue
            break
        return asyncio.get_running_loop().time() - began_s

    for seconds in await asyncio.gather(*map(slow_after_handshake, ("tls", "wss", "auto"))):
        assert seconds < TIMEOUT_S + LATE_S


async def test_a_client_that_has_sent_it_stays(server: Tidegate) -> None:
    address = server.address("auto")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}")
    await client.connect(secrets.token_hex(4))
    with pytest.raises(TimeoutError):  # it stays when the timeout has passed
        await client.receive_or_end(TIMEOUT_S + LATE_S)
