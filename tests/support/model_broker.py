"""A broker that is right, made of a few dictionaries: it writes histories that no rule objects to.

Time passes only in ``wait``; everything else happens at once. What it writes is what clients would
have recorded (``support.history``), so that a test can break it in one place and see whether the
checker says so.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from support.checks.world import matches
from support.history import NO_CODE, Event, Key, Kind

LEASE_S: Final = 2.0
_STEP_S: Final = 0.01


@dataclass(slots=True)
class _Message:
    key: Key
    qos: int
    retain: bool = False
    expiry_s: float = 0.0
    taken_at: float = 0.0


@dataclass(slots=True)
class _Will:
    message: _Message
    delay_s: float


@dataclass(slots=True)
class _Session:
    """One client, connected or not."""

    clean: bool
    expiry_s: float
    place: str
    connection: int = 0
    connected: bool = False
    ended_at: float = 0.0
    will: _Will | None = None
    filters: dict[str, int] = field(default_factory=dict)
    queue: list[_Message] = field(default_factory=list)
    packet_ids: Any = field(default_factory=lambda: itertools.count(1))


class ModelBroker:
    """The broker and its clients at once; ``events`` is the history."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        self.retained: dict[str, _Message] = {}
        self._sessions: dict[str, _Session] = {}
        self._numbers: dict[tuple[str, str], int] = defaultdict(int)
        self._pending: list[tuple[float, str, _Will]] = []
        self._turn = 0

    def _add(self, kind: Kind, client: str, **facts: Any) -> None:
        self.now += 0.0001
        session = self._sessions.get(client)
        number = session.connection if session is not None else 0
        self.events.append(Event(self.now, kind, client, **{"connection": number} | facts))

    # --- connections --------------------------------------------------------------------------

    def connect(
        self,
        client: str,
        *,
        clean: bool = False,
        expiry_s: float = 0.0,
        place: str = "1",
        will: tuple[str, int, bool, float] | None = None,
    ) -> None:
        """CONNECT, also over a connection that is there; will: topic, QoS, RETAIN, delay."""
        session = self._sessions.get(client)
        if session is None:
            session = self._sessions[client] = _Session(clean, expiry_s, place)
        before = session.connection
        over = session.connected
        session.place = place
        session.connection += 1
        facts = {"clean": clean, "seconds": expiry_s, "place": place}
        self._add(Kind.CONNECT, client, **facts)
        if over:
            self._end_by_server(session, client)
        self._drop_or_fire(client)
        away_s = self.now - session.ended_at
        lapsed = not over and expiry_s and away_s > expiry_s
        present = before > 0 and not clean and not lapsed
        if not present:
            session.filters, session.queue = {}, []
        session.will = None
        if will is not None:
            topic, qos, retain, delay_s = will
            key = Key.will(client, topic, session.connection)
            session.will = _Will(_Message(key, qos, retain), delay_s)
            self._add(Kind.WILL, client, key=key, qos=qos, retain=retain, seconds=delay_s)
        session.connected = True
        self._add(Kind.CONNECTED, client, code=int(present))
        if over:
            self._add(Kind.ENDED, client, code=0x8E, connection=before)
        if will is not None:
            key = Key.online(client, will[0], session.connection)
            self._publish(client, _Message(key, will[1], will[2]))
        queue, session.queue = session.queue, []
        for message in queue:
            self._deliver(client, session, message)

    def end(self, client: str, *, code: int = NO_CODE) -> None:
        """The client ends its connection: with DISCONNECT and this code, or without."""
        session = self._sessions.get(client)
        if session is None or not session.connected:
            return
        self._add(Kind.LEFT, client, code=code)
        if code == 0:
            session.will = None
        self._end_by_server(session, client)
        self._add(Kind.ENDED, client, code=NO_CODE)

    def _end_by_server(self, session: _Session, client: str, noticed_s: float = 0.0) -> None:
        session.connected = False
        session.ended_at = self.now
        if session.will is not None:
            due = self.now + noticed_s + session.will.delay_s
            self._pending.append((due, client, session.will))
            session.will = None
        if session.clean:
            session.filters = {}

    def kill(self, place: str) -> None:
        """An edge dies, and is there again after its lease."""
        self._add(Kind.FAULT, f"edge-{place}", place=place, connection=0)
        for client, session in self._sessions.items():
            if session.connected and session.place == place:
                self._end_by_server(session, client, LEASE_S)
                self._add(Kind.ENDED, client, code=NO_CODE)
        self.wait(LEASE_S + 0.1)
        self._add(Kind.HEALED, f"edge-{place}", place=place, connection=0)

    def _drop_or_fire(self, client: str) -> None:
        """A successor is there: a will without delay comes now, one with delay never."""
        for item in [item for item in self._pending if item[1] == client]:
            self._pending.remove(item)
            if not item[2].delay_s:
                self._route(item[2].message)

    def wait(self, seconds: float) -> None:
        """Let time pass; wills that are due are published."""
        end = self.now + seconds
        for due, client, will in sorted(self._pending, key=lambda item: item[0]):
            if due <= end:
                self.now = max(self.now, due)
                self._pending.remove((due, client, will))
                self._route(will.message)
        self.now = max(self.now, end)

    # --- messages -----------------------------------------------------------------------------

    def subscribe(self, client: str, topic_filter: str, qos: int = 2) -> None:
        """SUBSCRIBE; retained messages come after SUBACK."""
        session = self._sessions[client]
        if not session.connected:
            return
        self._add(Kind.SUBSCRIBING, client, topic=topic_filter)
        session.filters[topic_filter] = qos
        self._add(Kind.SUBSCRIBED, client, topic=topic_filter, qos=qos)
        for message in list(self.retained.values()):
            if matches(topic_filter, message.key.topic):
                self._deliver(client, session, message, retain=True)

    def publish(
        self,
        client: str,
        topic: str,
        qos: int,
        *,
        retain: bool = False,
        expiry_s: float = 0.0,
        moves: bool = False,
    ) -> None:
        """PUBLISH the next number; ``moves``: with a takeover before it is answered."""
        self._numbers[client, topic] += 1
        key = Key(client, topic, self._numbers[client, topic])
        message = _Message(key, qos, retain, expiry_s)
        if moves and qos:
            self._sent(client, message)
            self._add(Kind.MOVES, client, code=1)
            self.connect(client)
        self._publish(client, message, dup=moves)

    def _sent(self, client: str, message: _Message, *, dup: bool = False) -> None:
        facts = {"qos": message.qos, "retain": message.retain, "seconds": message.expiry_s}
        packet_id = message.key.seq if message.qos else 0
        self._add(Kind.SENT, client, key=message.key, dup=dup, packet_id=packet_id, **facts)

    def _publish(self, client: str, message: _Message, *, dup: bool = False) -> None:
        self._sent(client, message, dup=dup)
        self.now += _STEP_S
        self._route(message)
        facts = {"key": message.key, "qos": message.qos, "packet_id": message.key.seq}
        if message.qos:
            self._add(Kind.ANSWERED, client, **facts)
        if message.qos == 2:
            self._add(Kind.COMPLETED, client, **facts)

    def _route(self, message: _Message) -> None:
        message.taken_at = self.now
        if message.retain:
            self.retained[message.key.topic] = message
        groups: dict[str, list[str]] = defaultdict(list)
        for client, session in self._sessions.items():
            for topic_filter in session.filters:
                if topic_filter.startswith("$share/"):
                    if matches(topic_filter.split("/", 2)[2], message.key.topic):
                        groups[topic_filter].append(client)
                elif matches(topic_filter, message.key.topic):
                    self._hand(client, message)
        for members in groups.values():
            self._turn += 1
            self._hand(members[self._turn % len(members)], message)

    def _hand(self, client: str, message: _Message) -> None:
        session = self._sessions[client]
        if session.connected:
            self._deliver(client, session, message)
        elif not session.clean and message.qos:
            session.queue.append(message)

    def _deliver(
        self, client: str, session: _Session, message: _Message, *, retain: bool = False
    ) -> None:
        waited_s = self.now - message.taken_at
        if message.expiry_s and waited_s >= message.expiry_s:
            return
        packet_id = next(session.packet_ids) if message.qos else 0
        facts = {"qos": message.qos, "packet_id": packet_id}
        left_s = message.expiry_s - waited_s if message.expiry_s else 0.0
        self._add(Kind.RECEIVED, client, key=message.key, retain=retain, seconds=left_s, **facts)
        if message.qos:
            self._add(Kind.REPLIED, client, key=message.key, **facts)
        if message.qos == 2:
            self._add(Kind.RELEASED, client, packet_id=packet_id)

    def read(self, client: str, topic_filter: str) -> None:
        """A reader that comes at the end and waits until it has everything."""
        self.connect(client, clean=True)
        self.subscribe(client, topic_filter)
        self._add(Kind.READ, client)
