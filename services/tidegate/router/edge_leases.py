"""Leases of edges: that they live, and when one without a lease may be taken for dead.

Owns until when edges get time to renew a lease that they could not renew: after the store was
away, and while this router is young. Called by the link (or by ``tidegate serve``) for edges, and
by ``sweeping`` before it looks for dead ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidegate.router.storing import available
from tidegate.store.api import Store


class EdgeLeases:
    """See the module's docstring."""

    __slots__ = (
        "_duration_s",
        "_now_ms",
        "_patience_until_s",
        "_store",
        "_swept_s",
        "_young_until_s",
    )

    def __init__(self, store: Store, now_ms: Callable[[], int], duration_s: float) -> None:
        self._store = store
        self._now_ms = now_ms
        self._duration_s = duration_s
        # Edges could not renew their leases while the store was away: until then they get time.
        self._swept_s = 0.0
        self._patience_until_s = 0.0
        self._young_until_s = 0.0

    def begin(self) -> None:
        """Edges that other routers served until now come here first: give them time."""
        self._young_until_s = asyncio.get_running_loop().time() + self._duration_s
        self._patience_until_s = self._young_until_s

    async def heartbeat(self, edge_id: str) -> bool:
        """Renew an edge's lease (see RouterService)."""
        lease_ms = int(self._duration_s * 1000)
        return await available(self._store.renew_lease(edge_id, self._now_ms(), lease_ms))

    async def leased_edges(self) -> list[str]:
        """Edges that have a lease and may not have come here yet (see RouterService).

        Also one whose lease has run out, however long ago: there was no router to renew it with,
        or that router would have swept it. The link leaves out those that it knows to have ended.
        None once this router has been there for the length of a lease: who lives has come by then,
        and an edge that begins must not wait for one that has just died.
        """
        if asyncio.get_running_loop().time() >= self._young_until_s:
            return []
        return await available(self._store.leased_edges(0))

    async def end_lease(self, edge_id: str) -> None:
        """An edge ends (see RouterService)."""
        await available(self._store.end_lease(edge_id))

    def may_judge(self) -> bool:
        """Whether an edge without a lease may be taken for dead now."""
        now_s = asyncio.get_running_loop().time()
        if self._swept_s and now_s - self._swept_s > self._duration_s / 2:
            self._patience_until_s = now_s + self._duration_s
        return now_s >= self._patience_until_s

    def swept(self) -> None:
        """The store has answered all that a sweep has asked."""
        self._swept_s = asyncio.get_running_loop().time()
