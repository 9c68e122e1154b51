"""Publishers that change edges in mid-exchange, as a device does that changes networks.

``Mover`` opens a connection to another edge while the first is there, with exchanges open: PUBLISH
not answered yet, PUBREC without its PUBREL. What it wrote last still lies in the old socket when
the new CONNECT goes out, and for seconds if the old edge hangs. A durable mover repeats what is
open on the new connection, with DUP; one with a clean session gives it up and goes on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from support.history import Kind
from support.load import Publisher
from support.session_client import Wire

#: How long a mover waits for what is open before it rests.
_COMPLETE_S = 3.0


class Mover(Publisher):
    """Its steps are ``move_steadily``; ``rest_s`` is between two of them."""

    def __init__(self, *args: Any, rest_s: tuple[float, float], **more: Any) -> None:
        super().__init__(*args, **more)
        self.rest_s = rest_s
        self.withholds = False
        self._withheld: list[tuple[Wire, int]] = []

    async def publish_steadily(self) -> None:
        """Publish a little, move with a burst under way, publish, rest; until ``ended``."""
        while not self.ended:
            await self.connected.wait()
            await self._move()
            await self._publish(self.chance.randint(1, 3))
            await self._until_complete()
            # Often short; now and then as long as an edge hangs, so that nothing hides what
            # an old connection does then.
            shortest, longest = self.rest_s
            await asyncio.sleep(shortest + (longest - shortest) * self.chance.random() ** 3)

    async def _move(self) -> None:
        self.withholds = True
        await self._publish(self.chance.randint(1, 4))
        await asyncio.sleep(self.chance.choice([0.0, 0.005, 0.02]))
        before = self.current
        await self._publish(self.chance.randint(1, 4))
        if before is not None:
            self.note(Kind.MOVES, before, code=len(self.open))
        await self.connect()
        self.withholds = False
        withheld, self._withheld = self._withheld, []
        for wire, packet_id in withheld:
            # Not moved: the exchanges go on where they are. ``resume`` does it otherwise.
            if wire is self.current and packet_id in self.open:
                super().release(wire, packet_id)

    async def _publish(self, count: int) -> None:
        for _ in range(count):
            if self.current is not None and len(self.open) < self.in_flight:
                self.publish_next()

    async def _until_complete(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _COMPLETE_S
        while self.open and loop.time() < end and not self.ended:
            await asyncio.sleep(0.05)

    def release(self, wire: Wire, packet_id: int) -> None:
        """Answer PUBREC, unless it is time to move."""
        if self.withholds and wire is self.current:
            self._withheld.append((wire, packet_id))
        else:
            super().release(wire, packet_id)
