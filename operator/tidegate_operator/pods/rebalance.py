"""How many clients each edge should let go, so that all edges carry about the same. Pure.

Load balancers choose an edge once, when a client connects: an edge that is new stays almost empty
until clients come back. Those that are let go connect anew, and may come to any edge, so a few
rounds are needed; where a load balancer sends most clients to one edge whatever happens, rounds
help little, and the pauses between them grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The longest pause between two rounds that do not help.
LONGEST_PAUSE_S: Final = 3600.0
#: A round has helped if this share of what was too much, or less, is left.
_HELPED: Final = 0.75


def surplus(
    counts: Mapping[str, int], excess_percent: int, minimum_excess: int, most: int
) -> dict[str, int]:
    """Return by edge how many clients it should let go; edges that keep all are left out.

    Only an edge with more than ``excess_percent`` % and at least ``minimum_excess`` above the mean
    lets any go, never more than it has above the mean, nor more than ``most``.
    """
    total = sum(counts.values())
    found = {}
    for edge, count in counts.items():
        # Whole numbers: the mean itself is rounded up, so that nobody comes below it.
        above = count - -(-total // len(counts))
        is_much = count * len(counts) * 100 > total * (100 + excess_percent)
        if is_much and above >= max(1, minimum_excess) and most > 0:
            found[edge] = min(above, most)
    return found


def pause_s(interval_s: float, last_pause_s: float, before: int, now: int) -> float:
    """Return how long to wait after a round. ``before`` and ``now`` are what the last round and
    this one have to let go in all; 0 and 0 for the first one."""
    if not before or now <= before * _HELPED:
        return interval_s
    return max(interval_s, min(last_pause_s * 2, LONGEST_PAUSE_S))
