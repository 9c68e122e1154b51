"""Which clean sessions the store need not have, at a router that is alone.

Inputs: CONNECTs and ends of connections, a store that the test plays. Observed: what is stored, and
the numbers of connections. Courses of many steps: tests/property/test_unstored_sessions.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from support.build import sources_only
from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import AttachSession, DetachSession, RouterUnavailable
from tidegate.mqtt.packets import Will
from tidegate.router import unstored
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AttachReply, AttachRequest

CLEAN = AttachSession("c", True, 0)


class _Store(FakeStore):
    """Stores the sessions that it is asked for; the first one has epoch 1."""

    def __init__(self) -> None:
        super().__init__()
        self.last_epoch = 0

    async def attach(self, request: AttachRequest) -> AttachReply:
        self._asked("attach")
        self.last_epoch += 1
        incarnation = self.last_epoch if request.session_expiry_s else 0
        return AttachReply(self.last_epoch, incarnation, False)


async def _router(store: _Store, *, alone: bool = True) -> Router:
    """Return a router that has looked at the store once, and has numbers."""
    anything: Any = store
    router = Router(
        anything, LimitsConfig(), FeaturesConfig(), Counters(), store.now_ms, alone=alone
    )
    await router.start()
    router.attach_edge(FakeEdge("edge-1"))
    await router.sweeper.sweep()
    await router.attach("edge-1", replace(CLEAN, client_id="the first"))
    await turns()
    return router


def _asked(store: _Store, what: str) -> int:
    return store.calls.count(what)


@in_virtual_time
async def test_a_clean_session_costs_the_store_nothing() -> None:
    store = _Store()
    router = await _router(store)
    asked = list(store.calls)
    first = await router.attach("edge-1", CLEAN)
    second = await router.attach("edge-1", CLEAN)
    assert not first.is_stored
    assert (first.incarnation, first.session_present) == (0, False)
    assert second.epoch > first.epoch
    assert store.calls == asked
    await router.stop()


@pytest.mark.parametrize(
    "request_",
    [
        replace(CLEAN, session_expiry_s=60),
        replace(CLEAN, will=Will("t")),
        replace(CLEAN, client_id="the first"),  # it is connected, and stored
        replace(CLEAN, client_id="durable"),
        replace(CLEAN, client_id="will"),
    ],
    ids=["expiry", "will", "stored", "durable", "pending"],
)
@in_virtual_time
async def test_what_is_more_is_stored(request_: AttachSession) -> None:
    store = _Store()
    store.pending_clients = ["will"]
    router = await _router(store)
    router.table.session("durable", 5)
    before = _asked(store, "attach")
    assert (await router.attach("edge-1", request_)).is_stored
    assert _asked(store, "attach") == before + 1
    await router.stop()


@in_virtual_time
async def test_once_the_store_has_the_end_of_a_connection_there_is_nothing_of_it() -> None:
    store = _Store()
    router = await _router(store)
    again = replace(CLEAN, client_id="the first")
    await router.detach(DetachSession("the first", 1, False))
    assert not (await router.attach("edge-1", again)).is_stored
    await router.stop()


@in_virtual_time
async def test_a_client_is_stored_whose_last_connect_may_have_been() -> None:
    store = _Store()
    router = await _router(store)
    store.fails.add("attach")
    with pytest.raises(RouterUnavailable):
        await router.attach("edge-1", replace(CLEAN, will=Will("t")))
    store.fails.clear()
    session = await router.attach("edge-1", CLEAN)
    assert session.is_stored
    await router.detach(DetachSession("c", session.epoch, False))
    assert not (await router.attach("edge-1", CLEAN)).is_stored
    await router.stop()


@in_virtual_time
async def test_all_are_stored_while_the_store_is_away_so_that_they_are_refused() -> None:
    store = _Store()
    router = await _router(store)
    store.is_up = False
    store.fails.add("attach")
    with pytest.raises(RouterUnavailable):
        await router.attach("edge-1", CLEAN)
    await router.stop()


@in_virtual_time
async def test_all_are_stored_until_only_this_process_has_connections() -> None:
    store = _Store()
    store.stored_edges = {"edge-0"}
    router = await _router(store)
    assert (await router.attach("edge-1", CLEAN)).is_stored
    store.stored_edges = {"edge-1"}
    await router.sweeper.sweep()
    other = replace(CLEAN, client_id="other")
    assert (await router.attach("edge-1", other)).is_stored  # no number is reserved yet
    await turns()
    other = replace(CLEAN, client_id="another")
    assert not (await router.attach("edge-1", other)).is_stored
    await router.stop()


@in_virtual_time
async def test_numbers_are_reserved_before_the_last_one_is_taken() -> None:
    store = _Store()
    router = await _router(store)
    epochs = []
    for number in range(3 * unstored.RESERVED):
        request = replace(CLEAN, client_id="c")
        session = await router.attach("edge-1", request)
        assert not session.is_stored, number
        epochs.append(session.epoch)
        await asyncio.sleep(0)
    assert epochs == sorted(set(epochs))
    await router.stop()


@in_virtual_time
async def test_nothing_is_taken_for_granted_when_the_store_has_gone_back() -> None:
    store = _Store()
    router = await _router(store)
    assert not (await router.attach("edge-1", CLEAN)).is_stored
    router.unstored.close()  # what ``Rollback`` calls
    assert (await router.attach("edge-1", CLEAN)).is_stored
    await router.stop()


@in_virtual_time
async def test_a_rollback_closes_it() -> None:
    store = _Store()
    router = await _router(store)
    router.history.declare([0], "a test")
    await asyncio.sleep(0.01)
    assert (await router.attach("edge-1", CLEAN)).is_stored
    await router.stop()


@sources_only
@in_virtual_time
async def test_of_too_many_unknown_clients_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unstored, "MAX_UNKNOWN", 3)
    store = _Store()
    router = await _router(store)
    store.fails.add("attach")
    for number in range(5):
        with pytest.raises(RouterUnavailable):
            await router.attach("edge-1", AttachSession(f"c{number}", True, 0, Will("t")))
    store.fails.clear()
    assert (await router.attach("edge-1", CLEAN)).is_stored
    await router.sweeper.sweep()
    assert (await router.attach("edge-1", CLEAN)).is_stored
    await router.stop()


@in_virtual_time
async def test_no_numbers_are_used_that_the_store_has_not_reserved() -> None:
    store = _Store()
    store.fails.add("reserve_epochs")
    router = await _router(store)
    for number in range(3):
        assert (await router.attach("edge-1", AttachSession(f"c{number}", True, 0))).is_stored
        await turns()
    await router.stop()


@in_virtual_time
async def test_routers_of_a_cluster_store_all() -> None:
    store = _Store()
    router = await _router(store, alone=False)
    for number in range(3):
        assert (await router.attach("edge-1", AttachSession(f"c{number}", True, 0))).is_stored
        await turns()
    assert not _asked(store, "reserve_epochs")
    assert not _asked(store, "connected_edges")
    await router.stop()
