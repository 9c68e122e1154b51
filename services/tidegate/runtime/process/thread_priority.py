"""The priority of a thread that computes for long beside the event loop.

Called by such threads when they start. Linux only: elsewhere a priority is that of the process.
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
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        os.nice(NICE)
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _Attributes(
        size=ctypes.sizeof(_Attributes), policy=os.SCHED_OTHER, nice=nice, runtime_ns=SLICE_NS
    )
    # Before 6.12 the slice is ignored; a container's filter may refuse the call.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)
