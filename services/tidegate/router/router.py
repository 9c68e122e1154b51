"""The router: takes publishes and session work from edges, owns the store.

Implements ``RouterService``, and puts its parts together. Holds nothing that cannot be rebuilt from
the store and the attached edges. The router owns its life, which others may declare over; its parts
own the rest, and each of them calls only those before it (what goes back up is told by callbacks)::

    tasks         work that nobody waits for
    table         where topics go
    edges         which edges are attached, and what they tell of themselves
    queues        appends to durable sessions' queues
    retained      the index of retained messages, and their writes
    groups        shared subscriptions
    abandoned queues   what clients that have gone had got through them
    offline members  what waits for members that have gone
    replica       what the store says of subscriptions and retained topics
    membership    the lease among routers, and how far their changes are known
    deliveries    durable sessions' queues, as edges see them
    routing       publishes, at once or when this router is current again
    wills         those that are due
    sessions      attach, detach, subscribe
    edge_leases   which edges live
    sweeping      what the store says is due
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from tidegate.mqtt.packets import Publish
from tidegate.router.abandoned_queues import AbandonedQueues
from tidegate.router.deliveries import Deliveries
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.edges import Edges
from tidegate.router.groups import Groups
from tidegate.router.membership import Membership
from tidegate.router.offline_members import OfflineMembers
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.replica import Replica
from tidegate.router.retained import RetainedMessages
from tidegate.router.routing import Routing
from tidegate.router.sessions import Sessions
from tidegate.router.storing import available, insist
from tidegate.router.sweeping import Sweeping
from tidegate.router.table import RoutingTable
from tidegate.router.traced_writes import TracedAppend, TracedRetain
from tidegate.router.wills import Wills
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.tracing import Tracer
from tidegate.store.api import Store

log = logging.getLogger(__name__)

#: Names of retained topics that are handed out at a time.
RETAINED_PAGE: Final = 500


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
        tracer: Tracer | None = None,
    ) -> None:
        """``alone``: no other router uses this store (and edges are in this process).

        ``on_fenced`` is called after this life of the router was declared dead by others: every
        edge must attach anew, and send again what it had no answer for. ``tracer``: writes for
        traced messages get spans.
        """
        self._store = store
        self._on_fenced = on_fenced
        self._tasks = tasks = Tasks(counters)
        self.table = table = RoutingTable()
        edges = Edges(table)
        self._queues = queues = QueueWriter(store, counters, edges.by_id, self._was_fenced)
        self.retained = retained = RetainedMessages(store, now_ms, self._was_fenced)
        groups = Groups(table.shared, queues, counters)
        self._abandoned_queues = AbandonedQueues(store, groups.give, insist, now_ms, counters)
        offline_members = OfflineMembers(
            store, table, self._abandoned_queues, groups.misplaced, now_ms
        )
        self._replica = Replica(store, table, retained)
        self._membership: Membership | None = None
        if not alone:
            self._membership = Membership(
                store,
                name,
                now_ms,
                edge_lease_s,
                self._replica.learn,
                self._replica.load,
                self._became_current,
            )
        self._deliveries = deliveries = Deliveries(store, table, queues, edges, counters)
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
        if tracer is not None:
            queues.append = TracedAppend(queues.append, tracer)
            routing.retain = TracedRetain(routing.retain, tracer)
        self._wills = Wills(store, features, counters, now_ms, tasks=tasks, routing=routing)
        sessions = Sessions(
            store,
            counters,
            now_ms,
            table=table,
            edges=edges,
            membership=self._membership,
            wills=self._wills,
        )
        self._edge_leases = leases = EdgeLeases(store, now_ms, edge_lease_s)
        self.sweeping = Sweeping(
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
        )
        # What edges ask and tell, without a call in between: on the hot path it would show.
        self.publish = routing.publish
        self.redispatch = groups.redispatch
        self.complete = deliveries.complete
        self.fetch = deliveries.fetch
        self.enqueue = deliveries.enqueue
        self.release = deliveries.release
        self.complete_receipt = deliveries.complete_receipt
        self.attach = sessions.attach
        self.detach = sessions.detach
        self.verify = sessions.verify
        self.subscribe = sessions.subscribe
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

    # Life

    @property
    def instance(self) -> str:
        """Names this life of the router; "" when it is alone."""
        return self._membership.instance if self._membership is not None else ""

    @property
    def current(self) -> bool:
        """Whether this router knows all subscriptions; False while the store is away."""
        return self._membership is None or self._membership.current

    def reconfigure(self, limits: LimitsConfig, features: FeaturesConfig) -> None:
        """Go by other limits and features from now on."""
        self._routing.limits = limits
        self._routing.features = features
        self._wills.features = features

    async def start(self) -> None:
        """Load subscriptions and the retained index; begin sweeping. Raises StoreUnavailable."""
        if self._membership is None:
            await self._replica.load()
        else:
            await self._membership.start()
            self._edge_leases.begin()
        self.sweeping.start()

    async def stop(self) -> None:
        """Finish what is under way. Edges must have detached their clients before."""
        await self.sweeping.stop()
        if self._membership is not None:
            await self._membership.stop()
        await self._queues.idle()
        await self.retained.idle()
        await self._tasks.idle()
        await self._deliveries.idle()

    def _became_current(self) -> None:
        self._routing.let_go()

    def _was_fenced(self) -> None:
        """Others have declared this life dead: what it had not done, they have taken over."""
        if self._membership is None:
            return
        log.warning("this router was declared dead; it begins a new life")
        self._queues.forget()
        self._abandoned_queues.forget()
        self.retained.forget()
        self._routing.forget()
        self._membership.new_life()
        if self._on_fenced is not None:
            self._on_fenced()

    # Other routers

    async def fence(self, instance: str) -> None:
        """Refuse every later write of a router's life (see RouterService)."""
        await available(self._store.fence_writer(instance))

    async def catch_up(self) -> None:
        """Learn what was stored until now (see RouterService)."""
        if self._membership is not None:
            await self._membership.catch_up()

    def live_routers(self) -> list[str]:
        """Instances of the routers that live (see RouterService)."""
        return self._membership.living if self._membership is not None else []

    async def interest_synced(self) -> None:
        """Interest takes effect at once here (see RouterLink)."""

    # Retained messages

    async def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Topics with a retained message that match (see RouterLink)."""
        await self.catch_up()
        topics = self.retained.match(topic_filter)
        for start in range(0, len(topics), RETAINED_PAGE):
            yield topics[start : start + RETAINED_PAGE]

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """Read retained messages (see RouterLink)."""
        return await available(self.retained.get(topics))
