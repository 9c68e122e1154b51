"""The queues of durable sessions, as edges use them: fetch, enqueue, complete, QoS 2 receipts.

Owns the completed deliveries that the store has yet to delete: while one call is in flight the next
ones gather. Called for requests of edges, and by ``routing`` for the receipt of a QoS 2 publish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidegate.link.interfaces import RouterUnavailable
from tidegate.mqtt.packets import Publish
from tidegate.router.edges import Edges
from tidegate.router.pending import PendingEnqueue
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.rollback import Rollback
from tidegate.router.store_calls import call_once, retry_until_stored
from tidegate.router.table import RoutingTable
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Store
from tidegate.store.records import decode_queued

log = logging.getLogger(__name__)


class Deliveries:
    """See the module's docstring."""

    __slots__ = (
        "_completed",
        "_completing",
        "_completions",
        "_counters",
        "_edges",
        "_queues",
        "_rollback",
        "_store",
        "_table",
    )

    def __init__(
        self,
        store: Store,
        table: RoutingTable,
        queues: QueueWriter,
        edges: Edges,
        rollback: Rollback,
        counters: Counters,
    ) -> None:
        self._store = store
        self._counters = counters
        self._table = table
        self._queues = queues
        self._edges = edges
        self._rollback = rollback
        #: (client_id, epoch) -> sequence numbers, and the callbacks for when they are deleted.
        self._completions: dict[tuple[str, int], list[int]] = {}
        self._completed: list[Callable[[], None]] = []
        self._completing: asyncio.Task[None] | None = None

    async def idle(self) -> None:
        """Return when no completed delivery is left to be deleted."""
        while self._completing is not None:
            await asyncio.gather(self._completing, return_exceptions=True)

    async def fetch(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue (see RouterLink)."""
        page = (incarnation, after_seq, max_count, max_bytes)
        if epoch:
            found = await call_once(self._store.fetch_owned(client_id, epoch, *page))
            if found is None:
                await self._rollback.refuse(client_id, epoch)
        else:  # an edge of an older version does not say it
            found = await call_once(self._store.fetch(client_id, *page))
        return [(seq, decode_queued(record)) for seq, record in found]

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one session (see RouterService)."""
        session = self._table.sessions.get(client_id)
        if session is None or session.incarnation != incarnation:
            return
        pending = PendingEnqueue()
        for message in messages:
            self._queues.add(
                session,
                message,
                message.qos,
                message.retain,
                message.subscription_identifiers,
                pending,
                "",
            )
        pending.release()
        await pending.done.wait()
        if pending.cancelled:
            raise RouterUnavailable("router fenced")

    # Complete deliveries

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Delete completed deliveries (see RouterLink)."""
        if done is not None:
            self._completed.append(done)
        known = self._completions.get((client_id, epoch))
        if known is None:
            self._completions[(client_id, epoch)] = seqs
        else:
            known.extend(seqs)
        if self._completing is None:
            self._completing = asyncio.create_task(self._complete_all())

    async def _complete_all(self) -> None:
        try:
            while self._completions:
                batch, self._completions = self._completions, {}
                completed, self._completed = self._completed, []
                items = [(client_id, epoch, seqs) for (client_id, epoch), seqs in batch.items()]
                for index in await self._complete_batch(items):
                    client_id, epoch, _ = items[index]
                    if not await self._rollback.fenced(client_id, epoch):
                        self._edges.kick(client_id, epoch)
                for done in completed:
                    done()
        finally:
            self._completing = None

    async def _complete_batch(self, items: list[tuple[str, int, list[int]]]) -> list[int]:
        """Delete until the store has done it; return the indexes of fenced items."""
        try:
            results = await retry_until_stored(
                lambda: self._store.complete_many(items), "complete deliveries"
            )
        except Exception:
            # The store refuses one of them as invalid: a fault of Tidegate, or foreign data.
            if len(items) == 1:
                log.exception("completing deliveries failed")
                self._counters.internal_errors += 1
                return []
            half = len(items) // 2
            fenced_at = await self._complete_batch(items[:half])
            later = await self._complete_batch(items[half:])
            return fenced_at + [half + index for index in later]
        return [index for index, current in enumerate(results) if not current]

    # QoS 2

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """Store that PUBREC was received for these (see RouterLink)."""
        if not await call_once(self._store.release(client_id, epoch, seqs)):
            await self._rollback.refuse(client_id, epoch)

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """Store a receipt byte (see RouterLink)."""
        current = await retry_until_stored(
            lambda: self._store.receipt(client_id, epoch, packet_id, value), "store a receipt"
        )
        if not current:
            await self._rollback.refuse(client_id, epoch)
