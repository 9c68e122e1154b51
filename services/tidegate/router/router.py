"""The router: handles publishes and session operations of edges, owns the store.

Implements ``RouterService`` by its parts, which it makes and connects. All its state can be rebuilt
from the store and the attached edges. It owns its instance, which other routers can fence; its
parts own the rest, and each of them calls only those above it here (the others by callbacks)::

    tasks             background tasks
    table             the routing table
    edges             the attached edges
    record            events of clients, for the record
    bans              bans of the store, for edges
    queues            appends to durable sessions' queues
    session_quota     how many durable sessions users may have
    retained_quota    how many retained messages clients may have
    retained          the index of retained messages, and their writes
    claims            which member of a group a QoS 2 message is for
    groups            shared subscriptions
    abandoned_queues  redelivery of messages of ended sessions
    offline_members   redelivery of messages of offline members
    replays           retained messages for the queues of durable sessions
    replica           subscriptions and retained topics of the store, in memory
    membership        the lease of this router, and the change logs
    edge_leases       leases of edges
    rollback          what follows when the store has gone back
    deliveries        durable sessions' queues, for edges
    routing           publishes, at once or when this router is current again
    wills             publishing of wills that are due
    unstored          which clean sessions the store need not have
    sessions          attach, detach, subscribe
    sweeper           what is due by time
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from tidegate.link.interfaces import OnRead, RetainedPage, RetainedRequest
from tidegate.mqtt.packets import Publish
from tidegate.mqtt.topics import has_wildcards
from tidegate.router.abandoned_queues import AbandonedQueues
from tidegate.router.bans import Bans
from tidegate.router.claims import Claims
from tidegate.router.deliveries import Deliveries
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.edges import Edges
from tidegate.router.groups import Groups
from tidegate.router.membership import Membership
from tidegate.router.offline_members import OfflineMembers
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.record import Record
from tidegate.router.replays import Replays
from tidegate.router.replica import Replica
from tidegate.router.retained import RetainedMessages
from tidegate.router.retained_quota import RetainedQuota
from tidegate.router.rollback import Rollback
from tidegate.router.routing import Routing
from tidegate.router.session_quota import SessionQuota
from tidegate.router.sessions import Sessions
from tidegate.router.store_calls import call_once, retry_until_stored
from tidegate.router.sweeper import Sweeper
from tidegate.router.table import RoutingTable
from tidegate.router.traced_writes import TracedAppend, TracedRetain
from tidegate.router.unreadable_entries import UnreadableEntries
from tidegate.router.unstored import UnstoredSessions
from tidegate.router.wills import Wills
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig, RecordConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.tracing import Tracer
from tidegate.store.api import Store

log = logging.getLogger(__name__)

#: Names of retained topics that are returned at a time.
RETAINED_PAGE: Final = 500
#: So many topics are looked up in the store, whether they have a retained message or not.
FEW_TOPICS: Final = 16


class Router:
    """See the module's docstring. ``start`` before use, ``stop`` at the end."""

    def __init__(
        self,
        store: Store,
        limits: LimitsConfig,
        features: FeaturesConfig,
        counters: Counters,
        now_ms: Callable[[], int],
        edge_lease_s: float = 10.0,
        *,
        alone: bool = True,
        name: str = "",
        on_fenced: Callable[[], None] | None = None,
        record: Record | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``alone``: no other router uses this store (and edges are in this process).

        ``on_fenced`` is called after this instance of the router was fenced by others: every edge
        must attach again, and resend what was not answered. ``record`` None: there is none.
        ``tracer``: writes for traced messages
        get spans.
        """
        self._store = store
        self._on_fenced = on_fenced
        self._tasks = tasks = Tasks(counters)
        self.table = table = RoutingTable(limits.max_cached_topics)
        edges = Edges(table)
        if record is None:
            record = Record(store, RecordConfig(enabled=False), counters, now_ms, name)
        self._record = record
        self._bans = Bans(store, edges.by_id, counters, now_ms)
        edges.on_attached = self._bans.attached
        self._queues = queues = QueueWriter(store, counters, edges.by_id, self._was_fenced, now_ms)
        queues.on_dropped = record.dropped
        self._session_quota = SessionQuota(store, limits, time.monotonic)
        self._retained_quota = quota = RetainedQuota(store, limits, time.monotonic)
        self.retained = retained = RetainedMessages(
            store, now_ms, self._was_fenced, counters, quota
        )
        self._claims = claims = Claims(store, counters, self._was_fenced)
        groups = Groups(table.shared, queues, claims, counters)
        self._abandoned_queues = AbandonedQueues(
            store, groups.dispatch, retry_until_stored, now_ms, counters
        )
        offline_members = OfflineMembers(
            store, table, self._abandoned_queues, groups.clients_to_check, now_ms
        )
        unreadable_entries = UnreadableEntries(
            store, counters, now_ms, tasks=tasks, abandoned_queues=self._abandoned_queues
        )
        replays = Replays(table, retained, queues)
        self._replica = Replica(store, table, retained, edges, replays)
        self._membership: Membership | None = None
        if not alone:
            self._membership = Membership(
                store,
                name,
                now_ms,
                edge_lease_s,
                self._replica.apply,
                self._replica.load,
                self._became_current,
            )
        self._edge_leases = leases = EdgeLeases(store, now_ms, edge_lease_s)
        self._rollback = rollback = Rollback(
            store,
            counters,
            tasks=tasks,
            edges=edges,
            leases=leases,
            replica=self._replica,
            membership=self._membership,
        )
        self.history = rollback.history
        self.history_status = rollback.status
        queues.on_no_session = rollback.history.look_soon
        self._deliveries = deliveries = Deliveries(store, table, queues, edges, rollback, counters)
        self._routing = routing = Routing(
            limits,
            features,
            counters,
            tasks=tasks,
            table=table,
            membership=self._membership,
            queues=queues,
            groups=groups,
            retained=retained,
            deliveries=deliveries,
        )
        if self._membership is not None:
            self._membership.on_applied = routing.drop_superseded
        if tracer is not None:
            queues.append = TracedAppend(queues.append, tracer)
            routing.retain = TracedRetain(routing.retain, tracer)
        self._wills = Wills(store, features, counters, now_ms, tasks=tasks, routing=routing)
        self._wills.on_published = record.wills_published
        unstored = UnstoredSessions(
            store, tasks=tasks, table=table, edges=edges, rollback=rollback, is_alone=alone
        )
        self.unstored = unstored
        rollback.on_back = unstored.close
        sessions = Sessions(
            store,
            counters,
            now_ms,
            table=table,
            edges=edges,
            membership=self._membership,
            wills=self._wills,
            replays=replays,
            rollback=rollback,
            quota=self._session_quota,
            record=record,
            unstored=unstored,
            on_fenced=self._was_fenced,
        )
        self.sweeper = Sweeper(
            store,
            now_ms,
            counters,
            tasks=tasks,
            leases=leases,
            retained=retained,
            abandoned_queues=self._abandoned_queues,
            offline_members=offline_members,
            sessions=sessions,
            wills=self._wills,
            edges=edges,
            membership=self._membership,
            rollback=rollback,
            record=record,
            unstored=unstored,
        )
        # Operations of edges, without a call in between: it would cost time on the hot path.
        self.publish = routing.publish
        self.edges_only = routing.edges_only
        self.redispatch = groups.redispatch
        self.record = record.add
        self.ban = self._bans.add
        self.complete = deliveries.complete
        self.fetch = deliveries.fetch
        self.enqueue = deliveries.enqueue
        self.release = deliveries.release
        self.complete_receipt = deliveries.complete_receipt
        self.return_entries = unreadable_entries.return_entries
        self.attach = sessions.attach
        self.detach = sessions.detach
        self.verify = sessions.verify
        self.settle = sessions.settle
        self.hasten = sessions.hasten
        self.publish_will = self._wills.publish
        self.wills_published = self._wills.published
        self.verify_wills = self._wills.verify
        self.withdraw_wills = self._wills.withdraw
        self.withdraw_connects = sessions.withdraw_connects
        self.subscribe = sessions.subscribe
        self.queue_retained = replays.queue
        self.replay_again = replays.again
        self.replayed = sessions.replayed
        self.unsubscribe = sessions.unsubscribe
        self.attach_edge = edges.attach_edge
        self.detach_edge = edges.detach_edge
        self.add_interest = edges.add_interest
        self.remove_interest = edges.remove_interest
        self.join_groups = edges.join_groups
        self.leave_groups = edges.leave_groups
        self.set_session_location = edges.set_session_location
        self.heartbeat = leases.heartbeat
        self.leased_edges = leases.leased_edges
        self.end_lease = leases.end_lease

    # Start and stop

    @property
    def instance(self) -> str:
        """Names this instance of the router; "" when it is alone."""
        return self._membership.instance if self._membership is not None else ""

    @property
    def current(self) -> bool:
        """Whether this router knows all subscriptions; False during a store outage."""
        return self._membership is None or self._membership.current

    def reconfigure(
        self,
        limits: LimitsConfig,
        features: FeaturesConfig,
        record: RecordConfig | None = None,
    ) -> None:
        """Use other limits, features and sizes of the record from now on."""
        if record is not None:
            self._record.config = record
        self.table.limit_cache(limits.max_cached_topics)
        self._routing.limits = limits
        self._routing.features = features
        self._retained_quota.limits = limits
        self._session_quota.limits = limits
        self._wills.features = features

    async def start(self) -> None:
        """Load subscriptions and the retained index; begin sweeping. Raises StoreUnavailable."""
        await self.history.start()
        try:
            if self._membership is None:
                await self._replica.load()
            else:
                await self._membership.start()
                self._edge_leases.start_grace()
            await self._bans.start()
        except BaseException:
            await self.history.stop()
            raise
        self.sweeper.start()

    async def stop(self) -> None:
        """Finish what is in progress. Edges must have detached their clients before."""
        await self.sweeper.stop()
        await self._bans.stop()
        await self.history.stop()
        if self._membership is not None:
            await self._membership.stop()
        while self._claims.is_busy or self._queues.is_busy:  # a refused message is claimed again
            await self._claims.idle()
            await self._queues.idle()
        await self.retained.idle()
        await self._tasks.idle()
        await self._deliveries.idle()
        await self._record.stop()

    def _became_current(self) -> None:
        self._routing.resume_delayed()

    def _was_fenced(self) -> None:
        """Others have fenced this instance: cancel its writes, which they have taken over."""
        if self._membership is None:
            return
        self._claims.cancel()
        self._queues.cancel()
        self._abandoned_queues.cancel()
        self.retained.cancel()
        self._routing.cancel()
        fenced = self._membership.instance
        self._membership.new_instance()
        log.warning(
            "router fenced, restarting as instance %s",
            self._membership.instance,
            extra={"fenced": fenced},
        )
        if self._on_fenced is not None:
            self._on_fenced()

    # Other routers

    async def fence(self, instance: str) -> None:
        """Refuse every later write of a router instance (see RouterService)."""
        await call_once(self._store.fence_writer(instance))

    async def catch_up(self) -> None:
        """Apply every change that was stored before this call (see RouterService)."""
        if self._membership is not None:
            await self._membership.catch_up()

    def live_routers(self) -> list[str]:
        """Instances of the routers with a lease (see RouterService)."""
        return self._membership.live if self._membership is not None else []

    async def interest_synced(self) -> None:
        """Interest takes effect at once here (see RouterLink)."""

    # Retained messages

    def retains_none(self, filters: Sequence[str]) -> bool:
        """Whether nothing that matches is retained (see RouterLink)."""
        return self._membership is None and not any(map(self.retained.may_match, filters))

    async def read_retained(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """Read retained messages (see RouterLink)."""
        request = RetainedRequest(filters)
        if last is not None:
            request = RetainedRequest(filters, last.after or "", last.lists.get("", 0))
        page = await self.retained_page(request)
        if on_read is not None:
            on_read(lambda topic: page.after is None or topic <= page.after)
        return page

    async def retained_page(self, request: RetainedRequest) -> RetainedPage:
        """Read a page of retained messages (see RouterService)."""
        filters = request.filters
        if (
            self._membership is not None
            and len(filters) <= FEW_TOPICS
            and not any(map(has_wildcards, filters))
        ):
            # Cheaper than to read what other routers have retained.
            return await call_once(self.retained.page_of(sorted({*filters})))
        await self.catch_up()
        return await call_once(self.retained.page(request))

    async def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Topics with a retained message that match (see RouterLink)."""
        await self.catch_up()
        topics = self.retained.match(topic_filter)
        for start in range(0, len(topics), RETAINED_PAGE):
            yield topics[start : start + RETAINED_PAGE]

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """Read retained messages (see RouterLink)."""
        return await call_once(self.retained.get(topics))
