"""Waiting for a condition with a deadline: the only place in the tests where time is let pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def wait_for(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Return the first truthy result of ``condition``; fail with ``what`` after ``deadline_s``."""
    end = time.monotonic() + deadline_s
    pause = _FIRST_PAUSE_S
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


async def wait_for_async(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Do the same as ``wait_for`` without blocking the event loop."""
    end = time.monotonic() + deadline_s
    pause = _FIRST_PAUSE_S
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)
