"""The event loop of a process: uvloop where available, and garbage collections made rare.

The only importer of uvloop. Called by the composition root; knows nothing of MQTT.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Thresholds of the three generations after start. What a broker allocates per message dies by
#: reference count; the default (700, 10, 10) would walk every connection's objects again and again.
GC_THRESHOLDS: Final = (50_000, 20, 100)
#: Shortest interval of full collections, which the thresholds alone would hardly ever start.
COLLECT_EVERY_S: Final = 60.0
#: The part of the time that they may take: a heap that takes long is walked more rarely.
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
    """Exclude all existing objects from collections, and make full collections rare.

    Call it once, when everything that lives as long as the process has been built.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def collect_by_time(
    collect: Callable[[], object] = gc.collect, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Free from time to time what is in a reference cycle all the same. Runs until cancelled."""
    pause_s = COLLECT_EVERY_S
    while True:
        await asyncio.sleep(pause_s)
        begin_s = clock()
        collect()
        pause_s = max(COLLECT_EVERY_S, (clock() - begin_s) / _COLLECTING_SHARE)
