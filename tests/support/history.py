"""What clients of a cluster saw and did, in order: the evidence that ``history_check`` judges.

Clients of ``support.session_client`` and the faults of ``support.faults`` append to it. Everything
runs on one event loop, so the order of the list is the order of events; times are for people.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

#: A connection that ended without a DISCONNECT from the server.
NO_CODE = -1


class Kind(StrEnum):
    """What happened. The client is the subject, except where it says server."""

    CONNECT = "sent CONNECT"  # clean; seconds: of a short session expiry; place: the edge
    WILL = "gave a will"  # key: of the will; qos, retain; seconds: of its delay
    CONNECTED = "was accepted"  # code: session present
    REFUSED = "was refused"  # code: of CONNACK
    LEFT = "ends its connection"  # code: of its DISCONNECT, else NO_CODE; seconds: until noticed
    ENDED = "connection ended"  # code: of the server's DISCONNECT, else NO_CODE
    MOVES = "goes to another edge"  # code: how many exchanges are open
    SUBSCRIBING = "sent SUBSCRIBE"  # topic: the filter
    SUBSCRIBED = "got SUBACK"  # topic: the filter; qos: granted
    SENT = "sent PUBLISH"  # retain; seconds: of the message's expiry
    ANSWERED = "got PUBACK or PUBREC"
    COMPLETED = "got PUBCOMP"
    RECEIVED = "received PUBLISH"  # retain; seconds: that are left of its expiry
    REPLIED = "sent PUBACK or PUBREC"
    RELEASED = "received PUBREL"
    READ = "has read all that is retained"  # judged for loss, too
    BROKEN = "saw a rule broken"  # note: which
    FAULT = "fault"  # client: what was hurt; place: the edge whose clients notice
    HEALED = "healed"  # the same
    STEPPED = "clock stepped"  # client: whose; nothing is excused by it
    WENT_BACK = "went back"  # client: the store; seconds: how old what it has is


class Key(NamedTuple):
    """One application message: who published it, where, and its number there, from 1.

    A client with a will uses one topic for it and for what it says when it has connected, so
    that the numbers of its topic grow in the order that is right: ``online`` and ``will``.
    """

    publisher: str
    topic: str
    seq: int

    def payload(self) -> bytes:
        """What the message carries on the wire."""
        return f"{self.publisher} {self.seq}".encode()

    @classmethod
    def online(cls, client: str, topic: str, connection: int) -> Key:
        """What a client with a will publishes on each connection."""
        return cls(client, topic, 2 * connection)

    @classmethod
    def will(cls, client: str, topic: str, connection: int) -> Key:
        """The will of one connection."""
        return cls(client, topic, 2 * connection + 1)

    @classmethod
    def parse(cls, topic: str, payload: bytes) -> Key:
        """Read it back. Raises ValueError: not one of ours."""
        publisher, number = payload.decode().split(" ")
        return cls(publisher, topic, int(number))


@dataclass(slots=True, frozen=True)
class Event:
    """One thing that happened. ``connection`` counts a client's connections, from 1."""

    at: float
    kind: Kind
    client: str
    connection: int = 0
    key: Key | None = None
    topic: str = ""
    qos: int = 0
    dup: bool = False
    packet_id: int = 0
    code: int = 0
    note: str = ""
    retain: bool = False
    clean: bool = False
    seconds: float = 0.0
    place: str = ""

    def line(self, origin: float) -> str:
        """Describe it in one line; ``origin`` is time zero."""
        words = [f"{self.at - origin:9.3f}", self.client]
        if self.connection:
            words.append(f"#{self.connection}")
        words.append(self.kind.value)
        if self.key is not None:
            words.append(f"{self.key.publisher}:{self.key.topic}:{self.key.seq}")
        if self.topic:
            words.append(self.topic)
        if self.packet_id:
            words.append(f"id={self.packet_id} qos={self.qos}{' DUP' if self.dup else ''}")
        if self.retain:
            words.append("RETAIN")
        if self.kind is Kind.CONNECTED:
            words.append("session present" if self.code else "no session")
        elif self.code not in {0, NO_CODE}:
            words.append(f"code=0x{self.code:02x}")
        if self.note:
            words.append(f"({self.note})")
        return " ".join(words)


class History:
    """An append-only list of events."""

    def __init__(self) -> None:
        self.origin = time.monotonic()
        self.events: list[Event] = []

    def add(
        self,
        kind: Kind,
        client: str,
        connection: int = 0,
        *,
        key: Key | None = None,
        topic: str = "",
        qos: int = 0,
        dup: bool = False,
        packet_id: int = 0,
        code: int = 0,
        note: str = "",
        retain: bool = False,
        clean: bool = False,
        seconds: float = 0.0,
        place: str = "",
    ) -> None:
        """Record that it happened now."""
        at = time.monotonic()
        facts = (key, topic, qos, dup, packet_id, code, note, retain, clean, seconds, place)
        self.events.append(Event(at, kind, client, connection, *facts))

    def fault(self, target: str, note: str, place: str = "") -> None:
        """Record that something was done to a process or a connection."""
        self.add(Kind.FAULT, target, note=note, place=place)

    def healed(self, target: str, note: str, place: str = "") -> None:
        """Record that a fault is over."""
        self.add(Kind.HEALED, target, note=note, place=place)

    def of(self, *kinds: Kind) -> Iterator[Event]:
        """The events of these kinds."""
        return (event for event in self.events if event.kind in kinds)

    def count(self, *kinds: Kind) -> int:
        """How many events of these kinds there are."""
        return sum(1 for _ in self.of(*kinds))

    def story(self, key: Key | None, client: str, limit: int = 120) -> str:
        """Tell all there is about one message and one subscriber, with the faults around it."""
        persons = {client} | ({key.publisher} if key is not None else set())
        about = [
            event
            for event in self.events
            if key is not None and event.key == key and event.client in persons
        ]
        window = (0.0, float("inf"))
        if about:
            window = (about[0].at - 3, about[-1].at + 3)
        wanted = {
            *(Kind.CONNECT, Kind.CONNECTED, Kind.REFUSED, Kind.LEFT, Kind.ENDED, Kind.BROKEN),
            *(Kind.MOVES, Kind.SUBSCRIBING, Kind.SUBSCRIBED),
        }
        packet_ids = {event.packet_id for event in about if event.client == client}
        lines = [
            event.line(self.origin)
            for event in self.events
            if (key is not None and event.key == key and event.client in persons)
            or (
                window[0] <= event.at <= window[1]
                and (
                    event.kind in {Kind.FAULT, Kind.HEALED, Kind.STEPPED}
                    or (event.client in persons and event.kind in wanted)
                    or (
                        event.client == client
                        and event.packet_id in packet_ids
                        and event.kind in {Kind.RELEASED, Kind.RECEIVED, Kind.REPLIED}
                    )
                )
            )
        ]
        if len(lines) > limit:
            cut = len(lines) - limit
            lines = [*lines[: limit // 2], f"... {cut} lines ...", *lines[-limit // 2 :]]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write everything as JSON lines."""
        with path.open("w") as out:
            for event in self.events:
                out.write(json.dumps(asdict(event)) + "\n")
