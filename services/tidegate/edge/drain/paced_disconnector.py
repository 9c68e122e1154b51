"""Disconnecting clients at a rate, each after its packets are answered.

Used by `Drainer`, `Shedder` and `ListenerRemoval`; each of them chooses the clients, the rate, when
it ends, and how a client is disconnected.
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
#: How long a client may wait for acknowledgements before it is disconnected without them.
FLUSH_S: Final = 2.0
#: How much of a pause of the event loop is made up for at once, in batches.
MAX_BATCHES: Final = 5


class PacedDisconnector:
    """See the module's docstring. Call ``start``, then ``tick`` every ``TICK_S``."""

    __slots__ = ("_credit", "_disconnect", "_edge", "_last_s", "_selected", "selected_count")

    def __init__(self, edge: Edge, disconnect: Callable[[Client], None]) -> None:
        self._edge = edge
        self._disconnect = disconnect
        #: How many clients have been selected since the beginning.
        self.selected_count = 0
        #: Clients that are not read any more, with the deadline of their acknowledgements (the
        #: event loop's clock).
        self._selected: dict[Client, float] = {}
        self._last_s = 0.0
        #: How many clients may be selected now.
        self._credit = 0.0

    def __len__(self) -> int:
        """How many clients are selected and not disconnected yet."""
        return len(self._selected)

    def __contains__(self, client: Client) -> bool:
        """Whether a client is selected and not disconnected yet."""
        return client in self._selected

    def start(self) -> None:
        """Count the rate from now on; the first client is selected at once, at any rate."""
        self._last_s = self._edge.context.time_s() - TICK_S
        self._credit = 1.0

    def tick(self, rate: float, candidates: deque[Client]) -> None:
        """Select the first of ``candidates`` at ``rate`` per second, and disconnect who is ready.

        Selected clients are taken out of ``candidates``.
        """
        self._add_credit(rate)
        self._select(candidates)
        self._disconnect_ready()

    def _add_credit(self, rate: float) -> None:
        now_s = self._edge.context.time_s()
        self._credit += rate * min(now_s - self._last_s, MAX_BATCHES * TICK_S)
        self._last_s = now_s

    def _select(self, candidates: deque[Client]) -> None:
        deadline_s = self._last_s + FLUSH_S
        while candidates and (self._credit >= 1 or candidates[0].is_closed):
            client = candidates.popleft()
            if client.is_closed:
                continue
            self._credit -= 1
            self.selected_count += 1
            client.stop_reading()
            self._selected[client] = deadline_s
        if not candidates:
            self._credit = min(self._credit, 1.0)

    def _disconnect_ready(self) -> None:
        """Disconnect clients whose packets are all answered, or whose deadline has passed."""
        for client, deadline_s in list(self._selected.items()):
            if not client.is_closed:
                if client.has_unanswered() and self._last_s < deadline_s:
                    continue
                self._disconnect(client)
            del self._selected[client]

    def clear(self) -> None:
        """Drop the selected clients without disconnecting them: a drain disconnects them."""
        self._selected.clear()
