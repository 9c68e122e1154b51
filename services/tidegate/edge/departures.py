"""Letting the clients of listeners go that the configuration names no more.

Called by the composition root when a listener was removed. They go as in a drain: at its rate, told
the same, each with the acknowledgements that it is owed. A drain ends it, since then all go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tidegate.edge.drain import FLUSH_S, MOST_BATCHES, TICK_S

if TYPE_CHECKING:
    from tidegate.edge.client import Client
    from tidegate.edge.drain import Drainer
    from tidegate.edge.edge import Edge
    from tidegate.edge.state import ListenerState

log = logging.getLogger(__name__)


class Departures:
    """See the module's docstring. ``drainer`` has the rate and the words, and comes first."""

    __slots__ = ("_drainer", "_edge", "_leaving", "_listeners", "_task")

    def __init__(self, edge: Edge, drainer: Drainer) -> None:
        self._edge = edge
        self._drainer = drainer
        self._listeners: list[ListenerState] = []
        #: Clients that are owed something, and until when they may be (the loop's clock).
        self._leaving: dict[Client, float] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, listeners: Iterable[ListenerState]) -> None:
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
        edge = self._edge
        last_s = edge.time_s() - TICK_S
        owed = 1.0  # so that the first one goes at once, however low the rate is
        while self._listeners and not self._drainer.is_draining:
            now_s = edge.time_s()
            owed += self._drainer.rate * min(now_s - last_s, MOST_BATCHES * TICK_S)
            last_s = now_s
            waiting = self._waiting()
            for client in waiting:
                if owed < 1:
                    break
                owed -= 1
                client.leave()
                self._leaving[client] = now_s + FLUSH_S
            else:
                owed = min(owed, 1.0)
            self._see_off(now_s)
            self._listeners = [one for one in self._listeners if one.connections]
            await asyncio.sleep(TICK_S)
        self._leaving.clear()
        self._listeners.clear()

    def _waiting(self) -> list[Client]:
        """Those who have not been asked yet; what has no handler yet is asked when it has."""
        edge = self._edge
        channels: set[object] = {
            connection for listener in self._listeners for connection in listener.connections
        }
        return [
            client
            for client in (*edge.waiting, *edge.clients.values())
            if client.channel in channels and client not in self._leaving and not client.closed
        ]

    def _see_off(self, now_s: float) -> None:
        """Say goodbye to those who are owed nothing any more, or have been for too long."""
        code = self._drainer.goodbye
        for client, until_s in list(self._leaving.items()):
            if not client.closed:
                if client.is_owed() and now_s < until_s:
                    continue
                client.shut_down(code)
            del self._leaving[client]
