"""Shared groups of durable members: each acknowledged message reaches one, and QoS 2 only one.

A group counts from when its last member of the beginning has subscribed. QoS 1 messages may come
to two members (how often is no rule).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from support.checks.world import Judge, Violation, World, matches
from support.history import Event, Key, Kind


@dataclass(slots=True)
class _Group:
    """A share name with its filter."""

    topic_filter: str
    since: int
    members: set[str] = field(default_factory=set)
    #: Who got it first.
    arrived: dict[Key, str] = field(default_factory=dict)
    due: dict[Key, None] = field(default_factory=dict)


class Shared(Judge):
    """Judges what the members of each group get between them."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        self._groups: dict[str, _Group] = {}

    def take(self, position: int, event: Event) -> None:
        if event.kind is Kind.SUBSCRIBED and event.topic.startswith("$share/"):
            _, _, topic_filter = event.topic.split("/", 2)
            group = self._groups.setdefault(event.topic, _Group(topic_filter, position))
            if event.client not in group.members:
                group.members.add(event.client)
                group.since = position
        elif event.kind is Kind.ANSWERED:
            self._answered(position, event)
        elif event.kind is Kind.RECEIVED:
            assert event.key is not None
            for group in self._groups.values():
                if event.client in group.members and matches(group.topic_filter, event.key.topic):
                    self._received(group, event)

    def _received(self, group: _Group, event: Event) -> None:
        key = event.key
        assert key is not None
        if event.connection < self.world.newest[event.client]:
            return
        group.due.pop(key, None)
        first = group.arrived.setdefault(key, event.client)
        message = self.world.messages.get(key)
        # What one member gets twice is its session's matter (``checks.durable``).
        if message is not None and message.qos == 2 and first != event.client:
            self.wrong("shared twice", f"{first} got it already, of the same group", event)

    def _answered(self, position: int, event: Event) -> None:
        key = event.key
        assert key is not None
        message = self.world.messages[key]
        if message.acknowledged_since != position or message.seconds:
            return
        for group in self._groups.values():
            if (
                message.first_sent > group.since
                and key not in group.arrived
                and matches(group.topic_filter, key.topic)
            ):
                group.due[key] = None

    def missing(self) -> Iterable[Violation]:
        for name, group in self._groups.items():
            for key in group.due:
                text = "acknowledged, and it reached no member"
                yield Violation("shared lost", text, name, key)
