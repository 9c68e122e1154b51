"""The priority of threads that compute beside the event loop."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from tidegate.runtime.process import thread_priority
from tidegate.runtime.process.thread_priority import NICE, SLICE_NS, yield_to_event_loop

T = TypeVar("T")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a priority is the process' own")


def with_priority(call: Callable[[], T], prepare: Callable[[], None] = yield_to_event_loop) -> T:
    """Call it in a thread of its own that has been prepared: what that sets ends with it."""
    results: list[T] = []

    def run() -> None:
        prepare()
        results.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def slice_ns() -> int:
    """Ask the kernel: sched_getattr has the next number."""
    attributes = thread_priority._Attributes()
    number = thread_priority._SCHED_SETATTR[platform.machine()] + 1
    size = ctypes.sizeof(attributes)
    assert ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), size, 0) == 0
    return int(attributes.runtime_ns)


def test_a_thread_has_a_lower_priority_and_no_other_has() -> None:
    before = priority()
    assert with_priority(priority) == min(before + NICE, 19)
    assert priority() == before


@pytest.mark.skipif(
    tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 12),
    reason="Linux has slices of threads since 6.12",
)
def test_the_event_loop_does_not_wait_for_the_end_of_its_slice() -> None:
    """With the slice of everybody the loop waited up to 4 ms for a hash that had begun."""
    assert with_priority(slice_ns) == SLICE_NS
    assert with_priority(slice_ns, lambda: None) < SLICE_NS


def test_an_unknown_processor_has_the_priority_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = priority()
    monkeypatch.setattr(platform, "machine", lambda: "z80")
    assert with_priority(priority) == min(before + NICE, 19)
