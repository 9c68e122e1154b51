"""The event loop of a process: uvloop where available, and garbage collections made rare.

The only importer of uvloop. Called by the composition root; knows nothing of MQTT. ADR 0055 says
what is collected when.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Thresholds of the three generations after start. What a broker allocates per message dies by
#: reference count; the default (700, 10, 10) would walk every connection's objects again and again.
GC_THRESHOLDS: Final = (50_000, 20, 100)
#: Interval of collections of what is new, and the shortest one of walks over the whole heap.
COLLECT_EVERY_S: Final = 60.0
#: How much the heap has grown since the last walk over it when there is another one. So what is in
#: reference cycles takes no more than that; a heap that stays as it is, is hardly ever walked.
GROWN: Final = 1.25
#: Longest time without a walk: what is in a cycle may hold more than its own memory.
WALK_EVERY_S: Final = 6 * 3600.0
#: The part of the time that walks may take: a heap that takes long is walked more rarely.
_COLLECTING_SHARE: Final = 1 / 2000


def new_event_loop(*, use_uvloop: bool = True) -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's, or asyncio's where uvloop is missing or not wanted."""
    if use_uvloop:
        try:
            import uvloop  # noqa: PLC0415 - optional on some platforms
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def implementation(loop: asyncio.AbstractEventLoop) -> str:
    """Name what runs: "uvloop" or "asyncio" (logged at start)."""
    return "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else "asyncio"


def run(main: Coroutine[Any, Any, T], *, use_uvloop: bool = True) -> T:
    """Run ``main`` in a new event loop, clean the loop up, and return what it returned."""
    with asyncio.Runner(loop_factory=lambda: new_event_loop(use_uvloop=use_uvloop)) as runner:
        return runner.run(main)


def freeze_garbage_collector() -> None:
    """Exclude all existing objects from collections, and from now on what survives its first one.

    A collection takes the event loop in one piece: what stays, such as 100,000 sessions, must not
    be walked again and again. Call it once, when everything that lives as long as the process has
    been built; ``collect_by_time`` finds what is in a reference cycle later on.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    if _freeze_survivors not in gc.callbacks:
        gc.callbacks.append(_freeze_survivors)


def _freeze_survivors(phase: str, info: Mapping[str, int]) -> None:
    """Freeze what has survived a collection of the youngest generation; called by ``gc``."""
    if phase == "stop" and info["generation"] == 0:
        gc.freeze()


def collect_new() -> None:
    """Look through what is new."""
    gc.collect(0)


def collect_all() -> None:
    """Walk the whole heap, also what is frozen."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def collect_by_time(
    new: Callable[[], object] = collect_new,
    everything: Callable[[], object] = collect_all,
    blocks: Callable[[], int] = sys.getallocatedblocks,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Free from time to time what is in a reference cycle all the same. Runs until cancelled.

    What is new is looked through every COLLECT_EVERY_S; the whole heap when ``blocks``, its size,
    has grown (GROWN), be it by cycles or by clients that stay, or after WALK_EVERY_S.
    """
    await asyncio.sleep(COLLECT_EVERY_S)
    new()
    least, walked_s = blocks(), clock()
    pause_s = 0.0
    while True:
        await asyncio.sleep(COLLECT_EVERY_S)
        new()
        size, begin_s = blocks(), clock()
        least = min(least, size)
        is_due = size > least * GROWN or begin_s >= walked_s + WALK_EVERY_S
        if is_due and begin_s >= walked_s + pause_s:
            everything()
            least, walked_s = blocks(), clock()
            pause_s = (walked_s - begin_s) / _COLLECTING_SHARE
