"""Broker time in the store: how a router that starts takes it, and how the others stay together.

The store keeps the newest broker time that a router has had, and the clock of its server then. The
latter counts only while no router runs: it says how long that was. Part of ``coordination``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tidegate.runtime.process.clock import BrokerClock
from tidegate.store import operations as op
from tidegate.store.keys import GLOBAL_PREFIX
from tidegate.store.partitions import Partitions, Words

#: A stored time of this age, or a newer one, is that of a router that runs.
FRESH_MS: Final = 5000
#: How often, and how many times, an older one is read again: the server's clock may have stepped.
POLL_S: Final = 0.1
POLLS: Final = 15


class BrokerTime:
    """See the module's docstring."""

    __slots__ = ("_clock", "_partitions")

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._clock: BrokerClock | None = None

    async def share(self, clock: BrokerClock) -> None:
        """Set a clock to broker time, and keep it with that of other routers from now on."""
        now_ms, stored_at_ms, server_ms, routers = first = await self._read()
        for _ in range(POLLS):
            if not now_ms or 0 <= server_ms - stored_at_ms <= FRESH_MS or not routers:
                break
            await asyncio.sleep(POLL_S)
            now_ms, stored_at_ms, server_ms, _ = await self._read()
            if [now_ms, stored_at_ms] != first[:2]:
                # A router runs: it has just stored this.
                break
        if now_ms:
            clock.set(now_ms + max(0, server_ms - stored_at_ms), server_ms)
        else:
            clock.set(server_ms, server_ms)
        self._clock = clock

    async def _read(self) -> list[int]:
        operation: Words = [op.READ_TIME, 1, GLOBAL_PREFIX]
        found: list[int] = await self._partitions.hot.submit(GLOBAL_PREFIX, operation, 100)
        return found

    def note(self, times: Sequence[int], asked_s: float) -> None:
        """Compare the clock with broker time and the server's, as a renewal has returned them."""
        if self._clock is not None:
            age_s = asyncio.get_running_loop().time() - asked_s
            self._clock.advance(times[0], times[1], age_s)
