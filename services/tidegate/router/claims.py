"""Claims: which durable member of a group a QoS 2 message is for, stored before it is queued there.

Called by ``groups`` for QoS 2 messages with an identity; calls the store. A router that gets the
same message again (its publisher's router has died), or redelivers the same abandoned queue, finds
the claim, and queues the message for the same member, which takes it once. One call at a time:
messages are queued in the order of ``add``, also across retries.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.batch_writer import BatchWriter
from tidegate.router.pending import Pending
from tidegate.router.store_calls import Backoff
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Claim, Holder, Store, StoreUnavailable, WriterFenced


class ClaimItem:
    """A message that is to be claimed for a member, and what is needed to queue it then."""

    __slots__ = ("claim", "group", "message", "origin", "pending", "skip")

    def __init__(
        self,
        claim: Claim,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
        skip: tuple[str, ...],
    ) -> None:
        self.claim = claim
        self.group = group
        self.origin = origin
        self.message = message
        self.pending = pending
        #: The members that could not take it before.
        self.skip = skip


class Claims(BatchWriter[ClaimItem, list[Holder]]):
    """Claims messages in order; see the module's docstring."""

    def __init__(self, store: Store, counters: Counters, on_fenced: Callable[[], None]) -> None:
        super().__init__("claiming", counters, on_fenced)
        self._store = store
        #: Called with each message and who has its claim. Set before the first one is added.
        self.claimed: Callable[[ClaimItem, Holder], None] | None = None

    def add(self, item: ClaimItem) -> None:
        """Claim a message; its ``pending`` counts it until ``claimed`` has returned."""
        item.pending.add()
        self.put(item)

    async def _write(self, batch: list[ClaimItem]) -> list[Holder]:
        backoff = None
        claims = [item.claim for item in batch]
        while True:
            try:
                holders = await self._store.claim(claims)
            except StoreUnavailable as error:
                backoff = backoff or Backoff()
                await backoff.pause("claim messages", str(error))
            else:
                if self._batch is batch:
                    return holders
            if self._batch is not batch:  # it was cancelled: edges resend it
                raise WriterFenced

    def _finish(self, batch: list[ClaimItem], reply: list[Holder]) -> None:
        for item, holder in zip(batch, reply, strict=True):
            if self.claimed is not None:
                self.claimed(item, holder)
            item.pending.release()
