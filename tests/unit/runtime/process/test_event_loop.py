"""The event loop and the collector's settings."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from itertools import pairwise

import pytest

from support.virtual_time import VirtualLoop, in_virtual_time
from tidegate.runtime.process import event_loop as loops


async def _which() -> str:
    return loops.implementation(asyncio.get_running_loop())


def test_uvloop_runs_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert loops.run(_which()) == "uvloop"


def test_asyncio_runs_when_asked_for() -> None:
    assert loops.run(_which(), use_uvloop=False) == "asyncio"


def test_asyncio_runs_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loops.run(_which()) == "asyncio"


@pytest.fixture
def frozen() -> Iterator[None]:
    """The collector as processes of the broker have it."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    try:
        loops.freeze_garbage_collector()
        yield
    finally:
        gc.callbacks[:] = callbacks
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("frozen")
def test_what_exists_at_start_is_taken_from_the_collector() -> None:
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == loops.GC_THRESHOLDS


@pytest.mark.usefixtures("frozen")
def test_what_stays_is_walked_once_and_no_more() -> None:
    before = gc.get_freeze_count()
    kept = [[number] for number in range(10_000)]
    assert len(gc.get_objects()) > len(kept)
    gc.collect(0)
    assert gc.get_freeze_count() >= before + len(kept)
    assert len(gc.get_objects()) < 100, "what the next collection looks at, whatever its generation"


class _Node:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("frozen")
def test_a_cycle_that_has_been_frozen_is_freed_with_the_next_walk_over_the_heap() -> None:
    node = _Node()
    gone = weakref.ref(node)
    loops.collect_new()
    del node
    loops.collect_new()
    assert gone() is not None
    loops.collect_all()
    assert gone() is None
    assert len(gc.get_objects()) < 100


@pytest.mark.usefixtures("frozen")
def test_a_cycle_that_is_new_is_freed_without_one() -> None:
    node = _Node()
    gone = weakref.ref(node)
    del node
    loops.collect_new()
    assert gone() is None


class _Heap:
    """A heap in virtual time, of which collections are noted: minutes since the start."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._start_s = loop.time()
        self.size = 1000
        self.garbage = 0
        self.walk_s = 0.001
        self.looked: list[int] = []
        self.walked: list[int] = []

    def _minute(self) -> int:
        return round((self._loop.time() - self._start_s) / loops.COLLECT_EVERY_S)

    def collect_new(self) -> None:
        self.looked.append(self._minute())

    def collect_all(self) -> None:
        self.walked.append(self._minute())
        self._loop.block(self.walk_s)
        self.size -= self.garbage
        self.garbage = 0

    async def minutes(self, count: int) -> None:
        await asyncio.sleep(count * loops.COLLECT_EVERY_S)

    def collecting(self) -> asyncio.Task[None]:
        return asyncio.create_task(
            loops.collect_by_time(
                self.collect_new, self.collect_all, lambda: self.size, self._loop.time
            )
        )


@in_virtual_time
async def test_a_heap_that_stays_is_walked_a_few_times_a_day() -> None:
    heap = _Heap()
    collecting = heap.collecting()
    heap.size = 100_000  # before the first look: what the process has loaded
    await heap.minutes(10)
    heap.size = 124_000
    await heap.minutes(10)
    heap.size = 10_000  # who was there has left
    await heap.minutes(10)
    assert heap.looked[:29] == list(range(1, 30))
    assert heap.walked == []
    await heap.minutes(1000)
    collecting.cancel()
    assert heap.walked == [361, 721]


@in_virtual_time
async def test_a_heap_is_walked_when_it_has_grown_by_a_quarter_since() -> None:
    heap = _Heap()
    collecting = heap.collecting()
    await heap.minutes(1)
    for _ in range(60):
        await heap.minutes(1)
        heap.size += 50
        heap.garbage += 50
    collecting.cancel()
    assert heap.walked, "what is in cycles"
    assert heap.size <= 1000 * loops.GROWN + 100
    assert len(heap.walked) <= 60 * 50 / 250


@in_virtual_time
async def test_walks_are_rare_where_they_take_long() -> None:
    heap = _Heap()
    heap.walk_s = 0.25
    collecting = heap.collecting()
    await heap.minutes(1)
    for _ in range(40):
        await heap.minutes(1)
        heap.size *= 2
    collecting.cancel()
    pauses = [later - earlier for earlier, later in pairwise(heap.walked)]
    assert pauses
    assert all(pause * loops.COLLECT_EVERY_S >= 500 for pause in pauses)
