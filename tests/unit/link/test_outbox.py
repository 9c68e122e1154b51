"""What waits to be sent over one stream: which frames it becomes, and when they go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from support.virtual_time import in_virtual_time, turns
from tidegate.link import outbox as module
from tidegate.link.outbox import FRAME_BYTES, FULL_BYTES, GATHER_S, Outbox


class _Wire:
    """Takes frames: lists of what was added. Notes when, and never two at a time."""

    def __init__(self) -> None:
        self.frames: list[list[str]] = []
        self.times_s: list[float] = []
        self.sent_count = 0
        #: Cleared: a write does not come back.
        self.takes = asyncio.Event()
        self.takes.set()
        self._writing = False

    async def write(self, frame: list[str]) -> None:
        assert not self._writing, "two writes at a time"
        self._writing = True
        self.times_s.append(asyncio.get_running_loop().time())
        await self.takes.wait()
        self.frames.append(frame)
        self._writing = False

    def sent(self) -> None:
        self.sent_count += 1


@contextlib.asynccontextmanager
async def _running(window_bytes: int = 0) -> AsyncIterator[tuple[Outbox[list[str]], _Wire]]:
    made: Callable[[], list[str]] = list
    outbox, wire = Outbox(made, window_bytes), _Wire()
    task = asyncio.create_task(outbox.send(wire.write, wire.sent))
    await turns()
    try:
        yield outbox, wire
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _add(outbox: Outbox[list[str]], what: str, size_bytes: int = 10) -> None:
    outbox.frame.append(what)
    outbox.grew(size_bytes)


@in_virtual_time
async def test_an_idle_stream_sends_at_once() -> None:
    async with _running() as (outbox, wire):
        now_s = asyncio.get_running_loop().time()
        _add(outbox, "a")
        await turns()
        assert wire.frames == [["a"]]
        assert wire.times_s == [now_s]


@in_virtual_time
async def test_a_busy_stream_gathers_for_a_moment() -> None:
    async with _running() as (outbox, wire):
        for number in range(40):
            _add(outbox, str(number))
            await asyncio.sleep(GATHER_S / 10)
        await asyncio.sleep(1)
        gaps = [after - before for before, after in itertools.pairwise(wire.times_s)]
        assert min(gaps) >= GATHER_S * 0.99
        assert [one for frame in wire.frames for one in frame] == [str(one) for one in range(40)]
        assert max(map(len, wire.frames[1:])) >= 9


@in_virtual_time
async def test_a_full_frame_does_not_wait_for_company() -> None:
    async with _running() as (outbox, wire):
        _add(outbox, "first")
        await turns()
        _add(outbox, "large", FULL_BYTES)
        await turns()
        assert wire.frames == [["first"], ["large"]]
        assert wire.times_s[0] == wire.times_s[1]


@in_virtual_time
async def test_what_gathers_during_a_write_goes_with_the_next_one_in_order() -> None:
    async with _running() as (outbox, wire):
        wire.takes.clear()
        _add(outbox, "a")
        await turns()
        for one in ("b", "c", "d"):
            _add(outbox, one)
        await turns()
        assert wire.frames == []
        wire.takes.set()
        await asyncio.sleep(0.1)
        assert wire.frames == [["a"], ["b", "c", "d"]]


@in_virtual_time
async def test_frames_are_bounded_in_size() -> None:
    async with _running() as (outbox, wire):
        wire.takes.clear()
        size = FRAME_BYTES // 10 + 1
        for number in range(35):
            _add(outbox, str(number), size)
        wire.takes.set()
        await asyncio.sleep(0.1)
        assert [len(frame) for frame in wire.frames] == [10, 10, 10, 5]
        assert [one for frame in wire.frames for one in frame] == [str(one) for one in range(35)]


@in_virtual_time
async def test_what_waits_is_counted_until_the_transport_has_taken_it() -> None:
    async with _running() as (outbox, wire):
        wire.takes.clear()
        _add(outbox, "a", 100)
        await turns()
        _add(outbox, "b", 11)
        assert outbox.queued_bytes == 111
        assert (outbox.sent_count, wire.sent_count) == (0, 0)
        wire.takes.set()
        await turns()
        assert outbox.queued_bytes == 11
        assert (outbox.sent_count, wire.sent_count) == (1, 1)
        await asyncio.sleep(0.1)
        assert outbox.queued_bytes == 0
        assert (outbox.sent_count, wire.sent_count) == (2, 2)


@in_virtual_time
async def test_no_more_is_sent_than_the_peer_confirms() -> None:
    async with _running(window_bytes=100) as (outbox, wire):
        for one in ("a", "b", "c", "d"):
            _add(outbox, one, 60)
            await asyncio.sleep(0.1)
        # The window is overrun by one frame at most, so that a frame larger than it can go at all.
        assert wire.frames == [["a"], ["b"]]
        assert outbox.queued_bytes == 120
        outbox.confirm(1)
        await asyncio.sleep(0.1)
        assert wire.frames == [["a"], ["b"], ["c"]]
        outbox.confirm(1)
        await asyncio.sleep(0.1)
        assert len(wire.frames) == 3
        outbox.confirm(3)
        await asyncio.sleep(0.1)
        assert wire.frames == [["a"], ["b"], ["c"], ["d"]]
        assert outbox.queued_bytes == 0


@in_virtual_time
async def test_a_peer_that_confirms_more_than_it_got_opens_nothing() -> None:
    async with _running(window_bytes=100) as (outbox, wire):
        _add(outbox, "a", 200)
        await asyncio.sleep(0.1)
        outbox.confirm(1_000_000)
        for one in ("b", "c"):
            _add(outbox, one, 200)
            await asyncio.sleep(0.1)
        assert wire.frames == [["a"], ["b"]]


@in_virtual_time
async def test_sending_ends_with_the_error_of_the_transport() -> None:
    async def write(_frame: list[str]) -> None:
        raise ConnectionResetError("gone")

    made: Callable[[], list[str]] = list
    outbox = Outbox(made)
    _add(outbox, "a")
    with pytest.raises(ConnectionResetError, match="gone"):
        await outbox.send(write, lambda: None)


def test_a_full_frame_is_smaller_than_the_largest() -> None:
    assert module.FULL_BYTES < module.FRAME_BYTES
