"""How the C library's allocator keeps memory that was freed.

Called once, when a process starts. By default glibc gives large blocks back to the kernel as soon
as they are free, and who gets one next pays for each of its pages again: with messages of 1 MiB
that is more than half of what a broker costs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Final

#: Blocks up to this size, in bytes, are on the heap; each larger one has a mapping of its own.
MAPPED_FROM_BYTES: Final = 4 * 1024 * 1024
#: How much of the heap's end may be free, in bytes.
KEPT_BYTES: Final = 32 * 1024 * 1024
#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Who sets one of these has decided otherwise.
_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep up to ``KEPT_BYTES`` of freed memory; whether that was possible (glibc only)."""
    if sys.platform != "linux" or any(name in environment for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(
        [
            mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES),
        ]
    )
