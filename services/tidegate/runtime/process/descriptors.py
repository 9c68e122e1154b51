"""Open files: the limit of the process, how many are open, and how many connections may have.

``raise_limit`` is called by ``roles`` before anything is opened; a `DescriptorBudget` belongs to
the listeners. Opens nothing itself, so that it works when no descriptor is left.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from collections import deque
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: Descriptors that client connections leave for the store, the link, files and the admin server.
RESERVE: Final = 128
#: With a small limit the reserve is this part of it.
RESERVE_DIVISOR: Final = 5
#: Below this limit a process has room for little more than tests; it is warned of.
LOW_LIMIT: Final = 1024
#: Tried where the hard limit is not accepted as soft limit (macOS: OPEN_MAX).
FALLBACK_LIMIT: Final = 10_240
#: With more connections open files are not listed any more, where the kernel has no count of them.
MOST_LISTED: Final = 4096
#: Measurements that ``others`` is the maximum of: sockets that are being closed make it too small.
_REMEMBERED: Final = 4
_DIRECTORIES: Final = (Path("/proc/self/fd"), Path("/dev/fd"))


def limit_of_process() -> int:
    """Return the soft limit of open files; ``sys.maxsize`` if there is none."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one, and log what it is."""
    before = limit_of_process()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, FALLBACK_LIMIT):
        if wanted != resource.RLIM_INFINITY and wanted <= limit_of_process():
            continue
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    limit = limit_of_process()
    is_low = limit < LOW_LIMIT
    log.log(
        logging.WARNING if is_low else logging.INFO,
        "low limit of open files" if is_low else "limit of open files",
        extra={
            "limit": "none" if limit == sys.maxsize else limit,
            "before": "none" if before == sys.maxsize else before,
            "reserve": reserve_of(limit),
        },
    )


def reserve_of(limit: int) -> int:
    """Return how many descriptors of a limit are not for client connections."""
    return min(RESERVE, limit // RESERVE_DIVISOR)


def open_count(*, may_list: bool = True) -> int | None:
    """Return how many descriptors are open; None if that cannot be found, or needs a listing."""
    with contextlib.suppress(OSError):
        # The size of the directory is their number since Linux 6.2.
        if size := _DIRECTORIES[0].stat().st_size:
            return size
    if may_list:
        for directory in _DIRECTORIES:
            with contextlib.suppress(OSError):
                return sum(1 for _ in directory.iterdir()) - 1  # without that of the listing
    return None


class DescriptorBudget:
    """How many connections may be open so that the reserve stays free."""

    __slots__ = ("_others", "free", "limit", "reserve")

    def __init__(self) -> None:
        self._others: deque[int] = deque((0,), maxlen=_REMEMBERED)
        self.limit = sys.maxsize
        self.reserve = RESERVE
        #: Descriptors that can still be opened.
        self.free = sys.maxsize

    def room(self, connections: int) -> int:
        """Measure; return how many connections may be open, ``connections`` of which are now.

        Whatever else is open takes from that room, and not from the reserve.
        """
        self.limit = limit = limit_of_process()
        if limit == sys.maxsize:
            self.free = limit
            return limit
        self.reserve = reserve_of(limit)
        count = open_count(may_list=connections <= MOST_LISTED)
        if count is not None:
            self._others.append(max(0, count - connections))
        others = max(self._others)
        self.free = limit - others - connections if count is None else limit - count
        return max(0, limit - self.reserve - others)
