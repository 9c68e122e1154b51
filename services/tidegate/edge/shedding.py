"""Letting some clients of an edge go to others, so that all edges carry about the same.

Called by the admin API. Who goes is left to chance, so that neither the oldest nor the newest are
always meant; they go at the rate of a drain, with the acknowledgements that they are owed. Doors
stay open: a client that comes back is taken like any other. A drain ends it, since then all go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING

from tidegate.edge.drain import FLUSH_S, MOST_BATCHES, TICK_S

if TYPE_CHECKING:
    from tidegate.edge.client import Client
    from tidegate.edge.drain import Drainer
    from tidegate.edge.edge import Edge

log = logging.getLogger(__name__)


class Shedder:
    """Sheds clients of one edge. ``drainer`` has the rate, and comes first."""

    __slots__ = ("_chosen", "_drainer", "_edge", "_leaving", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._edge = edge
        self._drainer = drainer
        #: Who is to go and has not been asked yet.
        self._chosen: deque[Client] = deque()
        #: Clients that are owed something, and until when they may be (the loop's clock).
        self._leaving: dict[Client, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def left(self) -> int:
        """How many clients are still to go."""
        return len(self._chosen) + len(self._leaving)

    def start(self, count: int) -> int | None:
        """Choose ``count`` clients to go, instead of those that were chosen and have not gone.

        Returns how many there are to choose from, if fewer; None, and nothing happens, while the
        edge drains. From a running event loop.
        """
        if self._drainer.is_draining:
            return None
        there = [one for one in self._edge.clients.values() if one not in self._leaving]
        self._chosen = deque(random.sample(there, min(count, len(there))))
        log.info("shedding clients", extra={"clients": len(self._chosen), "of": len(there)})
        if self._chosen and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())
        return len(self._chosen)

    async def _run(self) -> None:
        edge = self._edge
        last_s = edge.time_s() - TICK_S
        owed = 1.0  # so that the first one goes at once, however low the rate is
        while self._chosen or self._leaving:
            if self._drainer.is_draining:
                self._chosen.clear()
                self._leaving.clear()
                return
            now_s = edge.time_s()
            owed += self._drainer.rate * min(now_s - last_s, MOST_BATCHES * TICK_S)
            last_s = now_s
            while self._chosen and (owed >= 1 or self._chosen[0].closed):
                client = self._chosen.popleft()
                if client.closed:
                    continue
                owed -= 1
                client.leave()
                self._leaving[client] = now_s + FLUSH_S
            if not self._chosen:
                owed = min(owed, 1.0)
            self._see_off(now_s)
            await asyncio.sleep(TICK_S)

    def _see_off(self, now_s: float) -> None:
        """Say goodbye to those who are owed nothing any more, or have been for too long."""
        for client, until_s in list(self._leaving.items()):
            if not client.closed:
                if client.is_owed() and now_s < until_s:
                    continue
                client.shed()
            del self._leaving[client]
