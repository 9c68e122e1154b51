"""What is changed back again and again is set right ever less often.

Input: a cluster where somebody else undoes what the operator has written. Output: how often it
writes, and that it does so at once when something else is wanted.
"""

from __future__ import annotations

import datetime
import logging
import math

import pytest

from support.brokers import NOW, pick, rendered, spec_of
from support.operator_harness import Harness
from tidegate_operator.kube.write_backoff import (
    FIRST_WAIT_S,
    FORGET_AFTER_S,
    IMMEDIATE_WRITES,
    MAX_WAIT_S,
    WriteBackoff,
)
from tidegate_operator.plan import with_applied_hash


def undo(it: Harness) -> None:
    it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] = 0


async def fight(it: Harness, seconds: int, every_s: float = 0.5) -> int:
    """Undo everything for a while, again and again; return how often it was written again."""
    written = 0
    for _ in range(round(seconds / every_s)):
        undo(it)
        it.pass_time(every_s)
        written += (await it.reconcile()).applied
    return written


async def test_a_fight_is_fought_ever_less_often(caplog: pytest.LogCaptureFixture) -> None:
    it = Harness(spec_of())
    await it.settle()
    assert IMMEDIATE_WRITES <= await fight(it, 10) <= IMMEDIATE_WRITES + 3
    assert await fight(it, 600, every_s=4) <= 10
    assert await fight(it, 3600, every_s=20) <= 3600 / MAX_WAIT_S + 1
    told = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(told) == 1
    assert vars(told[0])["object"] == "Deployment demo-edge"


async def test_the_operator_looks_again_when_it_may_write() -> None:
    it = Harness(spec_of())
    await it.settle()
    await fight(it, 20)
    undo(it)
    outcome = await it.reconcile()
    assert outcome.applied == 0
    assert 0 < (outcome.requeue_after_s or 0) <= MAX_WAIT_S


async def test_what_is_wanted_now_is_written_at_once() -> None:
    it = Harness(spec_of())
    await it.settle()
    await fight(it, 60)
    it.put_spec(spec_of(edge={"replicas": 5}))
    await it.reconcile()
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 5


def test_pauses_grow_and_peace_is_forgotten() -> None:
    write_backoff = WriteBackoff()
    one = with_applied_hash(pick(rendered(spec_of()), "Service", "demo"))
    now = NOW
    for count in range(1, IMMEDIATE_WRITES + 1):
        assert not write_backoff.record(one, now), count
        assert write_backoff.wait_s(one, now) == 0
    assert write_backoff.record(one, now)
    assert write_backoff.wait_s(one, now) == FIRST_WAIT_S
    assert not write_backoff.record(one, now)
    assert write_backoff.wait_s(one, now) == 2 * FIRST_WAIT_S
    assert write_backoff.wait_s(one, now + datetime.timedelta(seconds=9)) == 1
    for _ in range(20):
        write_backoff.record(one, now)
    assert write_backoff.wait_s(one, now) == MAX_WAIT_S
    # A clock that is set back makes no pause longer.
    assert write_backoff.wait_s(one, now - datetime.timedelta(days=1)) == 0
    later = now + datetime.timedelta(seconds=FORGET_AFTER_S)
    assert write_backoff.wait_s(one, later) == 0
    assert not write_backoff.record(one, later)
    write_backoff.forget(one["metadata"]["namespace"], "demo")
    assert write_backoff.wait_s(one, now) == 0


async def test_two_operators_of_different_versions_fight_ever_less_often() -> None:
    """Although each notes at the Deployment since when it rolls, and removes that in the end."""
    it = Harness(spec_of())
    await it.settle()
    one = it.reconciler
    it.start_anew(image="registry.example/tidegate:2")
    other = it.reconciler
    it.fake.writes.clear()
    seconds = 20
    for _ in range(seconds):
        it.pass_time(1)
        for reconciler in (one, other):
            it.reconciler = reconciler
            # Edges and routers are replaced, then the store, and then the mark is removed.
            await it.settle()
            it.make_ready()
            await it.reconcile()
    allowed = 2 * (IMMEDIATE_WRITES + 1 + math.floor(math.log2(seconds / FIRST_WAIT_S + 1)))
    for kind, name in (("Deployment", "demo-edge"), ("Deployment", "demo-router")):
        assert 2 * IMMEDIATE_WRITES < it.fake.writes.count(("apply", kind, name)) <= allowed, name
