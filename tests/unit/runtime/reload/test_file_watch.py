"""Noticing changed files: rewritten, renamed over, and swapped through a symlink."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.virtual_time import in_virtual_time
from tidegate.runtime.config.file_version import signature_of
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.file_watch import INTERVAL_S, FileWatch
from tidegate.runtime.telemetry.counters import Counters


class _Reader:
    """Reads the file when told to; fails while it says "bad"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = path.read_text() if path.exists() else ""
        self.calls = 0

    def read(self) -> None:
        self.calls += 1
        text = self.path.read_text()
        if text == "bad":
            raise ValueError("line 1: bad\nand worse")
        self.content = text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("one")
    return file


def _watch(reader: _Reader, counters: Counters | None = None) -> FileWatch:
    return FileWatch("thing", [reader.path], reader.read, counters or Counters())


def test_an_unchanged_file_is_not_read_again(path: Path) -> None:
    reader = _Reader(path)
    assert not _watch(reader).check()
    assert reader.calls == 0


def test_a_rewritten_file_is_read_once(path: Path) -> None:
    reader, counters = _Reader(path), Counters()
    watch = _watch(reader, counters)
    path.write_text("two!")
    assert watch.check()
    assert not watch.check()
    assert reader.content == "two!"
    assert counters.config_reloads == {"ok": 1, "failed": 0}


def test_a_file_renamed_over_another_of_equal_size_is_read(path: Path, tmp_path: Path) -> None:
    reader = _Reader(path)
    watch = _watch(reader)
    other = tmp_path / "other"
    other.write_text("two")
    other.replace(path)
    assert watch.check()
    assert reader.content == "two"


def test_a_swapped_mount_is_read(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "file").symlink_to("..data/file")
    reader = _Reader(tmp_path / "file")
    watch = _watch(reader)
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert watch.check()
    assert reader.content == "two"


def test_unusable_content_keeps_the_last_good_and_is_counted_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader, counters = _Reader(path), Counters()
    watch = _watch(reader, counters)
    path.write_text("bad")
    with caplog.at_level(logging.ERROR):
        assert watch.check()
        assert not watch.check()
    assert reader.content == "one"
    assert counters.config_reloads == {"ok": 0, "failed": 1}
    (record,) = caplog.records
    assert vars(record)["problem"] == "line 1: bad and worse"
    path.write_text("three")
    assert watch.check()
    assert reader.content == "three"


def test_a_missing_file_is_waited_for(path: Path) -> None:
    reader = _Reader(path)
    watch = _watch(reader)
    path.unlink()
    assert not watch.check()
    path.write_text("back again")
    assert watch.check()
    assert reader.content == "back again"


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_what_could_not_be_read_is_tried_again_and_told_of_once(
    path: Path, is_wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a descriptor, say, a revoked user would stay until the next change of the file."""
    found: list[str] = []
    fault: OSError | None = OSError(errno.EMFILE, "Too many open files")

    def read() -> None:
        try:
            if fault is not None:
                raise fault
            found.append(path.read_text())
        except OSError as error:
            if is_wrapped:
                raise ValueError(f"cannot be read: {error.strerror}") from None
            raise

    counters, config_status = Counters(), ConfigStatus()
    watch = FileWatch("thing", [path], read, counters, config_status=config_status)
    path.write_text("two!")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert watch.check()
    assert len(caplog.records) == counters.config_reloads["failed"] == 1
    assert "Too many open files" in config_status.status()["files"][str(path)]["problem"]
    fault = None
    assert watch.check()
    assert not watch.check()
    assert found == ["two!"]
    assert config_status.status()["files"][str(path)]["problem"] == ""


def test_who_may_read_a_file_is_part_of_it(path: Path) -> None:
    path.chmod(0o600)
    before = signature_of(path)
    path.chmod(0o644)
    assert signature_of(path) != before


def test_a_file_written_in_place_with_its_old_size_and_time_has_changed(path: Path) -> None:
    reader = _Reader(path)
    watch = _watch(reader)
    status = path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert watch.check()
    assert reader.content == "two"


def test_a_hangup_reads_an_unchanged_file_too(path: Path) -> None:
    reader = _Reader(path)
    _watch(reader).trigger()
    assert reader.calls == 1


@contextlib.asynccontextmanager
async def _running(watch: FileWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@in_virtual_time
async def test_nothing_to_watch_is_looked_at_in_vain() -> None:
    watch = FileWatch("nothing", [], lambda: pytest.fail("read"), Counters())
    watch.trigger()
    assert not watch.check()
    async with _running(watch):
        await asyncio.sleep(10 * INTERVAL_S)


@in_virtual_time
async def test_running_it_notices_a_change(path: Path) -> None:
    reader = _Reader(path)
    async with _running(FileWatch("thing", [path], reader.read, Counters(), interval_s=30)):
        await asyncio.sleep(1)
        path.write_text("changed")
        await asyncio.sleep(28.9)
        assert reader.calls == 0
        await asyncio.sleep(0.2)
        assert reader.content == "changed"


@in_virtual_time
async def test_a_reader_that_breaks_does_not_end_the_watch(path: Path) -> None:
    found: list[str] = []

    def read() -> None:
        if path.read_text() == "breaks":
            raise RecursionError
        found.append(path.read_text())

    counters = Counters()
    async with _running(FileWatch("thing", [path], read, counters)):
        path.write_text("breaks")
        await asyncio.sleep(INTERVAL_S + 0.1)
        assert counters.config_reloads["failed"] == 1
        path.write_text("changed again")
        await asyncio.sleep(INTERVAL_S)
    assert found == ["changed again"]
    assert counters.internal_errors == 1


@in_virtual_time
async def test_a_look_that_breaks_is_not_the_last(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = Counters()
    watch = FileWatch("thing", [path], lambda: None, counters)
    looks = 0

    def check(_watch: FileWatch) -> bool:
        nonlocal looks
        looks += 1
        raise MemoryError

    monkeypatch.setattr(FileWatch, "check", check)
    async with _running(watch):
        await asyncio.sleep(3 * INTERVAL_S + 0.1)
    assert looks == counters.internal_errors == 3
