"""The histories of the store, as a router watches them: what shows that one has gone back.

Inputs: a store that the test empties, or gives an older state, and time that passes at once.
Observed: the partitions that are reported, how often, and which connections are of an earlier
history. Real servers: tests/integration/test_store_history.py and test_store_rollback.py.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.router import store_history
from tidegate.router.store_history import CHECK_S, NUMBERS_PER_MS, StoreHistory
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import GLOBAL


class _Reader:
    """A router's view of the histories, and what it reports."""

    def __init__(self, store: FakeStore) -> None:
        self.counters = Counters()
        self.reported: list[list[int]] = []
        self.replaced = 0
        view: Any = store
        self.history = StoreHistory(view, self.counters, self._back, self._replaced)

    def _back(self, partitions: Sequence[int]) -> None:
        self.reported.append(list(partitions))

    def _replaced(self) -> None:
        self.replaced += 1


async def _started(store: FakeStore) -> _Reader:
    reader = _Reader(store)
    await reader.history.start()
    return reader


def evidence_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what has shown each return to an older state, from the log."""
    return [record.__dict__["evidence"] for record in caplog.records]


def _emptied(store: FakeStore) -> None:
    """As a server is after FLUSHALL: a history begins with the first read, by its clock."""
    store.histories = {partition: (50_000, {}) for partition in store.all_histories}
    store.replaced.clear()


@in_virtual_time
async def test_a_store_that_keeps_what_it_has_is_never_reported() -> None:
    reader = await _started(FakeStore())
    await asyncio.sleep(20 * CHECK_S)
    assert (reader.reported, reader.history.count) == ([], 0)
    await reader.history.stop()


@in_virtual_time
async def test_a_store_that_is_empty_is_reported_once_within_a_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore()
    reader = await _started(store)
    assert not reader.history.is_lost("c", 40_000)
    with caplog.at_level(logging.WARNING):
        _emptied(store)
        await asyncio.sleep(5 * CHECK_S)
    assert reader.reported == [store.all_histories]
    assert reader.counters.store_rollbacks == 1
    assert len(caplog.records) == 1
    # Those that have connected in the meantime, too: their numbers may have been given out before.
    assert reader.history.is_lost("c", 50_001)
    first = store.histories[0][0]
    assert reader.history.is_lost("c", first)
    assert not reader.history.is_lost("c", first + 1)
    await reader.history.stop()


@in_virtual_time
async def test_an_older_state_gets_numbers_above_all_that_there_have_been(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore()
    reader = await _started(store)
    older = copy.deepcopy(store.histories)
    await asyncio.sleep(3 * CHECK_S)
    store.histories = older
    await reader.history.look()
    firsts = {first for first, _ in store.histories.values()}
    assert min(firsts) > store.time_ms * NUMBERS_PER_MS
    assert (reader.reported, reader.history.is_lost("c", 7)) == ([store.all_histories], True)
    # One was written at the start, and two since.
    assert evidence_in(caplog) == ["number 3 of history 0 is 1 now"]
    await reader.history.stop()


@in_virtual_time
async def test_what_another_router_has_replaced_is_reported_and_not_replaced_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore()
    one, other = await _started(store), await _started(store)
    await asyncio.sleep(2 * CHECK_S)
    store.histories = {partition: (0, {}) for partition in store.all_histories}
    await one.history.look()
    firsts = {partition: first for partition, (first, _) in store.histories.items()}
    await other.history.look()
    assert {partition: first for partition, (first, _) in store.histories.items()} == firsts
    assert one.reported == other.reported == [store.all_histories]
    assert evidence_in(caplog)[0] == "number 2 of history 0 is missing"
    assert evidence_in(caplog)[1] == f"another router has begun history {firsts[GLOBAL]}"
    for reader in (one, other):
        await reader.history.stop()


@in_virtual_time
async def test_a_store_that_was_away_has_not_gone_back() -> None:
    store = FakeStore()
    reader = await _started(store)
    store.fails = {"read_histories"}
    await asyncio.sleep(5 * CHECK_S)
    store.fails = set()
    await asyncio.sleep(5 * CHECK_S)
    assert reader.reported == []
    await reader.history.stop()


@in_virtual_time
async def test_a_replacement_that_fails_is_made_later() -> None:
    store = FakeStore()
    reader = await _started(store)
    store.histories = {partition: (0, {}) for partition in store.all_histories}
    store.fails = {"replace_histories"}
    await asyncio.sleep(2 * CHECK_S)
    assert reader.reported == []
    assert reader.history.is_back
    assert not await reader.history.leases_hold(0)
    store.fails = set()
    await asyncio.sleep(2 * CHECK_S)
    assert reader.reported == [store.all_histories]
    assert not reader.history.is_back
    await reader.history.stop()


@in_virtual_time
async def test_a_reader_that_may_have_been_forgotten_begins_anew() -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(store_history, "FORGOTTEN_S", 20 * CHECK_S)
    store = FakeStore()
    reader = await _started(store)
    store.fails = {"read_histories"}
    await asyncio.sleep(30 * CHECK_S)
    for _, written in store.histories.values():
        written.clear()
    store.fails = set()
    await asyncio.sleep(3 * CHECK_S)
    monkeypatch.undo()
    assert reader.reported == []
    await reader.history.stop()


@in_virtual_time
async def test_leases_do_not_hold_when_the_store_is_found_to_have_gone_back() -> None:
    store = FakeStore()
    reader = await _started(store)
    assert await reader.history.leases_hold(0)
    _emptied(store)
    assert not await reader.history.leases_hold(0)
    # They were read when it had gone back, which was noticed meanwhile.
    assert not await reader.history.leases_hold(0)
    assert await reader.history.leases_hold(1)
    await reader.history.stop()


@in_virtual_time
async def test_a_server_that_is_replaced_is_reported_unless_it_has_gone_back() -> None:
    store = FakeStore()
    reader = await _started(store)
    store.on_replaced()
    await turns()
    assert (reader.replaced, reader.reported) == (1, [])
    _emptied(store)
    store.on_replaced()
    await turns()
    assert (reader.replaced, reader.reported) == (1, [store.all_histories])
    await reader.history.stop()


@in_virtual_time
async def test_what_something_else_has_shown_to_have_gone_back_gets_a_new_history(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore()
    reader = await _started(store)
    reader.history.declare([0], "a log ends too early")
    await turns()
    assert evidence_in(caplog) == ["a log ends too early"]
    assert store.histories[0][0] > 0
    assert reader.counters.store_rollbacks == 1
    assert 0 in reader.reported[0]
    assert GLOBAL in reader.history.first
    await reader.history.stop()
