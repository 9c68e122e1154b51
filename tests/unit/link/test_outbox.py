"""What waits to be sent over one stream: which frames it becomes, and when they go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.virtual_time import in_virtual_time, turns
from tidegate.link import outbox as module
from tidegate.link.outbox import FRAME_BYTES, FULL_BYTES, GATHER_S, Outbox
from tidegate.link.v1 import link_pb2 as pb


class _Frame(list[str]):
    """What was added to a frame."""

    operations: Any = None


class _Wire:
    """Takes frames: lists of what was added. Notes when, and never two at a time."""

    def __init__(self) -> None:
        self.frames: list[_Frame] = []
        self.times_s: list[float] = []
        self.sent_count = 0
        #: Cleared: a write does not come back.
        self.takes = asyncio.Event()
        self.takes.set()
        self._writing = False

    async def write(self, frame: _Frame) -> None:
        assert not self._writing, "two writes at a time"
        self._writing = True
        self.times_s.append(asyncio.get_running_loop().time())
        await self.takes.wait()
        self.frames.append(frame)
        self._writing = False

    def sent(self) -> None:
        self.sent_count += 1


@contextlib.asynccontextmanager
async def _running(window_bytes: int = 0) -> AsyncIterator[tuple[Outbox[_Frame], _Wire]]:
    clock = asyncio.get_running_loop().time
    outbox, wire = Outbox(_Frame, window_bytes, clock=clock), _Wire()
    task = asyncio.create_task(outbox.send(wire.write, wire.sent))
    await turns()
    try:
        yield outbox, wire
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _add(outbox: Outbox[_Frame], what: str, size_bytes: int = 10) -> None:
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


async def _make_busy(outbox: Outbox[_Frame], wire: _Wire) -> None:
    """Have a stream gather; what it was sent for that is forgotten, its last frame goes now."""
    for _ in range(100):
        _add(outbox, "busy")
        await asyncio.sleep(GATHER_S / 10)
    await asyncio.sleep(GATHER_S)
    _add(outbox, "last")
    await turns()
    assert wire.frames[-1] == ["last"]
    wire.frames.clear()
    wire.times_s.clear()


@in_virtual_time
async def test_what_comes_now_and_then_is_sent_at_once_and_no_timer_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _running() as (outbox, wire):
        loop = asyncio.get_running_loop()
        for number in range(100):
            with monkeypatch.context() as patched:
                patched.setattr(loop, "call_later", None)
                patched.setattr(loop, "call_at", None)
                _add(outbox, str(number))
                await turns()
            assert wire.frames[number:] == [[str(number)]]
            await asyncio.sleep(GATHER_S / 2)


@in_virtual_time
async def test_a_busy_stream_gathers_for_a_moment() -> None:
    async with _running() as (outbox, wire):
        for number in range(400):
            _add(outbox, str(number))
            await asyncio.sleep(GATHER_S / 10)
        await asyncio.sleep(1)
        assert [one for frame in wire.frames for one in frame] == [str(one) for one in range(400)]
        gaps = [after - before for before, after in itertools.pairwise(wire.times_s)]
        assert len(wire.frames) <= 60
        assert min(gaps[20:]) >= GATHER_S * 0.99
        assert min(map(len, wire.frames[21:-1])) >= 9


@in_virtual_time
async def test_a_burst_of_one_turn_is_one_frame() -> None:
    async with _running() as (outbox, wire):
        for burst in range(5):
            for number in range(50):
                _add(outbox, f"{burst} {number}")
            await asyncio.sleep(1)
        assert [len(frame) for frame in wire.frames] == [50] * 5


@in_virtual_time
async def test_what_is_urgent_takes_what_has_gathered_along_at_once() -> None:
    async with _running() as (outbox, wire):
        await _make_busy(outbox, wire)
        now_s = asyncio.get_running_loop().time()
        _add(outbox, "a")
        await turns()
        assert not wire.frames
        _add(outbox, "fetch")
        outbox.hurry()
        await turns()
        assert wire.frames == [["a", "fetch"]]
        assert wire.times_s == [now_s]
        # Also when the stream was busy with a write at the time.
        wire.takes.clear()
        _add(outbox, "large", FULL_BYTES)
        await turns()
        _add(outbox, "fetch")
        outbox.hurry()
        wire.takes.set()
        await turns()
        assert wire.frames[1:] == [["large"], ["fetch"]]
        # What comes behind it gathers again.
        _add(outbox, "b")
        await turns()
        assert len(wire.frames) == 3


@in_virtual_time
async def test_a_full_frame_does_not_wait_for_company() -> None:
    async with _running() as (outbox, wire):
        await _make_busy(outbox, wire)
        now_s = asyncio.get_running_loop().time()
        _add(outbox, "a")
        await turns()
        assert not wire.frames
        _add(outbox, "large", FULL_BYTES)
        await turns()
        assert wire.frames == [["a", "large"]]
        assert wire.times_s == [now_s]


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
        await _make_busy(outbox, wire)
        sent_count = outbox.sent_count
        wire.takes.clear()
        await asyncio.sleep(GATHER_S)
        _add(outbox, "a", 100)
        await turns()
        _add(outbox, "b", 11)
        assert outbox.queued_bytes == 111
        assert (outbox.sent_count, wire.sent_count) == (sent_count, sent_count)
        wire.takes.set()
        await turns()
        assert outbox.queued_bytes == 11
        assert (outbox.sent_count, wire.sent_count) == (sent_count + 1, sent_count + 1)
        await asyncio.sleep(0.1)
        assert outbox.queued_bytes == 0
        assert (outbox.sent_count, wire.sent_count) == (sent_count + 2, sent_count + 2)


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
    async def write(_frame: _Frame) -> None:
        raise ConnectionResetError("gone")

    outbox = Outbox(_Frame)
    _add(outbox, "a")
    with pytest.raises(ConnectionResetError, match="gone"):
        await outbox.send(write, lambda: None)


def _operations(frame: pb.EdgeFrame) -> list[bytes | int]:
    return [
        operation.records if operation.WhichOneof("kind") == "records" else operation.synced.id
        for operation in frame.operations
    ]


@in_virtual_time
async def test_records_stand_where_they_were_added_among_the_operations() -> None:
    outbox = Outbox(pb.EdgeFrame)
    for added in (b"a", b"b", 1, 2, b"c", 3, b"d"):
        if isinstance(added, bytes):
            outbox.records.append(added)
        else:
            outbox.operation().synced.id = added
        outbox.grew(10)
    outbox.records.append(b"e")
    outbox.grew(FRAME_BYTES)
    outbox.records.append(b"f")
    assert [_operations(frame) for frame in outbox.unsent()] == [
        [b"ab", 1, 2, b"c", 3, b"de"],
        [b"f"],
    ]


def test_a_full_frame_is_smaller_than_the_largest() -> None:
    assert module.FULL_BYTES < module.FRAME_BYTES
