"""A limit on how often something may happen, as a token bucket.

Owned by whoever limits: a client its publishes, a listener its connections. Times are seconds on
any clock that never goes back, and are arguments.
"""

from __future__ import annotations


class TokenBucket:
    """Tokens that come back at ``rate`` per second, up to ``burst`` of them; full at first."""

    __slots__ = ("_at_s", "_burst", "_rate", "tokens")

    def __init__(self, rate: float, burst: float, now_s: float = 0.0) -> None:
        assert rate > 0, "no limit is no bucket"
        self._rate = rate
        self._burst = burst
        self._at_s = now_s
        #: Tokens left when the bucket was last asked; below zero after ``pay`` took too many.
        self.tokens = burst

    def take(self, now_s: float, amount: float = 1) -> bool:
        """Take tokens if there are enough; False, and nothing is taken, if not."""
        self._refill(now_s)
        if self.tokens < amount:
            return False
        self.tokens -= amount
        return True

    def pay(self, amount: float, now_s: float) -> float:
        """Take tokens for what has happened already; return the seconds until the debt is paid.

        0 if there were enough. Never refuses: what came in one piece is let through, and what comes
        after it waits.
        """
        self._refill(now_s)
        self.tokens -= amount
        return max(0.0, -self.tokens / self._rate)

    def wait_s(self, amount: float = 1) -> float:
        """Return the seconds, from when it was last asked, until ``take`` would be granted.

        An ``amount`` above the burst counts as the burst; it is never granted.
        """
        return max(0.0, (min(amount, self._burst) - self.tokens) / self._rate)

    def _refill(self, now_s: float) -> None:
        if now_s > self._at_s:
            self.tokens = min(self._burst, self.tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s
