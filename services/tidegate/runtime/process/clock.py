"""Broker time: what leases and expiry go by, whatever wall clocks do (ADR 0015).

Owns this process's share of it, which runs by the monotonic clock. A router takes it from the store
when it starts, and compares it at every renewal of a lease; an edge takes it from routers, with the
renewal of its own lease. Made by ``roles.process``; the parts of edges and routers get ``now_ms``.
It also says how far the wall clock of this process is off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

#: A wall clock that differs by more than this is reported.
MAX_OFFSET_S: Final = 5.0
#: After so long another time of the store's server counts as the right one.
SETTLE_S: Final = 600.0

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
_MAX_OFFSET_NS: Final = int(MAX_OFFSET_S * _NS_PER_S)


class BrokerClock:
    """See the module's docstring. Until it is known, it shows the wall clock's time."""

    __slots__ = (
        "_is_reported",
        "_monotonic_ns",
        "_offset_ns",
        "_stepped_at_ns",
        "_wall_ahead_ns",
        "_wall_ns",
        "is_known",
    )

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        #: Broker time minus the monotonic clock.
        self._offset_ns = wall_ns() - monotonic_ns()
        #: How far wall clocks are ahead of broker time, by that of the store's server.
        self._wall_ahead_ns = 0
        #: Since when the server's clock has been another one; 0: it is the same.
        self._stepped_at_ns = 0
        self._is_reported = False
        #: Whether broker time has been read from the store, or from a router.
        self.is_known = False

    def now_ms(self) -> int:
        """Broker time in milliseconds, about Unix time."""
        return (self._monotonic_ns() + self._offset_ns) // _NS_PER_MS

    def wall_ms(self) -> int:
        """What a wall clock should show now, in Unix milliseconds."""
        return (self._now_ns() + self._wall_ahead_ns) // _NS_PER_MS

    def _now_ns(self) -> int:
        return self._monotonic_ns() + self._offset_ns

    # Set by the store or by a router

    def set(self, now_ms: int, wall_ms: int) -> None:
        """Begin with this broker time, and the time of the store's server."""
        self._offset_ns = now_ms * _NS_PER_MS - self._monotonic_ns()
        self._wall_ahead_ns = (wall_ms - now_ms) * _NS_PER_MS
        self._stepped_at_ns = 0
        self.is_known = True

    def follow(self, now_ms: int, wall_ms: int, age_s: float) -> None:
        """Take both times from a router; they were read at most ``age_s`` ago."""
        oldest = now_ms * _NS_PER_MS - self._monotonic_ns()
        self._offset_ns = _between(self._offset_ns, oldest, oldest + int(age_s * _NS_PER_S))
        self._wall_ahead_ns = (wall_ms - now_ms) * _NS_PER_MS
        self.is_known = True

    def advance(self, now_ms: int, wall_ms: int, age_s: float) -> None:
        """Do not be behind the store's broker time; it was read at most ``age_s`` ago.

        ``wall_ms`` is the clock of its server. A step of that is taken over when it has lasted for
        SETTLE_S: until then it may be the one that is wrong.
        """
        self._offset_ns = max(self._offset_ns, now_ms * _NS_PER_MS - self._monotonic_ns())
        ahead = wall_ms * _NS_PER_MS - self._now_ns()
        nearest = _between(self._wall_ahead_ns, ahead, ahead + int(age_s * _NS_PER_S))
        step_ns = nearest - self._wall_ahead_ns
        if abs(step_ns) > _MAX_OFFSET_NS:
            now_ns = self._monotonic_ns()
            if not self._stepped_at_ns:
                self._stepped_at_ns = now_ns
                log.warning(
                    "clock of the store's server has stepped, expiry is not affected",
                    extra={"step_s": round(step_ns / _NS_PER_S, 1)},
                )
            if now_ns - self._stepped_at_ns < SETTLE_S * _NS_PER_S:
                return
        self._stepped_at_ns = 0
        self._wall_ahead_ns = nearest

    # The wall clock of this process

    def offset_s(self) -> float:
        """Seconds by which the wall clock is ahead of what it should be; 0 while unknown."""
        if not self.is_known:
            return 0.0
        return (self._wall_ns() - self._now_ns() - self._wall_ahead_ns) / _NS_PER_S

    def problem(self) -> str:
        """Return how far the wall clock is off, in words; "" when it is not."""
        offset_s = self.offset_s()
        if abs(offset_s) <= MAX_OFFSET_S:
            return ""
        side = "ahead of" if offset_s > 0 else "behind"
        return f"wall clock {abs(offset_s):.0f} s {side} the broker's"

    def check(self) -> None:
        """Log when the wall clock begins to be off, and when it is right again."""
        problem = self.problem()
        if bool(problem) == self._is_reported:
            return
        self._is_reported = bool(problem)
        offset = {"offset_s": round(self.offset_s(), 1)}
        if problem:
            log.warning("wall clock is off, leases and expiry are not affected", extra=offset)
        else:
            log.info("wall clock agrees with the broker's", extra=offset)


def _between(value: int, lowest: int, highest: int) -> int:
    return min(max(value, lowest), highest)
