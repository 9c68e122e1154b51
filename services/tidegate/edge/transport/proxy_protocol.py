"""The PROXY protocol, versions 1 and 2, as a pure parser (haproxy.org, proxy-protocol.txt).

Called by `ConnectionHandshake`, and only for peers in ``trusted_proxies``.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from tidegate.runtime.config.addresses import unmapped

V1_PREFIX: Final = b"PROXY "
V1_MAX_BYTES: Final = 107  # with CRLF, as the specification computes it
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
#: Addresses and TLVs of a version 2 header; more than any proxy sends.
V2_MAX_LENGTH: Final = 16_384

_V2_HEADER: Final = struct.Struct("!12sBBH")
_TLV: Final = struct.Struct("!BH")
_TYPE_SSL: Final = 0x20
_SUBTYPE_SSL_CN: Final = 0x22
_CLIENT_SSL: Final = 0x01
_CLIENT_CERTIFICATE: Final = 0x06  # shown on this connection, or earlier in its TLS session


class ProxyHeaderError(Exception):
    """The bytes cannot be, or cannot become, a PROXY header."""


@dataclass(slots=True, frozen=True)
class ProxyHeader:
    """A parsed header. ``address`` is empty if it names no client (LOCAL, UNKNOWN, Unix)."""

    size: int
    address: str = ""
    port: int = 0
    common_name: str = ""


def may_be_header(data: bytes) -> bool:
    """Whether the first bytes of a connection are, or may still become, a PROXY header."""
    return _matches(data, V1_PREFIX) or _matches(data, V2_SIGNATURE)


def _matches(data: bytes, prefix: bytes) -> bool:
    return data[: len(prefix)] == prefix[: len(data)]


def parse(data: bytes) -> ProxyHeader | None:
    """Read a header from the start of ``data``; None while more bytes are needed.

    Raises `ProxyHeaderError` as soon as no continuation could make it a valid header.
    """
    if _matches(data, V2_SIGNATURE):
        return _parse_v2(data)
    if _matches(data, V1_PREFIX):
        return _parse_v1(data)
    raise ProxyHeaderError("no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    if end < 0:
        if len(data) >= V1_MAX_BYTES:
            raise ProxyHeaderError("version 1 line too long")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError as exc:
        raise ProxyHeaderError("version 1 line is not ASCII") from exc
    size = end + 2
    if words[1] == "UNKNOWN":
        return ProxyHeader(size)
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"}:
        raise ProxyHeaderError("malformed version 1 line")
    version = 4 if words[1] == "TCP4" else 6
    try:
        source = ipaddress.ip_address(words[2])
        destination = ipaddress.ip_address(words[3])
    except ValueError as exc:
        raise ProxyHeaderError("invalid address in version 1 line") from exc
    if source.version != version or destination.version != version:
        raise ProxyHeaderError("version 1 line mixes address families")
    port = _port(words[4])
    _port(words[5])
    return ProxyHeader(size, unmapped(str(source)), port)


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535):
        raise ProxyHeaderError("invalid port in version 1 line")
    return int(word)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_HEADER.size:
        return None
    _, version_command, family, length = _V2_HEADER.unpack_from(data)
    if version_command >> 4 != 2:
        raise ProxyHeaderError("version 2 signature with another version number")
    command = version_command & 0x0F
    if command > 1:
        raise ProxyHeaderError("unknown version 2 command")
    if length > V2_MAX_LENGTH:
        raise ProxyHeaderError("version 2 header too long")
    size = _V2_HEADER.size + length
    if len(data) < size:
        return None
    if command == 0:
        return ProxyHeader(size)
    body = data[_V2_HEADER.size : size]
    address, port, addresses_size = _v2_source(family, body)
    return ProxyHeader(size, address, port, _common_name(body[addresses_size:]))


def _v2_source(family: int, body: bytes) -> tuple[str, int, int]:
    """Return source address, source port, and the size of the address block in bytes."""
    match family >> 4:
        case 0:
            return "", 0, 0
        case 1:
            width, block = 4, 12
        case 2:
            width, block = 16, 36
        case 3:
            return "", 0, _at_least(body, 216)
        case _:
            raise ProxyHeaderError("unknown version 2 address family")
    _at_least(body, block)
    address = unmapped(str(ipaddress.ip_address(body[:width])))
    return address, int.from_bytes(body[2 * width : 2 * width + 2], "big"), block


def _at_least(body: bytes, size: int) -> int:
    if len(body) < size:
        raise ProxyHeaderError("version 2 address block too short")
    return size


def _tlvs(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position < len(data):
        if len(data) - position < _TLV.size:
            raise ProxyHeaderError("version 2 TLV truncated")
        kind, length = _TLV.unpack_from(data, position)
        position += _TLV.size
        if len(data) - position < length:
            raise ProxyHeaderError("version 2 TLV truncated")
        found.append((kind, data[position : position + length]))
        position += length
    return found


def _common_name(tlvs: bytes) -> str:
    """Return the common name of the client certificate that the proxy verified, or ""."""
    for kind, value in _tlvs(tlvs):
        if kind != _TYPE_SSL:
            continue
        if len(value) < 5:
            raise ProxyHeaderError("version 2 SSL TLV too short")
        client, verify = value[0], int.from_bytes(value[1:5], "big")
        if verify != 0 or not client & _CLIENT_SSL or not client & _CLIENT_CERTIFICATE:
            return ""
        for subkind, subvalue in _tlvs(value[5:]):
            if subkind == _SUBTYPE_SSL_CN:
                try:
                    return subvalue.decode()
                except UnicodeDecodeError as exc:
                    raise ProxyHeaderError("version 2 common name is not UTF-8") from exc
    return ""
