"""What ended sessions had got through shared subscriptions: it goes to other members.

Called by the router for lost queues that a sweep has claimed; calls the store, and gives messages
back to the router. A claim that runs out is taken by any router, so everything here may happen
twice: durable members queue a message once, by its identity; others may get it again, within what
QoS 1 allows. What QoS 2 forbids is not given to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from tidegate.link.api import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.queue_writer import Pending
from tidegate.store.api import LostQueue, Store
from tidegate.store.records import decode_queued, queued_group

#: Read at a time.
PAGE: Final = 200
PAGE_BYTES: Final = 1_048_576


class Give(Protocol):
    """Gives a message to one member of a group (share name, topic filter)."""

    def __call__(
        self,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
        skip: tuple[str, ...],
    ) -> None: ...


class _LostOrigin:
    """The publisher of an entry of a lost queue: nobody who waits for an answer."""

    __slots__ = ("_name", "client_id", "epoch")

    def __init__(self, lost: LostQueue, seq: int) -> None:
        self.client_id = ""
        self.epoch = 0
        self._name = f"lost|{lost.client_id}|{lost.incarnation}|{seq}"

    def identity(self, message: Publish) -> str:
        """The same at every attempt, so that a durable member queues the message once."""
        return self._name

    def receipt(self, message: Publish) -> int:
        """Nobody waits for a PUBREC."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """Nobody waits."""


class LostQueues:
    """Gives away what lost queues hold; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        give: Give,
        retry: Callable[[Callable[[], Coroutine[Any, Any, Any]], str], Coroutine[Any, Any, Any]],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._give = give
        self._retry = retry
        self._now_ms = now_ms
        self._under_way: set[tuple[str, int]] = set()

    async def redispatch(self, lost: LostQueue) -> None:
        """Give away all that one queue holds, then forget it."""
        key = (lost.client_id, lost.incarnation)
        if key in self._under_way:
            return
        self._under_way.add(key)
        try:
            while await self._give_page(lost):
                pass
        finally:
            self._under_way.discard(key)

    async def _give_page(self, lost: LostQueue) -> bool:
        """Give away and forget the first entries; True when there are more."""
        key = (lost.client_id, lost.incarnation)
        found = await self._retry(
            lambda: self._store.fetch_lost(*key, 0, PAGE, PAGE_BYTES), "read a lost queue"
        )
        # All are read before the first is given: one of a newer version stops the page, not half.
        entries = [(seq, decode_queued(record), queued_group(record)) for seq, record in found]
        done = asyncio.Event()
        pending = Pending(done.set)
        for seq, message, group in entries:
            if group and self._may_go_to_others(lost, seq, message):
                share_name, _, topic_filter = group.partition("/")
                message.subscription_identifiers = ()
                origin = _LostOrigin(lost, seq)
                self._give((share_name, topic_filter), origin, message, pending, ())
        pending.release()
        await done.wait()
        if pending.failed:  # a fault, and counted as one: leave it to whoever claims it next
            return False
        last = entries[-1][0] if entries else 0
        more = await self._retry(
            lambda: self._store.lost_done(*key, last, self._now_ms()), "forget a lost queue"
        )
        return bool(more and entries)

    def _may_go_to_others(self, lost: LostQueue, seq: int, message: Publish) -> bool:
        if message.expires_at_ms and message.expires_at_ms <= self._now_ms():
            return False
        begun = lost.sent_uncertain or seq <= lost.sent_seq
        return not (begun and message.qos == 2)  # [MQTT-4.8.2-5]
