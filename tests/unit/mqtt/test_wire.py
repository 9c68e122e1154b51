"""The data types on the wire at their edges (chapter 1.5)."""

from __future__ import annotations

import pytest

from tidegate.mqtt.errors import MalformedPacket
from tidegate.mqtt.wire import (
    MAX_STRING_BYTES,
    MAX_VARIABLE_BYTE_INTEGER,
    read_binary,
    read_byte,
    read_string,
    read_u16,
    read_u32,
    read_variable,
    write_binary,
    write_string,
    write_variable,
)

statement = pytest.mark.statement


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (MAX_VARIABLE_BYTE_INTEGER, "ffffff7f"),
    ],
)
@statement("MQTT-1.5.5-1")
def test_a_variable_byte_integer_takes_as_few_bytes_as_it_can(value: int, wire: str) -> None:
    raw = bytes.fromhex(wire)
    assert write_variable(value) == raw
    assert read_variable(raw + b"\xff", 0, len(raw)) == (value, len(raw))


@pytest.mark.parametrize("wire", ["8000", "808000", "80808000", "ff8000", "ffffffff", "8080808001"])
@statement("MQTT-1.5.5-1")
def test_a_variable_byte_integer_that_is_too_long_is_malformed(wire: str) -> None:
    raw = bytes.fromhex(wire)
    with pytest.raises(MalformedPacket) as caught:
        read_variable(raw, 0, len(raw))
    assert caught.value.statement == "MQTT-1.5.5-1"


@pytest.mark.parametrize("wire", ["", "80", "ffff", "ffffff"])
def test_a_variable_byte_integer_that_is_cut_is_malformed(wire: str) -> None:
    raw = bytes.fromhex(wire)
    with pytest.raises(MalformedPacket):
        read_variable(raw + b"\0", 0, len(raw))


def test_a_value_that_does_not_fit_is_our_own_fault() -> None:
    with pytest.raises(AssertionError):
        write_variable(MAX_VARIABLE_BYTE_INTEGER + 1)
    with pytest.raises(AssertionError):
        write_binary(bytes(MAX_STRING_BYTES + 1))


@pytest.mark.parametrize(
    ("read", "size"),
    [(read_byte, 1), (read_u16, 2), (read_u32, 4), (read_binary, 5), (read_string, 5)],
)
def test_fields_do_not_reach_beyond_their_end(read: object, size: int) -> None:
    assert callable(read)
    raw = b"\0\3abc and more"
    read(raw, 0, size)
    for end in range(size):
        with pytest.raises(MalformedPacket):
            read(raw, 0, end)


def test_integers_are_big_endian() -> None:
    assert read_byte(b"\x01\x02", 1, 2) == (2, 2)
    assert read_u16(b"\x01\x02", 0, 2) == (0x0102, 2)
    assert read_u32(b"\x01\x02\x03\x04", 0, 4) == (0x01020304, 4)


@pytest.mark.parametrize(
    "raw", [b"\xc3", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80"]
)
@statement("MQTT-1.5.4-1", "MQTT311-1.5.3-1")
def test_ill_formed_utf8_is_malformed(raw: bytes) -> None:
    field = write_binary(raw)
    with pytest.raises(MalformedPacket) as caught:
        read_string(field, 0, len(field))
    assert caught.value.statement == "MQTT-1.5.4-1"


@statement("MQTT-1.5.4-2", "MQTT311-1.5.3-2")
def test_u0000_is_malformed() -> None:
    field = write_binary(b"a\0")
    with pytest.raises(MalformedPacket) as caught:
        read_string(field, 0, len(field))
    assert caught.value.statement == "MQTT-1.5.4-2"


@statement("MQTT-1.5.4-3", "MQTT311-1.5.3-3")
@pytest.mark.parametrize("text", ["\ufeff", "a\ufeffb", "\x01\x7f\x9f", "\uffff\U0010ffff", ""])
def test_every_other_character_stays_as_it_is(text: str) -> None:
    field = write_string(text)
    assert read_string(field, 0, len(field)) == (text, len(field))


def test_the_longest_string_fits() -> None:
    text = "x" * MAX_STRING_BYTES
    field = write_string(text)
    assert read_string(field, 0, len(field)) == (text, MAX_STRING_BYTES + 2)
