"""Abandoned queues: messages of shared subscriptions are redelivered to other members.

Called by the sweeper for queues that it has claimed, and by ``offline_members``; calls the store,
and dispatches messages to groups. A claim that ends can be taken by any router, so everything here
may happen twice: durable members queue a message once, by its identity; others may get it again,
within QoS 1. A QoS 2 message whose delivery may have begun is never redelivered to another client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.groups import Page, RedispatchOrigin
from tidegate.router.pending import Pending
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AbandonedQueue, Store
from tidegate.store.records import decode_queued, queued_group

#: Entries and bytes that are read at a time.
PAGE: Final = 200
PAGE_BYTES: Final = 1_048_576
#: Queues that are processed at the same time, and how long one waits for its turn: after that it is
#: left to the next claim.
MAX_CONCURRENT: Final = 16
TURN_TIMEOUT_S: Final = 4.0
#: How long members without a durable session have to acknowledge a page, before it is deleted
#: anyway. Together with the turn it is shorter than a claim.
ACKNOWLEDGE_TIMEOUT_S: Final = 4.0


class GroupDispatch(Protocol):
    """Dispatches a message to one member of a group (share name, topic filter)."""

    def __call__(
        self, group: tuple[str, str], origin: Origin | None, message: Publish, pending: Pending
    ) -> None: ...


class AbandonedQueues:
    """Redelivers the messages of abandoned queues; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        dispatch: GroupDispatch,
        retry: Callable[[Callable[[], Coroutine[Any, Any, Any]], str], Coroutine[Any, Any, Any]],
        now_ms: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._retry = retry
        self._now_ms = now_ms
        self._counters = counters
        self._in_progress: dict[tuple[str, int], asyncio.Task[Any] | None] = {}
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    async def redispatch(self, queue: AbandonedQueue) -> bool:
        """Redeliver the messages of one queue, then delete it.

        True if a member could not take its message, even if another member has taken it.
        """
        key = (queue.client_id, queue.incarnation)
        if key in self._in_progress:
            return False
        self._in_progress[key] = asyncio.current_task()
        try:
            if not await acquire_turn(self._turns):
                return False
            try:
                return await self._redispatch_all(queue)
            finally:
                self._turns.release()
        finally:
            del self._in_progress[key]

    def cancel(self) -> None:
        """Cancel what is in progress: this router is fenced, and others have taken over."""
        for task in self._in_progress.values():
            if task is not None:
                task.cancel()

    async def _redispatch_all(self, queue: AbandonedQueue) -> bool:
        key = (queue.client_id, queue.incarnation)
        refused = False
        more = True
        while more:
            found = await self._retry(
                lambda: self._store.fetch_abandoned(*key, 0, PAGE, PAGE_BYTES),
                "fetch abandoned queue",
            )
            page, reasons = await self._redispatch_page(queue, found)
            refused |= page.refused
            if page.failed:  # a fault, counted as one: left to the next claim
                break
            last = found[-1][0] if found else 0
            more = await self._trim(key, last) and bool(found)
            self._count(queue, reasons)
        return refused

    async def _trim(self, key: tuple[str, int], last: int) -> bool:
        """Delete the entries that are processed; True when there are more."""
        more: bool = await self._retry(
            lambda: self._store.trim_abandoned(*key, last, self._now_ms()), "trim abandoned queue"
        )
        return more

    async def _redispatch_page(
        self, queue: AbandonedQueue, found: list[tuple[int, bytes]]
    ) -> tuple[Page, list[tuple[int, str]]]:
        """Dispatch the messages that may be redelivered; the reason counted for each entry."""
        # All are decoded before the first is dispatched: a newer record stops the whole page.
        entries = [(seq, decode_queued(record), queued_group(record)) for seq, record in found]
        reasons = []
        done = asyncio.Event()
        page = Page(done.set)
        for seq, message, group in entries:
            if message.expires_at_ms and message.expires_at_ms <= self._now_ms():
                reasons.append((seq, "expired"))
            elif not group or (message.qos == 2 and _has_begun(queue, seq)):  # [MQTT-4.8.2-5]
                reasons.append((seq, "session_ended"))
            else:
                share_name, _, topic_filter = group.partition("/")
                message.subscription_identifiers = ()
                # A stored identity: other versions must make the same one.
                identity = f"lost|{queue.client_id}|{queue.incarnation}|{seq}"
                origin = RedispatchOrigin(identity, queue.client_id)
                self._dispatch((share_name, topic_filter), origin, message, page)
                reasons.append((seq, "redispatched"))
        page.release()
        try:
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                await done.wait()
        except TimeoutError:
            page.close()
            await done.wait()
        return page, reasons

    def _count(self, queue: AbandonedQueue, reasons: list[tuple[int, str]]) -> None:
        """Count copies that were not sent by reason; those that were sent count as delivered."""
        self._counters.queued -= len(reasons)
        for seq, reason in reasons:
            if queue.sent_uncertain or seq > queue.sent_seq:
                self._counters.dropped[reason] += 1


async def acquire_turn(turns: asyncio.Semaphore) -> bool:
    """Wait up to TURN_TIMEOUT_S for a turn; True if there is one, to be released."""
    try:
        async with asyncio.timeout(TURN_TIMEOUT_S):
            return await turns.acquire()
    except TimeoutError:
        return False


def _has_begun(queue: AbandonedQueue, seq: int) -> bool:
    return queue.sent_uncertain or seq <= queue.sent_seq
