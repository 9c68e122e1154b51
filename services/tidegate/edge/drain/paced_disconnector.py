"""Seeing clients off: asked to leave at a rate, let go when they are owed nothing any more.

What a drain, shedding and the end of a listener have in common; each chooses who goes, at which
rate, until when, and what is said to them at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.edge import Edge

#: Between two batches: short enough that a load balancer sees an even stream.
TICK_S: Final = 0.02
#: How long a client may be owed acknowledgements before it is let go without them.
FLUSH_S: Final = 2.0
#: What a pause of the event loop may be caught up with at once, in batches.
MOST_BATCHES: Final = 5


class PacedDisconnector:
    """See the module's docstring. ``goodbye`` ends a client's connection.

    ``begin``, and then again and again, ``TICK_S`` apart: ``earn``, ``ask``, ``let_go``.
    """

    __slots__ = ("_earned", "_edge", "_goodbye", "_last_s", "_leaving", "asked")

    def __init__(self, edge: Edge, goodbye: Callable[[Client], None]) -> None:
        self._edge = edge
        self._goodbye = goodbye
        #: How many clients have been asked to leave.
        self.asked = 0
        #: Clients that are owed something, and until when they may be (the loop's clock).
        self._leaving: dict[Client, float] = {}
        self._last_s = 0.0
        #: How many may be asked now.
        self._earned = 0.0

    def __len__(self) -> int:
        """How many have been asked, and are still here."""
        return len(self._leaving)

    def __contains__(self, client: Client) -> bool:
        """Whether a client has been asked, and is still here."""
        return client in self._leaving

    def begin(self) -> None:
        """Count from now on; the first one goes at once, however low the rate is."""
        self._last_s = self._edge.time_s() - TICK_S
        self._earned = 1.0

    def earn(self, rate: float) -> None:
        """Let so many clients per second be asked for the time since the last call."""
        now_s = self._edge.time_s()
        self._earned += rate * min(now_s - self._last_s, MOST_BATCHES * TICK_S)
        self._last_s = now_s

    def ask(self, waiting: deque[Client]) -> None:
        """Ask the first of these to leave, as many as may be, and take them out."""
        until_s = self._last_s + FLUSH_S
        while waiting and (self._earned >= 1 or waiting[0].closed):
            client = waiting.popleft()
            if client.closed:
                continue
            self._earned -= 1
            self.asked += 1
            client.leave()
            self._leaving[client] = until_s
        if not waiting:
            self._earned = min(self._earned, 1.0)

    def let_go(self) -> None:
        """Say goodbye to those who are owed nothing any more, or have been for too long."""
        for client, until_s in list(self._leaving.items()):
            if not client.closed:
                if client.is_owed() and self._last_s < until_s:
                    continue
                self._goodbye(client)
            del self._leaving[client]

    def forget(self) -> None:
        """See nobody off any more: somebody else does."""
        self._leaving.clear()
