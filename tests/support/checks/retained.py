"""Retained values: after an acknowledgement nobody reads an older one, and values never go back.

Each topic has one publisher, so its numbers are its order; what a client with a will says when it
has connected, and its wills, are numbered in the order that is right (``Key.online``). Readers have
clean sessions. A QoS 1 value may come again, because its publisher may repeat it; but the newest
that a reader has seen comes last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from support.checks.world import Judge, Message, Violation, World, matches
from support.history import Event, Key, Kind


@dataclass(slots=True)
class _Topic:
    """What one connection has read of one topic."""

    arrived: set[int] = field(default_factory=set)
    highest: int = 0
    last: Key | None = None
    #: Whether a value came since the last SUBSCRIBE, and whether one came with RETAIN.
    has_first: bool = False
    has_retained: bool = False
    #: How often a value came with RETAIN.
    retained_count: int = 0
    #: Values that came with RETAIN.
    read: set[int] = field(default_factory=set)
    #: What came live since the last SUBACK: one that is subscribed again may come live before it.
    live: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Reading:
    """One connection of a reader."""

    topic_filter: str = ""
    #: What had been acknowledged when SUBSCRIBE was sent, the first of those without SUBACK: topic
    #: -> number.
    floor: dict[str, int] = field(default_factory=dict)
    subscribe_count: int = 0
    #: How many have no SUBACK yet, and whether there have been two of these: values that come are
    #: of the one or the other.
    open_count: int = 0
    has_overlapped: bool = False
    #: Position of the SUBACK for the last SUBSCRIBE.
    since: int | None = None
    topics: dict[str, _Topic] = field(default_factory=lambda: defaultdict(_Topic))


class Retained(Judge):
    """Judges what readers get of topics whose values are retained."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        #: Values that came with RETAIN.
        self.read_count = 0
        #: The highest acknowledged number of each topic.
        self._acknowledged: dict[str, Key] = {}
        self._readings: dict[tuple[str, int], _Reading] = defaultdict(_Reading)

    def take(self, position: int, event: Event) -> None:
        match event.kind:
            case Kind.ANSWERED:
                self._answered(event)
            case Kind.SUBSCRIBING if self._is_clean(event):
                self._subscribing(event)
            case Kind.SUBSCRIBED if self._is_clean(event):
                reading = self._readings[event.client, event.connection]
                reading.open_count = max(0, reading.open_count - 1)
                if not reading.open_count:
                    reading.since = position
                for topic in reading.topics.values():
                    topic.live.clear()
            case Kind.RECEIVED if self._is_clean(event):
                self._received(event)
            case Kind.READ:
                self._read(event)
            case _:
                pass

    def _is_clean(self, event: Event) -> bool:
        return self.world.connection(event.client, event.connection).clean

    def _answered(self, event: Event) -> None:
        key = event.key
        assert key is not None
        if not self.world.messages[key].retain or event.code >= 0x80:
            return
        before = self._acknowledged.get(key.topic)
        if before is None or before.seq < key.seq:
            self._acknowledged[key.topic] = key

    def _subscribing(self, event: Event) -> None:
        reading = self._readings[event.client, event.connection]
        reading.subscribe_count += 1
        reading.topic_filter, reading.since = event.topic, None
        reading.open_count += 1
        if reading.open_count > 1:
            reading.has_overlapped = True
        else:
            reading.floor = {topic: key.seq for topic, key in self._acknowledged.items()}
        for topic in reading.topics.values():
            topic.has_first = topic.has_retained = False

    def _received(self, event: Event) -> None:
        key = event.key
        assert key is not None
        message = self.world.messages.get(key)
        if message is None or not message.retain or self._is_unsure(key, message):
            return
        reading = self._readings[event.client, event.connection]
        topic = reading.topics[key.topic]
        floor = reading.floor.get(key.topic, 0)
        # It may be on its way by the subscription that this SUBSCRIBE replaces.
        is_earlier = not event.retain and reading.subscribe_count > 1 and reading.since is None
        is_first = not topic.has_first and not is_earlier
        if is_first and key.seq < floor and not self.world.may_be_old(event):
            text = f"the first value after SUBSCRIBE, number {floor} had been acknowledged"
            self.wrong("stale retained", text, event)
        elif event.retain:
            self._with_retain(event, message, reading, topic)
        else:
            self._live(event, message, topic)
        self.read_count += event.retain
        topic.has_first |= is_first
        if not event.retain and reading.since is not None:
            topic.live.add(key.seq)
        topic.has_retained |= event.retain
        if event.retain:
            topic.read.add(key.seq)
            topic.retained_count += 1
        topic.arrived.add(key.seq)
        topic.highest = max(topic.highest, key.seq)
        topic.last = key

    def _is_unsure(self, key: Key, message: Message) -> bool:
        """Whether it is the will of a connection that nobody knows was there, and when."""
        if not message.is_will:
            return False
        connection = self.world.connection(key.publisher, key.seq // 2)
        return connection.accepted_at is None

    def _with_retain(
        self, event: Event, message: Message, reading: _Reading, topic: _Topic
    ) -> None:
        key = event.key
        assert key is not None
        is_new = reading.since is not None and message.first_sent > reading.since
        if is_new and (key.seq in topic.live or not self.world.is_hurt(event)):
            # Where it could not come live, it is better read than missed.
            text = "published after SUBACK, and it has RETAIN 1"  # [MQTT-3.3.1-12]
            self.wrong("retain flag", text, event)
        elif key.seq < topic.highest and not self._may_be_unstored(event, reading, topic):
            self.wrong("older value", f"retained, after number {topic.highest}", event)
        elif topic.has_retained and (
            topic.retained_count >= reading.subscribe_count
            or not (reading.has_overlapped or self.world.is_hurt(event))
        ):
            # What could not be read at one SUBSCRIBE comes later, perhaps after the next one.
            self.wrong("retained twice", "a second retained value for one SUBSCRIBE", event)
        elif key.seq in topic.live and not (
            reading.subscribe_count > 1 and self.world.is_hurt(event)
        ):
            # Published before SUBACK, it is also due by the subscription that was there before, and
            # comes late where it was hurt.
            self.wrong("retained twice", "retained, after it came live", event)

    def _may_be_unstored(self, event: Event, reading: _Reading, topic: _Topic) -> bool:
        """Whether the newest value came live, and its router was lost before the store had it.

        Its publisher has no acknowledgement, and repeats it unless it is of QoS 0.
        """
        assert event.key is not None
        newest = self.world.messages[event.key._replace(seq=topic.highest)]
        return (
            reading.floor.get(event.key.topic, 0) < topic.highest
            and topic.highest not in topic.read
            and self.world.may_be_unstored(newest, event.at)
        )

    def _live(self, event: Event, message: Message, topic: _Topic) -> None:
        key = event.key
        assert key is not None
        # A will that was read may come live, too: the next CONNECT publishes it once more if its
        # first publish is not confirmed by then.
        is_will_again = message.is_will and key.seq == topic.highest
        # So may values of QoS 1 that their publisher has sent again, up to the newest.
        is_repeated = message.qos == 1 and message.sent > 1
        was_read = topic.highest in topic.read
        if was_read and (is_will_again or is_repeated):
            return
        # Also behind a newer one: that one was live, and is recognised when it is routed again.
        if (was_read or key.seq in topic.read) and self.world.may_be_routed_again(event, message):
            return
        if key.seq not in topic.arrived:
            if key.seq < topic.highest and not self.world.may_be_behind(event, message):
                self.wrong("older value", f"after number {topic.highest}", event)
        elif message.qos != 1 or (message.sent == 1 and not self.world.announced.repeats):
            self.wrong("retained twice", f"QoS {message.qos}, on one connection", event)

    def _read(self, event: Event) -> None:
        """Judge a reader that has waited: it has every topic, and of each the newest came last."""
        reading = self._readings[event.client, event.connection]
        for key in self._behind(reading):
            last = reading.topics[key.topic].last
            text = "acknowledged before SUBSCRIBE, and there is no value"
            if last is not None:
                text = f"the reader ends with number {last.seq}"
            if not self.world.may_be_lost(key):
                self._found.append(Violation("last value", text, event.client, key))

    def behind(self, client: str, number: int) -> list[Key]:
        """What this reader has to read yet."""
        return list(self._behind(self._readings[client, number]))

    def _behind(self, reading: _Reading) -> Iterable[Key]:
        for name, floor in reading.floor.items():
            if not matches(reading.topic_filter, name):
                continue
            topic = reading.topics[name]
            wanted = max(floor, topic.highest)
            if topic.last is None or topic.last.seq < wanted:
                yield Key(self._acknowledged[name].publisher, name, wanted)
