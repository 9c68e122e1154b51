"""Shedding: disconnecting some clients of an edge, so that all edges carry about the same load.

Called by the admin API (rebalancing). The clients are chosen at random, so that neither the oldest
nor the newest are preferred; they are disconnected at the rate of a drain, after their packets are
answered. The listeners stay open: a client may connect again. A drain ends the shedding.
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
    """Sheds clients of one edge, at the rate of ``drainer``, until that drains."""

    __slots__ = ("_candidates", "_disconnector", "_drainer", "_edge", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._edge = edge
        self._drainer = drainer
        #: Chosen clients that are not selected for a batch yet.
        self._candidates: deque[Client] = deque()
        self._disconnector = PacedDisconnector(edge, lambda client: client.shed())
        self._task: asyncio.Task[None] | None = None

    @property
    def remaining(self) -> int:
        """How many clients are still to be disconnected."""
        return len(self._candidates) + len(self._disconnector)

    def start(self, count: int) -> int | None:
        """Choose ``count`` clients, in place of those chosen earlier and not selected yet.

        Returns how many were chosen, which may be fewer; None, and nothing happens, while the edge
        drains. From a running event loop.
        """
        if self._drainer.is_draining:
            return None
        clients = [each for each in self._edge.clients.values() if each not in self._disconnector]
        self._candidates = deque(random.sample(clients, min(count, len(clients))))
        log.info("shedding started", extra={"clients": len(self._candidates), "of": len(clients)})
        if self._candidates and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())
        return len(self._candidates)

    async def _run(self) -> None:
        disconnector = self._disconnector
        disconnector.start()
        while self._candidates or disconnector:
            if self._drainer.is_draining:
                self._candidates.clear()
                disconnector.clear()
                return
            disconnector.tick(self._drainer.rate, self._candidates)
            await asyncio.sleep(TICK_S)
