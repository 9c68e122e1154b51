"""Claims: which durable member of a group a QoS 2 message is for, stored before it is queued there.

Called by ``groups`` for QoS 2 messages with an identity; calls the store. A router that gets the
same message again (its publisher's router has died), or redelivers the same abandoned queue, finds
the claim, and queues the message for the same member, which takes it once. One call at a time:
messages are queued in the order of ``add``, also across retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.store_calls import Backoff
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Claim, Holder, Store, StoreUnavailable, WriterFenced

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500


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


class Claims:
    """Claims messages in order; see the module's docstring."""

    def __init__(self, store: Store, counters: Counters, on_fenced: Callable[[], None]) -> None:
        self._store = store
        self._counters = counters
        self._on_fenced = on_fenced
        self._waiting: list[ClaimItem] = []
        #: The batch in flight; another list once that was cancelled.
        self._batch: list[ClaimItem] = []
        self._task: asyncio.Task[None] | None = None
        #: Called with each message and who has its claim. Set before the first one is added.
        self.claimed: Callable[[ClaimItem, Holder], None] | None = None

    def add(self, item: ClaimItem) -> None:
        """Claim a message; its ``pending`` counts it until ``claimed`` has returned."""
        item.pending.add()
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Cancel what is not claimed yet: this router is fenced, and edges resend it."""
        cancelled = self._batch + self._waiting
        self._batch, self._waiting = [], []
        for item in cancelled:
            item.pending.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether anything waits."""
        return self._task is not None

    async def idle(self) -> None:
        """Return when nothing waits."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._batch = self._waiting[:MAX_BATCH]
                del self._waiting[:MAX_BATCH]
                try:
                    holders = await self._claim(batch)
                except WriterFenced:
                    if self._batch is batch:  # otherwise it is cancelled already
                        self.cancel()
                        self._on_fenced()
                    continue
                except Exception:
                    log.exception("claiming messages failed")
                    self._fail_batch(batch)
                    continue
                self._batch = []
                for item, holder in zip(batch, holders, strict=True):
                    if self.claimed is not None:
                        self.claimed(item, holder)
                    item.pending.release()
        finally:
            self._task = None
            self._batch = []

    async def _claim(self, batch: list[ClaimItem]) -> list[Holder]:
        """Claim until the store has done it. Raises WriterFenced."""
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

    def _fail_batch(self, batch: list[ClaimItem]) -> None:
        """Fail a batch that the store refuses as invalid: a fault of Tidegate."""
        self._counters.internal_errors += 1
        for item in batch:
            self._counters.published += 1
            self._counters.dropped["store_unavailable"] += 1
            item.pending.failed = True
            item.pending.release()
