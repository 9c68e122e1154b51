"""What rounds add up to: the best and the spread, and ratios of paired rounds. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Final, TypeVar

T = TypeVar("T")

#: How sure an interval is to contain the median, unless there are too few rounds.
CONFIDENCE: Final = 0.95


@dataclass(slots=True, frozen=True)
class Spread:
    """The figures of one broker in the rounds of one scenario; other load only ever adds."""

    best: float
    worst: float
    count: int


def spread(values: Sequence[float], *, higher_is_better: bool = False) -> Spread | None:
    """Return the best and the worst of the rounds, None without any."""
    if not values:
        return None
    ordered = sorted(values, reverse=higher_is_better)
    return Spread(ordered[0], ordered[-1], len(ordered))


def order(players: Sequence[T], round_number: int) -> list[T]:
    """Return who plays in which order: every other round the other way around."""
    return list(players) if round_number % 2 == 0 else list(reversed(players))


@dataclass(slots=True, frozen=True)
class Comparison:
    """The median of the ratios of paired rounds, and an interval that contains the true one.

    ``confidence`` is how probably it does, whatever the distribution is; below CONFIDENCE there
    were too few rounds, and the interval goes from the smallest to the largest ratio.
    """

    median: float
    low: float
    high: float
    confidence: float
    count: int

    def verdict(self, margin: float) -> str:
        """Say whether "at most ``margin`` more" (0.03: 3 %) is shown."""
        if self.confidence < CONFIDENCE:
            return "too few rounds"
        if self.high <= 1 + margin:
            return "shown"
        return "refuted" if self.low > 1 + margin else "open"


def _below(rank: int, count: int) -> float:
    """Probability that the median lies below the ``rank``-th smallest of ``count`` values."""
    below: float = sum(comb(count, k) for k in range(rank)) / 2**count
    return below


def compare(ratios: Sequence[float]) -> Comparison | None:
    """Compare paired rounds by the sign test; None without any."""
    count = len(ratios)
    if not count:
        return None
    ordered = sorted(ratios)
    rank = 1
    while rank < (count + 1) // 2 and 1 - 2 * _below(rank + 1, count) >= CONFIDENCE:
        rank += 1
    confidence = 1 - 2 * _below(rank, count)
    return Comparison(median(ordered), ordered[rank - 1], ordered[count - rank], confidence, count)


def paired(mine: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """Return the ratio of each round that both have finished."""
    return [a / b for a, b in zip(mine, others, strict=True) if a is not None and b]
