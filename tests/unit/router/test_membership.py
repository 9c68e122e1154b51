"""Membership of a router: when it is current, and which routers a change waits for.

Inputs: a store that the test plays (change logs, registered routers), time that passes at once.
Observed: what is applied, who is waited for, when the router calls itself current. Real stores:
tests/integration/test_store_cluster.py and tests/cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import RouterUnavailable
from tidegate.router.membership import (
    LEASE_SAFE_FRACTION,
    MAX_LEASE_S,
    POLL_S,
    RENEW_S,
    Membership,
)
from tidegate.store.api import Change, RetainedAdded, StoreUnavailable


class Member:
    """A router's membership, and what it has learned."""

    def __init__(self, store: FakeStore, name: str = "r1", lease_s: float = 10.0) -> None:
        self.store = store
        self.applied: list[str] = []
        self.loads = 0
        self.load_fails = False
        self.became_current = 0
        self.on_load: Callable[[], None] | None = None
        view: Any = store
        self.membership = Membership(
            view, name, store.now_ms, lease_s, self._apply, self._load, self._current
        )

    def _apply(self, change: Change) -> None:
        assert isinstance(change, RetainedAdded)
        self.applied.append(change.topic)

    async def _load(self) -> None:
        self.loads += 1
        if self.on_load is not None:
            self.on_load()
        if self.load_fails:
            raise StoreUnavailable("load")

    def _current(self) -> None:
        self.became_current += 1


async def _started(store: FakeStore, name: str = "r1") -> Member:
    member = Member(store, name)
    await member.membership.start()
    return member


LEASE_S = MAX_LEASE_S


# A gap, and a store that has gone back


@in_virtual_time
async def test_a_gap_because_the_store_went_back_loads_everything_once() -> None:
    """Everything is loaded once for both, and the router is not current until then."""
    store = FakeStore()
    member = await _started(store)
    membership = member.membership

    async def went_back() -> None:
        membership.outdated()
        store.lost = False
        assert not membership.current

    membership.on_gap = went_back
    store.lost = True
    await membership.catch_up()
    assert member.loads == 2
    await membership.catch_up()
    assert member.loads == 2
    await membership.stop()


@in_virtual_time
async def test_a_load_that_fails_after_the_store_went_back_is_repeated() -> None:
    store = FakeStore()
    member = await _started(store)
    membership = member.membership
    membership.outdated()
    member.load_fails = True
    with pytest.raises(RouterUnavailable):
        await membership.catch_up()
    assert not membership.current
    member.load_fails = False
    await membership.catch_up()
    assert member.loads == 3
    await asyncio.sleep(2 * RENEW_S)
    assert membership.current
    await membership.stop()


# Beginning


@in_virtual_time
async def test_a_router_is_current_once_it_has_loaded_and_registered() -> None:
    store = FakeStore()
    store.change("before")
    member = Member(store)
    assert not member.membership.current
    await member.membership.start()
    assert member.membership.current
    assert (member.loads, member.became_current) == (1, 1)
    assert member.membership.live == [member.membership.instance] == list(store.registered)
    # What was there before is loaded, not read.
    assert member.applied == []
    await member.membership.stop()


@in_virtual_time
async def test_what_changes_while_a_router_loads_is_learned_before_it_is_current() -> None:
    store = FakeStore()
    member = Member(store)
    member.on_load = lambda: store.note("while loading")
    store.on_renew = lambda: store.note("while registering")
    await member.membership.start()
    assert member.applied == ["while loading", "while registering"]
    store.on_renew = None
    await member.membership.stop()


@in_virtual_time
async def test_a_router_that_loads_has_no_lease() -> None:
    store = FakeStore()
    member = Member(store)
    seen: list[list[str]] = []
    member.on_load = lambda: seen.append(list(store.registered))
    await member.membership.start()
    assert seen == [[]]
    await member.membership.stop()


@in_virtual_time
async def test_a_router_that_cannot_load_does_not_start() -> None:
    store = FakeStore()
    member = Member(store)
    member.load_fails = True
    with pytest.raises(StoreUnavailable):
        await member.membership.start()
    assert not member.membership.current


@in_virtual_time
async def test_a_router_that_ends_is_not_waited_for() -> None:
    store = FakeStore()
    member = await _started(store)
    await member.membership.stop()
    assert store.registered == {}
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_a_router_ends_without_the_store_too() -> None:
    store = FakeStore()
    member = await _started(store)
    store.fails = {"end_router", "changes", "renew_router"}
    await member.membership.stop()


# Catching up


@in_virtual_time
async def test_changes_are_applied_once_in_their_order() -> None:
    store = FakeStore()
    member = await _started(store)
    store.page = 2
    for number in range(7):
        store.change(f"t{number}")
    await member.membership.catch_up()
    await member.membership.catch_up()
    assert member.applied == [f"t{number}" for number in range(7)]
    await member.membership.stop()


