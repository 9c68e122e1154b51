"""Judge a recorded history by the broker's guarantees. Pure: a list of events in, violations out.

What each rule can know is what the clients saw. An *arrival* is a PUBLISH that a client received on
the connection that was its newest at that moment; what comes later on an older one is no arrival,
because its acknowledgement must not count any more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from support.history import NO_CODE, Event, Key, Kind

#: Reason codes that end nothing well: from here on a code is a refusal.
FAILURE = 0x80


@dataclass(slots=True, frozen=True)
class Snapshot:
    """The reason codes that clients of a scenario may see."""

    disconnect: frozenset[int] = frozenset({0x8B, 0x8E, 0x9C})
    connack: frozenset[int] = frozenset({0x88})
    connack_311: frozenset[int] = frozenset({3})
    answer: frozenset[int] = frozenset({0x00, 0x10})
    #: Whether a QoS 1 message may be delivered more often than it was published. A broker that
    #: does not know whether the store has taken a message has to store it again.
    repeats: bool = False


@dataclass(slots=True, frozen=True)
class Violation:
    """One broken guarantee, with what is needed to tell its story."""

    rule: str
    text: str
    client: str
    key: Key | None = None

    def __str__(self) -> str:
        about = f" {self.key.publisher}:{self.key.topic}:{self.key.seq}" if self.key else ""
        return f"[{self.rule}] {self.client}{about}: {self.text}"


@dataclass(slots=True)
class _Subscription:
    """A durable subscription and when it was acknowledged (position in the history)."""

    topic_filter: str
    qos: int
    since: int


@dataclass(slots=True)
class _Message:
    """What a publisher did with one message."""

    qos: int
    first_sent: int
    sent: int = 0
    acknowledged: int = NO_CODE


@dataclass(slots=True)
class _Subscriber:
    """What one client received, as it is replayed."""

    connection: int = 0
    subscriptions: dict[str, _Subscription] = field(default_factory=dict)
    arrived: set[Key] = field(default_factory=set)
    #: QoS 2 exchanges that the server has not released: packet identifier -> message, connection.
    held: dict[int, tuple[Key, int]] = field(default_factory=dict)
    exactly_once: set[Key] = field(default_factory=set)
    #: QoS 1: the deliveries of a message, packet identifier -> connection of its last arrival.
    deliveries: dict[Key, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    repetitions: Counter[Key] = field(default_factory=Counter)
    highest: dict[tuple[str, str, int], int] = field(default_factory=dict)
    #: Messages that came and were answered on an older connection only.
    strays: dict[Key, int] = field(default_factory=dict)


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a filter without $share matches a topic (MQTT5 §4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


class Checker:
    """Replays a history, and goes on where it stopped when there is more of it."""

    def __init__(self, events: Sequence[Event], announced: Snapshot | None = None) -> None:
        self._events = events
        self._announced = announced or Snapshot()
        #: Deliveries of QoS 1 messages beyond how often they were published, where allowed.
        self.repeated_count = 0
        self._position = 0
        self._violations: list[Violation] = []
        self._messages: dict[Key, _Message] = {}
        self._clients: dict[str, _Subscriber] = defaultdict(_Subscriber)
        self._unanswered: dict[tuple[str, int, int], list[tuple[int, Key]]] = defaultdict(list)

    def violations(self) -> list[Violation]:
        """Everything that is wrong already, whatever comes later."""
        self._replay()
        return list(self._violations)

    def missing(self) -> list[Violation]:
        """What has to arrive and has not yet: violations once the deadline is over."""
        self._replay()
        found = list(self._lost())
        for client, state in self._clients.items():
            for key, connection in state.strays.items():
                found.append(
                    Violation(
                        "two owners",
                        f"came and was answered on connection {connection} when a newer one had"
                        " been accepted, and never came on the newer one",
                        client,
                        key,
                    )
                )
        return found

    def unfinished(self) -> list[Key]:
        """Messages that were sent and not acknowledged."""
        self._replay()
        return [key for key, message in self._messages.items() if message.acknowledged == NO_CODE]

    def acknowledged_count(self) -> int:
        """How many messages the broker has accepted."""
        self._replay()
        return sum(1 for message in self._messages.values() if message.acknowledged != NO_CODE)

    def _lost(self) -> Iterable[Violation]:
        for client, state in self._clients.items():
            if not state.subscriptions:
                continue
            for key, message in self._messages.items():
                if message.acknowledged == NO_CODE or key in state.arrived:
                    continue
                for subscription in state.subscriptions.values():
                    if (
                        subscription.qos
                        and message.first_sent > subscription.since
                        and matches(subscription.topic_filter, key.topic)
                    ):
                        yield Violation("lost", "acknowledged, and it did not arrive", client, key)
                        break

    def _replay(self) -> None:
        events = self._events
        while self._position < len(events):
            self._take(self._position, events[self._position])
            self._position += 1

    def _wrong(self, rule: str, text: str, event: Event) -> None:
        self._violations.append(Violation(rule, text, event.client, event.key))

    def _take(self, position: int, event: Event) -> None:
        match event.kind:
            case Kind.SENT:
                self._sent(position, event)
            case Kind.ANSWERED:
                self._answered(event)
            case Kind.RECEIVED:
                self._received(event)
            case Kind.RELEASED:
                state = self._clients[event.client]
                if event.connection >= state.connection:
                    state.held.pop(event.packet_id, None)
            case Kind.CONNECTED:
                self._connected(event)
            case Kind.SUBSCRIBED:
                subscriptions = self._clients[event.client].subscriptions
                if event.topic not in subscriptions:
                    subscriptions[event.topic] = _Subscription(event.topic, event.qos, position)
            case Kind.REFUSED:
                allowed = self._announced.connack | self._announced.connack_311
                if event.code not in allowed:
                    self._wrong("reason code", f"CONNACK 0x{event.code:02x}", event)
            case Kind.ENDED:
                if event.code != NO_CODE and event.code not in self._announced.disconnect:
                    self._wrong("reason code", f"DISCONNECT 0x{event.code:02x}", event)
            case Kind.BROKEN:
                self._wrong("protocol", event.note, event)
            case _:
                pass

    def _sent(self, position: int, event: Event) -> None:
        assert event.key is not None
        message = self._messages.get(event.key)
        if message is None:
            message = self._messages[event.key] = _Message(event.qos, position)
        message.sent += 1
        under_way = self._unanswered[event.client, event.connection, event.qos]
        under_way.append((event.packet_id, event.key))

    def _answered(self, event: Event) -> None:
        """Take PUBACK or PUBREC: success, and in order on each connection. [MQTT-4.6.0-2]"""
        assert event.key is not None
        if event.code not in self._announced.answer:
            self._wrong("reason code", f"PUBACK or PUBREC 0x{event.code:02x}", event)
        if event.code < FAILURE:
            self._messages[event.key].acknowledged = event.code
        under_way = self._unanswered[event.client, event.connection, event.qos]
        if not under_way or under_way[0][0] != event.packet_id:
            first = under_way[0] if under_way else "nothing"
            self._wrong("order of answers", f"the answer to {first} was due", event)
        under_way[:] = [item for item in under_way if item[0] != event.packet_id]

    def _connected(self, event: Event) -> None:
        state = self._clients[event.client]
        if state.connection and not event.code:
            self._wrong("session", f"no session present on connection {event.connection}", event)
            state.held.clear()
        state.connection = event.connection

    def _received(self, event: Event) -> None:
        key = event.key
        assert key is not None
        state = self._clients[event.client]
        if key not in self._messages:
            self._wrong("phantom", "received before anybody published it", event)
            return
        if event.connection < state.connection:
            if event.qos and key not in state.arrived:
                state.strays.setdefault(key, event.connection)
            return
        first = key not in state.arrived
        state.arrived.add(key)
        state.strays.pop(key, None)
        if event.qos == 2:
            self._received_exactly_once(event, key, state)
        elif event.qos == 1:
            self._received_at_least_once(event, key, state)
        if first and event.qos:
            flow = (key.publisher, key.topic, event.qos)
            highest = state.highest.get(flow, 0)
            if key.seq < highest:
                self._wrong("order", f"came for the first time after number {highest}", event)
            state.highest[flow] = max(highest, key.seq)

    def _received_exactly_once(self, event: Event, key: Key, state: _Subscriber) -> None:
        """A PUBLISH whose exchange is under way is the same delivery; any other is a new one."""
        held = state.held.get(event.packet_id)
        if held is not None:
            self._check_redelivery(event, held)
            if held[0] == key:
                state.held[event.packet_id] = (key, event.connection)
                return
        if key in state.exactly_once:
            self._wrong("twice", f"delivered again with identifier {event.packet_id}", event)
        state.exactly_once.add(key)
        state.held[event.packet_id] = (key, event.connection)

    def _check_redelivery(self, event: Event, held: tuple[Key, int]) -> None:
        key, connection = held
        if key != event.key:
            text = f"identifier {event.packet_id} is still used for {':'.join(map(str, key))}"
            self._wrong("identifier", text, event)
        elif connection == event.connection:
            self._wrong("re-delivery", "again on the same connection", event)  # [MQTT-4.4.0-1]
        elif not event.dup:
            self._wrong("re-delivery", "again without DUP", event)  # [MQTT-3.3.1-1]

    def _received_at_least_once(self, event: Event, key: Key, state: _Subscriber) -> None:
        """A repetition with the same identifier on a later connection is a re-delivery.

        Any other is a delivery of its own, and there may only be as many as times it was published
        (a QoS 2 message counts once, however often it was sent).
        """
        deliveries = state.deliveries[key]
        before = deliveries.get(event.packet_id)
        deliveries[event.packet_id] = event.connection
        if before is not None and before < event.connection:
            if not event.dup:
                self._wrong("re-delivery", "again without DUP", event)  # [MQTT-3.3.1-1]
            return
        if before is not None:
            state.repetitions[key] += 1
        message = self._messages[key]
        allowed = message.sent if message.qos == 1 else 1
        count = len(deliveries) + state.repetitions[key]
        if count > allowed and message.qos == 1 and self._announced.repeats:
            self.repeated_count += 1
        elif count > allowed:
            text = (
                f"delivery {count} with identifier {event.packet_id}{' and DUP' * event.dup};"
                f" published {message.sent} times at QoS {message.qos}"
            )
            self._wrong("repeated", text, event)
