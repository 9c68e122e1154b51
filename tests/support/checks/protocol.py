"""Reason codes that a scenario may bring, answers in order, and what clients saw broken."""

from __future__ import annotations

from collections import defaultdict

from support.checks.world import Judge, Violation, World
from support.history import NO_CODE, Event, Key, Kind


class Protocol(Judge):
    """Judges each conversation by itself."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        self._unanswered: dict[tuple[str, int, int], list[tuple[int, Key]]] = defaultdict(list)

    def take(self, position: int, event: Event) -> None:
        announced = self.world.announced
        match event.kind:
            case Kind.SENT if event.qos:
                assert event.key is not None
                under_way = self._unanswered[event.client, event.connection, event.qos]
                under_way.append((event.packet_id, event.key))
            case Kind.ANSWERED:
                self._answered(event)
            case Kind.REFUSED:
                if event.code not in announced.connack | announced.connack_311:
                    self.wrong("reason code", f"CONNACK 0x{event.code:02x}", event)
            case Kind.ENDED:
                if event.code != NO_CODE and event.code not in announced.disconnect:
                    self.wrong("reason code", f"DISCONNECT 0x{event.code:02x}", event)
            case Kind.BROKEN if not self._is_refused_for_want_of_a_store(event):
                self.wrong("protocol", event.note, event)
            case _:
                pass

    def _is_refused_for_want_of_a_store(self, event: Event) -> bool:
        """Whether a SUBSCRIBE was refused that could not take effect. [MQTT-3.8.4-6]"""
        return event.note.startswith("SUBACK 0x80") and self.world.is_hurt(event)

    def _answered(self, event: Event) -> None:
        """Take PUBACK or PUBREC: success, and in order on each connection. [MQTT-4.6.0-2]"""
        if event.code not in self.world.announced.answer:
            self.wrong("reason code", f"PUBACK or PUBREC 0x{event.code:02x}", event)
        under_way = self._unanswered[event.client, event.connection, event.qos]
        if not under_way or under_way[0][0] != event.packet_id:
            first = under_way[0] if under_way else "nothing"
            self.wrong("order of answers", f"the answer to {first} was due", event)
        under_way[:] = [item for item in under_way if item[0] != event.packet_id]
