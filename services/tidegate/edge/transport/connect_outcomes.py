"""Whether connections come to something: how many got CONNACK of late, and how many ended before.

Owned by `UnfinishedWork`; listeners report. Most of what a flood opens ends without CONNACK, be it
refused, broken or closed; most of a fleet that comes back is accepted. Addresses are counted only
while many connections come to nothing, and forgotten afterwards. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: How long the counts of one window are; the last one counts half, and so on.
WINDOW_S: Final = 0.5
#: Fewer failures than this are no flood: health probes, wrong settings of some devices.
LEAST_FAILURES: Final = 100
#: How many failures there are for one that is accepted when most come to nothing.
FAILURES_OF_ONE: Final = 2
#: Addresses that are counted at a time; those that were counted last.
MAX_SOURCES: Final = 1000


class _Counts:
    """Connections of all (those that failed), or of one address."""

    __slots__ = ("accepted", "failed", "mostly_fail", "window_end_s")

    def __init__(self) -> None:
        self.accepted = 0.0
        self.failed = 0.0
        self.mostly_fail = False
        self.window_end_s = 0.0

    def add(self, accepted: int, failed: int, now_s: float) -> None:
        """Count some, after what was counted before has lost half of it for each window since."""
        if now_s >= self.window_end_s:
            part = 0.5 ** min(1 + (now_s - self.window_end_s) // WINDOW_S, 1000.0)
            self.accepted *= part
            self.failed *= part
            self.window_end_s = now_s + WINDOW_S
        self.accepted += accepted
        self.failed += failed
        self.mostly_fail = (
            self.failed >= LEAST_FAILURES and self.failed > FAILURES_OF_ONE * self.accepted
        )


class ConnectOutcomes:
    """See the module's docstring. A source is what counts as one address; "" is none."""

    __slots__ = ("_all", "_clock", "_sources")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all = _Counts()
        #: In the order in which they were counted.
        self._sources: OrderedDict[str, _Counts] = OrderedDict()

    def add_failure(self) -> None:
        """Note one that ended without CONNACK, or with one that refuses."""
        self._all.add(0, 1, self._clock())

    def add_of(self, source: str, *, is_accepted: bool) -> None:
        """Note one of an address, failed or not; to be called while `many_fail`."""
        if not source:
            return
        counts = self._sources.get(source)
        if counts is None:
            counts = self._sources[source] = _Counts()
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(source)
        counts.add(is_accepted, not is_accepted, self._clock())

    def many_fail(self) -> bool:
        """Whether many connections come to nothing, so that addresses are counted."""
        counts = self._all
        if counts.mostly_fail and (now_s := self._clock()) >= counts.window_end_s:
            counts.add(0, 0, now_s)
            if not counts.mostly_fail:
                self._sources.clear()
        return counts.mostly_fail

    def mostly_fail(self, source: object) -> bool:
        """Whether most connections of this address come to nothing."""
        if not self.many_fail():
            return False
        counts = self._sources.get(source) if isinstance(source, str) else None
        if counts is None:
            return False
        counts.add(0, 0, self._clock())
        return counts.mostly_fail
