"""Publishers and durable subscribers under test, as the specification wants clients to behave.

A publisher keeps its open exchanges and repeats them in order after a reconnect (DUP set, PUBREL
for those that were answered). A subscriber answers everything; what is new and what is a repetition
is for ``history_check`` to say.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from support import mqtt_bytes
from support.history import History, Key, Kind
from support.mqtt_bytes import MisbehaviourError, Packet, Property
from support.session_client import ChooseEdge, Patience, SessionClient, Wire

_LAST_PACKET_ID: Final = 65_535


@dataclass(slots=True)
class Exchange:
    """A publish that is not complete."""

    key: Key
    qos: int
    released: bool = False


class Publisher(SessionClient):
    """Publishes numbers on its topics (topic -> QoS), with a bounded count of open exchanges."""

    def __init__(
        self,
        client_id: str,
        version: int,
        choose_edge: ChooseEdge,
        history: History,
        chance: random.Random,
        *,
        topics: dict[str, int],
        rate: float,
        in_flight: int = 8,
        padding_bytes: int = 0,
        patience: Patience | None = None,
        retain: bool = False,
        message_expiry_s: int = 0,
        durable: bool = True,
    ) -> None:
        """``durable`` ones repeat what is open after a reconnect, others give it up."""
        super().__init__(
            client_id, version, choose_edge, history, chance, patience, durable=durable
        )
        self.retain = retain
        self.message_expiry_s = message_expiry_s
        self.topics = topics
        self.rate = rate
        self.in_flight = in_flight
        self.open: dict[int, Exchange] = {}
        self.ended = False
        self._numbers = {topic: itertools.count(1) for topic in topics}
        self._turn = itertools.cycle(topics)
        self._padding = b" " * padding_bytes
        self._packet_id = 0

    async def publish_steadily(self) -> None:
        """Publish at ``rate`` while connected and there is room, until ``ended``."""
        due = time.monotonic()
        while not self.ended:
            due = max(due + 1 / self.rate, time.monotonic() - 0.1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.connected.wait()
            if len(self.open) < self.in_flight and not self.ended:
                self.publish_next()

    def publish_next(self) -> Key:
        """Publish the next number on the next topic."""
        wire = self.current
        assert wire is not None
        topic = next(self._turn)
        key = Key(self.client_id, topic, next(self._numbers[topic]))
        self.publish(wire, key, self.topics[topic])
        return key

    def publish(self, wire: Wire, key: Key, qos: int) -> None:
        """Publish a message for the first time."""
        exchange = Exchange(key, qos)
        packet_id = 0
        if qos:
            packet_id = self._free_packet_id()
            self.open[packet_id] = exchange
        self._send(wire, packet_id, exchange, dup=False)

    def _free_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % _LAST_PACKET_ID + 1
            if self._packet_id not in self.open:
                return self._packet_id

    def _send(self, wire: Wire, packet_id: int, exchange: Exchange, *, dup: bool) -> None:
        key, qos = exchange.key, exchange.qos
        facts = {"qos": qos, "dup": dup, "packet_id": packet_id, "retain": self.retain}
        self.note(Kind.SENT, wire, key=key, seconds=self.message_expiry_s, **facts)
        wire.send(
            mqtt_bytes.publish(
                key.topic,
                key.payload() + self._padding,
                qos=qos,
                packet_id=packet_id or None,
                dup=dup,
                retain=self.retain,
                version=self.version,
                props=[("message_expiry", self.message_expiry_s)] if self.message_expiry_s else (),
            )
        )

    def resume(self, wire: Wire, session_present: bool) -> None:
        """Repeat what is open, in its original order. [MQTT-4.4.0-1] [MQTT-4.6.0-1]"""
        if not self.durable:
            self.open.clear()
        if not session_present:
            self.open = {pid: one for pid, one in self.open.items() if not one.released}
        for packet_id, exchange in self.open.items():
            if exchange.released:
                wire.send(mqtt_bytes.acknowledge("PUBREL", packet_id))
            else:
                self._send(wire, packet_id, exchange, dup=session_present)

    def take_packet(self, wire: Wire, packet: Packet) -> None:
        """Take an acknowledgement; on a connection that is given up, it counts no more."""
        if wire is not self.current:
            return
        exchange = self.open.get(packet.packet_id)
        if exchange is None:
            raise MisbehaviourError(f"{packet.kind} for {packet.packet_id}, which is not in use")
        facts = {"key": exchange.key, "qos": exchange.qos, "packet_id": packet.packet_id}
        expected = 1 if packet.kind == "PUBACK" else 2
        if exchange.qos != expected or exchange.released != (packet.kind == "PUBCOMP"):
            raise MisbehaviourError(f"{packet.kind} for {exchange}")
        if packet.kind == "PUBCOMP":
            self.note(Kind.COMPLETED, wire, code=packet.reason, **facts)
            del self.open[packet.packet_id]
            return
        self.note(Kind.ANSWERED, wire, code=packet.reason, **facts)
        if packet.kind == "PUBREC" and packet.reason < 0x80:
            exchange.released = True
            self.release(wire, packet.packet_id)
        else:
            del self.open[packet.packet_id]

    def release(self, wire: Wire, packet_id: int) -> None:
        """Answer PUBREC."""
        wire.send(mqtt_bytes.acknowledge("PUBREL", packet_id))


class Subscriber(SessionClient):
    """Subscribes once, and takes everything its session gets."""

    def __init__(
        self,
        client_id: str,
        version: int,
        choose_edge: ChooseEdge,
        history: History,
        chance: random.Random,
        *,
        filters: dict[str, int],
        answer_delay_s: float = 0.0,
        receive_maximum: int = 0,
        patience: Patience | None = None,
        durable: bool = True,
    ) -> None:
        super().__init__(
            client_id, version, choose_edge, history, chance, patience, durable=durable
        )
        self.filters = filters
        self.subscribed = asyncio.Event()
        self.answer_delay_s = answer_delay_s
        self.receive_maximum = receive_maximum
        self.received_count = 0
        self._answers: deque[tuple[Wire, bytes, Key | None, Packet]] = deque()
        self._under_way: dict[Wire, set[int]] = {}

    def connect_properties(self) -> list[Property]:
        """Session expiry, and Receive Maximum if there is one."""
        properties = super().connect_properties()
        if self.receive_maximum:
            properties.append(("receive_maximum", self.receive_maximum))
        return properties

    def resume(self, wire: Wire, session_present: bool) -> None:
        """Subscribe, unless that is in the session already."""
        self._under_way = {wire: set()}
        if not session_present or not self.subscribed.is_set():
            self.subscribe(wire)

    def subscribe(self, wire: Wire) -> None:
        """Send SUBSCRIBE, for the first time or again."""
        filters: list[mqtt_bytes.Filter] = list(self.filters.items())
        for name in self.filters:
            self.note(Kind.SUBSCRIBING, wire, topic=name)
        wire.send(mqtt_bytes.subscribe(1, filters, version=self.version))

    def take_packet(self, wire: Wire, packet: Packet) -> None:
        """Take PUBLISH, PUBREL and SUBACK."""
        match packet.kind:
            case "PUBLISH":
                self._take_publish(wire, packet)
            case "PUBREL":
                self.note(Kind.RELEASED, wire, packet_id=packet.packet_id)
                self._answer(wire, "PUBCOMP", None, packet)
            case "SUBACK":
                for (name, _), code in zip(self.filters.items(), packet.codes, strict=True):
                    if code > 2:
                        self.subscribed.clear()  # the next connection tries again
                        raise MisbehaviourError(f"SUBACK 0x{code:02x} for {name}")
                    self.note(Kind.SUBSCRIBED, wire, topic=name, qos=code)
                self.subscribed.set()
            case _:
                super().take_packet(wire, packet)

    def _take_publish(self, wire: Wire, packet: Packet) -> None:
        try:
            key = Key.parse(packet.topic, packet.payload.rstrip())
        except ValueError as error:
            raise MisbehaviourError(f"a message that nobody sent: {packet.payload!r}") from error
        self.received_count += 1
        facts = {"qos": packet.qos, "dup": packet.dup, "packet_id": packet.packet_id}
        left_s = packet.number("message_expiry")
        self.note(Kind.RECEIVED, wire, key=key, retain=packet.retain, seconds=left_s, **facts)
        if not packet.qos:
            return
        under_way = self._under_way.setdefault(wire, set())
        under_way.add(packet.packet_id)
        if self.receive_maximum and len(under_way) > self.receive_maximum:
            raise MisbehaviourError(f"{len(under_way)} under way, Receive Maximum is exceeded")
        self._answer(wire, "PUBACK" if packet.qos == 1 else "PUBREC", key, packet)

    def _answer(self, wire: Wire, kind: str, key: Key | None, packet: Packet) -> None:
        """Answer now or, always in order, a little later."""
        item = (wire, mqtt_bytes.acknowledge(kind, packet.packet_id), key, packet)
        if not self.answer_delay_s:
            self._send_answer(*item)
            return
        self._answers.append(item)
        asyncio.get_running_loop().call_later(self.answer_delay_s, self._send_next_answer)

    def _send_next_answer(self) -> None:
        self._send_answer(*self._answers.popleft())

    def _send_answer(self, wire: Wire, answer: bytes, key: Key | None, packet: Packet) -> None:
        if not wire.open:
            return
        if key is not None:
            self.note(Kind.REPLIED, wire, key=key, qos=packet.qos, packet_id=packet.packet_id)
        if packet.qos != 2 or packet.kind == "PUBREL":
            self._under_way.get(wire, set()).discard(packet.packet_id)
        wire.send(answer)


async def _to_the_end(connecting: Coroutine[Any, Any, bool]) -> None:
    """Wait for an attempt, also when cancelled: its answer must find who has asked for it."""
    attempt = asyncio.create_task(connecting)
    try:
        await asyncio.shield(attempt)
    except asyncio.CancelledError:
        await attempt  # cancelled once more, this ends it, too
        raise


async def come_and_go(
    subscriber: Subscriber,
    chance: random.Random,
    *,
    stay_s: tuple[float, float] = (0.4, 2.5),
    away_s: tuple[float, float] = (0.05, 1.5),
) -> None:
    """Leave with DISCONNECT, leave without, or take the session over; come back; and so on."""
    while True:
        await subscriber.connected.wait()
        await asyncio.sleep(chance.uniform(*stay_s))
        way = chance.choice(["politely", "suddenly", "over"])
        if way == "over":
            await _to_the_end(subscriber.connect())
            continue
        subscriber.leave(politely=way == "politely")
        await asyncio.sleep(chance.uniform(*away_s))
        subscriber.wanted.set()
