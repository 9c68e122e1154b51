"""Disconnecting the clients of listeners that were removed from the configuration.

Called by ``roles`` when a listener was removed. The clients are disconnected as in a drain: at its
rate, with its reason code, after their packets are answered. A drain ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tidegate.edge.client.client import Client
from tidegate.edge.drain.paced_disconnector import TICK_S, PacedDisconnector

if TYPE_CHECKING:
    from tidegate.edge.drain.drain import Drainer
    from tidegate.edge.edge import Edge
    from tidegate.edge.transport.listener import Listener

log = logging.getLogger(__name__)


class ListenerRemoval:
    """Disconnects clients of removed listeners, at the rate of ``drainer``, until that drains."""

    __slots__ = ("_disconnector", "_drainer", "_listeners", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._drainer = drainer
        self._listeners: list[Listener] = []
        self._disconnector = PacedDisconnector(
            edge, lambda client: client.shut_down(drainer.reason_code)
        )
        self._task: asyncio.Task[None] | None = None

    def start(self, listeners: Iterable[Listener]) -> None:
        """Disconnect the clients of these as well; the listeners are closed already.

        From a running event loop.
        """
        for listener in listeners:
            log.info(
                "listener removed",
                extra={"listener": listener.label, "connections": len(listener.connections)},
            )
            self._listeners.append(listener)
        if self._listeners and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Disconnect no more clients: the process ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        disconnector = self._disconnector
        disconnector.start()
        candidates: deque[Client] = deque()
        while self._listeners and not self._drainer.is_draining:
            if not candidates:  # there may be very many: each is checked once, or a little more
                candidates.extend(self._not_selected())
            disconnector.tick(self._drainer.rate, candidates)
            self._listeners = [each for each in self._listeners if each.connections]
            await asyncio.sleep(TICK_S)
        disconnector.clear()
        self._listeners.clear()

    def _not_selected(self) -> Iterator[Client]:
        """Yield clients that are not selected yet; a connection in its handshake has none yet."""
        for listener in self._listeners:
            for connection in listener.connections:
                client = getattr(connection, "handler", None)
                if not isinstance(client, Client) or client.is_closed:
                    continue
                if client not in self._disconnector:
                    yield client
