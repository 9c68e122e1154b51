"""What all judges share: which messages there are, the clients' connections, and the faults.

Pure. ``Checker`` feeds it; the judges read it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from support.history import NO_CODE, Event, Key, Kind

#: From here on a code is a refusal.
FAILURE: Final = 0x80
#: What events of the same loop may differ by.
SLACK_S: Final = 0.1


@dataclass(slots=True, frozen=True)
class Snapshot:
    """What clients of a scenario may see: reason codes, repetitions, and how late things are."""

    disconnect: frozenset[int] = frozenset({0x8B, 0x8E, 0x9C})
    connack: frozenset[int] = frozenset({0x88})
    connack_311: frozenset[int] = frozenset({3})
    answer: frozenset[int] = frozenset({0x00, 0x10})
    #: Whether a QoS 1 message may be delivered more often than it was published. A broker that
    #: does not know whether the store has taken a message has to store it again.
    repeats: bool = False
    #: A lost edge is found after its lease and a sweep; and what a busy machine adds.
    lease_s: float = 2.0
    sweep_s: float = 0.5
    margin_s: float = 4.0


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
class Message:
    """What a publisher did with one message."""

    qos: int
    first_sent: int
    last_sent_at: float
    retain: bool = False
    #: Of its expiry; 0: none.
    seconds: float = 0.0
    is_will: bool = False
    sent: int = 0
    acknowledged: int = NO_CODE
    acknowledged_at: float = 0.0
    acknowledged_since: int = 0


@dataclass(slots=True)
class Connection:
    """One connection as its client saw it; times are None for what did not happen."""

    client: str
    number: int
    place: str = ""
    clean: bool = False
    expiry_s: float = 0.0
    connect_at: float = 0.0
    accepted_at: float | None = None
    refused: bool = False
    #: The code of the client's DISCONNECT, NO_CODE without one.
    left: int | None = None
    left_at: float = 0.0
    #: How much later than that the server can notice.
    noticed_s: float = 0.0
    ended_at: float | None = None


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


class World:
    """Messages, connections and faults, as far as the history goes."""

    def __init__(self, announced: Snapshot) -> None:
        self.announced = announced
        self.messages: dict[Key, Message] = {}
        #: Each client's connections, by their numbers.
        self.connections: dict[str, dict[int, Connection]] = defaultdict(dict)
        #: The number of the connection that was accepted last.
        self.newest: dict[str, int] = defaultdict(int)
        self.faults = Faults()
        self.now = 0.0

    def connection(self, client: str, number: int) -> Connection:
        """That connection; it need not have begun with CONNECT."""
        known = self.connections[client]
        if number not in known:
            known[number] = Connection(client, number)
        return known[number]

    def is_clean(self, client: str) -> bool:
        """Whether the client's newest connection asked for a session that ends with it."""
        newest = self.connections[client].get(self.newest[client])
        return newest is not None and newest.clean

    def may_be_behind(self, event: Event, message: Message) -> bool:
        """Whether a QoS 1 message may come first behind later ones to a clean session.

        A path that was hurt may have lost the first copy; then the repetition is the first.
        """
        place = self.connection(event.client, event.connection).place
        since = message.last_sent_at - self.announced.lease_s - self.announced.margin_s
        return message.qos == 1 and self.faults.first(place, since, event.at) is not None

    def is_uncertain(self, client: str, number: int, at: float) -> bool:
        """Whether an older CONNECT of this client may be read only now.

        Nobody answered it, so it lies in the socket of an edge that hangs, perhaps; when it is
        read, it takes the session over from the connection that the client believes in.
        """
        return any(
            connection.accepted_at is None
            and not connection.refused
            and connection.number < number
            and at - connection.connect_at < 60
            for connection in self.connections[client].values()
        )

    def take(self, position: int, event: Event) -> None:
        """Take the next event in, before the judges do."""
        self.now = event.at
        match event.kind:
            case Kind.SENT | Kind.WILL:
                self._sent(position, event)
            case Kind.ANSWERED:
                self._answered(position, event)
            case Kind.FAULT | Kind.HEALED:
                self.faults.take(event)
            case Kind.CONNECT | Kind.CONNECTED | Kind.REFUSED | Kind.LEFT | Kind.ENDED:
                self._connection(event)
            case _:
                pass

    def _sent(self, position: int, event: Event) -> None:
        assert event.key is not None
        message = self.messages.get(event.key)
        if message is None:
            message = self.messages[event.key] = Message(
                event.qos,
                position,
                event.at,
                retain=event.retain,
                seconds=0.0 if event.kind is Kind.WILL else event.seconds,
                is_will=event.kind is Kind.WILL,
            )
        message.sent += 1
        message.last_sent_at = event.at

    def _answered(self, position: int, event: Event) -> None:
        assert event.key is not None
        message = self.messages[event.key]
        if event.code < FAILURE and message.acknowledged == NO_CODE:
            message.acknowledged = event.code
            message.acknowledged_at = event.at
            message.acknowledged_since = position

    def _connection(self, event: Event) -> None:
        connection = self.connection(event.client, event.connection)
        match event.kind:
            case Kind.CONNECT:
                connection.place = event.place
                connection.clean = event.clean
                connection.expiry_s = event.seconds
                connection.connect_at = event.at
            case Kind.CONNECTED:
                connection.accepted_at = event.at
                self.newest[event.client] = event.connection
            case Kind.REFUSED:
                connection.refused = True
            case Kind.LEFT:
                connection.left = event.code
                connection.left_at = event.at
                connection.noticed_s = event.seconds
            case _:
                connection.ended_at = event.at


class Judge:
    """One room of rules. A subclass takes events, and may name what has to come yet."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        self.world = world
        self._found = found

    def take(self, position: int, event: Event) -> None:
        """Judge one event."""

    def missing(self) -> Iterable[Violation]:
        """What has to arrive and has not yet."""
        return ()

    def wrong(self, rule: str, text: str, event: Event) -> None:
        """Name a violation, whatever comes later."""
        self._found.append(Violation(rule, text, event.client, event.key))


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a filter without $share matches a topic (MQTT5 §4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
