"""Entries of a durable session's queue that its client may not read: given to other members.

Called for requests of edges, which have the ACL. What came through a shared subscription becomes an
abandoned queue, in one step that fails when a newer connection has the session, and is redelivered
by ``abandoned_queues``; the rest is deleted. May be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.link.interfaces import SessionFenced
from tidegate.router.abandoned_queues import PAGE, PAGE_BYTES, AbandonedQueues
from tidegate.router.store_calls import call_fenced, call_once
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AbandonedQueue, Store
from tidegate.store.records import RecordError, queued_group


class UnreadableEntries:
    """See the module's docstring."""

    __slots__ = ("_abandoned_queues", "_counters", "_now_ms", "_store", "_tasks")

    def __init__(
        self,
        store: Store,
        counters: Counters,
        now_ms: Callable[[], int],
        *,
        tasks: Tasks,
        abandoned_queues: AbandonedQueues,
    ) -> None:
        self._store = store
        self._counters = counters
        self._now_ms = now_ms
        self._tasks = tasks
        self._abandoned_queues = abandoned_queues

    async def return_entries(
        self, client_id: str, epoch: int, incarnation: int, seqs: Sequence[int], sent_seq: int
    ) -> None:
        """Give entries to other members, or delete them, counted (see RouterLink)."""
        shared, others = await self._sort(client_id, incarnation, seqs)
        if shared:
            number = await call_once(
                self._store.return_entries(client_id, epoch, shared, sent_seq, self._now_ms())
            )
            if number is None:
                raise SessionFenced
            if number:
                queue = AbandonedQueue(client_id, number, sent_seq, False)
                self._tasks.spawn(self._abandoned_queues.redispatch(queue))
        if others:
            await call_fenced(self._store.complete(client_id, epoch, others))
            self._counters.queued -= len(others)
            self._counters.dropped["not_authorized"] += len(others)

    async def _sort(
        self, client_id: str, incarnation: int, seqs: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Which of the entries came through shared subscriptions, and which did not."""
        shared: list[int] = []
        others: list[int] = []
        wanted = sorted(seqs)
        at = 0
        while at < len(wanted):
            found = await call_once(
                self._store.fetch(client_id, incarnation, wanted[at] - 1, PAGE, PAGE_BYTES)
            )
            if not found:
                break
            records = dict(found)
            last = found[-1][0]
            while at < len(wanted) and wanted[at] <= last:
                seq = wanted[at]
                at += 1
                if seq in records:
                    try:
                        (shared if queued_group(records[seq]) else others).append(seq)
                    except RecordError:  # of a newer version: left to routers that can read it
                        continue
        return shared, others
