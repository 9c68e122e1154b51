"""Durable sessions: nothing acknowledged is lost, QoS 2 comes once, and first copies in order.

An *arrival* is a PUBLISH that a client received on the connection that was its newest at that
moment; what comes later on an older one is no arrival, because its acknowledgement must not count
any more. Wills, retained copies and what a shared group gets are judged in rooms of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from support.checks.world import Judge, Message, Violation, World, matches
from support.history import Event, Key, Kind


@dataclass(slots=True)
class _Subscription:
    """A subscription and when it was acknowledged (position in the history)."""

    topic_filter: str
    qos: int
    since: int


@dataclass(slots=True)
class _Subscriber:
    """What one client received, as it is replayed."""

    connection: int = 0
    #: When its session was made.
    began_at: float = 0.0
    in_group: bool = False
    subscriptions: dict[str, _Subscription] = field(default_factory=dict)
    arrived: set[Key] = field(default_factory=set)
    #: Acknowledged to their publishers since, and not here yet.
    due: dict[Key, None] = field(default_factory=dict)
    #: QoS 2 exchanges that the server has not released: packet identifier -> message, connection.
    held: dict[int, tuple[Key, int]] = field(default_factory=dict)
    #: The same before a store that may have gone back: its identifiers may be used again, too.
    perhaps_held: dict[int, tuple[Key, int]] = field(default_factory=dict)
    exactly_once: set[Key] = field(default_factory=set)
    #: QoS 1: the deliveries of a message, packet identifier -> connection of its last arrival.
    deliveries: dict[Key, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    repetitions: Counter[Key] = field(default_factory=Counter)
    highest: dict[tuple[str, str, int], int] = field(default_factory=dict)
    #: Messages that came and were answered on an older connection only.
    strays: dict[Key, int] = field(default_factory=dict)


class Durable(Judge):
    """Judges what sessions get that outlive their connections."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        #: Deliveries of QoS 1 messages beyond how often they were published, where allowed.
        self.repeated_count = 0
        self._clients: dict[str, _Subscriber] = defaultdict(_Subscriber)

    def take(self, position: int, event: Event) -> None:
        match event.kind:
            case Kind.RECEIVED:
                self._received(event)
            case Kind.RELEASED:
                state = self._clients[event.client]
                if event.connection >= state.connection:
                    state.held.pop(event.packet_id, None)
            case Kind.CONNECTED:
                self._connected(event)
            case Kind.SUBSCRIBED:
                self._subscribed(position, event)
            case Kind.ANSWERED:
                self._answered(position, event)
            case _:
                pass

    def missing(self) -> Iterable[Violation]:
        for client, state in self._clients.items():
            for key in () if self.world.is_clean(client) else state.due:
                yield Violation("lost", "acknowledged, and it did not arrive", client, key)
            for key, connection in state.strays.items():
                yield Violation(
                    "two owners",
                    f"came and was answered on connection {connection} when a newer one had"
                    " been accepted, and never came on the newer one",
                    client,
                    key,
                )

    def _answered(self, position: int, event: Event) -> None:
        """Note who has to get it."""
        key = event.key
        assert key is not None
        message = self.world.messages[key]
        # What has an expiry may be gone before its subscriber is back.
        if message.acknowledged_since != position or message.seconds:
            return
        for state in self._clients.values():
            if key not in state.arrived and any(
                subscription.qos
                and message.first_sent > subscription.since
                and matches(subscription.topic_filter, key.topic)
                for subscription in state.subscriptions.values()
            ):
                state.due[key] = None

    def _subscribed(self, position: int, event: Event) -> None:
        state = self._clients[event.client]
        if event.topic.startswith("$share/"):
            state.in_group = True
        elif event.topic not in state.subscriptions:
            state.subscriptions[event.topic] = _Subscription(event.topic, event.qos, position)

    def _connected(self, event: Event) -> None:
        state = self._clients[event.client]
        connection = self.world.connection(event.client, event.connection)
        if connection.expiry_s:
            # ``checks.expiry`` says whether it may be gone. A CONNECT that nobody answered may
            # have begun another session.
            if not event.code or self.world.previous(connection) is None:
                self._begin(state)
        elif not connection.clean and state.connection and not event.code:
            if self.world.undone.may_be_lost(state.began_at, state.began_at):
                self._begin(state)
            else:
                state.held.clear()
                text = f"no session present on connection {event.connection}"
                self._found.append(Violation("session", text, event.client))
        if self.world.undone.between(connection.connect_at, event.at):
            state.perhaps_held, state.held = state.held, {}
        if not event.code:
            state.began_at = event.at
        state.connection = event.connection

    def _begin(self, state: _Subscriber) -> None:
        state.held.clear()
        state.subscriptions.clear()
        state.due.clear()
        state.strays.clear()

    def _received(self, event: Event) -> None:
        key = event.key
        assert key is not None
        message = self.world.messages.get(key)
        if message is None:
            self.wrong("phantom", "received before anybody published it", event)
            return
        if message.is_will or event.retain or self.world.is_clean(event.client):
            return
        state = self._clients[event.client]
        if event.connection < state.connection:
            kept = event.qos and not message.seconds and not state.in_group
            if kept and key not in state.arrived:
                state.strays.setdefault(key, event.connection)
            return
        first = key not in state.arrived
        state.arrived.add(key)
        state.due.pop(key, None)
        state.strays.pop(key, None)
        if event.qos == 2:
            self._received_exactly_once(event, key, state)
        elif event.qos == 1:
            self._received_at_least_once(event, key, state)
        elif not first and not message.qos:
            self.wrong("twice", "QoS 0", event)
        if first and not state.in_group:
            flow = (key.publisher, key.topic, event.qos)
            highest = state.highest.get(flow, 0)
            # One that has expired is sent again if it may have been sent, else it is left out, and
            # only what its publisher repeats, with the whole of its expiry, comes.
            is_repeated = message.qos == 1 and message.sent > 1
            may_be_late = message.seconds > 0 and (event.dup or is_repeated)
            if key.seq < highest and not may_be_late and not self._is_repeated_to(state, message):
                self.wrong("order", f"came for the first time after number {highest}", event)
            state.highest[flow] = max(highest, key.seq)

    def _is_repeated_to(self, state: _Subscriber, message: Message) -> bool:
        """Whether the client may have subscribed between two attempts of QoS 1.

        Of a SUBSCRIBE without SUBACK nobody knows when it took effect.
        """
        since = [subscription.since for subscription in state.subscriptions.values()]
        is_between = not since or min(since) > message.first_sent
        return message.qos == 1 and message.sent > 1 and is_between

    def _received_exactly_once(self, event: Event, key: Key, state: _Subscriber) -> None:
        """A PUBLISH whose exchange is under way is the same delivery; any other is a new one."""
        held = state.held.get(event.packet_id)
        before = state.perhaps_held.pop(event.packet_id, None)
        if held is None and before is not None and before[0] == key:
            held = before
        if held is not None:
            self._check_redelivery(event, held)
            if held[0] == key:
                state.held[event.packet_id] = (key, event.connection)
                return
        if key in state.exactly_once:
            self.wrong("twice", f"delivered again with identifier {event.packet_id}", event)
        state.exactly_once.add(key)
        state.held[event.packet_id] = (key, event.connection)

    def _check_redelivery(self, event: Event, held: tuple[Key, int]) -> None:
        key, connection = held
        if key != event.key:
            text = f"identifier {event.packet_id} is still used for {':'.join(map(str, key))}"
            self.wrong("identifier", text, event)
        elif connection == event.connection:
            self.wrong("re-delivery", "again on the same connection", event)  # [MQTT-4.4.0-1]
        elif not event.dup:
            self.wrong("re-delivery", "again without DUP", event)  # [MQTT-3.3.1-1]

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
                self.wrong("re-delivery", "again without DUP", event)  # [MQTT-3.3.1-1]
            return
        if before is not None:
            state.repetitions[key] += 1
        message = self.world.messages[key]
        allowed = message.sent if message.qos == 1 else 1
        count = len(deliveries) + state.repetitions[key]
        if count > allowed and message.qos == 1 and self.world.announced.repeats:
            self.repeated_count += 1
        elif count > allowed:
            text = (
                f"delivery {count} with identifier {event.packet_id}{' and DUP' * event.dup};"
                f" published {message.sent} times at QoS {message.qos}"
            )
            self.wrong("repeated", text, event)
