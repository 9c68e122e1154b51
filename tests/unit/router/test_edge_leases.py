"""When an edge without a lease may be taken for dead, and which edges a young router names.

Inputs: the time between sweeps, leases in a fake store. Observed: the answers, and what a sweep
asks the store.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.virtual_time import in_virtual_time
from tidegate.link.interfaces import RouterUnavailable
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWork, StoreUnavailable

LEASE_S = 10.0


class _Store:
    """Counts sweeps of edges; finds nothing. Edges have leases until a time."""

    def __init__(self) -> None:
        self.edge_sweeps = 0
        self.is_away = False
        self.leases: dict[str, int] = {}

    async def sweep_edges(self, *_: Any) -> DueWork:
        self.edge_sweeps += 1
        return DueWork()

    async def sweep_due(self, *_: Any) -> DueWork:
        if self.is_away:
            raise StoreUnavailable
        return DueWork()

    async def expired_retained(self, now_ms: int, limit: int) -> list[str]:
        return []

    async def expire_queued(self, now_ms: int, limit: int) -> bool:
        return False

    async def renew_lease(self, edge_id: str, now_ms: int, ttl_ms: int) -> bool:
        if self.is_away:
            raise StoreUnavailable
        lasted = self.leases.get(edge_id, 0) > now_ms
        self.leases[edge_id] = now_ms + ttl_ms
        return lasted

    async def connected_edges(self) -> tuple[set[str], list[str]]:
        return set(), []

    async def end_lease(self, edge_id: str) -> None:
        self.leases.pop(edge_id, None)


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)


def _leases(store: Any) -> EdgeLeases:
    return EdgeLeases(store, _now_ms, LEASE_S)


@in_virtual_time
async def test_edges_may_be_judged_while_the_store_answers() -> None:
    leases = _leases(_Store())
    for _ in range(100):
        assert leases.may_sweep_edges()
        leases.sweep_done()
        await asyncio.sleep(LEASE_S / 2)


@in_virtual_time
async def test_after_an_outage_edges_have_one_lease_to_come_back() -> None:
    leases = _leases(_Store())
    leases.sweep_done()
    await asyncio.sleep(LEASE_S / 2 + 0.1)
    assert not leases.may_sweep_edges()
    leases.sweep_done()
    await asyncio.sleep(LEASE_S / 2)
    assert not leases.may_sweep_edges()
    leases.sweep_done()
    await asyncio.sleep(LEASE_S / 2)
    assert leases.may_sweep_edges()


@in_virtual_time
async def test_edges_that_come_to_a_young_router_have_one_lease_to_do_so() -> None:
    leases = _leases(_Store())
    leases.start_grace()
    assert not leases.may_sweep_edges()
    await asyncio.sleep(LEASE_S)
    assert leases.may_sweep_edges()


@in_virtual_time
async def test_a_lease_is_renewed_and_ended_and_says_whether_it_had_lasted() -> None:
    store = _Store()
    leases = _leases(store)
    assert not await leases.heartbeat("edge-1")
    await asyncio.sleep(LEASE_S - 1)
    assert await leases.heartbeat("edge-1")
    await asyncio.sleep(LEASE_S + 1)
    assert not await leases.heartbeat("edge-1")
    await leases.end_lease("edge-1")
    assert store.leases == {}
    store.is_away = True
    with pytest.raises(RouterUnavailable):
        await leases.heartbeat("edge-1")


@in_virtual_time
async def test_a_router_sweeps_edges_but_for_one_lease_after_an_outage() -> None:
    store: Any = _Store()
    router = Router(store, LimitsConfig(), FeaturesConfig(), Counters(), _now_ms, LEASE_S)
    router.sweeper.start()
    await asyncio.sleep(LEASE_S)
    before = store.edge_sweeps
    assert before > LEASE_S
    store.is_away = True
    await asyncio.sleep(LEASE_S)
    store.is_away = False
    before = store.edge_sweeps
    await asyncio.sleep(LEASE_S - 1)
    assert store.edge_sweeps == before
    await asyncio.sleep(3)
    assert store.edge_sweeps > before
    await router.sweeper.stop()
