"""PROXY headers, version 1 and 2, byte by byte."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.edge.transport.proxy_protocol import (
    V2_SIGNATURE,
    ProxyHeader,
    ProxyHeaderError,
    may_be_header,
    parse,
)


def v2(command: int, family: int, body: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def tcp4(tlvs: bytes = b"") -> bytes:
    return v2(1, 0x11, bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack("!HH", 1111, 2222) + tlvs)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def ssl_tlv(client: int, verify: int, common_name: bytes) -> bytes:
    sub = tlv(0x21, b"TLSv1.3") + tlv(0x22, common_name)
    return tlv(0x20, bytes([client]) + struct.pack("!I", verify) + sub)


V1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\n"


def test_version_1_names_the_client() -> None:
    assert parse(V1 + b"\x10rest") == ProxyHeader(len(V1), "1.2.3.4", 1111)


def test_version_1_with_ipv6() -> None:
    header = parse(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n")
    assert header is not None
    assert (header.address, header.port) == ("2001:db8::1", 1)


def test_version_1_with_a_mapped_address_names_the_ipv4_address() -> None:
    header = parse(b"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2\r\n")
    assert header is not None
    assert header.address == "1.2.3.4"


def test_version_1_unknown_names_no_client() -> None:
    line = b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"
    assert parse(line) == ProxyHeader(len(line))


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222 3\r\n",
        b"PROXY TCP5 1.2.3.4 5.6.7.8 1111 2222\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1111 2222\r\n",
        b"PROXY TCP4 1.2.3.x 5.6.7.8 1111 2222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 \xb2 2222\r\n",
        b"PROXY " + b"x" * 120,
        b"GET / HTTP/1.1\r\n",
        b"\x10\x00",
    ],
)
def test_version_1_malformed(line: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(line)


def test_version_2_names_the_client() -> None:
    data = tcp4()
    assert parse(data + b"\x10") == ProxyHeader(len(data), "1.2.3.4", 1111)


def test_version_2_with_ipv6() -> None:
    source = ipaddress.ip_address("2001:db8::1").packed
    body = source + bytes(16) + struct.pack("!HH", 5, 6)
    header = parse(v2(1, 0x21, body))
    assert header is not None
    assert (header.address, header.port) == ("2001:db8::1", 5)


def test_version_2_with_a_mapped_address_names_the_ipv4_address() -> None:
    source = ipaddress.ip_address("::ffff:1.2.3.4").packed
    header = parse(v2(1, 0x21, source + bytes(16) + bytes(4)))
    assert header is not None
    assert header.address == "1.2.3.4"


def test_version_2_local_names_no_client_and_its_body_is_skipped() -> None:
    data = v2(0, 0x00, b"whatever")
    assert parse(data) == ProxyHeader(len(data))


@pytest.mark.parametrize("data", [v2(1, 0x00, b""), v2(1, 0x31, bytes(216))])
def test_version_2_unspecified_and_unix_name_no_client(data: bytes) -> None:
    assert parse(data) == ProxyHeader(len(data))


def test_version_2_other_tlvs_are_skipped() -> None:
    header = parse(tcp4(tlv(0x03, b"crcc") + tlv(0xEA, b"vpce")))
    assert header is not None
    assert header.common_name == ""


def test_version_2_common_name_of_a_verified_certificate() -> None:
    header = parse(tcp4(tlv(0x04, b"\x00") + ssl_tlv(0x07, 0, "Gerät".encode())))
    assert header is not None
    assert header.common_name == "Gerät"


@pytest.mark.parametrize(("client", "verify"), [(0x07, 1), (0x01, 0), (0x06, 0)])
def test_version_2_common_name_needs_tls_and_a_verified_certificate(
    client: int, verify: int
) -> None:
    header = parse(tcp4(ssl_tlv(client, verify, b"admin")))
    assert header is not None
    assert header.common_name == ""


@pytest.mark.parametrize(
    "data",
    [
        V2_SIGNATURE + b"\x11\x11\x00\x00",
        v2(2, 0x11, bytes(12)),
        v2(1, 0x41, bytes(12)),
        v2(1, 0x11, bytes(11)),
        v2(1, 0x21, bytes(35)),
        v2(1, 0x31, bytes(215)),
        V2_SIGNATURE + b"\x21\x11\xff\xff",
        tcp4(b"\x03\x00"),
        tcp4(b"\x03\x00\x09short"),
        tcp4(tlv(0x20, b"\x07\x00")),
        tcp4(tlv(0x20, b"\x07\x00\x00\x00\x00" + b"\x22\x00\x09x")),
        tcp4(ssl_tlv(0x07, 0, b"\xff\xfe")),
    ],
)
def test_version_2_malformed(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(data)


@pytest.mark.parametrize("data", [V1, tcp4(ssl_tlv(7, 0, b"x")), v2(0, 0, b"")])
def test_a_header_that_arrives_in_pieces_is_waited_for(data: bytes) -> None:
    for size in range(1, len(data)):
        assert may_be_header(data[:size])
        assert parse(data[:size]) is None
    assert parse(data) is not None


@pytest.mark.parametrize("data", [b"\x10", b"\x16\x03", b"GET", b"PUT / "])
def test_other_protocols_are_no_header(data: bytes) -> None:
    assert not may_be_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE, tcp4()[:16]]))
def test_any_bytes_give_a_header_or_the_documented_error(data: bytes, prefix: bytes) -> None:
    try:
        header = parse(prefix + data)
    except ProxyHeaderError:
        return
    assert header is None or header.size <= len(prefix + data)
