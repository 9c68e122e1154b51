"""What a store that has gone back excuses: it has lost what it took after its last copy.

Who was acknowledged then may have nothing of it, and what had been delivered since may be delivered
again. Everything before the copy, and everything after the broker has noticed, is judged as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What is under way when the copy is made may be on either side of it.
_SLACK_S = 1.0


@dataclass(slots=True, frozen=True)
class Rollback:
    """The store has nothing that happened from ``kept_at`` to ``back_at``."""

    kept_at: float
    back_at: float
    #: Until every process has noticed.
    noticed_at: float

    def lost(self, at: float) -> bool:
        """Whether what was done at that time may be lost."""
        return self.kept_at - _SLACK_S <= at <= self.noticed_at

    def repeats(self, done_at: float, at: float) -> bool:
        """Whether what was done then may have come again at this time, and behind newer things."""
        return at >= self.back_at and done_at <= self.noticed_at


class Undone:
    """The rollbacks of a history."""

    def __init__(self, notice_s: float) -> None:
        self._notice_s = notice_s
        self.rollbacks: list[Rollback] = []

    def add(self, at: float, seconds: float) -> None:
        """The store is back at ``at`` with what it had ``seconds`` before."""
        self.rollbacks.append(Rollback(at - seconds, at, at + self._notice_s))

    def may_be_lost(self, begun_at: float, done_at: float) -> bool:
        """Whether something of that time may be lost."""
        return any(rollback.lost(begun_at) or rollback.lost(done_at) for rollback in self.rollbacks)

    def may_repeat(self, done_at: float, at: float) -> bool:
        """Whether something of ``done_at`` may come again, or late, at this time."""
        return any(rollback.repeats(done_at, at) for rollback in self.rollbacks)

    def between(self, since: float, until: float) -> bool:
        """Whether the store went back in that time, or the broker had yet to notice it."""
        return any(
            rollback.back_at <= until and rollback.noticed_at >= since
            for rollback in self.rollbacks
        )
