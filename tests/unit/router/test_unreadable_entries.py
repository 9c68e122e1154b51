"""Entries that a member may not read: which go to an abandoned queue, and which are deleted.

Input: a fake store with records. Output: what is moved and deleted, and the counters. That other
members get them: ``integration/test_denied_subscriptions.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.mqtt.packets import Publish
from tidegate.router.abandoned_queues import PAGE
from tidegate.router.unreadable_entries import UnreadableEntries
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AbandonedQueue, StoreUnavailable
from tidegate.store.records import encode_queued


def _record(group: str = "") -> bytes:
    return encode_queued(Publish("t", b"x", 1), 1, False, group=group)


class _Store:
    """One queue."""

    def __init__(self, queue: dict[int, bytes]) -> None:
        self.queue = queue
        self.is_fenced = self.is_away = False
        self.moved: list[tuple[list[int], int]] = []

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        if self.is_away:
            raise StoreUnavailable
        return [item for item in sorted(self.queue.items()) if item[0] > after_seq][:max_count]

    async def return_entries(
        self, client_id: str, epoch: int, seqs: Sequence[int], sent_seq: int, now_ms: int
    ) -> int | None:
        if self.is_fenced:
            return None
        self.moved.append((list(seqs), sent_seq))
        for seq in seqs:
            del self.queue[seq]
        return 77

    async def complete(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        for seq in seqs:
            del self.queue[seq]
        return not self.is_fenced


class _AbandonedQueues:
    """Notes what is to be redelivered."""

    def __init__(self) -> None:
        self.queues: list[AbandonedQueue] = []

    async def redispatch(self, queue: AbandonedQueue) -> bool:
        self.queues.append(queue)
        return False


class _Harness:
    """The part under test, with what it calls."""

    def __init__(self, queue: dict[int, bytes]) -> None:
        self.store = _Store(queue)
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        self.abandoned = _AbandonedQueues()
        store: Any = self.store
        abandoned: Any = self.abandoned
        self.entries = UnreadableEntries(
            store, self.counters, lambda: 0, tasks=self.tasks, abandoned_queues=abandoned
        )


async def test_entries_of_groups_are_moved_and_others_are_deleted() -> None:
    queue = {1: _record("g/t"), 2: _record(), 3: _record("g/t"), 4: _record(), 5: b"\xff"}
    harness = _Harness(queue)
    await harness.entries.return_entries("c", 9, 3, [5, 3, 2, 8, 1], 2)
    await harness.tasks.idle()
    assert harness.store.moved == [([1, 3], 2)]
    assert sorted(queue) == [4, 5], "what cannot be decoded stays"
    assert harness.abandoned.queues == [AbandonedQueue("c", 77, 2, False)]
    assert harness.counters.dropped["not_authorized"] == 1
    assert harness.counters.queued == -1, "the moved ones are counted where they are redelivered"
    await harness.entries.return_entries("c", 9, 3, [1, 2, 3], 2)
    assert len(harness.store.moved) == 1, "a repeated request does nothing"
    assert harness.counters.dropped["not_authorized"] == 1


async def test_entries_far_apart_are_found() -> None:
    queue = {seq: _record("g/t") for seq in range(1, 3 * PAGE)}
    harness = _Harness(queue)
    wanted = [1, PAGE, PAGE + 1, 3 * PAGE - 1]
    await harness.entries.return_entries("c", 9, 3, wanted, 0)
    assert harness.store.moved == [(wanted, 0)]


async def test_a_fenced_session_and_a_store_that_is_away_are_reported() -> None:
    for record in (_record(), _record("g/t")):
        harness = _Harness({1: record})
        harness.store.is_fenced = True
        with pytest.raises(SessionFenced):
            await harness.entries.return_entries("c", 9, 3, [1], 0)
        harness.store.is_away = True
        with pytest.raises(RouterUnavailable):
            await harness.entries.return_entries("c", 9, 3, [1], 0)
        assert not harness.counters.dropped["not_authorized"]
