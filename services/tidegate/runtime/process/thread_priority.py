"""The priority of a thread, or of a process, that computes for long beside the event loop.

Called by such threads when they start, and by the parent of such a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from typing import Final

#: Where such a thread and the event loop want one processor, it has a tenth of the time. Lower, and
#: nothing would be computed while the event loop is busy.
NICE: Final = 10
#: How long it runs once it does, in nanoseconds: the most that Linux allows. A thread that becomes
#: ready and has a shorter slice, as the event loop has, does not wait for its end (since 6.12).
SLICE_NS: Final = 100_000_000
#: The number of the system call sched_setattr, which Python does not have, by processor.
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "s390x": 345}


class _Attributes(ctypes.Structure):
    """struct sched_attr, as it was first (48 bytes)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def yield_to_event_loop() -> None:
    """Lower the priority of the calling thread, as far as the system allows it."""
    if sys.platform == "linux":
        lower_priority(0, os.getpriority(os.PRIO_PROCESS, 0) + NICE)


def lower_priority(thread: int, niceness: int) -> None:
    """Give a thread (0: the calling one) this niceness, and the longest slice.

    As far as the system allows it. Of a process that has just been started, what its threads will
    have, which inherit it. Elsewhere than on Linux a niceness is that of the process.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    # Before 6.12 the slice is ignored; a container's filter may refuse the call.
    with contextlib.suppress(OSError, AttributeError):
        attributes = _Attributes(
            size=ctypes.sizeof(_Attributes),
            policy=os.SCHED_OTHER,
            nice=os.getpriority(os.PRIO_PROCESS, thread),
            runtime_ns=SLICE_NS,
        )
        ctypes.CDLL(None).syscall(number, thread, ctypes.byref(attributes), 0)
