"""A changed configuration file: read when it has settled, tried again, never fatal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from support.waiting import wait_for_async
from tidegate.runtime.config import source
from tidegate.runtime.config.config_file import Flags, UnreadableFile
from tidegate.runtime.config.file_version import digest_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import ConfigSource
from tidegate.runtime.reload import config_reload
from tidegate.runtime.reload.config_reload import ConfigReload
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import NotApplied
from tidegate.runtime.telemetry.counters import Counters

DEADLINE_S = 10.0


class _Process:
    """Takes what it is given, or fails as it is told."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.config_status = ConfigStatus()
        self.counters = Counters()
        self.taken: list[Config] = []
        self.error: Exception | None = None
        self.attempts = 0
        loaded = ConfigSource(Flags(config=file), "serve").load()
        self.config_status.digest = loaded.digest
        self.watch = ConfigReload(loaded, self.take, self.config_status, self.counters)

    async def take(self, config: Config) -> None:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        self.taken.append(config)

    def tried_more_than(self, times: int) -> bool:
        return self.attempts > times

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await wait_for_async(lambda: bool(condition()), DEADLINE_S, what)


@pytest.fixture
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Process]:
    monkeypatch.setattr(config_reload, "INTERVAL_S", 0.01)
    monkeypatch.setattr(config_reload, "UNCHANGED_S", 0.01)
    file = tmp_path / "tidegate.yaml"
    file.write_text("name: first\n")
    process = _Process(file)
    task = asyncio.create_task(process.watch.run())
    yield process
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_an_unchanged_file_is_left_alone(process: _Process) -> None:
    with pytest.raises(AssertionError):
        await wait_for_async(lambda: process.attempts, 0.1, "nothing")


async def test_a_changed_file_is_taken_once(process: _Process) -> None:
    process.file.write_text("name: second\n")
    await process.until(lambda: process.taken, "it is taken")
    assert process.taken[0].name == "second"
    assert process.config_status.digest == digest_of(b"name: second\n")
    assert process.counters.config_reloads == {"ok": 1, "failed": 0}
    assert process.attempts == 1


async def test_what_cannot_be_used_now_is_tried_again_and_told_once(
    process: _Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.error = NotApplied("the port is in use")
    before = process.config_status.digest
    with caplog.at_level(logging.ERROR):
        process.file.write_text("name: second\n")
        await process.until(lambda: process.attempts >= 3, "it is tried again")
    assert (process.config_status.problem, process.config_status.digest) == (
        "the port is in use",
        before,
    )
    assert process.counters.config_reloads == {"ok": 0, "failed": 1}
    (record,) = caplog.records
    assert vars(record)["problem"] == "the port is in use"
    process.error = NotApplied("a file is missing")
    await process.until(
        lambda: process.config_status.problem == "a file is missing", "another reason is told"
    )
    process.error = None
    await process.until(lambda: process.taken, "it is taken")
    assert process.config_status.problem == ""
    assert process.config_status.digest == digest_of(b"name: second\n")


async def test_what_clients_feel_is_tried_again_after_a_pause_or_when_somebody_asks(
    process: _Process,
) -> None:
    process.error = NotApplied("the port is in use", disturbs=True)
    process.file.write_text("name: second\n")
    await process.until(lambda: process.attempts, "it is tried")
    with pytest.raises(AssertionError):
        await wait_for_async(lambda: process.attempts > 1, 0.2, "nothing")
    process.watch.trigger()
    await process.until(lambda: process.attempts == 2, "a hangup tries it at once")
    process.file.write_text("name: third one\n")
    await process.until(lambda: process.attempts == 3, "so does a change")
    process.error = None
    process.watch.trigger()
    await process.until(lambda: process.taken, "it is taken")


async def test_pauses_grow_up_to_the_longest(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_reload, "MIN_BACKOFF_S", 0.02)
    monkeypatch.setattr(config_reload, "MAX_BACKOFF_S", 0.05)
    process.error = NotApplied("the port is in use", disturbs=True)
    process.file.write_text("name: second\n")
    pauses = []
    for _ in range(4):
        before = process.attempts
        await wait_for_async(partial(process.tried_more_than, before), DEADLINE_S, "another try")
        pauses.append(process.watch._backoff_s)
    assert sorted(pauses) == pauses
    assert pauses[-1] == 0.05


async def test_a_bug_does_not_end_the_watch(process: _Process) -> None:
    process.error = RuntimeError("oops")
    process.file.write_text("name: second\n")
    await process.until(lambda: process.config_status.problem, "it is told")
    assert process.config_status.problem == "internal error: oops"
    assert process.counters.internal_errors == 1
    process.error = None
    process.file.write_text("name: third one\n")
    await process.until(lambda: process.taken, "the next change is taken")
    assert process.config_status.problem == ""


async def test_a_file_that_breaks_its_reader_does_not_end_the_watch(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_source: ConfigSource) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ConfigSource, "load_again", broken)
        process.file.write_text("name: second\n")
        await process.until(lambda: process.config_status.problem, "it is told")
    assert process.config_status.problem == f"{process.file}: cannot be read: no room"
    assert process.counters.config_reloads == {"ok": 0, "failed": 1}
    process.file.write_text("name: third one\n")
    await process.until(lambda: process.taken, "the next change is taken")


