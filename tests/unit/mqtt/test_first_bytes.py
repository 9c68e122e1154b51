"""Which protocol came in the place of the expected one."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from tidegate.mqtt.connection import ServerConnection
from tidegate.mqtt.first_bytes import protocol_of

CLIENT_HELLO = bytes.fromhex("160301020001 0001fc0303") + bytes(64)
PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (CLIENT_HELLO, "a TLS ClientHello"),
        (b"\x16\x03", "a TLS ClientHello"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "a PROXY protocol header"),
        (PROXY_V2, "a PROXY protocol header"),
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"POST /", "an HTTP request"),
        (b"PRI * HTTP/2.0", "an HTTP request"),
        (b"SSH-2.0-x", "an SSH client"),
        (mqtt_bytes.connect("c"), "an MQTT CONNECT"),
        (mqtt_bytes.connect("c" * 20_000), "an MQTT CONNECT"),
        (b"\x10\x80\x80\x80\x01\x00\x06MQIsdp\x03", "an MQTT CONNECT"),
        (b"", ""),
        (b"\x16", ""),
        (b"\x10\x0e", ""),
        (b"\x10" + b"x" * 30 + b"\x00\x04MQTT", ""),
        (b"PROX", ""),
        (b"GETTER", ""),
        (b"\r\n\r\n", ""),
    ],
)
def test_the_protocol_of_the_first_bytes(data: bytes, protocol: str) -> None:
    assert protocol_of(data) == protocol


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (CLIENT_HELLO, "a TLS ClientHello in place of CONNECT"),
        (CLIENT_HELLO[:5], "a TLS ClientHello in place of CONNECT"),
        (PROXY_V2, "a PROXY protocol header in place of CONNECT"),
        (b"GET /mqtt HTTP/1.1\r\n", "an HTTP request in place of CONNECT"),
        (b"\xc0\x00", "first packet must be CONNECT"),
        (b"\x10\x0c\x00\x04MQTX\x04\x02\x00\x00\x00\x00", "unknown protocol name"),
        (b"\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00", "unsupported protocol version"),
    ],
)
def test_a_connection_names_what_came_in_place_of_connect(data: bytes, problem: str) -> None:
    connection = ServerConnection()
    assert connection.receive(data) == []
    assert connection.error is not None
    assert str(connection.error) == problem


def test_a_later_packet_is_judged_as_mqtt() -> None:
    connection = ServerConnection()
    assert len(connection.receive(mqtt_bytes.connect("c"))) == 1
    connection.receive(CLIENT_HELLO)
    assert str(connection.error) == "second CONNECT on one connection"
