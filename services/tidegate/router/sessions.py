"""Sessions: attach, detach, verify, and their subscriptions.

Owns nothing: the store decides, the routing table has what is known here. Called for requests of
edges, and by ``sweeper`` for sessions that the store has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tidegate.core.attempt import ONLY_ATTEMPT, Attempt
from tidegate.core.standing import Standing
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    PendingWill,
    RouterUnavailable,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.record.events import Kind
from tidegate.router.edges import Edges
from tidegate.router.membership import Membership
from tidegate.router.record import Record
from tidegate.router.replays import Replays
from tidegate.router.rollback import Rollback
from tidegate.router.session_quota import SessionQuota
from tidegate.router.store_calls import call_once, retry_until_stored
from tidegate.router.table import RoutingTable
from tidegate.router.unstored import UnstoredSessions
from tidegate.router.wills import Wills
from tidegate.runtime.process.futures import pass_on
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    AttachReply,
    AttachRequest,
    DetachReply,
    DetachRequest,
    DueWill,
    EndedSession,
    LateRequest,
    OwnedByAnother,
    Store,
    StoreUnavailable,
    TooManySessions,
    WriterFenced,
)
from tidegate.store.records import encode_will


class Sessions:
    """See the module's docstring."""

    __slots__ = (
        "_counters",
        "_edges",
        "_loop",
        "_membership",
        "_now_ms",
        "_on_fenced",
        "_quota",
        "_record",
        "_replays",
        "_rollback",
        "_store",
        "_table",
        "_unstored",
        "_wills",
    )

    def __init__(
        self,
        store: Store,
        counters: Counters,
        now_ms: Callable[[], int],
        *,
        table: RoutingTable,
        edges: Edges,
        membership: Membership | None,
        wills: Wills,
        replays: Replays,
        rollback: Rollback,
        quota: SessionQuota,
        record: Record,
        unstored: UnstoredSessions,
        on_fenced: Callable[[], None],
    ) -> None:
        """``membership`` None: there is no other router to read changes of subscriptions."""
        self._store = store
        self._counters = counters
        self._now_ms = now_ms
        self._table = table
        self._edges = edges
        self._membership = membership
        self._wills = wills
        self._replays = replays
        self._rollback = rollback
        self._quota = quota
        self._record = record
        self._unstored = unstored
        self._loop = asyncio.get_running_loop()
        self._on_fenced = on_fenced

    def attach(self, edge_id: str, request: AttachSession) -> asyncio.Future[AttachedSession]:
        """Make an edge the owner of a session (see RouterLink)."""
        client_id, will = request.client_id, request.will
        unstored = self._unstored
        if unstored.is_alone:
            if epoch := unstored.begin(request):
                begun: asyncio.Future[AttachedSession] = self._loop.create_future()
                begun.set_result(AttachedSession(epoch, 0, False, is_stored=False))
                return begun
            unstored.storing(client_id)
        attach = AttachRequest(
            client_id,
            edge_id,
            request.clean_start,
            request.session_expiry_s,
            self._now_ms(),
            encode_will(will, client_id, request.username) if will else None,
            will.will_delay_interval if will else 0,
            request.supersedes,
            request.number,
            request.username or "",
            request.checks_user,
            tries=request.tries,
        )
        if attach.session_expiry_s and self._quota.limits.max_sessions_per_user:
            stored = asyncio.ensure_future(self._attach_within_quota(attach))
        else:
            stored = asyncio.ensure_future(self._store.attach(attach))
        attached: asyncio.Future[AttachedSession] = stored.get_loop().create_future()
        stored.add_done_callback(partial(self._attach_stored, attach, self._store.writer, attached))
        return attached

    def _attach_stored(
        self,
        attach: AttachRequest,
        writer: str,
        attached: asyncio.Future[AttachedSession],
        stored: asyncio.Future[AttachReply],
    ) -> None:
        """Answer a CONNECT that the store has answered; ``writer`` was the instance before that."""
        if self._unstored.is_alone:
            self._note_outcome(attach.client_id, stored)
        if attached.done():
            return  # nobody waits for it
        try:
            reply = self._read_reply(attach, writer, stored)
            if not reply.taken_epoch and self._rollback.history.is_lost(
                attach.client_id, reply.epoch
            ):
                undone = asyncio.ensure_future(self._undo(attach.client_id, reply.epoch))
                undone.add_done_callback(partial(pass_on, attached))
                return
            session = self._apply(attach.client_id, attach.edge_id, reply)
        except Exception as error:  # for who waits
            attached.set_exception(error)
        else:
            attached.set_result(session)

    def _note_outcome(self, client_id: str, stored: asyncio.Future[AttachReply]) -> None:
        error = None if stored.cancelled() else stored.exception()
        if stored.cancelled() or error is not None:
            is_refused = isinstance(error, OwnedByAnother | TooManySessions)
            self._unstored.failed(client_id, is_refused=is_refused)
        else:
            self._unstored.stored(client_id, stored.result())

    async def _undo(self, client_id: str, epoch: int) -> AttachedSession:
        """The store has gone back, and a new history has begun after this CONNECT."""
        end = DetachRequest(client_id, epoch, self._now_ms(), publish_will=False)
        await call_once(self._store.detach(end))
        raise RouterUnavailable("the store has gone back to an older state")

    def _apply(self, client_id: str, edge_id: str, reply: AttachReply) -> AttachedSession:
        """Have the session here as the store has it."""
        if reply.taken_epoch:
            return AttachedSession(0, 0, False, taken_epoch=reply.taken_epoch)
        table, edges = self._table, self._edges.by_id
        if reply.discarded_incarnation:
            table.drop_session(client_id, reply.discarded_incarnation)
            self._record.note(Kind.SESSION_ENDED, client_id, "clean_start")
        if reply.incarnation:
            session = table.session(client_id, reply.incarnation)
            if reply.epoch > session.epoch:
                for topic_filter, options in reply.subscriptions:
                    if topic_filter not in session.subscriptions:
                        table.subscribe_durable(session, topic_filter, options)
                table.set_connected(session, edges.get(edge_id), reply.epoch)
        if reply.previous_edge:
            previous = edges.get(reply.previous_edge)
            if previous is not None:
                # Behind what accepts that connection, where the store has answered both at once.
                asyncio.get_running_loop().call_soon(
                    previous.kick, client_id, reply.previous_epoch, ReasonCode.SESSION_TAKEN_OVER
                )
        wills = self._publish_or_return(reply.wills)
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
            wills,
            reply.fence_position,
            replays=reply.replays,
            has_discarded=reply.discarded_incarnation > 0,
        )

    async def _attach_within_quota(self, attach: AttachRequest) -> AttachReply:
        left, added = await self._quota.left(attach.user), 0
        try:
            reply = await self._store.attach(replace(attach, sessions_left=left))
            if reply.incarnation and not reply.session_present:
                added = 0 if reply.discarded_incarnation else 1
            return reply
        finally:
            self._quota.settle(attach.user, added)

    def _read_reply(
        self, attach: AttachRequest, writer: str, stored: asyncio.Future[AttachReply]
    ) -> AttachReply:
        """Return what the store has answered. Raises as RouterLink.attach."""
        try:
            return stored.result()
        except StoreUnavailable as error:
            raise RouterUnavailable(str(error)) from error
        except WriterFenced:
            if writer == self._store.writer:  # otherwise there is another instance already
                self._on_fenced()
            raise RouterUnavailable("router fenced") from None
        except OwnedByAnother:
            raise SessionOwned("the session belongs to another user") from None
        except LateRequest:
            raise RouterUnavailable("a later attempt at this CONNECT has been stored") from None
        except TooManySessions:
            self._record.note(Kind.QUOTA, attach.client_id, "session_quota")
            raise SessionQuotaExceeded("the user has too many sessions") from None

    def _publish_or_return(self, wills: Sequence[DueWill]) -> list[PendingWill]:
        """Publish wills here if this router is alone; else return them to the edge for that."""
        if not wills:
            return []
        if self._membership is not None:
            return self._wills.pending(wills)
        self._wills.publish_by(None, wills)
        return []

    def detach(self, request: DetachSession) -> asyncio.Future[DetachedSession]:
        """End a connection (see RouterLink)."""
        session = self._table.sessions.get(request.client_id)
        if session is not None and session.epoch == request.epoch:
            self._table.set_connected(session, None, request.epoch)
        detach = DetachRequest(
            request.client_id,
            request.epoch,
            self._now_ms(),
            request.publish_will,
            request.session_expiry_s,
            request.sent_seq,
        )
        stored = asyncio.ensure_future(self._store.detach(detach))
        detached: asyncio.Future[DetachedSession] = stored.get_loop().create_future()
        stored.add_done_callback(partial(self._detach_stored, request, detach, detached))
        return detached

    def _detach_stored(
        self,
        request: DetachSession,
        detach: DetachRequest,
        detached: asyncio.Future[DetachedSession],
        stored: asyncio.Future[DetachReply],
    ) -> None:
        """The store has answered; it is called until it has stored the end."""
        if detached.done():
            return  # nobody waits for it
        error = stored.exception()
        if error is None:
            detached.set_result(self._detached(request, stored.result()))
        elif isinstance(error, StoreUnavailable):
            again = asyncio.ensure_future(self._detach_again(detach, str(error)))
            again.add_done_callback(partial(self._detach_stored, request, detach, detached))
            detached.add_done_callback(lambda _: again.cancel())
        else:
            detached.set_exception(error)

    async def _detach_again(self, detach: DetachRequest, reason: str) -> DetachReply:
        return await retry_until_stored(
            lambda: self._store.detach(detach), "detach a session", failed_for=reason
        )

    def _detached(self, request: DetachSession, reply: DetachReply) -> DetachedSession:
        if not reply.fenced:
            self._unstored.ended(request.client_id, request.epoch)
        if reply.ended is not None:
            self.ended(reply.ended)
            self._record.note(Kind.SESSION_ENDED, request.client_id, "connection_ended")
        if reply.fenced and request.lost_will is not None:
            self._wills.publish(request.lost_will)
        return DetachedSession(self._publish_or_return(reply.wills), reply.fenced)

    async def withdraw_connects(
        self, edge_id: str, connects: Sequence[tuple[str, Attempt]]
    ) -> None:
        """Withdraw CONNECTs to which nobody has answered (see RouterService)."""
        await call_once(self._store.withdraw_connects(edge_id, connects, self._now_ms()))

    def hasten(self, client_id: str) -> None:
        """Nothing waits here (see RouterLink)."""

    async def settle(self, client_id: str, position: int, excluded: Sequence[str]) -> None:
        """Wait until a change is known everywhere (see RouterService)."""
        if self._membership is None:
            return
        if self._membership.instance not in excluded:
            await self._membership.catch_up()
        partition = self._store.partition(client_id)
        await call_once(self._membership.wait_for_others(partition, position, excluded))

    def ended(self, ended: EndedSession) -> None:
        """Apply that the store has ended a session."""
        self._counters.sessions_expired += 1
        self._table.drop_session(ended.client_id, ended.incarnation)

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        """Whether connections still own their sessions (see RouterService)."""
        standings = await call_once(self._store.verify(connections))
        if Standing.GONE in standings:
            # A store that has just gone back begins its histories when they are read: until they
            # are replaced, its lost sessions look like those that have ended.
            history = self._rollback.history
            await history.look()
            for place, connection in enumerate(connections):
                if standings[place] is Standing.GONE and history.is_lost(*connection):
                    standings[place] = Standing.LOST
        return standings

    # Subscriptions

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        excluded: Sequence[str] = (),
        *,
        generation: str = "",
        again: Sequence[str] = (),
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> None:
        """Apply subscriptions (see RouterService)."""
        if not incarnation:
            self._edges.join_groups(edge_id, client_id, epoch, subscriptions)
            return
        stored = self._store.subscribe(client_id, epoch, subscriptions, generation, attempt)
        if await self._change(client_id, epoch, stored, excluded):
            session = self._table.session(client_id, incarnation)
            if generation:
                self._replays.subscribed(session, subscriptions)
            for topic_filter, options in subscriptions:
                self._table.subscribe_durable(session, topic_filter, options)

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> None:
        """Store up to where retained messages were sent (see RouterLink)."""
        await self._call_fenced(client_id, epoch, self._store.replayed(client_id, epoch, items))

    async def unsubscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        filters: Sequence[str],
        excluded: Sequence[str] = (),
        *,
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> None:
        """Remove subscriptions (see RouterService)."""
        if not incarnation:
            self._edges.leave_groups(client_id, epoch, filters)
            return
        stored = self._store.unsubscribe(client_id, epoch, filters, attempt)
        if await self._change(client_id, epoch, stored, excluded):
            session = self._table.session(client_id, incarnation)
            for topic_filter in filters:
                self._table.unsubscribe_durable(session, topic_filter)

    async def _call_fenced(self, client_id: str, epoch: int, call: Coroutine[Any, Any, int]) -> int:
        """Make a fenced write once; its result. Raises SessionFenced, RouterUnavailable."""
        result = await call_once(call)
        if not result:
            await self._rollback.refuse(client_id, epoch)
        return result

    async def _change(
        self,
        client_id: str,
        epoch: int,
        stored: Coroutine[Any, Any, int],
        excluded: Sequence[str],
    ) -> bool:
        """Store a change of a session's subscriptions; True if it is to be applied here.

        In a cluster this router reads it from the log, as all do, so that all apply one order;
        every live router that is not in ``excluded`` is waited for. This one may be among them.
        """
        position = await self._call_fenced(client_id, epoch, stored)
        membership = self._membership
        if membership is None:
            return True
        if membership.instance not in excluded:
            await membership.catch_up()
        partition = self._store.partition(client_id)
        await call_once(membership.wait_for_others(partition, position, excluded))
        return False
