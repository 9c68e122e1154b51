"""The memory that a process may have: the machine's, or its container's.

Called for the embedded store's limit, and by ``tidegate doctor``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_memory(cgroups: Path = _CGROUPS) -> int:
    """Return the memory of the machine, or of the container if that has less; 0: unknown."""
    found = []
    with contextlib.suppress(ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        # "max" without a limit.
        with contextlib.suppress(ValueError, OSError):
            found.append(int((cgroups / name).read_text(encoding="ascii")))
    return min((size for size in found if size > 0), default=0)
