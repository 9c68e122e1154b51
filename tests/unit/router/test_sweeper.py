"""A sweep that meets something it cannot read, or that fails: the next one comes all the same.

Inputs: a fake store that hands out a damaged will beside a good one, and one that faults.
Observed: what the router publishes, what it counts, and that it goes on asking.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from support.virtual_time import in_virtual_time
from tidegate.mqtt.packets import Will
from tidegate.router.sweeper import SWEEP_INTERVAL_S, Sweeper
from tidegate.router.wills import Wills
from tidegate.runtime.config.model import FeaturesConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWill, DueWork, EndedSession, StoreUnavailable
from tidegate.store.records import encode_will


class _Store:
    """Gives ``due`` to every sweep; ``fault`` is raised first, once."""

    def __init__(self) -> None:
        self.due = DueWork()
        self.fault: Exception | None = None
        #: Raised by every sweep while it is set.
        self.outage: Exception | None = None
        self.sweep_count = 0
        #: How many more calls leave entries that have expired.
        self.expiries_left = 0
        self.forgotten: list[str] = []

    async def sweep_due(self, *_: Any) -> DueWork:
        self.sweep_count += 1
        if self.outage is not None:
            raise self.outage
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        due, self.due = self.due, DueWork()
        return due

    async def expire_queued(self, now_ms: int, limit: int) -> bool:
        self.expiries_left -= 1
        return self.expiries_left >= 0

    async def will_published(self, will_ids: list[str]) -> None:
        self.forgotten += will_ids


class _Fake:
    """What a sweep looks after beside wills; ``is_away``: no retained message can be asked for."""

    def __init__(self) -> None:
        self.is_away = False
        self.ended_sessions: list[EndedSession] = []

    def ended(self, ended: EndedSession) -> None:
        self.ended_sessions.append(ended)

    def may_sweep_edges(self) -> bool:
        return False

    def sweep_done(self) -> None:
        pass

    def tick(self) -> None:
        pass

    def note(self, *_event: Any) -> None:
        pass

    async def schedule_checks(self) -> None:
        pass

    async def look(self) -> None:
        pass

    async def expire(self) -> int:
        if self.is_away:
            raise StoreUnavailable
        return 0

    def publish(self, _origin: Any, _message: Any) -> int:
        return 0

    def spawn(self, work: Any) -> None:
        asyncio.get_running_loop().create_task(work)


def _sweeper(store: Any, counters: Counters, beside: _Fake | None = None) -> Sweeper:
    fake: Any = beside or _Fake()
    wills = Wills(store, FeaturesConfig(), counters, lambda: 0, tasks=fake, routing=fake)
    return Sweeper(
        store,
        lambda: 0,
        counters,
        tasks=fake,
        leases=fake,
        retained=fake,
        abandoned_queues=fake,
        offline_members=fake,
        sessions=fake,
        wills=wills,
        edges=fake,
        membership=None,
        rollback=fake,
        record=fake,
        unstored=fake,
    )


@in_virtual_time
async def test_a_will_that_cannot_be_read_holds_no_other_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, counters = _Store(), Counters()
    record = encode_will(Will("a", b"gone"), "c", None)
    store.due = DueWork(
        wills=[DueWill("bad", "b", 1, b"\xff\xff"), DueWill("good", "c", 2, record)]
    )
    with caplog.at_level(logging.CRITICAL):
        await _sweeper(store, counters).sweep()
    await asyncio.sleep(0)
    # The claim of the other one runs out: who can read it publishes it.
    assert store.forgotten == ["good"]
    assert counters.wills_published == 1
    assert counters.internal_errors == 1


@in_virtual_time
async def test_what_was_handed_out_is_done_whatever_the_store_answers_next() -> None:
    store, counters = _Store(), Counters()
    record = encode_will(Will("a", b"gone"), "c", None)
    store.due = DueWork(wills=[DueWill("w", "c", 1, record)], ended=[EndedSession("c", 7)])
    fake = _Fake()
    fake.is_away = True
    with pytest.raises(StoreUnavailable):
        await _sweeper(store, counters, fake).sweep()
    # Nobody else will say that the session has ended.
    assert fake.ended_sessions == [EndedSession("c", 7)]
    assert counters.wills_published == 1


@in_virtual_time
async def test_a_sweep_that_fails_is_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    store, counters = _Store(), Counters()
    store.fault = ValueError("nobody has thought of this")
    sweeper = _sweeper(store, counters)
    with caplog.at_level(logging.CRITICAL):
        sweeper.start()
        await asyncio.sleep(3.5 * SWEEP_INTERVAL_S)
    await sweeper.stop()
    assert store.sweep_count == 4
    assert counters.internal_errors == 1


@in_virtual_time
async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It used to be a line every half second."""
    store, counters = _Store(), Counters()
    sweeper = _sweeper(store, counters)
    with caplog.at_level(logging.INFO):
        sweeper.start()
        for outage in (StoreUnavailable("one"), StoreUnavailable("two"), None, ValueError(), None):
            store.outage = outage
            await asyncio.sleep(3 * SWEEP_INTERVAL_S)
    await sweeper.stop()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "sweep failed, retrying"),
        ("INFO", "sweep succeeds again"),
        ("ERROR", "sweep failed, retrying"),
        ("INFO", "sweep succeeds again"),
    ]
    assert vars(caplog.records[0])["reason"] == "one"
    assert caplog.records[2].exc_info is not None
    assert counters.internal_errors == 3


@in_virtual_time
async def test_expired_entries_that_are_left_are_deleted_at_once() -> None:
    store = _Store()
    store.expiries_left = 3
    sweeper = _sweeper(store, Counters())
    sweeper.start()
    await asyncio.sleep(SWEEP_INTERVAL_S / 2)
    assert store.sweep_count == 4
    await asyncio.sleep(SWEEP_INTERVAL_S)
    await sweeper.stop()
    assert store.sweep_count == 5
