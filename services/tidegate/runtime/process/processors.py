"""The processors that a process may use: the machine's, or its container's.

Called where it is decided how many threads compute at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_processors(cgroups: Path = _CGROUPS) -> int:
    """Return how many processors this process may run on, or its container's CPU limit; at least 1.

    A limit of 1.5 processors counts as 2.
    """
    if sys.platform == "linux":
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    # "max 100000" without a limit.
    with contextlib.suppress(ValueError, OSError):
        quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        found = min(found, math.ceil(int(quota) / int(period)))
    return max(found, 1)
