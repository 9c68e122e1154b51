"""Values in a backup as bytes: integers, bytes, and lists of these.

Pure. The encoding is part of the file's format (``file_format``). Never Python's own: a file may
come from anywhere.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, TypeAlias

#: An integer of 64 bits, bytes, or a list.
Value: TypeAlias = "int | bytes | list[Value]"

_HEAD: Final = Struct(">BI")
_INTEGER: Final = Struct(">Bq")
_IS_INTEGER: Final = 1
_IS_BYTES: Final = 2
_IS_LIST: Final = 3
_MAX_DEPTH: Final = 8


class DamagedValue(ValueError):
    """The bytes are no value."""


def encode(value: Value) -> bytes:
    """Encode a value."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(_INTEGER.pack(_IS_INTEGER, value))
    elif isinstance(value, bytes):
        parts.append(_HEAD.pack(_IS_BYTES, len(value)))
        parts.append(value)
    else:
        parts.append(_HEAD.pack(_IS_LIST, len(value)))
        for one in value:
            _encode(one, parts)


def decode_all(data: bytes) -> list[Value]:
    """Decode values that stand one after the other. Raises DamagedValue."""
    found: list[Value] = []
    at = 0
    while at < len(data):
        value, at = _decode(data, at, 0)
        found.append(value)
    return found


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if len(data) - at < _HEAD.size or depth > _MAX_DEPTH:
        raise DamagedValue("cut short or nested too deeply")
    kind, length = _HEAD.unpack_from(data, at)
    if kind == _IS_INTEGER:
        if len(data) - at < _INTEGER.size:
            raise DamagedValue("cut short")
        return _INTEGER.unpack_from(data, at)[1], at + _INTEGER.size
    at += _HEAD.size
    if length > len(data) - at:
        raise DamagedValue("longer than what there is")
    if kind == _IS_BYTES:
        return data[at : at + length], at + length
    if kind != _IS_LIST:
        raise DamagedValue(f"unknown kind {kind}")
    items: list[Value] = []
    for _ in range(length):
        value, at = _decode(data, at, depth + 1)
        items.append(value)
    return items, at
