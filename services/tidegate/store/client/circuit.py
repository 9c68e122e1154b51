"""Circuit breaker: whether a server is called, and the back-off between probes.

Each lane owns one, and ``cluster`` one for its map. While it is open, operations fail at once with
StoreUnavailable. Only a successful probe closes it.
"""

from __future__ import annotations

import logging
import random
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


class Circuit:
    """Counts failures; open when ``reason`` is set."""

    __slots__ = ("_counters", "_name", "failures", "reason")

    def __init__(self, name: str, counters: Counters) -> None:
        self._name = name
        self._counters = counters
        #: Failures since the last success.
        self.failures = 0
        #: What callers get while the circuit is open.
        self.reason: StoreUnavailable | None = None

    def open(self, reason: str) -> None:
        """Fail operations at once from now on; if it is open already, only replace the reason."""
        if self.reason is None:
            self._counters.store_circuit_open += 1
            self._counters.store_circuit_openings += 1
            log.warning(
                "store unavailable, retrying", extra={"server": self._name, "reason": reason}
            )
        self.reason = StoreUnavailable(reason)

    def close(self) -> None:
        """Let callers through again. Failures stay counted until a round succeeds."""
        if self.reason is not None:
            self.reason = None
            self._counters.store_circuit_open -= 1
            log.info("store available again", extra={"server": self._name})

    def retire(self) -> None:
        """Stop counting as open, without a log line: the server is no longer used."""
        if self.reason is not None:
            self._counters.store_circuit_open -= 1
            self.reason = None

    def pause_s(self) -> float:
        """How long to wait before the next probe."""
        doublings = min(max(self.failures - 1, 0), _MAX_DOUBLINGS)
        longest_s = min(FIRST_PAUSE_S * (1 << doublings), LONGEST_PAUSE_S)
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    def probe_s(self, timeout_s: float) -> float:
        """How long each step of the next probe may take, at most ``timeout_s``."""
        doublings = min(max(self.failures - 1, 0), _MAX_DOUBLINGS)
        return min(FIRST_PROBE_S * (1 << doublings), timeout_s)
