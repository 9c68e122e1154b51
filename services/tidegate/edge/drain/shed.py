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

from tidegate.edge.drain.paced_disconnector import TICK_S, PacedDisconnector

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.drain.drain import Drainer
    from tidegate.edge.edge import Edge

log = logging.getLogger(__name__)


class Shedder:
    """Sheds clients of one edge. ``drainer`` has the rate, and comes first."""

    __slots__ = ("_chosen", "_drainer", "_edge", "_paced_disconnector", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._edge = edge
        self._drainer = drainer
        #: Who is to go and has not been asked yet.
        self._chosen: deque[Client] = deque()
        self._paced_disconnector = PacedDisconnector(edge, lambda client: client.shed())
        self._task: asyncio.Task[None] | None = None

    @property
    def left(self) -> int:
        """How many clients are still to go."""
        return len(self._chosen) + len(self._paced_disconnector)

    def start(self, count: int) -> int | None:
        """Choose ``count`` clients to go, instead of those that were chosen and have not gone.

        Returns how many there are to choose from, if fewer; None, and nothing happens, while the
        edge drains. From a running event loop.
        """
        if self._drainer.is_draining:
            return None
        there = [one for one in self._edge.clients.values() if one not in self._paced_disconnector]
        self._chosen = deque(random.sample(there, min(count, len(there))))
        log.info("shedding clients", extra={"clients": len(self._chosen), "of": len(there)})
        if self._chosen and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())
        return len(self._chosen)

    async def _run(self) -> None:
        paced_disconnector = self._paced_disconnector
        paced_disconnector.begin()
        while self._chosen or paced_disconnector:
            if self._drainer.is_draining:
                self._chosen.clear()
                paced_disconnector.forget()
                return
            paced_disconnector.earn(self._drainer.rate)
            paced_disconnector.ask(self._chosen)
            paced_disconnector.let_go()
            await asyncio.sleep(TICK_S)
