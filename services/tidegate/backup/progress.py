"""How far a backup or a restore has got: phases, and numbers of what was done in each.

``backup`` and ``restore`` report, ``cli.backup`` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final

INTERVAL_S: Final = 1.0


class Phase(StrEnum):
    """What is being done."""

    WAITING = "waiting"
    READING = "reading"
    VERIFYING = "verifying"
    WRITING = "writing"
    DELETING = "deleting"


@dataclass(slots=True)
class Progress:
    """Calls ``report`` with phase, keys and bytes: at once for a new phase, then each second."""

    report: Callable[[Phase, int, int], None]
    _phase: Phase | None = None
    _reported_s: float = 0.0

    def at(self, phase: Phase, keys: int = 0, size: int = 0) -> None:
        """Report, unless the last report is recent."""
        now_s = monotonic()
        if phase is not self._phase or now_s - self._reported_s >= INTERVAL_S:
            self._phase, self._reported_s = phase, now_s
            self.report(phase, keys, size)