@in_virtual_time
async def test_changes_are_learned_without_anybody_asking() -> None:
    store = FakeStore()
    member = await _started(store)
    store.change("x")
    await asyncio.sleep(1.5 * RENEW_S)
    assert member.applied == ["x"]
    await member.membership.stop()


@in_virtual_time
async def test_catching_up_waits_for_a_reading_that_began_after_the_call() -> None:
    store = FakeStore()
    member = await _started(store)
    store.may_read.clear()
    first = asyncio.create_task(member.membership.catch_up())
    await turns()
    # The reading under way has seen the log as it was: this is not in it.
    store.change("late")
    others = [asyncio.create_task(member.membership.catch_up()) for _ in range(5)]
    await turns()
    readings = store.calls.count("changes")
    store.may_read.set()
    await first
    assert member.applied == []
    await asyncio.gather(*others)
    assert member.applied == ["late"]
    # However many wait, there was one more reading.
    assert store.calls.count("changes") == readings + 1
    await member.membership.stop()


@in_virtual_time
async def test_a_caller_that_gives_up_does_not_disturb_the_others() -> None:
    store = FakeStore()
    member = await _started(store)
    store.may_read.clear()
    first = asyncio.create_task(member.membership.catch_up())
    second = asyncio.create_task(member.membership.catch_up())
    await turns()
    first.cancel()
    store.may_read.set()
    await second
    await member.membership.stop()


@in_virtual_time
async def test_catching_up_without_the_store_fails() -> None:
    store = FakeStore()
    member = await _started(store)
    store.fails = {"changes"}
    with pytest.raises(RouterUnavailable):
        await member.membership.catch_up()
    store.fails = set()
    store.change("x")
    await member.membership.catch_up()
    assert member.applied == ["x"]
    await member.membership.stop()


@in_virtual_time
async def test_catching_up_ends_with_the_router() -> None:
    store = FakeStore()
    member = await _started(store)
    store.may_read.clear()
    asked = asyncio.create_task(member.membership.catch_up())
    await turns()
    await member.membership.stop()
    with pytest.raises(RouterUnavailable):
        await asked


@in_virtual_time
async def test_after_a_gap_in_the_log_everything_is_reloaded() -> None:
    store = FakeStore()
    member = await _started(store)
    store.change("in the gap")
    store.lost = True
    member.on_load = lambda: store.note("while loading")
    await member.membership.catch_up()
    assert member.loads == 2
    assert member.applied == ["while loading"]
    await member.membership.stop()


@in_virtual_time
async def test_a_gap_is_not_forgotten_when_loading_fails() -> None:
    store = FakeStore()
    member = await _started(store)
    before = list(member.membership._positions)
    store.change("in the gap")
    store.lost = True
    member.load_fails = True
    with pytest.raises(RouterUnavailable):
        await member.membership.catch_up()
    # Reading goes on where it was: the store says again what is missing.
    assert member.membership._positions == before
    await member.membership.stop()


# Being current


@in_virtual_time
async def test_a_router_stays_current_while_the_store_answers() -> None:
    store = FakeStore()
    member = await _started(store)
    for _ in range(50):
        await asyncio.sleep(RENEW_S)
        assert member.membership.current
    assert member.became_current == 1
    await member.membership.stop()


@in_virtual_time
async def test_a_router_stops_relying_on_its_lease_before_the_others_do() -> None:
    store = FakeStore()
    member = await _started(store)
    store.fails = {"renew_router"}
    instance = member.membership.instance
    while member.membership.current:
        await asyncio.sleep(0.01)
    living = {record.instance for record in store._living(store.now_ms())}
    assert instance in living
    left_ms = store.registered[instance][0] - store.now_ms()
    # It looked every 10 ms.
    safe_ms = (1 - LEASE_SAFE_FRACTION) * LEASE_S * 1000
    assert safe_ms - 11 <= left_ms <= safe_ms
    await member.membership.stop()


@in_virtual_time
async def test_a_router_that_cannot_read_does_not_renew() -> None:
    store = FakeStore()
    member = await _started(store)
    store.fails = {"changes"}
    renewals = store.calls.count("renew_router")
    await asyncio.sleep(2 * LEASE_S)
    assert store.calls.count("renew_router") == renewals
    assert not member.membership.current
    await member.membership.stop()


@in_virtual_time
async def test_a_router_whose_lease_had_run_out_reads_again_after_renewing_it() -> None:
    # Between its reading and its renewal nobody waited for it: a change may have been confirmed.
    store = FakeStore()
    member = await _started(store)
    store.fails = {"renew_router"}
    await asyncio.sleep(2 * LEASE_S)
    assert not member.membership.current
    store.fails = set()

    def somebody_subscribes() -> None:
        store.on_renew = None
        store.change("unnoticed")

    store.on_renew = somebody_subscribes
    became = member.became_current

    while not member.membership.current:
        await asyncio.sleep(0.01)
    assert member.applied == ["unnoticed"]
    assert member.became_current == became + 1
    await member.membership.stop()


