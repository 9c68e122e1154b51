"""Judge a recorded history by the broker's guarantees. Pure: a list of events in, violations out.

What each rule can know is what the clients saw. The rules are in ``support.checks``, one room for
each kind of promise; this is who calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from support.checks.clean import Clean
from support.checks.durable import Durable
from support.checks.expiry import Expiry
from support.checks.protocol import Protocol
from support.checks.retained import Retained
from support.checks.shared import Shared
from support.checks.wills import Wills
from support.checks.world import Judge, Snapshot, Violation, World, matches
from support.history import NO_CODE, Event, Key, Kind

__all__ = ["Checker", "Snapshot", "Violation", "matches"]


class Checker:
    """Replays a history, and goes on where it stopped when there is more of it."""

    def __init__(self, events: Sequence[Event], announced: Snapshot | None = None) -> None:
        self._events = events
        self._position = 0
        self._violations: list[Violation] = []
        self.world = World(announced or Snapshot())
        room = (self.world, self._violations)
        self._durable, self._clean = Durable(*room), Clean(*room)
        self._retained, self._wills = Retained(*room), Wills(*room)
        self._judges: Sequence[Judge] = (
            *(Protocol(*room), self._durable, self._clean),
            *(self._retained, self._wills, Shared(*room), Expiry(*room)),
        )

    def violations(self) -> list[Violation]:
        """Everything that is wrong already, whatever comes later."""
        self._replay()
        return list(self._violations)

    def missing(self) -> list[Violation]:
        """What has to arrive and has not yet: violations once the deadline is over."""
        self._replay()
        found = chain.from_iterable(judge.missing() for judge in self._judges)
        return [one for one in found if not self.world.may_be_lost(one.key)]

    def unfinished(self) -> list[Key]:
        """Messages that were sent and not acknowledged."""
        self._replay()
        return [
            key
            for key, message in self.world.messages.items()
            if message.qos and not message.is_will and message.acknowledged == NO_CODE
        ]

    def acknowledged_count(self) -> int:
        """How many messages the broker has accepted."""
        self._replay()
        return sum(one.acknowledged != NO_CODE for one in self.world.messages.values())

    def played(self) -> dict[str, int]:
        """How much there was of each kind of load, by what it is called in a summary."""
        self._replay()
        return {
            "messages acknowledged": self.acknowledged_count(),
            "wills": self._wills.seen_count,
            "retained values read": self._retained.read_count,
            "messages to clean sessions": self._clean.received_count,
            "takeovers in mid-exchange": sum(
                event.kind is Kind.MOVES and event.code > 0 for event in self._events
            ),
        }

    def behind(self, client: str, connection: int) -> list[Key]:
        """What a reader of retained values has to read yet on this connection."""
        self._replay()
        return self._retained.behind(client, connection)

    @property
    def repeated_count(self) -> int:
        """Deliveries of QoS 1 messages beyond how often they were published, where allowed."""
        return self._durable.repeated_count

    @property
    def missed_count(self) -> int:
        """Acknowledged messages that clean sessions did not get: for information."""
        return self._clean.missed_count

    def _replay(self) -> None:
        events = self._events
        while self._position < len(events):
            event = events[self._position]
            self.world.take(self._position, event)
            for judge in self._judges:
                judge.take(self._position, event)
            self._position += 1
