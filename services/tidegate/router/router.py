"""The router: takes publishes and session work from edges, owns the store.

Implements ``RouterLink``. Routes a publish by its topic: at once to every edge with interest, and
through the queue writer to durable sessions; answers only when everything that must be durable is
(G1). Holds nothing that cannot be rebuilt from the store and the attached edges.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from tidegate.link.api import (
    FENCED,
    NO_MATCHING_SUBSCRIBERS,
    PUBLISHED,
    AttachedSession,
    AttachSession,
    DetachSession,
    EdgeLink,
    Origin,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.mqtt.topics import parse_shared
from tidegate.router.gone_members import GoneMembers
from tidegate.router.groups import Groups
from tidegate.router.lost_queues import LostQueues
from tidegate.router.membership import Membership
from tidegate.router.queue_writer import RETRY_FIRST_S, RETRY_MAX_S, Pending, QueueWriter
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import Route, RoutingTable, SharedMember
from tidegate.runtime.config import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry import Counters
from tidegate.runtime.tracing import RETAIN, ROUTE, Tracer, message_attributes
from tidegate.store.api import (
    AttachRequest,
    Change,
    DetachReply,
    DetachRequest,
    DueWill,
    DueWork,
    EndedSession,
    RetainedAdded,
    RetainedRemoved,
    SessionEnded,
    SessionSubscribed,
    Store,
    StoreUnavailable,
)
from tidegate.store.records import decode_queued, decode_will, encode_will

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 0.5
SWEEP_LIMIT: Final = 500
#: Names of retained topics that are handed out at a time.
RETAINED_PAGE: Final = 500

R = TypeVar("R")


class _WillOrigin:
    """The publisher of a will, which no longer has a connection."""

    __slots__ = ("_done", "_will_id", "client_id", "epoch")

    def __init__(self, will: DueWill, done: Callable[[], None]) -> None:
        self.client_id = will.client_id
        self.epoch = 0
        self._will_id = will.will_id
        self._done = done

    def identity(self, message: Publish) -> str:
        """A will that is claimed twice is still queued once (G5)."""
        return f"will|{self._will_id}"

    def receipt(self, message: Publish) -> int:
        """Nobody waits for a PUBREC."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """It is durable: forget the claim."""
        self._done()


class _Asked(Pending):
    """Messages that an edge waits for: it hears of it when they are given up."""

    __slots__ = ("decided", "forgotten")

    def __init__(self) -> None:
        self.decided = asyncio.Event()
        self.forgotten = False
        super().__init__(self.decided.set)

    def forget(self) -> None:
        """Tell the edge (see Pending)."""
        super().forget()
        self.forgotten = True
        self.decided.set()


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
    ) -> None:
        """``alone``: no other router uses this store (and edges are in this process).

        ``on_fenced`` is called after this life of the router was declared dead by others: every
        edge must attach anew, and send again what it had no answer for.
        """
        self._store = store
        self._limits = limits
        self._features = features
        self._counters = counters
        self._now_ms = now_ms
        self._edges: dict[str, EdgeLink] = {}
        self._on_fenced = on_fenced
        self._membership: Membership | None = None
        if not alone:
            self._membership = Membership(
                store, name, now_ms, edge_lease_s, self._learn, self._load, self._let_go
            )
        #: Publishes that wait to be confirmed until this router is current again.
        self._delayed: deque[tuple[Origin, Publish]] = deque()
        self.table = RoutingTable()
        self.retained = RetainedMessages(store, now_ms, self._was_fenced)
        self._queues = QueueWriter(store, counters, self._edges, self._was_fenced)
        self._groups = Groups(self.table.shared, self._queues, counters)
        self._lost_queues = LostQueues(store, self._groups.give, self._retry, now_ms, counters)
        self._gone_members = GoneMembers(
            store, self.table, self._lost_queues, self._groups.misplaced, now_ms
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._completions: dict[tuple[str, int], list[int]] = {}
        self._completed: list[Callable[[], None]] = []
        self._completing: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._edge_lease_s = edge_lease_s
        # Edges could not renew their leases while the store was away: until then they get time.
        self._swept_s = 0.0
        self._patience_until_s = 0.0
        self._young_until_s = 0.0
        self._tracer: Tracer | None = None
        self._is_tracing = False

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
        self._limits = limits
        self._features = features

    async def start(self) -> None:
        """Load subscriptions and the retained index; begin sweeping. Raises StoreUnavailable."""
        if self._membership is None:
            await self._load()
        else:
            await self._membership.start()
            # Edges that other routers served until now come here first: give them time.
            self._young_until_s = asyncio.get_running_loop().time() + self._edge_lease_s
            self._patience_until_s = self._young_until_s
        self._sweeping = asyncio.create_task(self._sweep_forever())

    async def _load(self) -> None:
        """Read all durable subscriptions and the names of all retained topics."""
        seen: dict[str, set[str]] = {}
        async for sessions in self._store.stored_subscriptions():
            for stored in sessions:
                session = self.table.session(stored.client_id, stored.incarnation)
                for topic_filter, options in stored.subscriptions:
                    self.table.subscribe_durable(session, topic_filter, options)
                seen[stored.client_id] = {name for name, _ in stored.subscriptions}
        for session in list(self.table.sessions.values()):
            wanted = seen.get(session.client_id)
            if wanted is None:
                self.table.drop_session(session.client_id, session.incarnation)
                continue
            for topic_filter in [name for name in session.subscriptions if name not in wanted]:
                self.table.unsubscribe_durable(session, topic_filter)
        await self.retained.load()

    def _learn(self, change: Change) -> None:
        """Apply what another router (or this one) has changed in the store."""
        table = self.table
        if isinstance(change, RetainedAdded | RetainedRemoved):
            self.retained.learn(change.topic, isinstance(change, RetainedAdded))
        elif isinstance(change, SessionEnded):
            table.drop_session(change.client_id, change.incarnation)
        elif table.is_outdated(change.client_id, change.incarnation):
            return
        elif isinstance(change, SessionSubscribed):
            session = table.session(change.client_id, change.incarnation)
            for topic_filter, options in change.subscriptions:
                table.subscribe_durable(session, topic_filter, options)
        else:
            session = table.session(change.client_id, change.incarnation)
            for topic_filter in change.topic_filters:
                table.unsubscribe_durable(session, topic_filter)

    def _was_fenced(self) -> None:
        """Others have declared this life dead: what it had not done, they have taken over."""
        if self._membership is None:
            return
        log.warning("this router was declared dead; it begins a new life")
        self._queues.forget()
        self._lost_queues.forget()
        self.retained.forget()
        self._delayed.clear()
        self._membership.new_life()
        if self._on_fenced is not None:
            self._on_fenced()

    async def stop(self) -> None:
        """Finish what is under way. Edges must have detached their clients before."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        if self._membership is not None:
            await self._membership.stop()
        await self._queues.idle()
        await self.retained.idle()
        while self._tasks or self._completing is not None:
            waiting = [*self._tasks] + ([self._completing] if self._completing else [])
            await asyncio.gather(*waiting, return_exceptions=True)

    def attach_edge(self, edge: EdgeLink) -> None:
        """An edge has come (see RouterService)."""
        before = self._edges.get(edge.edge_id)
        if before is not None:
            self.lose_edge(before)
        self._edges[edge.edge_id] = edge

    def lose_edge(self, edge: EdgeLink) -> None:
        """An edge has gone (see RouterService)."""
        if self._edges.get(edge.edge_id) is not edge:
            return
        del self._edges[edge.edge_id]
        self.table.drop_edge(edge)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a router task failed", exc_info=task.exception())

    # Publishing

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        if message.trace and self._tracer is not None and not self._is_tracing:
            return self._publish_traced(self._tracer, origin, message)
        route = self.table.route(message.topic)
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

    def _let_go(self) -> None:
        """This router is current again: finish what had to wait, as things stand now."""
        while self._delayed and self.current:
            origin, message = self._delayed.popleft()
            code = self._publish_durably(origin, message, self.table.route(message.topic))
            if code is not None:
                origin.published(message, code)

    def trace_with(self, tracer: Tracer | None) -> None:
        """Make spans of what is traced."""
        self._tracer = tracer
        self._queues.tracer = tracer

    def _publish_traced(self, tracer: Tracer, origin: Origin, message: Publish) -> int | None:
        """Route with a span, which everything that follows from it has as parent."""
        span = tracer.start(ROUTE, message.trace)
        message.trace = span.context
        self._is_tracing = True
        try:
            code = self.publish(origin, message)
        finally:
            self._is_tracing = False
        route = self.table.route(message.topic)
        attributes = message_attributes(message, origin.client_id)
        attributes["tidegate.edges"] = len(route.edges)
        attributes["tidegate.sessions"] = len(route.durable)
        attributes["tidegate.groups"] = len(route.groups)
        span.end(attributes)
        return code

    def _count_unmatched(self) -> None:
        self._counters.published += 1
        self._counters.dropped["no_subscriber"] += 1

    def _publish_durably(self, origin: Origin, message: Publish, route: Route) -> int | None:
        matched = bool(route.edges or route.durable or route.groups)
        code = PUBLISHED if matched else NO_MATCHING_SUBSCRIBERS
        if not matched and not message.retain:  # a retained one is kept: not lost on anybody
            self._count_unmatched()
        returned = False
        receipt = origin.receipt(message)

        def finished() -> None:
            if pending.failed:
                origin.published(message, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
            elif receipt >= 0:
                self._spawn(self._store_receipt(origin, message, receipt, code))
            elif returned:
                origin.published(message, code)

        pending = Pending(finished)
        if route.durable:
            self._queue_for_sessions(origin, message, route, pending)
        for group in route.groups:
            self._groups.give(group, origin, message, pending)
        if message.retain:
            self._retain(origin, message, pending)
        settled = pending.last_hold() and receipt < 0
        returned = not settled
        pending.release()
        return code if settled else None

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
            if not granted and (session.edge is not None or not self._features.queue_qos0):
                if session.edge is None:
                    self._counters.published += 1
                    self._counters.dropped["qos0_offline"] += 1
                continue
            if identity is None:
                identity = origin.identity(message)
            retain = message.retain and target.retain_as_published
            self._queues.add(session, message, granted, retain, subscription_ids, pending, identity)

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a lost member's message to another one (see RouterLink)."""
        self._groups.redispatch(topic_filter, message)

    def _retain(self, origin: Origin, message: Publish, pending: Pending) -> None:
        if len(message.payload) > self._limits.max_retained_payload_bytes > 0:
            self._counters.dropped["retained_too_large"] += 1
            return
        if not message.trace or self._tracer is None:
            self.retained.set(message, pending)
            return
        span = self._tracer.start(RETAIN, message.trace)
        pending.hold()

        def stored() -> None:
            span.end(message_attributes(message, origin.client_id), failed=write.failed)
            pending.failed |= write.failed
            pending.release()

        write = Pending(stored)
        self.retained.set(message, write)
        write.release()

    async def _store_receipt(
        self, origin: Origin, message: Publish, receipt: int, code: int
    ) -> None:
        try:
            await self.complete_receipt(origin.client_id, origin.epoch, message.packet_id, receipt)
        except SessionFenced:
            code = FENCED
        origin.published(message, code)

    # Sessions

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """Make an edge the owner of a session (see RouterLink)."""
        will = request.will
        try:
            reply = await self._store.attach(
                AttachRequest(
                    request.client_id,
                    edge_id,
                    request.clean_start,
                    request.session_expiry_s,
                    self._now_ms(),
                    encode_will(will, request.client_id, request.username) if will else None,
                    will.will_delay_interval if will else 0,
                )
            )
        except StoreUnavailable as error:
            raise RouterUnavailable(str(error)) from error
        client_id = request.client_id
        if reply.discarded_incarnation:
            self.table.drop_session(client_id, reply.discarded_incarnation)
        if reply.incarnation:
            session = self.table.session(client_id, reply.incarnation)
            if reply.epoch > session.epoch:
                for topic_filter, options in reply.subscriptions:
                    if topic_filter not in session.subscriptions:
                        self.table.subscribe_durable(session, topic_filter, options)
                self.table.set_connected(session, self._edges.get(edge_id), reply.epoch)
        if reply.previous_edge:
            previous = self._edges.get(reply.previous_edge)
            if previous is not None:
                previous.kick(client_id, reply.previous_epoch, ReasonCode.SESSION_TAKEN_OVER)
        for due in reply.wills:
            self._publish_will(due)
        return AttachedSession(
            reply.epoch,
            reply.incarnation,
            reply.session_present,
            reply.sent_seq,
            reply.sent_uncertain,
            reply.last_seq,
            reply.released,
            reply.receipts,
            reply.receipt_wraps,
            reply.subscriptions,
        )

    async def detach(self, request: DetachSession) -> None:
        """End a connection (see RouterLink)."""
        session = self.table.sessions.get(request.client_id)
        if session is not None and session.epoch == request.epoch:
            self.table.set_connected(session, None, request.epoch)
        detach = DetachRequest(
            request.client_id,
            request.epoch,
            self._now_ms(),
            request.publish_will,
            request.session_expiry_s,
            request.sent_seq,
        )
        reply: DetachReply = await self._retry(lambda: self._store.detach(detach), "end a session")
        if reply.ended is not None:
            self._end_session(reply.ended)
        for due in reply.wills:
            self._publish_will(due)

    def _end_session(self, ended: EndedSession) -> None:
        self._counters.sessions_expired += 1
        self.table.drop_session(ended.client_id, ended.incarnation)

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        told: Sequence[str] = (),
    ) -> None:
        """Apply subscriptions (see RouterService)."""
        if not incarnation:
            self.join_groups(edge_id, client_id, epoch, subscriptions)
            return
        stored = self._store.subscribe(client_id, epoch, subscriptions)
        if await self._change(client_id, stored, told):
            session = self.table.session(client_id, incarnation)
            for topic_filter, options in subscriptions:
                self.table.subscribe_durable(session, topic_filter, options)

    async def unsubscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        filters: Sequence[str],
        told: Sequence[str] = (),
    ) -> None:
        """Remove subscriptions (see RouterService)."""
        if not incarnation:
            self.leave_groups(client_id, epoch, filters)
            return
        stored = self._store.unsubscribe(client_id, epoch, filters)
        if await self._change(client_id, stored, told):
            session = self.table.session(client_id, incarnation)
            for topic_filter in filters:
                self.table.unsubscribe_durable(session, topic_filter)

    async def _change(
        self, client_id: str, stored: Coroutine[Any, Any, int], told: Sequence[str]
    ) -> bool:
        """Store a change of a session's subscriptions; True if it is to be applied here.

        In a cluster this router learns it from the log, as all do, so that all see one order;
        every living router that is not in ``told`` is waited for.
        """
        position = await self._fenced(stored)
        membership = self._membership
        if membership is None:
            return True
        await membership.catch_up()
        try:
            partition = self._store.partition(client_id)
            await membership.wait_for_others(partition, position, told)
        except StoreUnavailable as error:
            raise RouterUnavailable(str(error)) from error
        return False

    def join_groups(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        """Make a connection a member of shared subscriptions (see RouterService)."""
        for topic_filter, options in subscriptions:
            share = parse_shared(topic_filter)
            if share is not None:
                edge = self._edges[edge_id]
                member = SharedMember(client_id, options, None, edge, epoch)
                self.table.shared.subscribe(*share, client_id, member, True)
                self.table.note_member(edge, client_id, topic_filter)

    def hold(self, edge_id: str, client_id: str, epoch: int, incarnation: int, ended: bool) -> None:
        """Note where a durable session is connected (see RouterService)."""
        if self.table.is_outdated(client_id, incarnation):
            return
        if ended and client_id not in self.table.sessions:
            return
        session = self.table.session(client_id, incarnation)
        if epoch < session.epoch:
            return
        edge = self._edges.get(edge_id)
        if not ended:
            self.table.set_connected(session, edge, epoch)
        elif epoch == session.epoch:
            self.table.set_connected(session, None, epoch)

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Take a connection out of its groups (see RouterLink)."""
        for topic_filter in filters:
            share = parse_shared(topic_filter)
            if share is None:
                continue
            member = self.table.shared.member(*share, client_id)
            if member is not None and member.session is None and member.epoch == epoch:
                self.table.shared.unsubscribe(*share, client_id)
                if member.edge is not None:
                    self.table.forget_member(member.edge, client_id, topic_filter)

    def add_interest(self, edge_id: str, topic_filter: str) -> None:
        """Send this edge what matches (see RouterLink)."""
        self.table.add_interest(self._edges[edge_id], topic_filter)

    def remove_interest(self, edge_id: str, topic_filter: str) -> None:
        """Stop that (see RouterLink)."""
        self.table.remove_interest(self._edges[edge_id], topic_filter)

    async def settled(self) -> None:
        """Interest takes effect at once here (see RouterLink)."""

    # Queues

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue (see RouterLink)."""
        try:
            found = await self._store.fetch(client_id, incarnation, after_seq, max_count, max_bytes)
        except StoreUnavailable as error:
            raise RouterUnavailable(str(error)) from error
        return [(seq, decode_queued(record)) for seq, record in found]

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Forget deliveries (see RouterLink)."""
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
                    self._kick_fenced(*items[index][:2])
                for done in completed:
                    done()
        finally:
            self._completing = None

    async def _complete_batch(self, items: list[tuple[str, int, list[int]]]) -> list[int]:
        """Delete until the store has done it; return which of the items were fenced."""
        results = await self._retry(lambda: self._store.complete_many(items), "forget deliveries")
        return [index for index, current in enumerate(results) if not current]

    def _kick_fenced(self, client_id: str, epoch: int) -> None:
        for edge in self._edges.values():
            edge.kick(client_id, epoch, ReasonCode.SESSION_TAKEN_OVER)

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """PUBREC has come for these (see RouterLink)."""
        await self._fenced(self._store.release(client_id, epoch, seqs))

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """Store a receipt byte (see RouterLink)."""
        current = await self._retry(
            lambda: self._store.receipt(client_id, epoch, packet_id, value), "store a receipt"
        )
        if not current:
            raise SessionFenced(client_id)

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one session (see RouterService)."""
        session = self.table.sessions.get(client_id)
        if session is None or session.incarnation != incarnation:
            return
        pending = _Asked()
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
        await pending.decided.wait()
        if pending.forgotten:
            raise RouterUnavailable("this router was declared dead")

    # Retained messages

    async def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Topics with a retained message that match (see RouterLink)."""
        await self.catch_up()
        topics = self.retained.match(topic_filter)
        for start in range(0, len(topics), RETAINED_PAGE):
            yield topics[start : start + RETAINED_PAGE]

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """Read retained messages (see RouterLink)."""
        try:
            return await self.retained.get(topics)
        except StoreUnavailable as error:
            raise RouterUnavailable(str(error)) from error

    # Wills, expiry, leases

    async def heartbeat(self, edge_id: str) -> bool:
        """Renew an edge's lease (see RouterService)."""
        lease_ms = int(self._edge_lease_s * 1000)
        return await _available(self._store.renew_lease(edge_id, self._now_ms(), lease_ms))

    async def living_edges(self) -> list[str]:
        """Edges that have a lease and may not have come here yet (see RouterService).

        Also one whose lease ran out a moment ago: there may have been no router to renew it with.
        None once this router has been there for the length of a lease: who lives has come by then,
        and an edge that begins must not wait for one that has just died.
        """
        if asyncio.get_running_loop().time() >= self._young_until_s:
            return []
        since_ms = self._now_ms() - int(self._edge_lease_s * 1000)
        return await _available(self._store.living_edges(since_ms))

    async def end_lease(self, edge_id: str) -> None:
        """An edge ends (see RouterService)."""
        await _available(self._store.end_lease(edge_id))

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[bool]:
        """Which connections still own their sessions (see RouterService)."""
        return await _available(self._store.verify(connections))

    async def fence(self, instance: str) -> None:
        """Refuse every later write of a router's life (see RouterService)."""
        await _available(self._store.fence_writer(instance))

    async def catch_up(self) -> None:
        """Learn what was stored until now (see RouterService)."""
        if self._membership is not None:
            await self._membership.catch_up()

    def living_routers(self) -> list[str]:
        """Instances of the routers that live (see RouterService)."""
        return self._membership.living if self._membership is not None else []

    def _publish_will(self, due: DueWill) -> None:
        will = decode_will(due.record).will
        message = Publish(
            will.topic,
            will.payload,
            will.qos,
            will.retain and self._features.retain,
            properties=will.properties,
            message_expiry_interval=will.message_expiry_interval,
        )
        if will.message_expiry_interval is not None:
            message.expires_at_ms = self._now_ms() + will.message_expiry_interval * 1000
        self._counters.wills_published += 1

        def done() -> None:
            self._spawn(self._forget_will(due.will_id))

        if self.publish(_WillOrigin(due, done), message) is not None:
            done()

    async def _forget_will(self, will_id: str) -> None:
        await self._retry(lambda: self._store.will_published([will_id]), "forget a will")

    async def _sweep_forever(self) -> None:
        while True:
            busy = False
            try:
                busy = await self.sweep()
            except StoreUnavailable as error:
                log.warning("cannot sweep, will retry", extra={"reason": str(error)})
            if not busy:
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> bool:
        """Act on dead edges, due expiries and wills; True when there may be more at once."""
        now_s = asyncio.get_running_loop().time()
        if self._swept_s and now_s - self._swept_s > self._edge_lease_s / 2:
            self._patience_until_s = now_s + self._edge_lease_s
        lost = DueWork()
        if now_s >= self._patience_until_s:
            lost = await self._store.sweep_edges(self._now_ms(), SWEEP_LIMIT)
        await self._gone_members.look_soon()
        due = await self._store.sweep_due(self._now_ms(), SWEEP_LIMIT)
        expired = await self.retained.expire()
        self._swept_s = asyncio.get_running_loop().time()
        found = 0
        for work in (lost, due):
            found += self._act(work)
        return found >= SWEEP_LIMIT or expired >= SWEEP_LIMIT

    def _act(self, work: DueWork) -> int:
        for lost in work.lost_queues:
            self._spawn(self._lost_queues.redispatch(lost))
        for member in work.gone_members:
            self._spawn(self._gone_members.redispatch(member))
        for ended in work.ended:
            self._end_session(ended)
        for due in work.wills:
            self._publish_will(due)
        waiting = len(work.lost_queues) + len(work.gone_members)
        return len(work.ended) + len(work.wills) + waiting

    # Helpers

    async def _fenced(self, call: Coroutine[Any, Any, int]) -> int:
        """Run a fenced write once; its result. Raises SessionFenced, RouterUnavailable."""
        result = await _available(call)
        if not result:
            raise SessionFenced
        return result

    async def _retry(self, call: Callable[[], Coroutine[Any, Any, Any]], what: str) -> Any:
        """Repeat a write that must happen until the store has taken it."""
        delay = RETRY_FIRST_S
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                log.warning("cannot %s, will retry", what, extra={"reason": str(error)})
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                delay = min(delay * 2, RETRY_MAX_S)


def _nothing() -> None:
    pass


async def _available(call: Coroutine[Any, Any, R]) -> R:
    """Run something of the store once. Raises RouterUnavailable."""
    try:
        return await call
    except StoreUnavailable as error:
        raise RouterUnavailable(str(error)) from error
