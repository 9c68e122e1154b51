"""Rebalancing: how many clients each edge disconnects, so that all edges have about the same.

Load balancers choose an edge when a client connects, so a new edge stays almost empty until clients
reconnect. Disconnected clients may come to any edge, so it takes a few rounds; where the load
balancer prefers one edge, rounds have little effect, and the pauses between them grow.

``poller`` owns one ``Rebalancer`` per broker. Pure but for its memory; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.pods.elapsed import has_elapsed, not_after
from tidegate_operator.spec.workloads import RebalanceSpec

#: The longest pause between two rounds without effect.
LONGEST_PAUSE_S: Final = 3600.0
#: A round had an effect if at most this share of the surplus is left.
_EFFECTIVE: Final = 0.75


class Rebalancer:
    """See the module's docstring. Pods are identified by their key."""

    __slots__ = ("_edges", "_last_round", "_last_surplus", "_pause_s", "_stable_since")

    def __init__(self) -> None:
        #: Edges when the Deployment became complete, and when that was.
        self._edges: set[str] = set()
        self._stable_since: datetime | None = None
        self._last_round: datetime | None = None
        self._last_surplus = 0
        self._pause_s = 0.0

    def update(self, edge_pods: Sequence[Pod], edges: Workload, now: datetime) -> None:
        """Take in the edges of the broker, and whether their Deployment is complete."""
        self._last_round = not_after(self._last_round, now)
        self._stable_since = not_after(self._stable_since, now)
        keys = {pod.key for pod in edge_pods}
        if not edges.is_complete or not all(pod.is_ready for pod in edge_pods):
            self._stable_since = None
        elif self._stable_since is None or keys != self._edges:
            self._edges, self._stable_since = keys, now

    def overloaded_edges(
        self, spec: RebalanceSpec, rate: float, connections: Mapping[str, int], now: datetime
    ) -> tuple[dict[str, int], float]:
        """Return how many clients which edges (by key) have to disconnect, and the mean of all
        edges; nothing if connections are balanced, or no round is due.

        ``connections`` are those that edges have reported just now; ``rate`` is how many clients
        per second an edge disconnects.
        """
        if not spec.enabled or not has_elapsed(self._stable_since, spec.stabilization_s, now):
            return {}, 0.0
        pause = max(self._pause_s, spec.interval_s)
        if self._last_round is not None and not has_elapsed(self._last_round, pause, now):
            return {}, 0.0
        if not self._edges or not self._edges <= connections.keys():
            return {}, 0.0
        counts = {key: connections[key] for key in self._edges}
        # A round should be complete before the next one.
        most = int(rate * spec.interval_s)
        overloaded = surplus(counts, spec.excess_percent, spec.minimum_excess, most)
        total = sum(overloaded.values())
        if not total:
            self._last_surplus, self._pause_s = 0, 0.0
            return {}, 0.0
        self._pause_s = pause_s(spec.interval_s, self._pause_s, self._last_surplus, total)
        self._last_surplus, self._last_round = total, now
        return overloaded, sum(counts.values()) / len(counts)


def surplus(
    counts: Mapping[str, int], excess_percent: int, minimum_excess: int, most: int
) -> dict[str, int]:
    """Return how many clients each edge has to disconnect; edges without surplus are left out.

    Only an edge with more than ``excess_percent`` % and at least ``minimum_excess`` above the mean
    disconnects clients, never more than it has above the mean, nor more than ``most``.
    """
    total = sum(counts.values())
    surplus_by_edge = {}
    for edge, count in counts.items():
        # The mean is rounded up to a whole number, so that no edge falls below it.
        above = count - -(-total // len(counts))
        is_much = count * len(counts) * 100 > total * (100 + excess_percent)
        if is_much and above >= max(1, minimum_excess) and most > 0:
            surplus_by_edge[edge] = min(above, most)
    return surplus_by_edge


def pause_s(interval_s: float, last_pause_s: float, before: int, now: int) -> float:
    """Return how long to wait after a round. ``before`` and ``now``: the total surplus at the last
    round and at this one; 0 and 0 for the first one."""
    if not before or now <= before * _EFFECTIVE:
        return interval_s
    return max(interval_s, min(last_pause_s * 2, LONGEST_PAUSE_S))
