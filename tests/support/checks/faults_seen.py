"""Which process or path was hurt when, and what that excuses. ``world`` has it; judges use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from support.history import Event, Kind


@dataclass(slots=True)
class Faults:
    """What was hurt, and when."""

    #: Target, place, begin, end (None: not over).
    spans: list[tuple[str, str, float, float | None]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Take a fault or a healing."""
        if event.kind is Kind.FAULT:
            self.spans.append((event.client, event.place, event.at, None))
            return
        for index in range(len(self.spans) - 1, -1, -1):
            target, place, begin, end = self.spans[index]
            if target == event.client and end is None:
                self.spans[index] = (target, place, begin, event.at)
                return

    def first(self, place: str, since: float, until: float) -> float | None:
        """When clients of this edge were first hurt in that time, None: not at all.

        The edge itself, its paths to routers, and what all edges need: routers and store.
        """
        begins = [
            max(begin, since)
            for _, hurt, begin, end in self.spans
            if hurt in {"", place} and begin <= until and (end is None or end >= since)
        ]
        return min(begins, default=None)

    def at_edge(self, place: str, since: float, until: float) -> bool:
        """Whether this edge itself, or a path of it, was hurt in that time."""
        return any(
            hurt == place and begin <= until and (end is None or end >= since)
            for _, hurt, begin, end in self.spans
            if hurt
        )

    def stopped_s(self, since: float, until: float) -> float:
        """How long in that time nothing could be done: no store, or two routers hurt at once."""
        store = self._clip("store", since, until)
        routers = self._clip("router", since, until)
        both = [
            (max(one[0], other[0]), min(one[1], other[1]))
            for index, one in enumerate(routers)
            for other in routers[index + 1 :]
        ]
        return _length_s([*store, *both])

    def at_edge_s(self, place: str, since: float, until: float) -> float:
        """How long in that time this edge was hurt."""
        spans = [
            (max(begin, since), min(until if end is None else end, until))
            for _, hurt, begin, end in self.spans
            if hurt and hurt == place
        ]
        return _length_s(spans)

    def _clip(self, kind: str, since: float, until: float) -> list[tuple[float, float]]:
        return [
            (max(begin, since), min(until if end is None else end, until))
            for target, _, begin, end in self.spans
            if target.startswith(kind)
        ]


def _length_s(spans: Iterable[tuple[float, float]]) -> float:
    """How long their union is."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
