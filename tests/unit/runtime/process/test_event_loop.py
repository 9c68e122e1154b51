"""The event loop and the collector's settings."""

from __future__ import annotations

import asyncio
import gc
import sys

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


def test_what_exists_at_start_is_taken_from_the_collector() -> None:
    thresholds = gc.get_threshold()
    try:
        loops.freeze_garbage_collector()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == loops.GC_THRESHOLDS
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@in_virtual_time
async def test_what_is_in_a_cycle_is_collected_in_time_and_rarely_where_that_takes_long() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    begun_s: list[float] = []

    def collect() -> None:
        begun_s.append(loop.time())
        loop.block(0.25 if len(begun_s) == 2 else 0.001)

    start_s = loop.time()
    collecting = asyncio.create_task(loops.collect_by_time(collect, loop.time))
    await asyncio.sleep(700)
    collecting.cancel()
    assert [round(one_s - start_s) for one_s in begun_s] == [60, 120, 620, 680]
