"""The priority of threads that compute beside the event loop."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from support import processes
from tidegate.runtime.process import thread_priority
from tidegate.runtime.process.thread_priority import (
    NICE,
    SLICE_NS,
    lower_priority,
    yield_to_event_loop,
)

T = TypeVar("T")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a priority is the process' own")


slices = pytest.mark.skipif(
    tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 12),
    reason="Linux has slices of threads since 6.12",
)


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


def slice_ns(thread: int = 0) -> int:
    """Ask the kernel: sched_getattr has the next number."""
    attributes = thread_priority._Attributes()
    number = thread_priority._SCHED_SETATTR[platform.machine()] + 1
    size = ctypes.sizeof(attributes)
    assert ctypes.CDLL(None).syscall(number, thread, ctypes.byref(attributes), size, 0) == 0
    return int(attributes.runtime_ns)


def test_a_thread_has_a_lower_priority_and_no_other_has() -> None:
    before = priority()
    assert with_priority(priority) == min(before + NICE, 19)
    assert priority() == before


@slices
def test_the_event_loop_does_not_wait_for_the_end_of_its_slice() -> None:
    """With the slice of everybody the loop waited up to 4 ms for a hash that had begun."""
    assert with_priority(slice_ns) == SLICE_NS
    assert with_priority(slice_ns, lambda: None) < SLICE_NS


def test_an_unknown_processor_has_the_priority_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = priority()
    monkeypatch.setattr(platform, "machine", lambda: "z80")
    assert with_priority(priority) == min(before + NICE, 19)


@pytest.fixture
def process() -> Iterator[int]:
    command = [sys.executable, "-c", "input()"]
    with processes.start(command, stdin=subprocess.PIPE) as found:
        yield found.pid
        assert found.stdin is not None
        found.stdin.close()
        found.kill()


@slices
def test_another_process_gets_a_niceness_and_the_longest_slice(process: int) -> None:
    """The console's: a broker that becomes ready does not wait for the end of its slice."""
    wanted = min(priority() + 5, 19)
    lower_priority(process, wanted)
    assert os.getpriority(os.PRIO_PROCESS, process) == wanted
    assert slice_ns(process) == SLICE_NS


def test_a_process_that_has_ended_is_left(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED)
    lower_priority(process, 19)
