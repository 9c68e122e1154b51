"""When a router may take an edge for dead: only the decision; the store here injects the outage."""

from __future__ import annotations

import asyncio
from typing import Any

from tidegate.router.router import Router
from tidegate.runtime.config import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry import Counters
from tidegate.store.api import DueWork


class _Store:
    """Counts sweeps of edges; finds nothing."""

    def __init__(self) -> None:
        self.edge_sweeps = 0

    async def sweep_edges(self, now_ms: int, limit: int) -> DueWork:
        self.edge_sweeps += 1
        return DueWork()

    async def sweep_due(self, now_ms: int, limit: int) -> DueWork:
        return DueWork()

    async def expired_retained(self, now_ms: int, limit: int) -> list[str]:
        return []


def _router(store: Any, lease_s: float) -> Router:
    return Router(store, LimitsConfig(), FeaturesConfig(), Counters(), lambda: 0, lease_s)


async def test_edges_are_swept_while_the_store_answers() -> None:
    store = _Store()
    router = _router(store, 10.0)
    await router.sweeping.sweep()
    await router.sweeping.sweep()
    assert store.edge_sweeps == 2


async def test_after_an_outage_edges_have_one_lease_to_come_back() -> None:
    store = _Store()
    router = _router(store, 0.05)
    await router.sweeping.sweep()
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.03:  # more than half a lease without one
        await asyncio.sleep(0)
    await router.sweeping.sweep()
    assert store.edge_sweeps == 1
    while store.edge_sweeps == 1:
        await router.sweeping.sweep()
        await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() >= began + 0.03 + 0.05
