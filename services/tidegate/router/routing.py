"""Routing of publishes: at once to edges with interest, through queues to durable sessions.

Owns the publishes whose confirmation waits until this router is current again; writes in progress
are owned by ``queue_writer`` and ``retained``. ``publish`` is called for every message of every
publisher, for wills, and for ``$SYS``; it confirms when everything that must be durable is (G1).
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegate.link.interfaces import (
    FENCED,
    NO_MATCHING_SUBSCRIBERS,
    PUBLISHED,
    EdgeLink,
    Origin,
    SessionFenced,
)
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish
from tidegate.router.deliveries import Deliveries
from tidegate.router.groups import Groups
from tidegate.router.membership import Membership
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.replays import note_live
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import Route, RoutingTable
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Identities that are remembered: a publish that is sent again comes soon, or after a reconnect.
MAX_RECENT: Final = 16_384


class Routing:
    """See the module's docstring. ``limits`` and ``features`` may be replaced at any time."""

    __slots__ = (
        "_counters",
        "_delayed",
        "_deliveries",
        "_groups",
        "_membership",
        "_queues",
        "_recent",
        "_retained",
        "_table",
        "_tasks",
        "features",
        "limits",
        "publish",
        "retain",
    )

    def __init__(
        self,
        limits: LimitsConfig,
        features: FeaturesConfig,
        counters: Counters,
        *,
        tasks: Tasks,
        table: RoutingTable,
        membership: Membership | None,
        queues: QueueWriter,
        groups: Groups,
        retained: RetainedMessages,
        deliveries: Deliveries,
    ) -> None:
        """``membership`` None: this router is alone, and always current."""
        self.limits = limits
        self.features = features
        self._counters = counters
        self._tasks = tasks
        self._table = table
        self._membership = membership
        self._queues = queues
        self._groups = groups
        self._retained = retained
        self._deliveries = deliveries
        self._delayed: deque[tuple[Origin, Publish]] = deque()
        #: Identities of QoS 2 publishes and wills that were routed, the newest last. One that comes
        #: again is stored wherever it is missing, but not delivered or retained once more.
        self._recent: OrderedDict[str, None] = OrderedDict()
        #: Stores a retained message. The router replaces it when traces are on.
        self.retain: Callable[[Origin, Publish, Pending], None] = self._retain
        #: Routes a message (see RouterLink): alone at once, which saves each message a call.
        self.publish: Callable[[Origin, Publish], int | None] = (
            self._route if membership is None else self._publish_when_current
        )

    def _publish_when_current(self, origin: Origin, message: Publish) -> int | None:
        membership = self._membership
        if message.qos and membership is not None and (self._delayed or not membership.current):
            # It may not know that the publisher's session has been taken over.
            self._delayed.append((origin, message))
            return None
        return self._route(origin, message)

    def _route(self, origin: Origin, message: Publish) -> int | None:
        route = self._table.route(message.topic)
        edges = route.windowed_edges if message.qos else route.edges
        receipt, is_new = -1, True
        if (message.qos == 2 or origin.is_will) and (
            # A clean session ends with its connection, so what it has published comes again only
            # by another router.
            (receipt := origin.receipt(message)) >= 0
            or self._membership is not None
            or origin.is_will
        ):
            is_new = self._deliver_once(origin, message, edges)
        else:
            for edge in edges:
                edge.deliver(message, origin.client_id)
        if route.durable or route.groups or message.retain or receipt >= 0:
            return self._publish_durably(origin, message, route, is_new, receipt)
        if edges:
            return PUBLISHED
        self._count_unmatched()
        return NO_MATCHING_SUBSCRIBERS

    def edges_only(self, topic: str, qos: int) -> Sequence[EdgeLink]:
        """Return the edges that are all of a message's destinations (see RouterService)."""
        membership = self._membership
        if qos and membership is not None and (self._delayed or not membership.current):
            return ()
        route = self._table.route(topic)
        if route.durable or route.groups:
            return ()
        return route.windowed_edges if qos else route.edges

    def _deliver_once(self, origin: Origin, message: Publish, edges: Iterable[EdgeLink]) -> bool:
        """Deliver a message that may come again; False: it has been delivered already."""
        identity, recent = origin.identity(message), self._recent
        if identity in recent:
            return False
        recent[identity] = None
        if len(recent) > MAX_RECENT:
            recent.popitem(last=False)
        if self._membership is None:
            identity = ""  # no other router can bring it to the edge once more
        for edge in edges:
            edge.deliver(message, origin.client_id, identity)
        return True

    def resume_delayed(self) -> None:
        """Finish the publishes that waited until this router was current, by the table of now."""
        membership = self._membership
        while self._delayed and (membership is None or membership.current):
            origin, message = self._delayed.popleft()
            code: int | None = FENCED
            try:
                if not origin.is_superseded:
                    code = self._route(origin, message)
            except Exception:
                # A fault of Tidegate in one of them must not stop those behind it.
                log.exception("routing a delayed message failed")
                self._counters.internal_errors += 1
                code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
            if code is not None:
                origin.published(message, code)

    def drop_superseded(self) -> None:
        """Refuse the delayed publishes of connections that are superseded.

        Called while their fences are in place: an edge that has applied one lifts it, long before
        this router may be current.
        """
        if any(origin.is_superseded for origin, _ in self._delayed):
            delayed, self._delayed = self._delayed, deque()
            for origin, message in delayed:
                if origin.is_superseded:
                    origin.published(message, FENCED)
                else:
                    self._delayed.append((origin, message))

    def cancel(self) -> None:
        """Cancel the delayed publishes: edges resend them."""
        self._delayed.clear()
        self._recent.clear()

    def _count_unmatched(self) -> None:
        self._counters.published += 1
        self._counters.dropped["no_subscriber"] += 1

    def _publish_durably(
        self, origin: Origin, message: Publish, route: Route, is_new: bool, receipt: int
    ) -> int | None:
        edges = route.windowed_edges if message.qos else route.edges
        matched = bool(edges or route.durable or route.groups)
        code = PUBLISHED if matched else NO_MATCHING_SUBSCRIBERS
        if not matched and not message.retain:  # a retained message is stored, so not dropped
            self._count_unmatched()
        returned = False

        def finished() -> None:
            if pending.failed:
                origin.published(message, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
            elif pending.over_quota:
                origin.published(message, ReasonCode.QUOTA_EXCEEDED)
            elif receipt >= 0:
                self._tasks.spawn(self._store_receipt(origin, message, receipt, code))
            elif returned:
                origin.published(message, code)

        pending = Pending(finished)
        if route.durable:
            self._queue_for_sessions(origin, message, route, pending)
        for group in route.groups:
            self._groups.dispatch(group, origin, message, pending)
        if message.retain:
            if len(message.payload) > self.limits.max_retained_payload_bytes > 0:
                self._counters.published += 1
                self._counters.dropped["retained_too_large"] += 1
            elif is_new:
                self.retain(origin, message, pending)
            else:
                self._retained.wait(message.topic, pending)
        is_complete = pending.is_last() and receipt < 0
        returned = not is_complete
        pending.release()
        return code if is_complete else None

    def _queue_for_sessions(
        self, origin: Origin, message: Publish, route: Route, pending: Pending
    ) -> None:
        qos, is_retained = message.qos, message.retain
        identity: str | None = None
        for target in route.durable:
            session = target.session
            granted, subscription_ids = target.qos, target.subscription_ids
            if session.client_id == origin.client_id:
                granted, subscription_ids = target.own_qos, target.own_subscription_ids
                if granted < 0:
                    continue
            granted = min(granted, qos)
            if not granted and (session.edge is not None or not self.features.queue_qos0):
                if session.edge is None:
                    self._counters.published += 1
                    self._counters.dropped["qos0_offline"] += 1
                continue
            if identity is None:
                identity = origin.identity(message)
            if is_retained and session.live_topics:
                note_live(session.live_topics, message.topic)
            retain = is_retained and target.retain_as_published
            self._queues.add(session, message, granted, retain, subscription_ids, pending, identity)

    def _retain(self, origin: Origin, message: Publish, pending: Pending) -> None:
        if message.qos != 2 and not origin.is_will:
            self._retained.set(message, pending, origin.client_id)
            return
        identity, may_repeat = origin.identity(message), message.dup or origin.is_will
        self._retained.set(message, pending, origin.client_id, identity, may_repeat)

    async def _store_receipt(
        self, origin: Origin, message: Publish, receipt: int, code: int
    ) -> None:
        try:
            await self._deliveries.complete_receipt(
                origin.client_id, origin.epoch, message.packet_id, receipt
            )
        except SessionFenced:
            code = FENCED
        except Exception:
            # The store refuses it as invalid, a fault of Tidegate. Without an answer the edge would
            # miss its credit, and wait for it whenever a router joins.
            log.exception("storing a receipt failed")
            self._counters.internal_errors += 1
            code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        origin.published(message, code)
