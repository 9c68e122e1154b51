"""The writer of durable sessions' queues: batches appends, retries them, handles each outcome.

Called for every message to a durable session; calls the store, one call at a time (see
``batch_writer``), so order of ``add`` is order in every queue. What waits here is bounded by the
publishers: each may have only so many unanswered messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from tidegate.link.interfaces import EdgeLink, Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.batch_writer import BatchWriter
from tidegate.router.pending import Pending
from tidegate.router.store_calls import Backoff
from tidegate.router.table import DurableSession
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    OVER_QUOTA,
    Append,
    AppendOutcome,
    AppendReply,
    Holder,
    Store,
    StoreUnavailable,
    WriterFenced,
)
from tidegate.store.records import encode_queued

#: (client_id, incarnation) -> (edge_id, epoch), as in ``AppendReply``.
Locations: TypeAlias = dict[tuple[str, int], tuple[str, int]]
NOT_CONNECTED: Final = ("", 0)


class Offer:
    """What another member needs when this one cannot queue a shared subscription's message.

    ``identity`` names it within the group, "" for none. ``skip`` names the members that could not
    take it before. ``holder`` has its claim, None if it needs none.
    """

    __slots__ = ("group", "holder", "identity", "origin", "skip")

    def __init__(
        self,
        group: tuple[str, str],
        origin: Origin | None,
        identity: str,
        skip: tuple[str, ...],
        holder: Holder | None = None,
    ) -> None:
        self.group = group
        self.origin = origin
        self.identity = identity
        self.skip = skip
        self.holder = holder


class OfferListener(Protocol):
    """Called with the outcome of offers."""

    def refused(
        self,
        client_id: str,
        message: Publish,
        offer: Offer,
        pending: Pending,
        outcome: AppendOutcome,
    ) -> bool:
        """Not queued: offer it to another member; False if it is to be dropped."""

    def queued_offline(self, client_id: str, offer: Offer) -> None:
        """Queued, and the member is not connected."""


class QueueItem:
    """A message that is to be appended to one session's queue."""

    __slots__ = (
        "append",
        "message",
        "offer",
        "pending",
        "qos",
        "retain",
        "session",
        "subscription_ids",
        "trace",
    )

    def __init__(
        self,
        append: Append,
        session: DurableSession,
        message: Publish,
        qos: int,
        retain: bool,
        subscription_ids: tuple[int, ...],
        pending: Pending,
        offer: Offer | None,
    ) -> None:
        self.append = append
        self.session = session
        self.message = message
        self.qos = qos
        self.retain = retain
        self.subscription_ids = subscription_ids
        self.pending = pending
        #: None unless it comes through a shared subscription.
        self.offer = offer
        #: Where the trace goes on from, once this is in the store.
        self.trace = message.trace


