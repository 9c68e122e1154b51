"""Claims of messages, in virtual time: batches, order, outages, fences, faults.

The store here is a dictionary; what real ones answer is in integration/test_store_claims.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.virtual_time import in_virtual_time, turns
from tidegate.mqtt.packets import Publish
from tidegate.router.batch_writer import MAX_BATCH
from tidegate.router.claims import ClaimItem, Claims
from tidegate.router.pending import Pending
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Claim, Holder, StoreUnavailable, WriterFenced

GROUP = ("g", "t")


class _Store:
    """Answers what is asked for; ``faults`` are raised first, ``may_answer`` holds answers back."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.calls: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def claim(self, claims: Sequence[Claim]) -> list[Holder]:
        self.calls.append(len(claims))
        await self.may_answer.wait()
        if self.faults:
            raise self.faults.pop(0)
        return [claim.holder for claim in claims]


class _Harness:
    def __init__(self) -> None:
        self.store = _Store()
        self.counters = Counters()
        self.fenced = 0
        self.finished: list[str] = []
        self.pending: list[Pending] = []
        #: Identities, in the order in which they were claimed.
        self.claimed: list[str] = []
        store: Any = self.store
        self.claims = Claims(store, self.counters, self._on_fenced)
        self.claims.claimed = self._on_claimed

    def _on_fenced(self) -> None:
        self.fenced += 1

    def _on_claimed(self, item: ClaimItem, holder: Holder) -> None:
        assert holder == item.claim.holder
        self.claimed.append(item.claim.identity)

    def add(self, *identities: str) -> None:
        for identity in identities:
            pending = Pending(lambda identity=identity: self.finished.append(identity))  # type: ignore[misc]
            claim = Claim("g/t", identity, ("m", 1))
            self.claims.add(ClaimItem(claim, GROUP, None, Publish("t", b"", 2), pending, ()))
            pending.release()
            self.pending.append(pending)


@in_virtual_time
async def test_messages_are_claimed_in_order_in_few_calls() -> None:
    harness = _Harness()
    names = [f"{number}" for number in range(2 * MAX_BATCH)]
    harness.store.may_answer.clear()
    harness.add(names[0])
    await turns()
    harness.add(*names[1:])
    assert harness.finished == []
    harness.store.may_answer.set()
    await harness.claims.idle()
    assert harness.claimed == harness.finished == names
    assert harness.store.calls == [1, MAX_BATCH, MAX_BATCH - 1]
    assert not harness.claims.is_busy


@in_virtual_time
async def test_an_outage_delays_them_and_keeps_their_order() -> None:
    harness = _Harness()
    harness.store.faults = [StoreUnavailable("away")] * 3
    harness.add("1", "2")
    await turns()
    harness.add("3")
    await harness.claims.idle()
    assert harness.claimed == harness.finished == ["1", "2", "3"]


@pytest.mark.parametrize("fault", [None, StoreUnavailable("away"), WriterFenced()])
@in_virtual_time
async def test_what_is_cancelled_is_neither_queued_nor_answered(fault: Exception | None) -> None:
    harness = _Harness()
    harness.store.may_answer.clear()
    harness.add("in flight")
    await turns()
    harness.add("waiting")
    harness.claims.cancel()
    if fault is not None:
        harness.store.faults = [fault]
    harness.store.may_answer.set()
    harness.add("later")
    await harness.claims.idle()
    assert harness.claimed == harness.finished == ["later"]
    assert harness.fenced == 0


@in_virtual_time
async def test_a_fenced_router_cancels_its_claims_and_says_so_once() -> None:
    harness = _Harness()
    harness.store.faults = [WriterFenced()]
    harness.add("1", "2")
    await harness.claims.idle()
    assert (harness.claimed, harness.finished, harness.fenced) == ([], [], 1)


@in_virtual_time
async def test_a_claim_that_the_store_finds_invalid_fails_the_publish() -> None:
    harness = _Harness()
    harness.store.faults = [ValueError("never thought of")]
    harness.add("1", "2")
    await harness.claims.idle()
    assert harness.claimed == []
    assert harness.finished == ["1", "2"]
    assert all(pending.failed for pending in harness.pending)
    counters = harness.counters
    assert (counters.internal_errors, counters.published) == (1, 2)
    assert counters.dropped["store_unavailable"] == 2
