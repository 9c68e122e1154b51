"""What a router does about connections when the store has gone back, or may have lost something.

Inputs: a fake store whose answers the test gives, an edge in this process. Observed: which
connections end and how, whether the store counts as gone back, what is loaded, what is swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.core.standing import Standing
from tidegate.link.interfaces import SessionFenced, SessionLost
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.edges import Edges
from tidegate.router.rollback import SWEEP_AFTER_S, Rollback
from tidegate.router.store_history import CHECK_S
from tidegate.router.table import RoutingTable
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWork, StoreUnavailable

LEASE_S = 10.0
MOMENT_S = CHECK_S / 10


class _Store(FakeStore):
    """Answers ``verify`` by name; connections without one own their sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.standings: dict[str, Standing] = {}

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        return [self.standings.get(name, Standing.OWNED) for name, _ in connections]


class _Harness:
    """A rollback of a router that is alone, and what it has reloaded."""

    def __init__(self) -> None:
        self.store = _Store()
        self.edge = FakeEdge()
        self.edge.own_connections = [("a", 1), ("b", 2)]
        self.loads = 0
        self.load_fails = False
        self.counters = Counters()
        store: Any = self.store
        replica: Any = self
        edges = Edges(RoutingTable())
        edges.attach_edge(self.edge)
        self.leases = EdgeLeases(store, self.store.now_ms, LEASE_S)
        self.rollback = Rollback(
            store,
            self.counters,
            tasks=Tasks(self.counters),
            edges=edges,
            leases=self.leases,
            replica=replica,
            membership=None,
        )

    async def load(self) -> None:
        """See Replica."""
        self.loads += 1
        if self.load_fails:
            raise StoreUnavailable("load")

    def go_back(self) -> None:
        self.store.histories = {one: (0, {}) for one in self.store.all_histories}


async def _started() -> _Harness:
    harness = _Harness()
    await harness.rollback.history.start()
    return harness


@in_virtual_time
async def test_everything_is_loaded_and_verified_when_the_store_has_gone_back() -> None:
    harness = await _started()
    rollback = harness.rollback
    harness.store.standings = {"a": Standing.LOST, "b": Standing.LOST}
    harness.load_fails = True
    harness.go_back()
    await rollback.history.look()
    await asyncio.sleep(MOMENT_S)
    assert rollback.status()["state"] == "reloading"
    assert harness.edge.lost == []
    harness.load_fails = False
    await asyncio.sleep(1)
    assert harness.edge.lost == [("a", 1), ("b", 2)]
    status = rollback.status()
    assert (status["state"], status["rollbacks"]) == ("current", 1)
    assert not harness.leases.may_sweep_edges()
    await rollback.history.stop()


@in_virtual_time
async def test_sessions_that_nobody_has_resumed_are_swept_once_leases_can_have_been_renewed() -> (
    None
):
    harness = await _started()
    rollback = harness.rollback
    assert not rollback.may_sweep()
    harness.go_back()
    await rollback.history.look()
    await asyncio.sleep(LEASE_S)
    assert not rollback.may_sweep()
    await asyncio.sleep(SWEEP_AFTER_S)
    assert rollback.may_sweep()
    rollback.swept(DueWork())
    assert not rollback.may_sweep()
    await rollback.history.stop()


@pytest.mark.parametrize("standing", [Standing.GONE, Standing.LOST])
@in_virtual_time
async def test_a_session_that_a_restarted_server_does_not_have_shows_that_it_has_gone_back(
    standing: Standing,
) -> None:
    harness = await _started()
    harness.store.standings = {"a": standing}
    harness.store.on_replaced()
    await asyncio.sleep(MOMENT_S)
    assert ("a", 1) in harness.edge.lost
    assert harness.counters.store_rollbacks == 1
    assert harness.loads == 1
    await harness.rollback.history.stop()


@in_virtual_time
async def test_a_server_that_has_all_sessions_has_not_gone_back() -> None:
    """A session that was taken over has another connection."""
    harness = await _started()
    harness.store.standings = {"b": Standing.TAKEN}
    harness.store.on_replaced()
    await asyncio.sleep(MOMENT_S)
    assert harness.edge.lost == []
    assert [kicked[:2] for kicked in harness.edge.kicked] == [("b", 2)]
    assert harness.counters.store_rollbacks == harness.loads == 0
    await harness.rollback.history.stop()


@in_virtual_time
async def test_a_refused_write_tells_a_lost_session_from_one_that_was_taken_over() -> None:
    harness = await _started()
    rollback = harness.rollback
    with pytest.raises(SessionFenced) as error:
        await rollback.refuse("a", 1)
    assert not isinstance(error.value, SessionLost)
    assert harness.edge.lost == []
    harness.go_back()
    with pytest.raises(SessionLost):
        await rollback.refuse("a", 1)
    assert harness.edge.lost == [("a", 1)]
    await rollback.history.stop()
