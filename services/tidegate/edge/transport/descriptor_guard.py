"""Keeps descriptors free for everything that is not a client connection.

Owned by `Listeners`, called by its sweep. New connections are refused at accept while only the
reserve is left, and not accepted at all while nothing is: an accept that fails for want of a
descriptor leaves its connection in the backlog, and the event loop would try again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from tidegate.edge.transport.acceptor import Acceptor
from tidegate.edge.transport.listener import ConnectionTotal
from tidegate.runtime.process.descriptors import DescriptorBudget

log = logging.getLogger(__name__)

#: With fewer free descriptors nothing is accepted; with twice as many it is again.
LEAST_FREE: Final = 4
#: The log says that the shortage is over when no connection was refused for this long.
QUIET_S: Final = 5.0


class DescriptorGuard:
    """See the module's docstring."""

    __slots__ = ("_budget", "_is_paused", "_refused", "_refused_at_s", "_resuming", "_total")

    def __init__(self, total: ConnectionTotal, budget: DescriptorBudget | None = None) -> None:
        self._total = total
        total.on_no_room = self._count
        self._budget = budget or DescriptorBudget()
        self._is_paused = False
        #: Connections refused in this shortage, and when the last one was; 0: there is none.
        self._refused = 0
        self._refused_at_s = 0.0
        self._resuming: asyncio.Task[None] | None = None

    def measure(self) -> None:
        """Set how many connections may be open."""
        total = self._total
        total.room = self._budget.room(total.open)

    def sweep(self, now: float, acceptors: Iterable[Acceptor]) -> None:
        """Measure, log when a shortage begins and ends, and pause or resume the accepting."""
        self.measure()
        self._end_shortage(now)
        if not self._is_paused:
            if self._budget.free < LEAST_FREE:
                self._pause(acceptors)
        elif self._budget.free >= 2 * LEAST_FREE and (
            self._resuming is None or self._resuming.done()
        ):
            loop = asyncio.get_running_loop()
            self._resuming = loop.create_task(self._resume(list(acceptors)))

    async def stop(self) -> None:
        """Return when nothing is being resumed any more."""
        if self._resuming is not None:
            await asyncio.gather(self._resuming, return_exceptions=True)

    def _count(self) -> None:
        self._refused += 1
        self._refused_at_s = asyncio.get_running_loop().time()
        if self._refused == 1:
            log.warning("refusing connections: limit of open files reached", extra=self._figures())

    def _end_shortage(self, now: float) -> None:
        if self._refused and now >= self._refused_at_s + QUIET_S:
            log.warning(
                "refusing no more connections for the limit of open files",
                extra={"refused": self._refused, **self._figures()},
            )
            self._refused = 0

    def _pause(self, acceptors: Iterable[Acceptor]) -> None:
        self._is_paused = True
        for acceptor in acceptors:
            acceptor.pause()
        log.error("accepting paused: no file can be opened", extra=self._figures())

    async def _resume(self, acceptors: Iterable[Acceptor]) -> None:
        try:
            for acceptor in acceptors:
                await acceptor.resume()
        except OSError as error:  # tried again by the next sweep
            log.debug("accepting not resumed", extra={"error": str(error)})
            return
        self._is_paused = False
        log.warning("accepting resumed", extra=self._figures())

    def _figures(self) -> dict[str, int]:
        budget = self._budget
        return {
            "connections": self._total.open,
            "limit": budget.limit,
            "reserve": budget.reserve,
        }
