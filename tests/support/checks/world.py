"""What all judges share: which messages there are, the clients' connections, and the faults.

Pure. ``Checker`` feeds it; the judges read it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from support.checks.faults_seen import Faults
from support.checks.undone import Undone
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
    #: How long it takes until all have noticed that the store has gone back.
    notice_s: float = 10.0


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
    first_sent_at: float
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
    #: The code of the server's DISCONNECT, NO_CODE without one.
    ended_code: int = NO_CODE


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
        self.undone = Undone(announced.notice_s)
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

    def previous(self, connection: Connection) -> Connection | None:
        """The last connection before this that was accepted, if nothing is open about it."""
        known = self.connections[connection.client]
        for number in range(connection.number - 1, 0, -1):
            before = known.get(number)
            if before is None:
                return None
            if before.accepted_at is not None:
                return before
            if not before.refused:
                return None  # perhaps the broker has accepted it, and nobody heard
        return None

    def may_be_behind(self, event: Event, message: Message) -> bool:
        """Whether a message may come first behind later ones to a clean session.

        A path that was hurt may have lost the first copy; then a repetition is the first. At
        QoS 2 that has to be the path to this very client.
        """
        place = self.connection(event.client, event.connection).place
        since = message.last_sent_at - self.announced.lease_s - self.announced.margin_s
        if message.qos == 2:
            return self.faults.at_edge(place, since, event.at)
        return message.qos == 1 and self.faults.first(place, since, event.at) is not None

    def is_hurt(self, event: Event) -> bool:
        """Whether this client's edge, or what it needs, was hurt lately."""
        place = self.connection(event.client, event.connection).place
        since = event.at - self.announced.lease_s - self.announced.margin_s
        return self.faults.first(place, since, event.at) is not None

    def may_be_routed_again(self, event: Event, message: Message) -> bool:
        """Whether a QoS 2 value that was read before its acknowledgement may come live, too.

        Its router was lost, and another one routes it once more; who has subscribed in between has
        read that value, or a newer one, as the retained message.
        """
        since = message.last_sent_at - self.announced.margin_s
        return message.qos == 2 and any(
            begin <= event.at and (end is None or end >= since)
            for target, _, begin, end in self.faults.spans
            if target.startswith("store") or "router" in target
        )

    def may_be_unstored(self, message: Message, at: float) -> bool:
        """Whether routers or the store were hurt while this message was to be stored."""
        since = message.first_sent_at - self.announced.margin_s
        return any(
            begin <= at and (end is None or end >= since)
            for target, _, begin, end in self.faults.spans
            if target.startswith("store") or "router" in target
        )

    def may_be_old(self, event: Event) -> bool:
        """Whether a live copy may have waited in an edge that hung, for longer than SUBSCRIBE."""
        place = self.connection(event.client, event.connection).place
        since = event.at - self.announced.lease_s - self.announced.margin_s
        return not event.retain and self.faults.at_edge(place, since, event.at)

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
            case Kind.WENT_BACK:
                self.undone.add(event.at, event.seconds)
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

    def is_undone(self, key: Key | None, at: float) -> bool:
        """Whether a store that has gone back explains what is wrong about a message, or else."""
        message = None if key is None else self.messages.get(key)
        if message is None:
            return self.undone.between(at - self._long_s(), at)
        return self.undone.may_repeat(message.first_sent_at, at)

    def may_be_lost(self, key: Key | None) -> bool:
        """Whether a store that has gone back has lost this message, or the will's connection."""
        message = None if key is None else self.messages.get(key)
        if message is None:
            return False
        done_at = self.now if message.is_will else message.acknowledged_at
        return self.undone.may_be_lost(message.first_sent_at, done_at) or (
            message.is_will and self.undone.between(message.first_sent_at, done_at)
        )

    def _long_s(self) -> float:
        """Until a session that a rollback has brought back has ended."""
        announced = self.announced
        return announced.lease_s + announced.sweep_s + announced.margin_s + 10.0

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
                connection.ended_code = event.code


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
        if self.world.is_undone(event.key, event.at):
            return
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
