"""Leases of edges: renewal, and when sessions of an edge without a lease may be swept.

Owns the grace periods in which edges can renew a lease that they could not renew: after a store
outage, and after this router's start. Called by the link (or by ``tidegate serve``) for edges, and
by ``sweeper`` before it sweeps edges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidegate.router.store_calls import call_once
from tidegate.store.api import Store


class EdgeLeases:
    """See the module's docstring."""

    __slots__ = (
        "_grace_until_s",
        "_last_sweep_s",
        "_now_ms",
        "_startup_until_s",
        "_store",
        "duration_s",
    )

    def __init__(self, store: Store, now_ms: Callable[[], int], duration_s: float) -> None:
        self._store = store
        self._now_ms = now_ms
        self.duration_s = duration_s
        # Edges could not renew their leases during a store outage: no sweep of edges until then.
        self._last_sweep_s = 0.0
        self._grace_until_s = 0.0
        self._startup_until_s = 0.0

    def start_grace(self) -> None:
        """Give edges that were attached to other routers the length of a lease to attach here."""
        self._startup_until_s = asyncio.get_running_loop().time() + self.duration_s
        self._grace_until_s = self._startup_until_s

    def pause_sweeps(self) -> None:
        """Give edges the length of a lease to renew leases that the store has lost."""
        self._grace_until_s = asyncio.get_running_loop().time() + self.duration_s

    async def heartbeat(self, edge_id: str) -> bool:
        """Renew an edge's lease (see RouterService)."""
        lease_ms = int(self.duration_s * 1000)
        return await call_once(self._store.renew_lease(edge_id, self._now_ms(), lease_ms))

    async def leased_edges(self) -> list[str]:
        """Edges with a lease that may not have attached here yet (see RouterService).

        Also edges whose lease has ended, however long ago: there was no router to renew it with, or
        that router would have swept it. The link leaves out those that it knows to have ended. None
        after the first lease period of this router: every running edge has attached by then, and a
        starting edge must not wait for one that has just died.
        """
        if asyncio.get_running_loop().time() >= self._startup_until_s:
            return []
        return await call_once(self._store.leased_edges(0))

    async def end_lease(self, edge_id: str) -> None:
        """End the lease of an edge that stops (see RouterService)."""
        await call_once(self._store.end_lease(edge_id))

    def may_sweep_edges(self) -> bool:
        """Whether sessions of edges without a lease may be swept now."""
        now_s = asyncio.get_running_loop().time()
        if self._last_sweep_s and now_s - self._last_sweep_s > self.duration_s / 2:
            self._grace_until_s = now_s + self.duration_s
        return now_s >= self._grace_until_s

    def sweep_done(self) -> None:
        """Note that all calls of a sweep have succeeded."""
        self._last_sweep_s = asyncio.get_running_loop().time()
