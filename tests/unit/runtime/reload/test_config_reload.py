"""A changed configuration file: read when it has settled, tried again, never fatal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from support.virtual_time import in_virtual_time
from tidegate.runtime.config import source
from tidegate.runtime.config.config_file import Flags, UnreadableFile
from tidegate.runtime.config.file_version import digest_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import ConfigSource, LoadedConfig
from tidegate.runtime.reload.config_reload import MIN_BACKOFF_S, UNCHANGED_S, ConfigReload
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import NotApplied
from tidegate.runtime.reload.file_watch import INTERVAL_S
from tidegate.runtime.telemetry.counters import Counters

#: By then a change is in use: the next check, and a file that has not changed for a while.
APPLIED_S = INTERVAL_S + UNCHANGED_S + 0.01


class _Process:
    """Takes what it is given, or fails as it is told."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.config_status = ConfigStatus()
        self.counters = Counters()
        self.taken: list[Config] = []
        self.error: Exception | None = None
        #: When something was to be taken.
        self.attempts_s: list[float] = []
        loaded = ConfigSource(Flags(config=file), "serve").load()
        self.config_status.digest = loaded.digest
        self.watch = ConfigReload(loaded, self.take, self.config_status, self.counters)

    async def take(self, config: Config) -> None:
        self.attempts_s.append(asyncio.get_running_loop().time())
        if self.error is not None:
            raise self.error
        self.taken.append(config)

    @property
    def attempts(self) -> int:
        return len(self.attempts_s)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def change(self, text: str) -> None:
        """Write the file, and wait until it is read."""
        self.file.write_text(text)
        await asyncio.sleep(APPLIED_S)

    async def hang_up(self) -> None:
        """Ask for the file to be read now."""
        self.watch.trigger()
        await asyncio.sleep(0.01)


@pytest.fixture
def process(tmp_path: Path) -> _Process:
    file = tmp_path / "tidegate.yaml"
    file.write_text("name: first\n")
    return _Process(file)


@in_virtual_time
async def test_an_unchanged_file_is_left_alone(process: _Process) -> None:
    async with process.watching():
        await asyncio.sleep(600)
    assert not process.attempts


@in_virtual_time
async def test_a_changed_file_is_taken_once(process: _Process) -> None:
    async with process.watching():
        await process.change("name: second\n")
        assert [config.name for config in process.taken] == ["second"]
        await asyncio.sleep(600)
    assert process.config_status.digest == digest_of(b"name: second\n")
    assert process.counters.config_reloads == {"ok": 1, "failed": 0}
    assert process.attempts == 1


