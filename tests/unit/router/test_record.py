"""The record at a router: batches, what is dropped, and the router's own events.

Input: events of an edge, a fake store that fails. Output: what is stored, and the counters.
"""

from __future__ import annotations

import asyncio

import pytest

from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.record.events import Event, Kind
from tidegate.router import record as module
from tidegate.router.record import MAX_BATCH, Record
from tidegate.runtime.config.model import RecordConfig
from tidegate.runtime.telemetry.counters import Counters


def _record(store: FakeStore, *, enabled: bool = True) -> tuple[Record, Counters]:
    counters = Counters()
    config = RecordConfig(enabled=enabled)
    return Record(store, config, counters, lambda: 5000, "router-1"), counters  # type: ignore[arg-type]


def _batch(count: int) -> list[tuple[str, bytes]]:
    return [(f"c{number}", b"event") for number in range(count)]


@in_virtual_time
async def test_events_are_written_in_their_order_in_bounded_batches() -> None:
    store = FakeStore()
    record, counters = _record(store)
    events = _batch(MAX_BATCH * 2 + 1)
    assert record.add(events)
    await asyncio.sleep(1)
    assert store.recorded == events
    assert store.calls.count("record") == 3
    assert counters.record_events == len(events)


@in_virtual_time
async def test_without_a_store_they_are_dropped_and_nothing_waits() -> None:
    store = FakeStore()
    record, counters = _record(store)
    store.fails.add("record")
    record.add(_batch(5))
    await asyncio.sleep(1)
    store.fails.clear()
    record.add(_batch(1))
    await asyncio.sleep(1)
    assert (counters.record_dropped, counters.record_events) == (5, 1)
    counters.store_full = 1
    record.add(_batch(2))
    await asyncio.sleep(1)
    assert (counters.record_dropped, len(store.recorded)) == (7, 1)


@in_virtual_time
async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    store = FakeStore()
    record, counters = _record(store)
    record.add(_batch(10))
    assert counters.record_dropped == 6
    await record.stop()
    assert [key for key, _ in store.recorded] == ["c6", "c7", "c8", "c9"]


@in_virtual_time
async def test_its_own_events_name_the_router_and_the_client() -> None:
    store = FakeStore()
    record, _ = _record(store)
    record.note(Kind.SESSION_EXPIRED, "a/\0c", "session_expiry_interval")
    record.wills_published(["17:c:d"])
    record.dropped("c", "queue_full", "t")
    record.dropped("c", "queue_full", "t")
    await record.stop()
    events = [Event.decode(event) for _, event in store.recorded]
    assert [key for key, _ in store.recorded] == ["a/\0c", "c:d", "c"]
    assert [one and (one.kind, one.client, one.mount_point) for one in events] == [
        (Kind.SESSION_EXPIRED, "c", "a/"),
        (Kind.WILL_PUBLISHED, "c:d", ""),
        (Kind.DROPPED, "c", ""),
    ]
    assert {one.edge for one in events if one} == {"router-1"}
    assert {one.at for one in events if one} == {5.0}


@in_virtual_time
async def test_nothing_is_written_while_it_is_off() -> None:
    store = FakeStore()
    record, counters = _record(store, enabled=False)
    record.add(_batch(3))
    record.note(Kind.SESSION_EXPIRED, "c", "session_expiry_interval")
    record.dropped("c", "queue_full", "t")
    await record.stop()
    assert (store.recorded, counters.record_dropped) == ([], 0)
