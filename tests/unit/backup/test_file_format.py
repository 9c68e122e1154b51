"""The file of a backup: read as it was written, and refused when any byte of it is another."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import cast

import pytest

from tidegate.backup import file_format
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import CLOSE_BYTES, FORMAT, HEAD_BYTES, Head, Reader, Writer
from tidegate.backup.values import DamagedValue, Value, decode_all, encode

HEAD = Head("one", "1.2.3", 2, 64, "2026-03-01T12:00:00Z", 1_772_366_400_000, 1_772_366_400_001)
VALUES: list[Value] = [
    [1, b"client", [b"e", b"5", b""], -7],
    [2, [[b"x" * 300_000, 1], []]],
    *(cast("Value", [3, b"%d" % n * 1000]) for n in range(2000)),
]


def made(values: list[Value] = VALUES) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, HEAD)
    for value in values:
        writer.add(value)
    writer.totals.sessions = 3
    summary = writer.end()
    assert summary.size == len(stream.getvalue())
    return stream.getvalue()


def read(content: bytes) -> list[Value]:
    return list(Reader(io.BytesIO(content), "one").values())


def test_a_file_is_read_as_it_was_written() -> None:
    content = made()
    reader = Reader(io.BytesIO(content), "one")
    assert reader.head == HEAD
    assert list(reader.values()) == VALUES
    assert (reader.summary.totals.sessions, reader.summary.totals.values) == (3, len(VALUES))


def test_the_checksum_is_that_of_the_whole_file() -> None:
    import hashlib

    content = made()
    reader = Reader(io.BytesIO(content), "one")
    list(reader.values())
    assert reader.summary.sha256 == hashlib.sha256(content).hexdigest()


def test_a_store_without_anything_makes_a_file() -> None:
    assert read(made([])) == []


def test_every_byte_counts() -> None:
    content = made(VALUES[:3])
    chosen = random.Random(7)
    sample = {*range(600), *range(len(content) - 200, len(content))}
    sample |= {chosen.randrange(len(content)) for _ in range(200)}
    for place in sorted(sample & set(range(len(content)))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chosen.randrange(8)
        with pytest.raises(BackupFailed) as failed:
            read(bytes(damaged))
        assert failed.value.reason in {Reason.DAMAGED, Reason.UNSUPPORTED_FORMAT}, place


def test_a_file_that_ends_too_early_or_too_late_is_refused() -> None:
    content = made(VALUES[:3])
    chosen = random.Random(7)
    lengths = {*range(100), len(content) - 1, *(chosen.randrange(len(content)) for _ in range(100))}
    for changed in (*(content[:length] for length in lengths), content + b"x", content + content):
        with pytest.raises(BackupFailed) as failed:
            read(changed)
        assert failed.value.reason is Reason.DAMAGED


def test_blocks_of_another_file_are_refused() -> None:
    """Each block may be whole, and the file not."""
    one, two = made([[1, b"a" * 10]]), made([[1, b"b" * 10]])
    assert len(one) == len(two)
    first_difference = next(
        n for n, pair in enumerate(zip(one, two, strict=True)) if len(set(pair)) > 1
    )
    mixed = one[:first_difference] + two[first_difference:-CLOSE_BYTES] + one[-CLOSE_BYTES:]
    with pytest.raises(BackupFailed, match="the checksum of the file"):
        read(mixed)


def test_a_newer_format_is_refused_by_its_number() -> None:
    content = bytearray(made())
    content[9] = FORMAT + 1
    with pytest.raises(BackupFailed, match=f"has format {FORMAT + 1}") as failed:
        Reader(io.BytesIO(bytes(content)), "one")
    assert failed.value.reason is Reason.UNSUPPORTED_FORMAT


def test_first_and_last_bytes_say_what_a_file_is(tmp_path: Path) -> None:
    content = made()
    assert file_format.glance(content[:HEAD_BYTES], content[-CLOSE_BYTES:]) == (FORMAT, HEAD, True)
    cut = content[:-9]
    assert file_format.glance(cut[:HEAD_BYTES], cut[-CLOSE_BYTES:]) == (FORMAT, HEAD, False)
    assert file_format.glance(b"", b"") == (0, None, False)
    assert file_format.glance(content[:30], content[-CLOSE_BYTES:]) == (FORMAT, None, False)
    assert file_format.glance(b"PK\x03\x04 something", b"else") == (0, None, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\x02",
        b"\x02\x00\x00\x00\x05abc",
        b"\x01\x00\x00\x00\x00",
        b"\x03\x00\x00\x00\x02" + encode(1),
        b"\x09\x00\x00\x00\x00",
        b"\x03\xff\xff\xff\xff",
        b"\x03\x00\x00\x00\x01" * 20 + encode(1),
    ],
)
def test_bytes_that_are_no_values_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedValue):
        decode_all(data)