@in_virtual_time
async def test_what_cannot_be_used_now_is_tried_again_and_told_once(
    process: _Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.error = NotApplied("the port is in use")
    before = process.config_status.digest
    async with process.watching():
        with caplog.at_level(logging.ERROR):
            await process.change("name: second\n")
            await asyncio.sleep(2 * INTERVAL_S)
        assert process.attempts == 3
        assert (process.config_status.problem, process.config_status.digest) == (
            "the port is in use",
            before,
        )
        assert process.counters.config_reloads == {"ok": 0, "failed": 1}
        (record,) = caplog.records
        assert vars(record)["problem"] == "the port is in use"
        process.error = NotApplied("a file is missing")
        await asyncio.sleep(INTERVAL_S)
        assert process.config_status.problem == "a file is missing"
        process.error = None
        await asyncio.sleep(INTERVAL_S)
        assert process.taken
    assert process.config_status.problem == ""
    assert process.config_status.digest == digest_of(b"name: second\n")


@in_virtual_time
async def test_what_clients_feel_is_tried_again_after_a_pause_or_when_somebody_asks(
    process: _Process,
) -> None:
    process.error = NotApplied("the port is in use", disturbs=True)
    async with process.watching():
        await process.change("name: second\n")
        await asyncio.sleep(MIN_BACKOFF_S - INTERVAL_S)
        assert process.attempts == 1
        await process.hang_up()
        assert process.attempts == 2, "a hangup tries it at once"
        await process.change("name: third one\n")
        assert process.attempts == 3, "so does a change"
        process.error = None
        await process.hang_up()
    assert [config.name for config in process.taken] == ["third one"]


@in_virtual_time
async def test_pauses_grow_up_to_the_longest(process: _Process) -> None:
    process.error = NotApplied("the port is in use", disturbs=True)
    async with process.watching():
        await process.change("name: second\n")
        await asyncio.sleep(300)
    pauses_s = [after - before for before, after in pairwise(process.attempts_s)]
    for pause_s, backoff_s in zip(pauses_s[:6], [5, 10, 20, 40, 60, 60], strict=True):
        # It is tried at the first check after the pause.
        assert backoff_s <= pause_s <= backoff_s + INTERVAL_S


@in_virtual_time
async def test_a_bug_does_not_end_the_watch(process: _Process) -> None:
    process.error = RuntimeError("oops")
    async with process.watching():
        await process.change("name: second\n")
        assert process.config_status.problem == "internal error: oops"
        assert process.counters.internal_errors == 1
        process.error = None
        await process.change("name: third one\n")
    assert process.taken
    assert process.config_status.problem == ""


@in_virtual_time
async def test_a_file_that_breaks_its_reader_does_not_end_the_watch(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_source: ConfigSource) -> None:
        raise MemoryError("no room")

    async with process.watching():
        with monkeypatch.context() as patch:
            patch.setattr(ConfigSource, "load_again", broken)
            await process.change("name: second\n")
        assert process.config_status.problem == f"{process.file}: cannot be read: no room"
        assert process.counters.config_reloads == {"ok": 0, "failed": 1}
        await process.change("name: third one\n")
    assert process.taken


@in_virtual_time
async def test_a_file_nested_too_deeply_does_not_end_the_watch(process: _Process) -> None:
    async with process.watching():
        await process.change("name: " + "[" * 1_000)
        assert "nested too deeply" in process.config_status.problem
        await process.change("name: third one\n")
    assert process.taken


@in_virtual_time
async def test_a_file_that_could_not_be_read_is_tried_again_and_told_of_once(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def refused(path: Path) -> bytes:
        nonlocal attempts
        attempts += 1
        raise UnreadableFile([f"{path}: cannot be read: Too many open files"])

    async with process.watching():
        with monkeypatch.context() as patch:
            patch.setattr(source, "read", refused)
            await process.change("name: second\n")
            await asyncio.sleep(2 * INTERVAL_S)
        assert attempts == 3
        assert (
            process.config_status.problem == f"{process.file}: cannot be read: Too many open files"
        )
        assert process.counters.config_reloads == {"ok": 0, "failed": 1}
        await asyncio.sleep(INTERVAL_S)
    assert process.taken, "it is taken when it can be read"
    assert process.config_status.problem == ""


@in_virtual_time
async def test_a_bad_file_is_not_tried_again_until_it_changes(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    load_again = ConfigSource.load_again

    def counted(again: ConfigSource) -> LoadedConfig:
        nonlocal reads
        reads += 1
        return load_again(again)

    monkeypatch.setattr(ConfigSource, "load_again", counted)
    async with process.watching():
        await process.change("nonsense: 1\n")
        await asyncio.sleep(600)
        assert process.config_status.problem == "nonsense: unknown key (line 1)"
        assert (reads, process.attempts) == (1, 0)
        await process.change("name: first\n")
    assert not process.config_status.problem, "the good one is back"


@in_virtual_time
async def test_a_hangup_reads_an_unchanged_file(process: _Process) -> None:
    async with process.watching():
        await process.hang_up()
    assert [config.name for config in process.taken] == ["first"]


@in_virtual_time
async def test_a_file_that_is_being_written_is_waited_for(process: _Process) -> None:
    """What an editor writes in pieces is a valid file after each of them."""
    async with process.watching():
        await asyncio.sleep(INTERVAL_S - 0.01)
        for piece in ["name: s", "name: se", "name: seco", "name: second\n"]:
            process.file.write_text(piece)
            await asyncio.sleep(UNCHANGED_S)
        await asyncio.sleep(APPLIED_S)
    assert [config.name for config in process.taken] == ["second"]


def test_flags_stay_laid_over_what_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("name: first\nlog: {level: debug}\n")
    source = ConfigSource(Flags(config=file, name="flag", log_level="warning"), "serve")
    assert source.load().config.name == "flag"
    file.write_text("name: second\nlog: {level: error, format: json}\n")
    config = source.load_again().config
    assert (config.name, config.log.level, config.log.format) == ("flag", "warning", "json")