async def test_a_file_nested_too_deeply_does_not_end_the_watch(process: _Process) -> None:
    process.file.write_text("name: " + "[" * 1_000)
    await process.until(lambda: process.config_status.problem, "it is told")
    assert "nested too deeply" in process.config_status.problem
    process.file.write_text("name: third one\n")
    await process.until(lambda: process.taken, "the next change is taken")


async def test_a_file_that_could_not_be_read_is_tried_again_and_told_of_once(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def refused(path: Path) -> bytes:
        nonlocal attempts
        attempts += 1
        raise UnreadableFile([f"{path}: cannot be read: Too many open files"])

    with monkeypatch.context() as patch:
        patch.setattr(source, "read", refused)
        process.file.write_text("name: second\n")
        await process.until(lambda: attempts > 2, "it is tried again")
    assert process.config_status.problem == f"{process.file}: cannot be read: Too many open files"
    assert process.counters.config_reloads == {"ok": 0, "failed": 1}
    await process.until(lambda: process.taken, "it is taken when it can be read")
    assert process.config_status.problem == ""


async def test_a_bad_file_is_not_tried_again_until_it_changes(process: _Process) -> None:
    process.file.write_text("nonsense: 1\n")
    await process.until(lambda: process.config_status.problem, "it is told")
    assert process.config_status.problem == "nonsense: unknown key (line 1)"
    assert process.attempts == 0
    process.file.write_text("name: first\n")
    await process.until(lambda: not process.config_status.problem, "the good one is back")


async def test_a_hangup_reads_an_unchanged_file(process: _Process) -> None:
    process.watch.trigger()
    await process.until(lambda: process.taken, "it is read")
    assert process.taken[0].name == "first"


async def test_a_file_that_is_being_written_is_waited_for(
    process: _Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an editor writes in pieces is a valid file after each of them."""
    pieces = iter(["name: se", "name: seco", "name: second\n"])

    async def write_on(_seconds: float) -> None:
        with contextlib.suppress(StopIteration):
            process.file.write_text(next(pieces))

    process.file.write_text("name: s")
    monkeypatch.setattr("asyncio.sleep", write_on)
    await process.watch._check(triggered=False)
    monkeypatch.undo()
    assert [config.name for config in process.taken] == ["second"]


def test_flags_stay_laid_over_what_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("name: first\nlog: {level: debug}\n")
    source = ConfigSource(Flags(config=file, name="flag", log_level="warning"), "serve")
    assert source.load().config.name == "flag"
    file.write_text("name: second\nlog: {level: error, format: json}\n")
    config = source.load_again().config
    assert (config.name, config.log.level, config.log.format) == ("flag", "warning", "json")
