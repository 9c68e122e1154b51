"""Circuit breaker: whether a server is called, and the back-off between probes.

Each lane owns one, and ``cluster`` one for its map. While it is open, operations fail at once with
StoreUnavailable. Only a successful probe closes it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import StoreUnavailable

log = logging.getLogger(__name__)

#: Failed rounds in a row that open the circuit; a time-out opens it at once.
MAX_FAILURES: Final = 3
#: Back-off between probes: jittered, doubled with each failure, bounded.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
#: How long each step of the first probe may take; doubled with each failure.
FIRST_PROBE_S: Final = 1.0
_MAX_DOUBLINGS: Final = 16
#: Different reasons that are logged in one outage.
_MAX_REASONS: Final = 8


class Outages:
    """Logs when a server becomes unavailable and available, once for all connections to it."""

    __slots__ = ("_began_s", "_circuits", "_clock", "_failed", "_reasons")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: Server → open circuits, and the reasons that have been logged.
        self._circuits: dict[str, int] = {}
        self._reasons: dict[str, set[str]] = {}
        #: Server → when its outage began, and the operations that have failed at once since then.
        self._began_s: dict[str, float] = {}
        self._failed: dict[str, int] = {}
        self._clock = clock

    def opened(self, name: str) -> None:
        """A circuit of a server has opened; ``failed`` follows."""
        self._circuits[name] = self._circuits.get(name, 0) + 1
        self._began_s.setdefault(name, self._clock())

    def failed(self, name: str, reason: str) -> None:
        """Log a reason, unless it has been in this outage."""
        reasons = self._reasons.setdefault(name, set())
        if reason in reasons or len(reasons) >= _MAX_REASONS:
            return
        reasons.add(reason)
        log.warning("store unavailable, retrying", extra={"server": name, "reason": reason})

    def closed(self, name: str, failed: int, *, recovered: bool) -> None:
        """A circuit that has failed operations has closed (``recovered``), or is not used."""
        self._failed[name] = self._failed.get(name, 0) + failed
        left = self._circuits.pop(name) - 1
        if left:
            self._circuits[name] = left
            return
        self._reasons.pop(name, None)
        outage_s = round(self._clock() - self._began_s.pop(name), 1)
        failed = self._failed.pop(name)
        if recovered:
            log.info(
                "store available again",
                extra={"server": name, "outage_s": outage_s, "operations_failed": failed},
            )


class Circuit:
    """Counts failures; open when ``reason`` is set."""

    __slots__ = ("_counters", "_name", "_outages", "failed_at_once", "failures", "reason")

    def __init__(self, name: str, counters: Counters, outages: Outages | None = None) -> None:
        """``outages`` is shared by all circuits of a store."""
        self._name = name
        self._counters = counters
        self._outages = outages or Outages()
        #: Failures since the last success.
        self.failures = 0
        #: Operations that have failed because it was open; incremented by the lane.
        self.failed_at_once = 0
        #: What callers get while the circuit is open.
        self.reason: StoreUnavailable | None = None

    def open(self, reason: str) -> None:
        """Fail operations at once from now on; if it is open already, only replace the reason."""
        if self.reason is None:
            self._counters.store_circuit_open += 1
            self._counters.store_circuit_openings += 1
            self._outages.opened(self._name)
        self._outages.failed(self._name, reason)
        self.reason = StoreUnavailable(reason)

    def close(self) -> None:
        """Let callers through again. Failures stay counted until a round succeeds."""
        if self.reason is not None:
            self.reason = None
            self._counters.store_circuit_open -= 1
            self._end_outage(recovered=True)

    def retire(self) -> None:
        """Stop counting as open, without a log line: the server is no longer used."""
        if self.reason is not None:
            self._counters.store_circuit_open -= 1
            self.reason = None
            self._end_outage(recovered=False)

    def _end_outage(self, *, recovered: bool) -> None:
        failed, self.failed_at_once = self.failed_at_once, 0
        self._outages.closed(self._name, failed, recovered=recovered)

    def pause_s(self) -> float:
        """How long to wait before the next probe."""
        doublings = min(max(self.failures - 1, 0), _MAX_DOUBLINGS)
        longest_s = min(FIRST_PAUSE_S * (1 << doublings), LONGEST_PAUSE_S)
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    def probe_s(self, timeout_s: float) -> float:
        """How long each step of the next probe may take, at most ``timeout_s``."""
        doublings = min(max(self.failures - 1, 0), _MAX_DOUBLINGS)
        return min(FIRST_PROBE_S * (1 << doublings), timeout_s)
