"""Routing of publishes: at once to edges with interest, through queues to durable sessions.

Owns the publishes whose confirmation waits until this router is current again; writes in progress
are owned by ``queue_writer`` and ``retained``. ``publish`` is called for every message of every
publisher, for wills, and for ``$SYS``; it confirms when everything that must be durable is (G1).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from tidegate.link.interfaces import (
    FENCED,
    NO_MATCHING_SUBSCRIBERS,
    PUBLISHED,
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
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import Route, RoutingTable
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)


class Routing:
    """See the module's docstring. ``limits`` and ``features`` may be replaced at any time."""

    __slots__ = (
        "_counters",
        "_delayed",
        "_deliveries",
        "_groups",
        "_membership",
        "_queues",
        "_retained",
        "_table",
        "_tasks",
        "features",
        "limits",
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
        #: Stores a retained message. The router replaces it when traces are on.
        self.retain: Callable[[Origin, Publish, Pending], None] = self._retain

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        route = self._table.route(message.topic)
        for edge in route.edges:
            edge.deliver(message, origin.client_id)
        if (
            message.qos
            and self._membership is not None
            and (self._delayed or not self._membership.current)
        ):
            self._delayed.append((origin, message))
            return None
        if route.durable or route.groups or message.retain or message.qos == 2:
            return self._publish_durably(origin, message, route)
        if route.edges:
            return PUBLISHED
        self._count_unmatched()
        return NO_MATCHING_SUBSCRIBERS

    def resume_delayed(self) -> None:
        """Finish the publishes that waited until this router was current, by the table of now."""
        membership = self._membership
        while self._delayed and (membership is None or membership.current):
            origin, message = self._delayed.popleft()
            try:
                code = self._publish_durably(origin, message, self._table.route(message.topic))
            except Exception:
                # A fault of Tidegate in one of them must not stop those behind it.
                log.exception("routing a delayed message failed")
                self._counters.internal_errors += 1
                code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
            if code is not None:
                origin.published(message, code)

    def cancel(self) -> None:
        """Cancel the delayed publishes: edges resend them."""
        self._delayed.clear()

    def _count_unmatched(self) -> None:
        self._counters.published += 1
        self._counters.dropped["no_subscriber"] += 1

    def _publish_durably(self, origin: Origin, message: Publish, route: Route) -> int | None:
        matched = bool(route.edges or route.durable or route.groups)
        code = PUBLISHED if matched else NO_MATCHING_SUBSCRIBERS
        if not matched and not message.retain:  # a retained message is stored, so not dropped
            self._count_unmatched()
        returned = False
        receipt = origin.receipt(message)

        def finished() -> None:
            if pending.failed:
                origin.published(message, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
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
            else:
                self.retain(origin, message, pending)
        is_complete = pending.is_last() and receipt < 0
        returned = not is_complete
        pending.release()
        return code if is_complete else None

    def _queue_for_sessions(
        self, origin: Origin, message: Publish, route: Route, pending: Pending
    ) -> None:
        qos = message.qos
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
            retain = message.retain and target.retain_as_published
            self._queues.add(session, message, granted, retain, subscription_ids, pending, identity)

    def _retain(self, _origin: Origin, message: Publish, pending: Pending) -> None:
        self._retained.set(message, pending)

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