@in_virtual_time
async def test_a_fault_in_one_change_does_not_end_the_following(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore()
    member = await _started(store)
    apply = member.membership._apply

    def fail(_change: Change) -> None:
        raise ZeroDivisionError

    member.membership._apply = fail
    store.change("x")
    with caplog.at_level(logging.CRITICAL, "tidegate"):
        await asyncio.sleep(2 * LEASE_S)
    assert not member.membership.current
    member.membership._apply = apply
    await asyncio.sleep(2 * RENEW_S)
    assert member.membership.current
    assert member.applied == ["x"]
    await member.membership.stop()


# New instances


@in_virtual_time
async def test_a_new_instance_has_a_new_name_and_is_not_current_until_it_has_a_lease() -> None:
    store = FakeStore()
    member = await _started(store)
    old = member.membership.instance
    assert store.writer == old
    member.membership.new_instance()
    new = member.membership.instance
    assert new != old
    assert new.startswith("r1.")
    assert store.writer == new
    assert not member.membership.current
    await asyncio.sleep(1.5 * RENEW_S)
    assert member.membership.current
    assert member.became_current == 2
    # The old instance is not waited for: its lease has ended.
    assert list(store.registered) == [new]
    await member.membership.stop()


@in_virtual_time
async def test_a_renewal_of_a_fenced_instance_does_not_make_the_next_one_current() -> None:
    store = FakeStore()
    member = await _started(store)

    def declared_dead() -> None:
        store.on_renew = None
        member.membership.new_instance()

    store.on_renew = declared_dead
    while store.on_renew is not None:
        await asyncio.sleep(0.01)
    await turns()
    assert member.membership.instance not in store.registered
    assert not member.membership.current
    await asyncio.sleep(1.5 * RENEW_S)
    assert list(store.registered) == [member.membership.instance]
    assert member.membership.current
    await member.membership.stop()


# Waiting for others


@in_virtual_time
async def test_a_change_waits_for_every_live_router_to_have_read_it() -> None:
    store = FakeStore()
    member = await _started(store, "r1")
    store.registered["r2.x"] = (store.now_ms() + 60_000, [0, 0])
    partition, position = store.change("x", 1)
    waiting = asyncio.create_task(member.membership.wait_for_others(partition, position, []))
    await asyncio.sleep(1)
    assert not waiting.done()
    store.registered["r2.x"] = (store.now_ms() + 60_000, [9, position - 1])
    await asyncio.sleep(1)
    assert not waiting.done()
    store.registered["r2.x"] = (store.now_ms() + 60_000, [0, position])
    await waiting
    await member.membership.stop()


@in_virtual_time
async def test_a_router_whose_lease_has_run_out_is_not_waited_for() -> None:
    store = FakeStore()
    member = await _started(store, "r1")
    store.registered["dead.x"] = (store.now_ms() + 3000, [0, 0])
    began_s = asyncio.get_running_loop().time()
    await member.membership.wait_for_others(*store.change("x"), [])
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(3, abs=POLL_S + 0.001)
    await member.membership.stop()


@in_virtual_time
async def test_routers_that_the_caller_asks_itself_are_not_waited_for() -> None:
    store = FakeStore()
    member = await _started(store, "r1")
    store.registered["r2.x"] = (store.now_ms() + 60_000, [0, 0])
    await member.membership.wait_for_others(*store.change("x"), ["r2.x"])
    await member.membership.stop()


@in_virtual_time
async def test_a_router_without_a_position_of_a_partition_is_behind() -> None:
    store = FakeStore()
    member = await _started(store, "r1")
    store.registered["r2.x"] = (store.now_ms() + 1000, [])
    began_s = asyncio.get_running_loop().time()
    await member.membership.wait_for_others(*store.change("x", 1), [])
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(1, abs=POLL_S + 0.001)
    await member.membership.stop()


@in_virtual_time
async def test_waiting_for_others_fails_without_the_store() -> None:
    store = FakeStore()
    member = await _started(store, "r1")
    store.fails = {"routers"}
    with pytest.raises(StoreUnavailable):
        await member.membership.wait_for_others(0, 1, [])
    await member.membership.stop()


@in_virtual_time
async def test_of_two_routers_each_knows_what_the_other_has_confirmed() -> None:
    store = FakeStore()
    one, other = await _started(store, "r1"), await _started(store, "r2")
    await asyncio.sleep(1.5 * RENEW_S)
    assert sorted(one.membership.live) == sorted(other.membership.live)
    assert len(one.membership.live) == 2
    place = store.change("x")
    await one.membership.catch_up()
    await one.membership.wait_for_others(*place, [])
    assert other.applied == one.applied == ["x"]
    for member in (one, other):
        await member.membership.stop()
