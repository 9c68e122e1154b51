"""A writer to the store with one call at a time: what queues and claims have in common.

While a call is in flight the next items gather, so a busy router makes few, large calls. Order of
``put`` is order in the store, also across retries. When the router is fenced, all that is not known
to be written is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from tidegate.router.pending import Pending
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import WriterFenced

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500


class Item(Protocol):
    """What is written; ``pending`` counts it until it is finished."""

    pending: Pending


ItemT = TypeVar("ItemT", bound=Item)
ReplyT = TypeVar("ReplyT")


class BatchWriter(Generic[ItemT, ReplyT]):
    """See the module's docstring. A subclass writes a batch, and finishes it with the reply."""

    def __init__(self, what: str, counters: Counters, on_fenced: Callable[[], None]) -> None:
        """``what`` is done with messages, for the log: "queueing"."""
        self._what = what
        self._counters = counters
        self._on_fenced = on_fenced
        self._waiting: list[ItemT] = []
        #: The batch in flight; another list once that was cancelled.
        self._batch: list[ItemT] = []
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _write(self, batch: list[ItemT]) -> ReplyT:
        """Write until the store has done it.

        Raises WriterFenced, also when the batch is no longer ``_batch``: it was cancelled.
        """
        raise NotImplementedError

    @abstractmethod
    def _finish(self, batch: list[ItemT], reply: ReplyT) -> None:
        """Release the items of a batch that is written."""
        raise NotImplementedError

    def put(self, item: ItemT) -> None:
        """Write an item after those that wait."""
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Cancel what is not known to be written: this router is fenced, and edges resend it."""
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
                    reply = await self._write(batch)
                except WriterFenced:
                    if self._batch is batch:  # otherwise it is cancelled already
                        self.cancel()
                        self._on_fenced()
                    continue
                except Exception:
                    log.exception("%s messages failed", self._what)
                    self._fail(batch)
                    continue
                self._batch = []
                self._finish(batch, reply)
        finally:
            self._task = None
            self._batch = []
            if self._waiting:  # the task has been cancelled, or an outcome could not be handled
                self._task = asyncio.create_task(self._run())

    def _fail(self, batch: list[ItemT]) -> None:
        """Fail a batch that the store refuses as invalid: a fault of Tidegate."""
        self._counters.internal_errors += 1
        for item in batch:
            self._counters.published += 1
            self._counters.dropped["store_unavailable"] += 1
            item.pending.failed = True
            item.pending.release()
