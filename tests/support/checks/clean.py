"""Sessions that end with their connection: on each of them QoS 2 once, first copies in order.

What such a session loses with its connection is nobody's fault; what it misses is only counted.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from support.checks.world import Judge, Violation, World, matches
from support.history import Event, Key, Kind


@dataclass(slots=True)
class _Received:
    """What came on one connection."""

    arrived: set[Key] = field(default_factory=set)
    highest: dict[tuple[str, str, int], int] = field(default_factory=dict)
    filters: list[tuple[str, int]] = field(default_factory=list)


class Clean(Judge):
    """Judges live messages to clean sessions; those with RETAIN are ``checks.retained``'s."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        self.received_count = 0
        self.missed_count = 0
        self._connections: dict[tuple[str, int], _Received] = defaultdict(_Received)
        #: Acknowledged at QoS 1 and 2: when, and when they were sent first (positions).
        self._acknowledged: list[tuple[int, int, Key]] = []

    def take(self, position: int, event: Event) -> None:
        match event.kind:
            case Kind.SUBSCRIBED if self._is_clean(event):
                received = self._connections[event.client, event.connection]
                received.filters.append((event.topic, position))
            case Kind.ANSWERED:
                assert event.key is not None
                message = self.world.messages[event.key]
                if message.acknowledged_since == position and not message.retain:
                    self._acknowledged.append((position, message.first_sent, event.key))
            case Kind.RECEIVED if self._is_clean(event):
                self._received(event)
            case Kind.ENDED if (event.client, event.connection) in self._connections:
                self._ended(self._connections[event.client, event.connection])
            case _:
                pass

    def _is_clean(self, event: Event) -> bool:
        return self.world.connection(event.client, event.connection).clean

    def _received(self, event: Event) -> None:
        key = event.key
        assert key is not None
        message = self.world.messages.get(key)
        if message is None or message.retain or message.is_will:
            return
        self.received_count += 1
        received = self._connections[event.client, event.connection]
        if key in received.arrived:
            # A QoS 1 message comes again when its publisher repeats it.
            if message.qos != 1:
                text = f"QoS {message.qos}, again on the same connection, identifier"
                self.wrong("clean twice", f"{text} {event.packet_id}", event)
            return
        received.arrived.add(key)
        flow = (key.publisher, key.topic, event.qos)
        highest = received.highest.get(flow, 0)
        if key.seq < highest and not self.world.may_be_behind(event, message):
            self.wrong("clean order", f"came for the first time after number {highest}", event)
        received.highest[flow] = max(highest, key.seq)

    def _ended(self, received: _Received) -> None:
        """Count what was acknowledged while this connection was subscribed, and did not come."""
        for topic_filter, since in received.filters:
            for acknowledged, first_sent, key in reversed(self._acknowledged):
                if acknowledged < since:
                    break
                self.missed_count += (
                    first_sent > since
                    and matches(topic_filter, key.topic)
                    and key not in received.arrived
                )
