"""The file of a backup: a head, blocks of values, an end, each with its SHA-256.

Owns the bytes, and what is complete. ``Writer`` makes a file, ``Reader`` reads one and raises
``BackupFailed`` at the first byte that is not as it was written. What the values mean is in
``contents``. Never touches the store.

    magic  b"tgbackup", version of the format u16
    block  kind u8, length u32, length of the compressed content u32, SHA-256 of these and of the
           content, content (zlib): first the head (JSON), then values, last the end (JSON)
    close  length of the last block u32, SHA-256 of everything before it, b"tgbkend1"
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from struct import Struct
from typing import BinaryIO, Final, TypeVar

from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.values import DamagedValue, Value, decode_all, encode

#: The version of everything that a file of a backup consists of.
FORMAT: Final = 1

_START: Final = Struct(">8sH")
_BLOCK: Final = Struct(">BII")
_CLOSE: Final = Struct(">I32s8s")
_MAGIC: Final = b"tgbackup"
_END_MAGIC: Final = b"tgbkend1"
_HASH_BYTES: Final = 32
_BLOCK_BYTES: Final = 1_048_576
#: No block is larger: a message has at most 256 MiB.
_MOST_BYTES: Final = 1 << 30
_HEAD: Final = ord("H")
_VALUES: Final = ord("V")
_END: Final = ord("E")
#: What is read for the head of a file.
HEAD_BYTES: Final = 65_536
#: And for its end.
CLOSE_BYTES: Final = _CLOSE.size


@dataclass(slots=True, frozen=True)
class Head:
    """What a backup is of. Times in milliseconds, of the store's server and of the broker."""

    name: str
    version: str
    store_format: int
    partitions: int
    taken_at: str
    server_ms: int
    broker_ms: int


@dataclass(slots=True)
class Totals:
    """What is in a backup."""

    sessions: int = 0
    queued_messages: int = 0
    retained: int = 0
    values: int = 0


Part = TypeVar("Part", Head, Totals)


@dataclass(slots=True, frozen=True)
class Summary:
    """A whole file: its head, what is in it, its size, and its SHA-256."""

    head: Head
    totals: Totals
    size: int
    sha256: str


class Writer:
    """Writes a file from its beginning to its end."""

    def __init__(self, stream: BinaryIO, head: Head) -> None:
        self._stream = stream
        self._head = head
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.totals = Totals()
        self.size = 0
        self._write(_START.pack(_MAGIC, FORMAT))
        self._block(_HEAD, json.dumps(asdict(head)).encode())

    def add(self, value: Value) -> None:
        """Write a value, at the latest with the end. Raises OSError."""
        data = encode(value)
        if self._waiting_bytes + len(data) > _BLOCK_BYTES:
            self._flush()
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.totals.values += 1

    def end(self) -> Summary:
        """Write what makes the file a complete one. Raises OSError."""
        self._flush()
        length = self._block(_END, json.dumps(asdict(self.totals)).encode())
        self._write(_CLOSE.pack(length, self._hash.digest(), _END_MAGIC))
        return Summary(self._head, self.totals, self.size, self._hash.hexdigest())

    def _flush(self) -> None:
        if self._waiting:
            self._block(_VALUES, b"".join(self._waiting))
            self._waiting.clear()
            self._waiting_bytes = 0

    def _block(self, kind: int, content: bytes) -> int:
        packed = zlib.compress(content, 1)
        start = _BLOCK.pack(kind, len(content), len(packed))
        digest = hashlib.sha256(start + packed).digest()
        self._write(start + digest + packed)
        return len(start) + len(digest) + len(packed)

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self.size += len(data)


