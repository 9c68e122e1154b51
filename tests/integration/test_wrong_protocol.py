"""What comes to a port of another protocol is refused at once, and the log says what it was.

Inputs: the first bytes of TLS, PROXY protocol, HTTP and MQTT at every kind of listener. Observed:
that the connection ends long before any timeout, and the line in the log. Health probes, which
connect and leave, are not in it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import pytest

from support import mqtt_bytes
from support.broker import Tidegate, all_listeners
from support.certificates import Certificates
from support.raw_client import Pipe
from support.recording_handler import until
from tidegate.edge.transport.listener import LOGGED_FAULTS_PER_SWEEP
from tidegate.edge.transport.listeners import SWEEP_INTERVAL_S
from tidegate.edge.transport.proxy_protocol import V2_SIGNATURE

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

#: Every timeout of the broker under test is longer.
AT_ONCE_S = 5.0
CONNECT = mqtt_bytes.connect("c")
HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(64)
V1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\n"
V2 = V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7])
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
REQUEST = b"GET /mqtt HTTP/1.1\r\nHost: x\r\n"

#: Listener, what is sent to it, and what is in the log. No more of a listener than it logs at once.
WRONG: list[tuple[str, bytes, str]] = [
    ("tcp", HELLO, "a TLS ClientHello in place of CONNECT"),
    ("tcp", V1, "a PROXY protocol header in place of CONNECT"),
    ("tcp", V2, "a PROXY protocol header in place of CONNECT"),
    ("tcp", REQUEST, "an HTTP request in place of CONNECT"),
    ("unix", HELLO, "a TLS ClientHello in place of CONNECT"),
    ("tls", CONNECT, "an MQTT CONNECT in place of TLS"),
    ("tls", V1, "a PROXY protocol header, but proxy_protocol is off"),
    ("tls", V2, "a PROXY protocol header, but proxy_protocol is off"),
    ("tls", REQUEST, "an HTTP request in place of TLS"),
    ("ws", CONNECT, "an MQTT CONNECT in place of a WebSocket handshake"),
    ("ws", HELLO, "a TLS ClientHello in place of a WebSocket handshake"),
    ("ws", V1, "a PROXY protocol header, but proxy_protocol is off"),
    ("ws", V2, "a PROXY protocol header, but proxy_protocol is off"),
    ("ws", b"\x00", "first byte 0x00"),
    ("wss", CONNECT, "an MQTT CONNECT in place of TLS"),
    ("wss", REQUEST, "an HTTP request in place of TLS"),
    ("auto", V1, "a PROXY protocol header, but proxy_protocol is off"),
    ("auto", V2, "a PROXY protocol header, but proxy_protocol is off"),
    ("plain", HELLO, "a TLS ClientHello, but there is no certificate"),
    ("proxied", HELLO, "no PROXY header, but a TLS ClientHello"),
    ("proxied", CONNECT, "no PROXY header, but an MQTT CONNECT"),
    ("proxied", V1 + V2, "the second one, or not from trusted_proxies"),
    ("distrusting", V2, "the second one, or not from trusted_proxies"),
]


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tidegate]:
    """Run a broker with one listener of every kind, and more of what differs by its settings."""
    directory = tmp_path_factory.mktemp("b")
    here = {"address": "127.0.0.1", "port": 0, "protocol": "auto"}
    proxy = {"proxy_protocol": "required", "trusted_proxies": ["::ffff:127.0.0.0/104"]}
    other = {"proxy_protocol": "optional", "trusted_proxies": ["192.0.2.0/24"]}
    settings = {
        "listeners": [
            *all_listeners(directory, certificates.server, certificates.authority),
            {"name": "plain", **here},
            {"name": "framed", **here},
            {"name": "proxied", **here, **proxy},
            {"name": "distrusting", **here, **other},
        ],
        "auth": {"allow_anonymous": True},
        "limits": {"connect_timeout_s": 60},
        "admin": {"enabled": False},
        "store": {"data_dir": str(directory / "data")},
    }
    broker = Tidegate(directory, settings, [])
    try:
        broker.start()
        yield broker
    finally:
        broker.cleanup()


async def _open(server: Tidegate, listener: str) -> tuple[asyncio.Transport, Pipe]:
    loop = asyncio.get_running_loop()
    address = server.address(listener)
    if listener == "unix":
        return await loop.create_unix_connection(Pipe, address.path)
    return await loop.create_connection(Pipe, address.host, address.port)


async def test_it_is_refused_at_once_and_named(server: Tidegate) -> None:
    before = len(server.stderr())
    for listener, data, _line in WRONG:
        transport, pipe = await _open(server, listener)
        transport.write(data)
        await pipe.wait_for_end(AT_ONCE_S)
        transport.abort()
    lines = server.stderr()[before:].splitlines()
    for listener, _data, line in WRONG:
        assert any(line in each and f"listener={listener}" in each for each in lines), line


async def test_mqtt_inside_tls_of_a_websocket_listener_is_named(
    server: Tidegate, certificates: Certificates
) -> None:
    address = server.address("wss")
    context = ssl.create_default_context(cafile=certificates.authority.certificate)
    loop = asyncio.get_running_loop()
    transport, pipe = await loop.create_connection(
        Pipe, address.host, address.port, ssl=context, server_hostname="localhost"
    )
    transport.write(CONNECT)
    await pipe.wait_for_end(AT_ONCE_S)
    transport.abort()
    assert "an MQTT CONNECT in place of a WebSocket handshake" in server.stderr()


async def test_health_probes_are_not_logged(server: Tidegate) -> None:
    before = len(server.stderr())
    for listener in ("tcp", "tls", "ws", "wss", "auto", "unix", "proxied", "distrusting"):
        for is_reset in (False, True):
            transport, pipe = await _open(server, listener)
            if is_reset:
                transport.abort()
            else:
                transport.close()
            await pipe.wait_for_end(AT_ONCE_S)
    # A peer that has sent something is no probe; its line comes after any of the probes.
    transport, pipe = await _open(server, "auto")
    transport.write(b"G")
    transport.write_eof()
    await pipe.wait_for_end(AT_ONCE_S)
    transport.abort()
    await until(lambda: "reason=abandoned" in server.stderr()[before:])
    lines = server.stderr()[before:].splitlines()
    assert len([each for each in lines if "connection" in each]) == 1


async def test_faults_in_frames_are_logged_at_a_bounded_rate(server: Tidegate) -> None:
    loop = asyncio.get_running_loop()
    before, began_s = len(server.stderr()), loop.time()
    opened = await asyncio.gather(*(_open(server, "framed") for _ in range(100)))
    for transport, _pipe in opened:
        transport.write(UPGRADE + b"\x81\x81\x00\x00\x00\x00x")  # a text frame
    for transport, pipe in opened:
        await pipe.wait_for_end(AT_ONCE_S)
        transport.abort()
    sweeps = (loop.time() - began_s) / SWEEP_INTERVAL_S + 2
    count = server.stderr()[before:].count("websocket protocol error")
    assert 0 < count <= sweeps * LOGGED_FAULTS_PER_SWEEP