class QueueWriter(BatchWriter[QueueItem, AppendReply]):
    """Appends to queues in order; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        edges: Mapping[str, EdgeLink],
        on_fenced: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        """``edges``: by identifier, those that messages can be pushed to now."""
        super().__init__("queueing", counters, on_fenced)
        self._store = store
        self._edges = edges
        self._now_ms = now_ms
        #: Called when a session that a message is for is not in the store.
        self.on_no_session: Callable[[], None] = _nothing
        #: Called with session key, reason, topic and number of dropped messages.
        self.on_dropped: Callable[[str, str, str, int], None] = _drop_nothing
        #: Set before the first offer.
        self.groups: OfferListener | None = None
        #: Appends a batch. The router replaces it when traces are on.
        self.append: Callable[[list[QueueItem]], Awaitable[AppendReply]] = self._append

    def add(
        self,
        session: DurableSession,
        message: Publish,
        qos: int,
        retain: bool,
        subscription_ids: tuple[int, ...],
        pending: Pending,
        identity: str,
        offer: Offer | None = None,
    ) -> None:
        """Queue ``message`` for ``session``; ``pending`` is released at the outcome.

        ``offer`` if it comes through a shared subscription.
        """
        pending.add()
        group = "" if offer is None else f"{offer.group[0]}/{offer.group[1]}"
        record = encode_queued(message, qos, retain, subscription_ids, message.expires_at_ms, group)
        claimed = offer is not None and offer.holder is not None
        append = Append(session.client_id, session.incarnation, record, identity, claimed)
        self.put(QueueItem(append, session, message, qos, retain, subscription_ids, pending, offer))

    async def _write(self, batch: list[QueueItem]) -> AppendReply:
        return await self.append(batch)

    def _finish(self, batch: list[QueueItem], reply: AppendReply) -> None:
        locations = reply.locations
        for item, result in zip(batch, reply.outcomes, strict=True):
            self._finish_item(item, result, locations)

    async def _append(self, batch: list[QueueItem]) -> AppendReply:
        """Append until the store has done all of it. Raises WriterFenced."""
        backoff = None
        outcomes: list[int | AppendOutcome] = []
        locations: Locations = {}
        # What is not known to be done; without places it is all of the batch.
        left: Sequence[Append] = [item.append for item in batch]
        places: list[int] = []
        while True:
            reason = "some servers are not available"
            try:
                reply = await self._store.append(left, self._now_ms())
            except StoreUnavailable as error:
                reason = str(error)
            else:
                for (client_id, _), (count, topic) in reply.evicted.items():
                    self.on_dropped(client_id, "queue_full", topic, count)
                if outcomes:
                    for place, outcome in zip(places, reply.outcomes, strict=True):
                        outcomes[place] = outcome
                    locations.update(reply.locations)
                else:
                    outcomes, locations = reply.outcomes, reply.locations
                if AppendOutcome.UNAVAILABLE not in outcomes:
                    return AppendReply(outcomes, locations)
                places = [
                    place
                    for place, outcome in enumerate(outcomes)
                    if outcome is AppendOutcome.UNAVAILABLE
                ]
                left = [batch[place].append for place in places]
            backoff = backoff or Backoff()
            await backoff.pause("queue messages", reason)
            if self._batch is not batch:  # it was cancelled: the new instance must not write it
                raise WriterFenced

    def _finish_item(
        self, item: QueueItem, result: int | AppendOutcome, locations: Locations
    ) -> None:
        session = item.session
        if isinstance(result, int):
            self._counters.published += 1
            self._counters.queued += 1
            # The location of the session when this was queued comes from the store; the table of
            # this router may be older, or newer than the start of that connection.
            edge_id, epoch = locations.get((session.client_id, session.incarnation), NOT_CONNECTED)
            edge = self._edges.get(edge_id)
            if edge is not None:
                source = item.message
                edge.push(
                    session.client_id,
                    epoch,
                    result,
                    Publish(
                        source.topic,
                        source.payload,
                        item.qos,
                        item.retain,
                        False,
                        0,
                        source.properties,
                        source.message_expiry_interval,
                        0,
                        item.subscription_ids,
                        source.expires_at_ms,
                        item.trace,
                    ),
                )
            elif item.offer is not None and not edge_id and self.groups is not None:
                self.groups.queued_offline(session.client_id, item.offer)
        else:
            if result is AppendOutcome.NO_SESSION:
                self.on_no_session()
            if item.offer is None or not self._offer_to_others(item, item.offer, result):
                self._counters.published += 1
                self._counters.dropped[result.value] += 1
                self.on_dropped(session.client_id, result.value, item.message.topic, 1)
                if result in OVER_QUOTA:
                    item.pending.over_quota = True
        item.pending.release()

    def _offer_to_others(self, item: QueueItem, offer: Offer, outcome: AppendOutcome) -> bool:
        client_id = item.session.client_id
        return self.groups is not None and self.groups.refused(
            client_id, item.message, offer, item.pending, outcome
        )


def _drop_nothing(_key: str, _reason: str, _topic: str, _count: int) -> None:
    pass


def _nothing() -> None:
    pass
