"""Spans around the link: ``publish`` and ``deliver`` of an edge, ``route`` of a router.

Each class has the interface that it wraps, and passes on everything that has no span as it is. The
roles put them between an edge and its routers when traces are on; without a tracer the edge and the
router call each other directly, and nothing of this runs. What sets ``Publish.trace`` is here, and
in ``router.traced_writes``. Never changes what is passed on, except that context.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Protocol

from tidegate.link.interfaces import (
    FENCED,
    EdgeLink,
    Origin,
    RouterLink,
    RouterService,
    SharedReceipt,
)
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.tracing import (
    DELIVER,
    PUBLISH,
    ROUTE,
    Span,
    Tracer,
    message_attributes,
)


class TracedOrigin:
    """The publisher of a traced publish whose outcome comes later: it ends the span."""

    __slots__ = ("_origin", "_span", "client_id", "epoch", "identity", "is_will", "receipt")

    def __init__(self, origin: Origin, span: Span) -> None:
        self._origin = origin
        self._span = span
        self.client_id = origin.client_id
        self.epoch = origin.epoch
        self.identity = origin.identity
        self.receipt = origin.receipt
        self.is_will = origin.is_will

    @property
    def is_superseded(self) -> bool:
        """Whether a newer connection has the session (see Origin)."""
        return self._origin.is_superseded

    def published(self, message: Publish, code: int) -> None:
        """Pass on the outcome (see Origin), then end the span."""
        self._origin.published(message, code)
        self.end(message, code)

    def end(self, message: Publish, code: int) -> None:
        """End the span with an outcome."""
        attributes = message_attributes(message, self.client_id)
        attributes["tidegate.reason_code"] = code
        self._span.end(attributes, failed=code >= 0x80 or code == FENCED)


class TracedRouterLink:
    """A ``RouterLink`` that samples publishes: a ``publish`` span from here to the outcome."""

    def __init__(self, router: RouterLink, tracer: Tracer) -> None:
        self._publish = router.publish
        self._tracer = tracer
        self.attach = router.attach
        self.detach = router.detach
        self.hasten = router.hasten
        self.subscribe = router.subscribe
        self.unsubscribe = router.unsubscribe
        self.leave_groups = router.leave_groups
        self.add_interest = router.add_interest
        self.remove_interest = router.remove_interest
        self.interest_synced = router.interest_synced
        self.fetch = router.fetch
        self.complete = router.complete
        self.release = router.release
        self.complete_receipt = router.complete_receipt
        self.return_entries = router.return_entries
        self.retains_none = router.retains_none
        self.read_retained = router.read_retained
        self.queue_retained = router.queue_retained
        self.replayed = router.replayed
        self.redispatch = router.redispatch
        self.record = router.record
        self.ban = router.ban

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        parent = self._tracer.sample(message.properties)
        if not parent:
            return self._publish(origin, message)
        span = self._tracer.start(PUBLISH, parent)
        message.trace = span.context
        traced = TracedOrigin(origin, span)
        code = self._publish(traced, message)
        if code is not None:
            traced.end(message, code)
        return code


class RouteSizes(Protocol):
    """Where the messages of a topic go, as far as a span says it."""

    @property
    def edges(self) -> Sized:
        """Edges with interest."""

    @property
    def durable(self) -> Sized:
        """Durable sessions."""

    @property
    def groups(self) -> Sized:
        """Groups of shared subscriptions."""


class TracedRouterService:
    """A ``RouterService`` with a ``route`` span: the parent of everything that a publish causes."""

    def __init__(
        self, router: RouterService, tracer: Tracer, route_of: Callable[[str], RouteSizes]
    ) -> None:
        """``route_of`` returns the route of a topic name."""
        self._router = router
        self._publish = router.publish
        self._tracer = tracer
        self._route_of = route_of
        self.attach = router.attach
        self.detach = router.detach
        self.hasten = router.hasten
        self.subscribe = router.subscribe
        self.unsubscribe = router.unsubscribe
        self.leave_groups = router.leave_groups
        self.add_interest = router.add_interest
        self.remove_interest = router.remove_interest
        self.interest_synced = router.interest_synced
        self.fetch = router.fetch
        self.complete = router.complete
        self.release = router.release
        self.complete_receipt = router.complete_receipt
        self.return_entries = router.return_entries
        self.retains_none = router.retains_none
        self.read_retained = router.read_retained
        self.retained_page = router.retained_page
        self.match_retained = router.match_retained
        self.get_retained = router.get_retained
        self.queue_retained = router.queue_retained
        self.replayed = router.replayed
        self.replay_again = router.replay_again
        self.enqueue = router.enqueue
        self.redispatch = router.redispatch
        self.record = router.record
        self.ban = router.ban
        self.attach_edge = router.attach_edge
        self.detach_edge = router.detach_edge
        self.join_groups = router.join_groups
        self.set_session_location = router.set_session_location
        self.heartbeat = router.heartbeat
        self.leased_edges = router.leased_edges
        self.end_lease = router.end_lease
        self.verify = router.verify
        self.settle = router.settle
        self.publish_will = router.publish_will
        self.wills_published = router.wills_published
        self.verify_wills = router.verify_wills
        self.withdraw_wills = router.withdraw_wills
        self.withdraw_connects = router.withdraw_connects
        self.fence = router.fence
        self.edges_only = router.edges_only  # records have no trace
        self.catch_up = router.catch_up
        self.live_routers = router.live_routers

    @property
    def instance(self) -> str:
        """See RouterService."""
        return self._router.instance

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        if not message.trace:
            return self._publish(origin, message)
        span = self._tracer.start(ROUTE, message.trace)
        message.trace = span.context
        code = self._publish(origin, message)
        route = self._route_of(message.topic)
        attributes = message_attributes(message, origin.client_id)
        attributes["tidegate.edges"] = len(route.edges)
        attributes["tidegate.sessions"] = len(route.durable)
        attributes["tidegate.groups"] = len(route.groups)
        span.end(attributes)
        return code


class TracedEdgeLink:
    """An ``EdgeLink`` with ``deliver`` spans.

    One for all clients that ``deliver`` reaches, one for each durable session or member of a group.
    They say how many connections have been given the message; others get it when they can.
    """

    def __init__(self, edge: EdgeLink, tracer: Tracer, counters: Counters) -> None:
        """``counters`` are those of the edge: they say what was sent."""
        self.edge_id = edge.edge_id
        self.knows_wills = edge.knows_wills
        self._edge = edge
        self._deliver = edge.deliver
        self._push = edge.push
        self._deliver_shared = edge.deliver_shared
        self._tracer = tracer
        self._counters = counters
        self.kick = edge.kick
        self.session_lost = edge.session_lost
        self.connections = edge.connections
        self.verify_sessions = edge.verify_sessions
        self.fence = edge.fence
        self.publish_will = edge.publish_will
        self.give_up = edge.give_up
        self.pushes_lost = edge.pushes_lost
        self.set_bans = edge.set_bans

    @property
    def publishes_wills(self) -> bool:
        """Whether it can now (see EdgeLink)."""
        return self._edge.publishes_wills

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        """Give a message to every client it matches (see EdgeLink)."""
        if not message.trace:
            self._deliver(message, publisher_id, identity)
            return
        span = self._tracer.start(DELIVER, message.trace)
        delivered = self._counters.delivered
        self._deliver(message, publisher_id, identity)
        self._end(span, message, "", delivered)

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """Offer a queued message (see EdgeLink)."""
        if not message.trace:
            self._push(client_id, epoch, seq, message)
            return
        span = self._tracer.start(DELIVER, message.trace)
        delivered = self._counters.delivered
        self._push(client_id, epoch, seq, message)
        self._end(span, message, client_id, delivered)

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Give a shared subscription's message to one member (see EdgeLink)."""
        if not message.trace:
            return self._deliver_shared(client_id, epoch, message, group, options, receipt)
        span = self._tracer.start(DELIVER, message.trace)
        delivered = self._counters.delivered
        taken = self._deliver_shared(client_id, epoch, message, group, options, receipt)
        if taken:
            self._end(span, message, client_id, delivered)
        return taken

    def _end(self, span: Span, message: Publish, client_id: str, delivered: int) -> None:
        attributes = message_attributes(message, client_id)
        attributes["tidegate.sent"] = self._counters.delivered - delivered
        span.end(attributes)
