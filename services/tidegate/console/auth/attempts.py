"""How often logins may fail: by address and by user, bounded in memory. Pure; time is an argument.

Used by ``authority``. A login that succeeds takes nothing from the budget.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Failures that an address, or a user name, may have at once.
BURST: Final = 10
#: After these, one more in so many seconds.
REFILL_S: Final = 15.0
#: Addresses and users that are remembered; the oldest are forgotten.
MAX_REMEMBERED: Final = 10_000


class Attempts:
    """Failed logins of late, by a name (an address or a user)."""

    def __init__(self) -> None:
        #: Name → (failures, when they were that many).
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str, now_s: float) -> float:
        """Return how long the next attempt has to wait; 0: it may be made now."""
        count = self._count(name, now_s)
        return 0.0 if count <= BURST - 1 else (count - (BURST - 1)) * REFILL_S

    def failed(self, name: str, now_s: float) -> None:
        """Count a failure."""
        self._failures[name] = self._count(name, now_s) + 1, now_s
        self._failures.move_to_end(name)
        while len(self._failures) > MAX_REMEMBERED:
            self._failures.popitem(last=False)

    def _count(self, name: str, now_s: float) -> float:
        count, at_s = self._failures.get(name, (0.0, now_s))
        return max(0.0, count - (now_s - at_s) / REFILL_S)
