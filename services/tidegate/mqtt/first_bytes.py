"""What the first bytes of a connection are, when they are not what its listener expects.

For the reasons in logs: peers and proxies whose protocol is not that of the port are the most
frequent mistake of a setup. Called by `ServerConnection` and by the listeners. Pure.
"""

from __future__ import annotations

from typing import Final

HTTP_REQUEST: Final = "an HTTP request"
MQTT_CONNECT: Final = "an MQTT CONNECT"
TLS_CLIENT_HELLO: Final = "a TLS ClientHello"
PROXY_HEADER: Final = "a PROXY protocol header"
_HTTP_METHODS: Final = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "PRI")
)
_PREFIXES: Final = (
    (b"PROXY ", PROXY_HEADER),
    (b"\r\n\r\n\x00\r\nQUIT\n", PROXY_HEADER),
    (b"SSH-", "an SSH client"),
)
_TLS_HANDSHAKE: Final = 0x16
_TLS_MAJOR: Final = 3
_CONNECT: Final = 0x10
#: Where the first six letters of a protocol name end in a CONNECT with any remaining length.
_NAME_WITHIN: Final = 13


def protocol_of(data: bytes) -> str:
    """Return what the bytes are the beginning of, with its article; "" if they do not say."""
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    if data.startswith(_HTTP_METHODS):
        return HTTP_REQUEST
    if len(data) > 1 and data[0] == _TLS_HANDSHAKE and data[1] == _TLS_MAJOR:
        return TLS_CLIENT_HELLO
    if data and data[0] & 0xF0 == _CONNECT:
        beginning = data[:_NAME_WITHIN]
        if b"\x00\x04MQTT" in beginning or b"\x00\x06MQIsdp" in beginning:
            return MQTT_CONNECT
    return ""
