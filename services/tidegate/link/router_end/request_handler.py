"""Requests of edges: each becomes a call of the router, and its result a reply.

Owns no state of its own; the lists of retained topics that an edge reads in pages are kept with the
edge. ``edge_frames`` calls it with every request; each is a task, so replies are in any order, but
for CONNECT and the end of a connection, which are too many for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from tidegate.core.attempt import Attempt
from tidegate.core.standing import Standing
from tidegate.link.edge_id import name_in
from tidegate.link.interfaces import (
    AttachedSession,
    DetachedSession,
    PendingWill,
    RetainedForQueue,
    RetainedRequest,
    RouterService,
    RouterUnavailable,
    SessionFenced,
    SessionLost,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.link.messages import (
    read_attach,
    read_detach,
    read_message,
    read_options,
    read_replays,
    read_subscriptions,
    write_attached,
    write_message,
    write_will,
)
from tidegate.link.records import PUSH, encode_message, is_plain
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.router_end.barriers import Barriers
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import FENCES_VERSION, RECORDS_VERSION
from tidegate.mqtt.packets import Publish
from tidegate.runtime.process.clock import BrokerClock
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Lists of retained topics that are being read in pages, for one edge.
MAX_CURSORS: Final = 1000
#: How long a takeover waits for the edge that it fences, before it publishes a will: it may hang.
FENCED_TIMEOUT_S: Final = 0.3


#: Calls the router.
_Call: TypeAlias = Callable[[AttachedEdge, Any], Awaitable[Any]]
#: Writes what a call of the router has returned into the reply.
_Write: TypeAlias = Callable[[AttachedEdge, pb.Reply, Any], None]


class RequestHandler:
    """See the module's docstring."""

    __slots__ = (
        "_barriers",
        "_counters",
        "_edges",
        "_handlers",
        "_numbers",
        "_router",
        "_tasks",
        "_without_task",
        "clock",
    )

    def __init__(
        self,
        router: RouterService,
        counters: Counters,
        tasks: Tasks,
        edges: AttachedEdges,
        barriers: Barriers,
    ) -> None:
        self._router = router
        self._counters = counters
        self._tasks = tasks
        self._edges = edges
        self._barriers = barriers
        self._numbers = itertools.count(1)
        #: Broker time, for the clocks of edges; None: they go by their own.
        self.clock: BrokerClock | None = None
        #: Those that have no task: what is called, and what writes its result.
        self._without_task: dict[str, tuple[_Call, _Write]] = {
            "attach": (self._attach, self._write_attached),
            "detach": (self._detach, self._write_detached),
        }
        self._handlers: dict[
            str, Callable[[AttachedEdge, Any, pb.Reply], Coroutine[Any, Any, None]]
        ] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "fetch": self._fetch,
            "release": self._release,
            "receipt": self._receipt,
            "match_retained": self._match_retained,
            "get_retained": self._get_retained,
            "read_retained": self._read_retained,
            "queue_retained": self._queue_retained,
            "replayed": self._replayed,
            "enqueue": self._enqueue,
            "lease": self._lease,
            "end_lease": self._end_lease,
            "verify": self._verify,
            "fence": self._fence,
            "barrier": self._barrier,
            "catch_up": self._catch_up,
            "edges": self._edges_of,
            "settle": self._settle,
            "wills_published": self._wills_published,
            "withdrawn": self._withdrawn,
            "return_entries": self._return_entries,
            "withdraw_connects": self._withdraw_connects,
            "verify_wills": self._verify_wills,
        }

    def on_request(self, attached: AttachedEdge, request: pb.Request) -> None:
        """Start what answers a request."""
        kind = request.WhichOneof("kind")
        if kind in self._without_task:
            self._await(attached, kind, request)
            return
        handle = self._handlers.get(kind) if kind is not None else None
        if kind is None or handle is None:
            text = "unknown request"
            attached.peer.reply(pb.Reply(id=request.id, failure=pb.FAILURE_UNSUPPORTED, text=text))
            return
        self._tasks.spawn(self._answer(attached, handle, getattr(request, kind), request.id))

    def _await(self, attached: AttachedEdge, kind: str, request: pb.Request) -> None:
        """Call the router, and reply when it has an outcome."""
        if self._tasks.is_stopped:
            return
        call, write = self._without_task[kind]
        try:
            outcome = asyncio.ensure_future(call(attached, getattr(request, kind)))
        except Exception as error:  # an answer, as below
            self._reply(attached, self._failed(request.id, error))
            return
        self._tasks.hold(outcome)
        outcome.add_done_callback(partial(self._ended, attached, request.id, write))

    def _ended(
        self, attached: AttachedEdge, number: int, write: _Write, outcome: asyncio.Future[Any]
    ) -> None:
        self._tasks.release(outcome)
        if outcome.cancelled():
            return
        reply = pb.Reply(id=number)
        try:
            write(attached, reply, outcome.result())
        except Exception as error:  # an answer, too
            reply = self._failed(number, error)
        self._reply(attached, reply)

    async def _answer(
        self,
        attached: AttachedEdge,
        handle: Callable[[AttachedEdge, Any, pb.Reply], Coroutine[Any, Any, None]],
        wanted: Any,
        number: int,
    ) -> None:
        reply = pb.Reply(id=number)
        try:
            await handle(attached, wanted, reply)
        except Exception as error:  # an answer, too
            reply = self._failed(number, error)
        self._reply(attached, reply)

    def _reply(self, attached: AttachedEdge, reply: pb.Reply) -> None:
        if not attached.peer.closed:
            attached.peer.reply(reply)

    def _failed(self, number: int, error: Exception) -> pb.Reply:
        """Return what is replied to a request that has failed."""
        if isinstance(error, SessionFenced):
            is_lost = isinstance(error, SessionLost)
            return pb.Reply(
                id=number, failure=pb.FAILURE_FENCED, text=str(error), session_lost=is_lost
            )
        if isinstance(error, SessionOwned):
            return pb.Reply(id=number, failure=pb.FAILURE_OWNED, text=str(error))
        if isinstance(error, SessionQuotaExceeded):
            return pb.Reply(id=number, failure=pb.FAILURE_QUOTA, text=str(error))
        if isinstance(error, RouterUnavailable):
            return pb.Reply(id=number, failure=pb.FAILURE_UNAVAILABLE, text=str(error))
        log.error("edge request failed", exc_info=error)
        self._counters.internal_errors += 1
        text = "internal error of the router"
        return pb.Reply(id=number, failure=pb.FAILURE_INTERNAL, text=text)

    def _attach(
        self, attached: AttachedEdge, wanted: pb.AttachRequest
    ) -> Awaitable[AttachedSession]:
        return self._router.attach(attached.peer.edge_id, read_attach(wanted))

    def _write_attached(
        self, attached: AttachedEdge, reply: pb.Reply, session: AttachedSession
    ) -> None:
        session.wills = self._for_edge(attached, session.wills)
        write_attached(reply.attach, session)

    def _for_edge(self, attached: AttachedEdge, wills: Sequence[PendingWill]) -> list[PendingWill]:
        """Return the wills that the edge publishes; for an older one they are published here."""
        if attached.peer.version >= FENCES_VERSION:
            return list(wills)
        for will in wills:
            self._router.publish_will(will)
        return []

    def _detach(
        self, _attached: AttachedEdge, wanted: pb.DetachRequest
    ) -> Awaitable[DetachedSession]:
        return self._router.detach(read_detach(wanted))

    def _write_detached(
        self, attached: AttachedEdge, reply: pb.Reply, detached: DetachedSession
    ) -> None:
        reply.detach.SetInParent()
        reply.detach.fenced = detached.is_fenced
        for will in self._for_edge(attached, detached.wills):
            write_will(reply.detach.wills.add(), will)

    async def _settle(
        self, _attached: AttachedEdge, wanted: pb.SettleRequest, _reply: pb.Reply
    ) -> None:
        await self._router.settle(wanted.client_id, wanted.position, list(wanted.told))

    def withdraw_will(self, will_id: str) -> None:
        """Note that a will is not to be published, and have it deleted."""
        self._edges.withdraw(will_id)
        self._tasks.spawn(self._router.withdraw_wills([will_id]))

    async def _withdrawn(
        self, _attached: AttachedEdge, wanted: pb.WithdrawnRequest, reply: pb.Reply
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FENCED_TIMEOUT_S):
                while any(wanted.client_id in peer.fences for peer in self._edges.peers):
                    await self._edges.wait_changed()
        reply.withdrawn.will_ids.extend(
            will_id for will_id in wanted.will_ids if will_id in self._edges.withdrawn
        )

    async def _wills_published(
        self, _attached: AttachedEdge, wanted: pb.WillsPublishedRequest, _reply: pb.Reply
    ) -> None:
        await self._router.wills_published(list(wanted.will_ids))

    async def _subscribe(
        self, attached: AttachedEdge, wanted: pb.SubscribeRequest, _reply: pb.Reply
    ) -> None:
        await self._router.subscribe(
            attached.peer.edge_id,
            wanted.client_id,
            wanted.epoch,
            wanted.incarnation,
            read_subscriptions(wanted.subscriptions),
            list(wanted.told),
            generation=wanted.generation,
            attempt=Attempt(wanted.number, wanted.tries),
        )

    async def _unsubscribe(
        self, attached: AttachedEdge, wanted: pb.UnsubscribeRequest, _reply: pb.Reply
    ) -> None:
        await self._router.unsubscribe(
            attached.peer.edge_id,
            wanted.client_id,
            wanted.epoch,
            wanted.incarnation,
            list(wanted.topic_filters),
            list(wanted.told),
            attempt=Attempt(wanted.number, wanted.tries),
        )

    async def _withdraw_connects(
        self, attached: AttachedEdge, wanted: pb.WithdrawConnectsRequest, _reply: pb.Reply
    ) -> None:
        attempts = map(Attempt, wanted.numbers, wanted.tries)
        connects = list(zip(wanted.client_ids, attempts, strict=False))
        await self._router.withdraw_connects(attached.peer.edge_id, connects)

    async def _fetch(
        self, attached: AttachedEdge, wanted: pb.FetchRequest, reply: pb.Reply
    ) -> None:
        async with attached.reads:
            await attached.peer.wait_for_room()
            entries = await self._router.fetch(
                wanted.client_id,
                wanted.epoch,
                wanted.incarnation,
                wanted.after_seq,
                wanted.max_count,
                wanted.max_bytes,
            )
        reply.fetch.SetInParent()
        if attached.peer.version >= RECORDS_VERSION and all(is_plain(one) for _, one in entries):
            records = [encode_message(message, "", seq, 0, PUSH) for seq, message in entries]
            reply.fetch.records = b"".join(records)
            return
        for seq, message in entries:
            entry = reply.fetch.entries.add()
            entry.seq = seq
            write_message(entry.message, message)

    async def _release(
        self, _attached: AttachedEdge, wanted: pb.ReleaseRequest, _reply: pb.Reply
    ) -> None:
        await self._router.release(wanted.client_id, wanted.epoch, list(wanted.seqs))

    async def _receipt(
        self, _attached: AttachedEdge, wanted: pb.ReceiptRequest, _reply: pb.Reply
    ) -> None:
        await self._router.complete_receipt(
            wanted.client_id, wanted.epoch, wanted.packet_id, wanted.value
        )

    async def _return_entries(
        self, _attached: AttachedEdge, wanted: pb.ReturnEntriesRequest, _reply: pb.Reply
    ) -> None:
        await self._router.return_entries(
            wanted.client_id, wanted.epoch, wanted.incarnation, list(wanted.seqs), wanted.sent_seq
        )

    async def _match_retained(
        self, attached: AttachedEdge, wanted: pb.MatchRetainedRequest, reply: pb.Reply
    ) -> None:
        cursors = attached.cursors
        number = wanted.cursor
        if number:
            pages = cursors.pop(number, None)
            if pages is None:
                raise RouterUnavailable("list of retained topics dropped, start again")
        else:
            number = next(self._numbers)
            pages = self._router.match_retained(wanted.topic_filter)
        reply.match_retained.SetInParent()
        async for page in pages:
            reply.match_retained.topics.extend(page)
            reply.match_retained.cursor = number
            cursors[number] = pages
            if len(cursors) > MAX_CURSORS:
                cursors.popitem(last=False)
            return

    async def _get_retained(
        self, attached: AttachedEdge, wanted: pb.GetRetainedRequest, reply: pb.Reply
    ) -> None:
        reply.get_retained.SetInParent()
        async with attached.reads:
            await attached.peer.wait_for_room()
            messages = await self._router.get_retained(list(wanted.topics))
        for message in messages:
            write_message(reply.get_retained.messages.add(), message)

    async def _read_retained(
        self, attached: AttachedEdge, wanted: pb.ReadRetainedRequest, reply: pb.Reply
    ) -> None:
        request = RetainedRequest(
            list(wanted.topic_filters),
            wanted.after,
            wanted.list_number,
            wanted.name,
            list(wanted.names),
        )
        async with attached.reads:
            await attached.peer.wait_for_room()
            page = await self._router.retained_page(request)
        found = reply.read_retained
        found.SetInParent()
        for message in page.messages:
            write_message(found.messages.add(), message)
        if page.after is not None:
            found.after = page.after
            found.list_number = page.lists[wanted.name]
        found.is_of_now = page.is_of_now

    async def _queue_retained(
        self, _attached: AttachedEdge, wanted: pb.QueueRetainedRequest, _reply: pb.Reply
    ) -> None:
        items = [
            RetainedForQueue(
                item.subscription.topic_filter,
                read_options(item.subscription.options),
                Publish(item.topic),
            )
            for item in wanted.items
        ]
        await self._router.queue_retained(wanted.client_id, wanted.incarnation, items)

    async def _replayed(
        self, _attached: AttachedEdge, wanted: pb.ReplayedRequest, _reply: pb.Reply
    ) -> None:
        await self._router.replayed(wanted.client_id, wanted.epoch, read_replays(wanted.replays))

    async def _enqueue(
        self, _attached: AttachedEdge, wanted: pb.EnqueueRequest, _reply: pb.Reply
    ) -> None:
        messages = [read_message(message) for message in wanted.messages]
        await self._router.enqueue(wanted.client_id, wanted.incarnation, messages)

    async def _lease(
        self, attached: AttachedEdge, _wanted: pb.LeaseRequest, reply: pb.Reply
    ) -> None:
        lasted = await self._router.heartbeat(attached.peer.edge_id)
        reply.lease.was_lost = not lasted
        reply.lease.routers.extend(self._router.live_routers())
        if self.clock is not None:
            reply.lease.broker_time_ms = self.clock.now_ms()
            reply.lease.wall_time_ms = self.clock.wall_ms()

    async def _end_lease(
        self, attached: AttachedEdge, _wanted: pb.EndLeaseRequest, _reply: pb.Reply
    ) -> None:
        await self._router.end_lease(attached.peer.edge_id)

    async def _verify(
        self, _attached: AttachedEdge, wanted: pb.VerifyRequest, reply: pb.Reply
    ) -> None:
        connections: Sequence[tuple[str, int]] = list(
            zip(wanted.client_ids, wanted.epochs, strict=False)
        )
        standings = await self._router.verify(connections)
        reply.verify.live.extend(standing is Standing.OWNED for standing in standings)
        reply.verify.lost.extend(standing is Standing.LOST for standing in standings)

    async def _verify_wills(
        self, attached: AttachedEdge, wanted: pb.VerifyWillsRequest, reply: pb.Reply
    ) -> None:
        will_ids = list(wanted.will_ids)
        found = await self._router.verify_wills(attached.peer.edge_id, will_ids)
        reply.verify_wills.here.extend(found)

    async def _fence(
        self, _attached: AttachedEdge, wanted: pb.FenceRequest, _reply: pb.Reply
    ) -> None:
        await self._router.fence(wanted.instance)

    async def _catch_up(
        self, _attached: AttachedEdge, wanted: pb.CatchUpRequest, _reply: pb.Reply
    ) -> None:
        await self._router.catch_up()
        if wanted.topic_filters:
            self._router.replay_again(wanted.client_id, list(wanted.topic_filters))

    async def _edges_of(
        self, _attached: AttachedEdge, wanted: pb.EdgesRequest, reply: pb.Reply
    ) -> None:
        if wanted.living:
            reply.edges.living.extend(self._awaited(await self._router.leased_edges()))
        reply.edges.edge_ids.extend(peer.edge_id for peer in self._edges.peers if peer.synced)

    def _awaited(self, leased: Sequence[str]) -> list[str]:
        """Leave out instances of edges that have been restarted since.

        A process that was killed keeps its lease for a while, and need not be waited for. Where two
        with one name are attached, their order is not known.
        """
        here = self._edges.by_id
        instances = Counter(map(name_in, here))
        return [
            edge_id for edge_id in leased if edge_id in here or instances[name_in(edge_id)] != 1
        ]

    async def _barrier(
        self, attached: AttachedEdge, wanted: pb.BarrierRequest, _reply: pb.Reply
    ) -> None:
        await self._barriers.wait(attached.peer, last=wanted.last)
