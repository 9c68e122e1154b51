"""The data types on the wire (MQTT5 §1.5): read from bytes, written to bytes.

Every read takes a buffer, a position and an end, and returns the value and the new position; it
raises ``MalformedPacket`` when the field does not fit or breaks a rule, and nothing else.
"""

from __future__ import annotations

from typing import Final

from tidegate.mqtt.errors import MalformedPacket

MAX_VARIABLE_BYTE_INTEGER: Final = 268_435_455
MAX_STRING_BYTES: Final = 65_535


def read_byte(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """Read one byte."""
    if position >= end:
        raise MalformedPacket("packet ends inside a field")
    return buffer[position], position + 1


def read_u16(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a Two Byte Integer (§1.5.2)."""
    if position + 2 > end:
        raise MalformedPacket("packet ends inside a field")
    return buffer[position] << 8 | buffer[position + 1], position + 2


def read_u32(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a Four Byte Integer (§1.5.3)."""
    if position + 4 > end:
        raise MalformedPacket("packet ends inside a field")
    return int.from_bytes(buffer[position : position + 4], "big"), position + 4


def read_variable(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a Variable Byte Integer of at most four bytes, minimally encoded [MQTT-1.5.5-1]."""
    value = 0
    for shift in (0, 7, 14, 21):
        if position >= end:
            raise MalformedPacket("packet ends inside a field")
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise MalformedPacket(
                    "variable byte integer is not minimally encoded",
                    statement="MQTT-1.5.5-1",
                )
            return value, position
    raise MalformedPacket("variable byte integer exceeds four bytes", statement="MQTT-1.5.5-1")


def read_binary(buffer: bytes, position: int, end: int) -> tuple[bytes, int]:
    """Read Binary Data (§1.5.6)."""
    if position + 2 > end:
        raise MalformedPacket("packet ends inside a field")
    start = position + 2
    stop = start + (buffer[position] << 8 | buffer[position + 1])
    if stop > end:
        raise MalformedPacket("packet ends inside a field")
    return bytes(buffer[start:stop]), stop


def decode_text(raw: bytes) -> str:
    """Decode a UTF-8 Encoded String's bytes [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.4-3]."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(
            "string is not well-formed UTF-8", statement="MQTT-1.5.4-1"
        ) from error
    if "\0" in text:
        raise MalformedPacket("string contains U+0000", statement="MQTT-1.5.4-2")
    return text


def read_string(buffer: bytes, position: int, end: int) -> tuple[str, int]:
    """Read a UTF-8 Encoded String (§1.5.4)."""
    raw, position = read_binary(buffer, position, end)
    return decode_text(raw), position


def write_variable(value: int) -> bytes:
    """Write a Variable Byte Integer; ``value`` is at most MAX_VARIABLE_BYTE_INTEGER."""
    if value < 0x80:
        return bytes((value,))
    assert value <= MAX_VARIABLE_BYTE_INTEGER, "longer than a packet may be"
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_binary(value: bytes) -> bytes:
    """Write Binary Data; at most 65,535 bytes."""
    assert len(value) <= MAX_STRING_BYTES, "longer than its length field can say"
    return len(value).to_bytes(2, "big") + value


def write_string(value: str) -> bytes:
    """Write a UTF-8 Encoded String; at most 65,535 bytes."""
    return write_binary(value.encode())
