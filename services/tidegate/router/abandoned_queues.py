"""What clients that have gone had got through shared subscriptions: it goes to other members.

Called by the router for lost queues that a sweep has claimed, and by ``offline_members``; calls the
store, and gives messages to groups. A claim that runs out is taken by any router, so everything
here may happen twice: durable members queue a message once, by its identity; others may get it
again, within what QoS 1 allows. What QoS 2 forbids is not given to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.groups import LostMessage, Page
from tidegate.router.pending import Pending
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AbandonedQueue, Store
from tidegate.store.records import decode_queued, queued_group

#: Read at a time.
PAGE: Final = 200
PAGE_BYTES: Final = 1_048_576
#: Queues that are emptied at the same time, and how long one waits for its turn; then it is left to
#: who claims it next.
AT_ONCE: Final = 16
TURN_S: Final = 4.0
#: How long members without a durable session have to acknowledge a page, before it is forgotten all
#: the same. With the turn it is less than a claim lasts.
HANDOVER_S: Final = 4.0


class Give(Protocol):
    """Gives a message to one member of a group (share name, topic filter)."""

    def __call__(
        self, group: tuple[str, str], origin: Origin | None, message: Publish, pending: Pending
    ) -> None: ...


class AbandonedQueues:
    """Gives away what lost queues hold; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        give: Give,
        retry: Callable[[Callable[[], Coroutine[Any, Any, Any]], str], Coroutine[Any, Any, Any]],
        now_ms: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._store = store
        self._give = give
        self._retry = retry
        self._now_ms = now_ms
        self._counters = counters
        self._under_way: dict[tuple[str, int], asyncio.Task[Any] | None] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def redispatch(self, lost: AbandonedQueue) -> bool:
        """Give away all that one queue holds, then forget it.

        True if a member could not take its message, whoever has it now.
        """
        key = (lost.client_id, lost.incarnation)
        if key in self._under_way:
            return False
        self._under_way[key] = asyncio.current_task()
        try:
            if not await take_turn(self._turns):
                return False
            try:
                return await self._give_all(lost)
            finally:
                self._turns.release()
        finally:
            del self._under_way[key]

    def forget(self) -> None:
        """Give up what is under way: others have taken it over."""
        for task in self._under_way.values():
            if task is not None:
                task.cancel()

    async def _give_all(self, lost: AbandonedQueue) -> bool:
        key = (lost.client_id, lost.incarnation)
        refused = False
        more = True
        while more:
            found = await self._retry(
                lambda: self._store.fetch_abandoned(*key, 0, PAGE, PAGE_BYTES), "read a lost queue"
            )
            page, reasons = await self._give_page(lost, found)
            refused |= page.refused
            if page.failed:  # a fault, and counted as one: leave it to whoever claims it next
                break
            last = found[-1][0] if found else 0
            more = await self._forget(key, last) and bool(found)
            self._count(lost, reasons)
        return refused

    async def _forget(self, key: tuple[str, int], last: int) -> bool:
        """Forget what has been given away; True when there is more."""
        more: bool = await self._retry(
            lambda: self._store.trim_abandoned(*key, last, self._now_ms()), "forget a lost queue"
        )
        return more

    async def _give_page(
        self, lost: AbandonedQueue, found: list[tuple[int, bytes]]
    ) -> tuple[Page, list[tuple[int, str]]]:
        """Give away what may go to others, and say what becomes of each entry."""
        # All are read before the first is given: one of a newer version stops the page, not half.
        entries = [(seq, decode_queued(record), queued_group(record)) for seq, record in found]
        reasons = []
        done = asyncio.Event()
        page = Page(done.set)
        for seq, message, group in entries:
            if message.expires_at_ms and message.expires_at_ms <= self._now_ms():
                reasons.append((seq, "expired"))
            elif not group or (message.qos == 2 and _has_begun(lost, seq)):  # [MQTT-4.8.2-5]
                reasons.append((seq, "session_ended"))
            else:
                share_name, _, topic_filter = group.partition("/")
                message.subscription_identifiers = ()
                identity = f"lost|{lost.client_id}|{lost.incarnation}|{seq}"
                origin = LostMessage(identity, lost.client_id)
                self._give((share_name, topic_filter), origin, message, page)
                reasons.append((seq, "redispatched"))
        page.release()
        try:
            async with asyncio.timeout(HANDOVER_S):
                await done.wait()
        except TimeoutError:
            page.close()
            await done.wait()
        return page, reasons

    def _count(self, lost: AbandonedQueue, reasons: list[tuple[int, str]]) -> None:
        """Entries that were sent count as delivered; their copies end here all the same."""
        self._counters.queued -= len(reasons)
        for seq, reason in reasons:
            if lost.sent_uncertain or seq > lost.sent_seq:
                self._counters.dropped[reason] += 1


async def take_turn(turns: asyncio.Semaphore) -> bool:
    """Wait for a turn, but not for long; True if there is one, to be released."""
    try:
        async with asyncio.timeout(TURN_S):
            return await turns.acquire()
    except TimeoutError:
        return False


def _has_begun(lost: AbandonedQueue, seq: int) -> bool:
    return lost.sent_uncertain or seq <= lost.sent_seq
