"""Letting the clients of listeners go that the configuration names no more.

Called by the composition root when a listener was removed. They go as in a drain: at its rate, told
the same, each with the acknowledgements that it is owed. A drain ends it, since then all go.
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
    """See the module's docstring. ``drainer`` has the rate and the words, and comes first."""

    __slots__ = ("_drainer", "_edge", "_listeners", "_paced_disconnector", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._edge = edge
        self._drainer = drainer
        self._listeners: list[Listener] = []
        self._paced_disconnector = PacedDisconnector(
            edge, lambda client: client.shut_down(drainer.goodbye)
        )
        self._task: asyncio.Task[None] | None = None

    def start(self, listeners: Iterable[Listener]) -> None:
        """Let the clients of these go too, from a running event loop; they accept nobody."""
        for listener in listeners:
            log.info(
                "a listener is removed",
                extra={"listener": listener.label, "connections": len(listener.connections)},
            )
            self._listeners.append(listener)
        if self._listeners and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Go no further: the process ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        paced_disconnector = self._paced_disconnector
        paced_disconnector.begin()
        waiting: deque[Client] = deque()
        while self._listeners and not self._drainer.is_draining:
            if not waiting:  # there may be very many: each is looked at once, or a little more
                waiting.extend(self._not_asked())
            paced_disconnector.earn(self._drainer.rate)
            paced_disconnector.ask(waiting)
            paced_disconnector.let_go()
            self._listeners = [one for one in self._listeners if one.connections]
            await asyncio.sleep(TICK_S)
        paced_disconnector.forget()
        self._listeners.clear()

    def _not_asked(self) -> Iterator[Client]:
        """Those who have not been asked yet; what has no handler yet is asked when it has."""
        for listener in self._listeners:
            for connection in listener.connections:
                client = getattr(connection, "handler", None)
                if not isinstance(client, Client) or client.closed:
                    continue
                if client not in self._paced_disconnector:
                    yield client
