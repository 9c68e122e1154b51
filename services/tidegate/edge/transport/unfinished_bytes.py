"""What one listener holds in memory of peers that have no CONNACK yet, bounded in sum.

Owned by a `Listener`; connections report what they hold, in whichever stage. When the sum is too
large, those that hold most are closed: a usual CONNECT is small, and comes at once.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from typing import Protocol


class Holder(Protocol):
    """A connection without CONNACK."""

    def end_unfinished(self) -> None:
        """End it now: it holds too much."""


class UnfinishedBytes:
    """See the module's docstring."""

    __slots__ = ("_sizes", "limit", "total")

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self.total = 0
        self._sizes: dict[Holder, int] = {}

    def hold(self, holder: Holder, size: int) -> None:
        """Note how many bytes a connection holds now; end some, perhaps it, if it is too much."""
        sizes = self._sizes
        self.total += size - sizes.get(holder, 0)
        sizes[holder] = size
        if self.total > self.limit:
            self._free()

    def release(self, holder: Holder) -> None:
        """Note that a connection holds nothing any more (idempotent)."""
        if self._sizes:  # hardly ever
            self.total -= self._sizes.pop(holder, 0)

    def _free(self) -> None:
        """End those that hold most, so many that the next time is some way off."""
        enough = self.limit - self.limit // 4
        for holder, _size in sorted(self._sizes.items(), key=itemgetter(1), reverse=True):
            if self.total <= enough:
                break
            self.release(holder)
            holder.end_unfinished()
