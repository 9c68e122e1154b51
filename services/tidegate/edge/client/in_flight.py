"""An exchange under way to a client, as operators see it. Made by ``delivery``; a value."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.mqtt.packets import Publish


@dataclass(slots=True, frozen=True)
class InFlight:
    """A QoS 1 or 2 message that was sent; ``message`` None: PUBREC has come."""

    packet_id: int
    seq: int
    #: `puback`, `pubrec` or `pubcomp`.
    awaits: str
    qos: int
    message: Publish | None
    #: The shared subscription that it came through, "" for none.
    group: str
