"""Frames of HTTP/2 as bytes: those that this package reads or makes itself (RFC 9113 §4, §6).

Pure. Used by ``connection`` and ``stream``.
"""

from __future__ import annotations

import struct
from typing import Final

DATA: Final = 0
HEADERS: Final = 1
SETTINGS: Final = 4
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8

#: What a client sends first (RFC 9113 §3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: High byte and low bytes of the size, kind, flags, stream.
HEADER: Final = struct.Struct(">BHBBL")
HEADER_BYTES: Final = HEADER.size
#: Whether a gRPC message is compressed, and its size.
MESSAGE: Final = struct.Struct(">BL")
MESSAGE_HEADER_BYTES: Final = MESSAGE.size
#: Both.
DATA_WITH_MESSAGE: Final = struct.Struct(">BHBBLBL")

#: Windows and frames before any SETTINGS (RFC 9113 §6.5.2), and the highest window (§6.9.1).
INITIAL_WINDOW_BYTES: Final = 65_535
INITIAL_FRAME_BYTES: Final = 16_384
MAX_WINDOW_BYTES: Final = (1 << 31) - 1
#: The bit above a stream's number is reserved, and ignored.
STREAM_MASK: Final = (1 << 31) - 1

_NUMBER: Final = struct.Struct(">L")
_TWO_NUMBERS: Final = struct.Struct(">LL")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    size = len(payload)
    return HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def goaway(last_stream: int, code: int, text: str = "") -> bytes:
    """Return a GOAWAY."""
    return frame(GOAWAY, 0, 0, _TWO_NUMBERS.pack(last_stream, code) + text.encode())


def read_window_update(payload: bytes) -> int:
    """Return the increment. Raises struct.error."""
    increment: int = _NUMBER.unpack(payload)[0]
    return increment & MAX_WINDOW_BYTES


def read_goaway(payload: bytes) -> tuple[int, int]:
    """Return the last stream and the error code. Raises struct.error."""
    last_stream, code = _TWO_NUMBERS.unpack_from(payload)
    return last_stream & STREAM_MASK, code