class Reader:
    """Reads a file from its beginning to its end; ``name`` is for sentences."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0
        self.head = self._read_head()

    def _damaged(self, text: str) -> BackupFailed:
        return BackupFailed(
            Reason.DAMAGED,
            f"backup {self._name}: {text} (at byte {self._size}): the file is incomplete or "
            "damaged, nothing of it is used; take another backup",
        )

    def _read(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) != length:
            raise self._damaged("it ends too early")
        self._hash.update(data)
        self._size += length
        return data

    def _read_head(self) -> Head:
        magic, version = _START.unpack(self._read(_START.size))
        if magic != _MAGIC:
            raise self._damaged("it does not begin as a backup of Tidegate does")
        if version != FORMAT:
            raise BackupFailed(
                Reason.UNSUPPORTED_FORMAT,
                f"backup {self._name} has format {version}, this version of Tidegate reads format "
                f"{FORMAT}: use the version that wrote it, or a newer one",
            )
        kind, content, _ = self._read_block()
        if kind != _HEAD:
            raise self._damaged("the head is missing")
        return _from_json(Head, content) or self._no_head()

    def _no_head(self) -> Head:
        raise self._damaged("the head is not readable")

    def _read_block(self) -> tuple[int, bytes, int]:
        start = self._read(_BLOCK.size)
        kind, length, packed_length = _BLOCK.unpack(start)
        if max(length, packed_length) > _MOST_BYTES:
            raise self._damaged("a block is too long")
        digest, packed = self._read(_HASH_BYTES), self._read(packed_length)
        if hashlib.sha256(start + packed).digest() != digest:
            raise self._damaged("the checksum of a block does not match")
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(packed, length + 1)
        except zlib.error:
            content = b""
        if len(content) != length or not unpacker.eof:
            raise self._damaged("a block cannot be unpacked")
        return kind, content, len(start) + _HASH_BYTES + packed_length

    def values(self) -> Iterator[Value]:
        """Yield all values; then the file is whole. Raises BackupFailed."""
        count = 0
        while True:
            kind, content, length = self._read_block()
            if kind == _END:
                break
            if kind != _VALUES:
                raise self._damaged("a block is of an unknown kind")
            try:
                found = decode_all(content)
            except DamagedValue as error:
                raise self._damaged(f"a block cannot be read: {error}") from None
            count += len(found)
            yield from found
        self._close(content, length, count)

    def _close(self, content: bytes, length: int, count: int) -> None:
        totals, digest = _from_json(Totals, content), self._hash.digest()
        written, expected, magic = _CLOSE.unpack(self._read(_CLOSE.size))
        if totals is None or totals.values != count or written != length:
            raise self._damaged("the end does not match")
        if expected != digest or magic != _END_MAGIC or self._stream.read(1):
            raise self._damaged("the checksum of the file does not match")
        self.summary = Summary(self.head, totals, self._size, self._hash.hexdigest())


def glance(start: bytes, end: bytes) -> tuple[int, Head | None, bool]:
    """Return the format, head and completeness of a file by its first and last bytes.

    Checksums are verified by ``Reader`` only.
    """
    if len(start) < _START.size or not start.startswith(_MAGIC):
        return 0, None, False
    _, version = _START.unpack_from(start)
    if version != FORMAT or len(start) < _START.size + _BLOCK.size + _HASH_BYTES:
        return version, None, False
    at = _START.size + _BLOCK.size + _HASH_BYTES
    kind, length, packed_length = _BLOCK.unpack_from(start, _START.size)
    head = None
    if kind == _HEAD and length <= HEAD_BYTES:
        try:
            content = zlib.decompressobj().decompress(start[at : at + packed_length], length)
        except zlib.error:
            content = b""
        head = _from_json(Head, content)
    return version, head, head is not None and end.endswith(_END_MAGIC)


def _from_json(kind: type[Part], content: bytes) -> Part | None:
    try:
        data = json.loads(content)
        values = {field.name: data[field.name] for field in fields(kind)}
    except (ValueError, KeyError, TypeError):
        return None
    kinds = {field.name: str if field.type == "str" else int for field in fields(kind)}
    if any(type(value) is not kinds[name] for name, value in values.items()):
        return None
    return kind(**values)
