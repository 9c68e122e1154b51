"""Clients with wills that end in every way, again and again.

Each says ``Key.online`` on its topic when it has connected, retained or not like its will, and its
will is ``Key.will`` of that connection, on the same topic.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from support import mqtt_bytes
from support.closing import reset
from support.history import NO_CODE, Key, Kind
from support.load import Publisher
from support.mqtt_bytes import V5, Property, Will
from support.session_client import Wire

WITH_WILL: Final = 0x04
#: The server closes after DISCONNECT; if it does not, the client does.
_CLOSE_S: Final = 1.0
#: An edge looks at its clients that often, and a busy machine is late.
_NOTICED_S: Final = 1.0


class WillClient(Publisher):
    """Gives up what is open when its connection ends, so that its topic's order is plain."""

    def __init__(
        self, *args: Any, topic: str, qos: int, will_delay_s: int = 0, **more: Any
    ) -> None:
        super().__init__(*args, topics={topic: qos}, rate=1.0, **more)
        self.topic = topic
        self.qos = qos
        self.will_delay_s = will_delay_s

    def will(self, wire: Wire) -> Will:
        """The will of this connection, noted."""
        key = Key.will(self.client_id, self.topic, wire.number)
        facts = {"qos": self.qos, "retain": self.retain, "seconds": self.will_delay_s}
        self.note(Kind.WILL, wire, key=key, **facts)
        delay: list[Property] = [("will_delay", self.will_delay_s)] if self.will_delay_s else []
        return Will(self.topic, key.payload(), self.qos, self.retain, delay)

    def resume(self, wire: Wire, session_present: bool) -> None:
        """Say that it is online."""
        self.open.clear()
        self.publish(wire, Key.online(self.client_id, self.topic, wire.number), self.qos)

    async def publish_steadily(self) -> None:
        """Publish nothing else."""

    async def die_steadily(
        self, *, stay_s: tuple[float, float], away_s: tuple[float, float]
    ) -> None:
        """End the connection in one of the ways, come back, and so on."""
        ways = ["politely", "FIN", "reset", "silently", "over", "over"]
        if self.version == V5:
            ways.append("with will")
        while True:
            await self.connected.wait()
            await asyncio.sleep(self.chance.uniform(*stay_s))
            wire = self.current
            if wire is None or not wire.open:
                await asyncio.sleep(0.05)
                continue
            way = self.chance.choice(ways)
            if way == "over":
                await self.connect()
                continue
            self.wanted.clear()
            try:
                await self._end(wire, way)
                await asyncio.sleep(self.chance.uniform(*away_s))
            finally:
                self.wanted.set()

    async def _end(self, wire: Wire, way: str) -> None:
        noticed_s = 0.0
        if way == "silently":
            noticed_s = 1.5 * self.patience.keep_alive_s + _NOTICED_S
        code = {"politely": 0, "with will": WITH_WILL}.get(way, NO_CODE)
        self.note(Kind.LEFT, wire, code=code, seconds=noticed_s, note=way)
        wire.why = way
        match way:
            case "politely":
                wire.send(mqtt_bytes.disconnect())
            case "with will":
                wire.send(mqtt_bytes.disconnect(WITH_WILL))
            case "FIN":
                wire.finish(b"")
            case "reset":
                assert wire.transport is not None
                reset(wire.transport)
            case _:
                wire.mute = True
        try:
            async with asyncio.timeout(max(noticed_s, _CLOSE_S)):
                await wire.lost.wait()
        except TimeoutError:
            wire.abort(f"{way}, and the server did not close")
