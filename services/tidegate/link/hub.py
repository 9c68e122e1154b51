"""The router's end of the link: accepts edges and turns their operations into calls of the router.

Run by the composition root of ``tidegate router``. Operations are taken as they come, in order, and
never wait: what has to wait for the store is a task, bounded by the credit of the edge that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

import grpc

from tidegate.link.api import RouterService, RouterUnavailable, SessionFenced, SharedReceipt
from tidegate.link.messages import (
    read_attach,
    read_detach,
    read_message,
    read_subscriptions,
    size_of,
    write_attached,
    write_message,
)
from tidegate.link.peer import SMALL, Batch, EdgePeer
from tidegate.link.stream import NEWEST_VERSION, OLDEST_VERSION
from tidegate.link.transport import LinkListener
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.v1.link_pb2_grpc import LinkServicer
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config import LinkConfig
from tidegate.runtime.telemetry import Counters

log = logging.getLogger(__name__)

#: Lists of retained topics that are being read page by page, for one edge.
MAX_CURSORS: Final = 1000
HELLO_TIMEOUT_S: Final = 10.0
#: Queues, and retained messages, that are read at the same time for one edge; more wait.
MAX_READS: Final = 16


class RemoteOrigin:
    """A publisher on an edge: answers travel back over the link."""

    __slots__ = (
        "_batch",
        "_hub",
        "_id",
        "_identity",
        "_peer",
        "_receipt",
        "_size",
        "client_id",
        "epoch",
    )

    def __init__(self, hub: Hub, peer: EdgePeer, publish: pb.Publish, size: int) -> None:
        # Values, never the message of the frame: it would keep the whole frame in memory.
        self._hub = hub
        self._peer = peer
        self._batch = peer.batch
        self._id = publish.id
        self._identity = publish.identity
        self._receipt = publish.receipt - 1
        self._size = size
        self.client_id = publish.client_id
        self.epoch = publish.epoch

    def identity(self, message: Publish) -> str:
        """What the edge has said (see Origin)."""
        return self._identity

    def receipt(self, message: Publish) -> int:
        """What the edge has said (see Origin)."""
        return self._receipt

    def published(self, message: Publish, code: int) -> None:
        """Tell the edge (see Origin)."""
        self._batch.unsettled -= 1
        self._hub.settle(self._peer, self._id, self._size, code)
        if not self._batch.unsettled:
            self._hub.batch_settled()


class _Attached:
    """What belongs to one stream: the peer, its end, and lists that are read page by page."""

    def __init__(self, peer: EdgePeer) -> None:
        self.peer = peer
        #: Done: the stream is to be closed from this side. (Were its task cancelled instead, gRPC
        #: would say nothing to the edge.)
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cursors: OrderedDict[int, AsyncIterator[list[str]]] = OrderedDict()
        #: Bounds the answers that may be large and are under way at the same time.
        self.reads = asyncio.Semaphore(MAX_READS)


class Hub(LinkServicer):
    """See the module's docstring. ``start`` when the router is ready, ``stop`` at the end."""

    def __init__(
        self, router: RouterService, name: str, config: LinkConfig, counters: Counters
    ) -> None:
        self._router = router
        self._name = name
        self._config = config
        self._counters = counters
        self._streams: dict[str, _Attached] = {}
        self._listener = LinkListener(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._paying = False
        #: What this router adds to the figures of the whole broker; nothing: it tells none.
        self.own_figures: Callable[[], dict[str, int]] = dict
        self._figures: dict[str, dict[str, int]] = {}
        self._numbers = itertools.count(1)
        self._echoes: dict[int, asyncio.Future[None]] = {}
        self._idle: asyncio.Event = asyncio.Event()
        self._handlers: dict[str, Callable[[_Attached, Any], None]] = {
            "publish": self._on_publish,
            "request": self._on_request,
            "interest": self._on_interest,
            "hold": self._on_hold,
            "leave_groups": self._on_leave_groups,
            "redispatch": self._on_redispatch,
            "complete": self._on_complete,
            "synced": _on_synced,
            "echo": self._on_echo,
            "shared_member": self._on_shared_member,
            "shared_returned": self._on_shared_returned,
            "figures": self._on_figures,
        }
        self._requests: dict[str, Callable[[_Attached, Any, pb.Reply], Coroutine[Any, Any, None]]]
        self._requests = {
            "attach": self._attach,
            "detach": self._detach,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "fetch": self._fetch,
            "release": self._release,
            "receipt": self._receipt,
            "match_retained": self._match_retained,
            "get_retained": self._get_retained,
            "enqueue": self._enqueue,
            "lease": self._lease,
            "end_lease": self._end_lease,
            "verify": self._verify,
            "fence": self._fence,
            "barrier": self._barrier,
            "catch_up": self._catch_up,
            "edges": self._edges,
        }

    # Life

    async def start(self) -> str:
        """Accept edges; the address that is listened on. Raises OSError."""
        address = await self._listener.start(self._config.listen, self._config.tls)
        await self._listener.set_serving(True)
        return address

    async def leave(self, timeout_s: float) -> None:
        """Ask the edges to go on without this router; return when all have gone, or in time."""
        self._stopping = True
        await self._listener.set_serving(False)
        for attached in self._streams.values():
            attached.peer.outbox.frame.operations.add().leaving.SetInParent()
            attached.peer.outbox.grew(SMALL)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self._streams and loop.time() < until_s:
            self._idle.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._idle.wait()
            except TimeoutError:
                break

    async def stop(self) -> None:
        """Close every stream."""
        self._stopping = True
        self.drop_all()
        await self._listener.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop_all(self) -> None:
        """Close every stream; edges come again by themselves, and send again what they must."""
        for attached in list(self._streams.values()):
            self._drop(attached)

    @property
    def edges(self) -> list[EdgePeer]:
        """The edges that are attached."""
        return [attached.peer for attached in self._streams.values()]

    def _drop(self, attached: _Attached) -> None:
        self._detached(attached)
        if not attached.closing.done():
            attached.closing.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._counters.internal_errors += 1
            log.error("a task of the link failed", exc_info=task.exception())

    # Streams

    async def Attach(  # noqa: N802 - the name in link.proto
        self, _requests: object, context: grpc.aio.ServicerContext[pb.EdgeFrame, pb.RouterFrame]
    ) -> None:
        """Serve one edge for as long as its stream lives."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await context.read()
                if first is grpc.aio.EOF:
                    return
                welcome = self._welcome(first)
                await context.write(pb.RouterFrame(welcome=welcome))
                if welcome.refusal:
                    return
                # An edge that has come by two addresses goes on with one of them only: until it
                # says something here, the connection that it has stays.
                frame = await context.read()
        except TimeoutError:
            return
        if frame is grpc.aio.EOF or self._stopping:
            return
        hello = first.hello
        peer = EdgePeer(hello.edge_id, hello.name, welcome.version, self._config, self._counters)
        attached = _Attached(peer)
        before = self._streams.get(peer.edge_id)
        if before is not None:
            self._drop(before)
        self._streams[peer.edge_id] = attached
        self._router.attach_edge(peer)
        log.info("an edge is attached", extra={"edge": peer.name})
        reader = asyncio.create_task(self._read(context, attached, frame))
        writer = asyncio.create_task(peer.outbox.send(context.write, lambda: self._sent(peer)))
        watch = asyncio.create_task(self._watch(attached))
        del frame  # it may be large
        try:
            await asyncio.wait(
                {reader, writer, attached.closing}, return_when=asyncio.FIRST_COMPLETED
            )
            if reader.done():
                reader.result()
        finally:
            self._detached(attached)
            for task in (reader, writer, watch):
                task.cancel()
            await asyncio.gather(reader, writer, watch, return_exceptions=True)

    async def _read(
        self,
        context: grpc.aio.ServicerContext[pb.EdgeFrame, pb.RouterFrame],
        attached: _Attached,
        frame: pb.EdgeFrame,
    ) -> None:
        peer = attached.peer
        while frame is not grpc.aio.EOF and not peer.closed:
            peer.frames_received += 1
            self._receive(attached, frame)
            frame = await context.read()

    def _welcome(self, first: pb.EdgeFrame) -> pb.Welcome:
        welcome = pb.Welcome(
            instance=self._router.instance,
            name=self._name,
            credit_bytes=self._config.credit_bytes,
        )
        hello = first.hello
        if not first.HasField("hello") or not hello.edge_id:
            welcome.refusal = pb.REFUSAL_PROTOCOL
            welcome.text = "the first frame must be a hello with an edge_id"
        elif hello.oldest_version > NEWEST_VERSION or hello.newest_version < OLDEST_VERSION:
            welcome.refusal = pb.REFUSAL_VERSION
            welcome.text = (
                f"this router speaks versions {OLDEST_VERSION} to {NEWEST_VERSION} of the link, "
                f"the edge {hello.oldest_version} to {hello.newest_version}"
            )
        elif self._stopping:
            welcome.refusal = pb.REFUSAL_STOPPING
            welcome.text = "this router is about to end"
        else:
            welcome.version = min(hello.newest_version, NEWEST_VERSION)
        return welcome

    def _detached(self, attached: _Attached) -> None:
        peer = attached.peer
        if peer.closed:
            return
        peer.end()
        if self._streams.get(peer.edge_id) is attached:
            del self._streams[peer.edge_id]
        self._router.lose_edge(peer)
        lost, peer.shared = list(peer.shared.values()), {}
        for found in lost:
            self._take_back(*found)
        log.info("an edge is gone", extra={"edge": peer.name})
        self._idle.set()
        self._pay_all()

    async def _watch(self, attached: _Attached) -> None:
        """Say that we live; notice when the edge does not, or takes nothing."""
        config, peer = self._config, attached.peer
        outbox = peer.outbox
        received, sent = peer.frames_received, outbox.sent_count
        said = sent  # beats of the heart included
        silent_s = stuck_s = 0.0
        while True:
            await asyncio.sleep(config.heartbeat_s)
            silent_s = silent_s + config.heartbeat_s if peer.frames_received == received else 0.0
            received = peer.frames_received
            if silent_s >= config.timeout_s:
                log.warning("an edge has not been heard of", extra={"edge": peer.name})
                self._drop(attached)
                return
            moved = outbox.sent_count != sent
            stuck_s = 0.0 if moved or not outbox.queued_bytes else stuck_s + config.heartbeat_s
            if stuck_s >= config.stall_s and not peer.stalled:
                peer.stalled = True
                self._pay_all()
            sent = outbox.sent_count
            if sent <= said and not outbox.queued_bytes:
                outbox.grew(1)
                said = sent + 1
            else:
                said = sent

    def _sent(self, peer: EdgePeer) -> None:
        """A frame is on its way: there may be place again."""
        peer.stalled = False
        peer.progressed()
        if peer.outbox.queued_bytes <= self._config.mailbox_bytes:
            self._pay_all()

    def _pay_all(self) -> None:
        """Give edges their credit back, unless one has to be waited for."""
        streams = self._streams.values()
        if any(attached.peer.congested for attached in streams):
            return
        for attached in streams:
            attached.peer.pay()

    def _receive(self, attached: _Attached, frame: pb.EdgeFrame) -> None:
        handlers = self._handlers
        for operation in frame.operations:
            kind = operation.WhichOneof("kind")
            handle = handlers.get(kind)
            if handle is not None:
                handle(attached, getattr(operation, kind))
        peer = attached.peer
        if frame.frames_taken:
            peer.outbox.confirm(frame.frames_taken)
        for number in frame.shared_done:
            found = peer.shared.pop(number, None)
            if found is not None and found[2] is not None:
                found[2].done()
        if peer.owed_bytes or peer.owed_unanswered:
            self._pay_all()

    # Publishes

    def _on_publish(self, attached: _Attached, publish: pb.Publish) -> None:
        message = read_message(publish.message)
        peer = attached.peer
        if publish.packet_id:
            message.packet_id = publish.packet_id
        size = size_of(message)
        origin = RemoteOrigin(self, peer, publish, size)
        batch = peer.batch
        batch.unsettled += 1
        code: int | None
        try:
            code = self._router.publish(origin, message)
        except Exception:
            # A fault of ours: were it not answered, the edge would send it again and again.
            log.exception("a message could not be routed")
            self._counters.internal_errors += 1
            code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        if code is not None:
            batch.unsettled -= 1
            self.settle(peer, publish.id, size, code, now=False)

    def settle(
        self, peer: EdgePeer, number: int, size: int, code: int, *, now: bool = True
    ) -> None:
        """A publish has come to its end: answer it, and give its credit back."""
        if peer.closed:
            return
        peer.owed_bytes += size
        if number:
            peer.done(number, code)
        else:
            peer.owed_unanswered += 1
        if now and not self._paying:
            # A batch of the store's settles hundreds at a time: once for all of them.
            self._paying = True
            asyncio.get_running_loop().call_soon(self._pay_soon)

    def _pay_soon(self) -> None:
        self._paying = False
        self._pay_all()

    def batch_settled(self) -> None:
        """Nothing of some batch is under way any more: somebody may wait for that."""
        self._idle.set()

    def _on_complete(self, attached: _Attached, complete: pb.Complete) -> None:
        peer, number = attached.peer, complete.id

        def done() -> None:
            if not peer.closed:
                peer.done(number, 0)

        self._router.complete(complete.client_id, complete.epoch, list(complete.seqs), done)

    # What an edge says of itself

    def _on_interest(self, attached: _Attached, interest: pb.Interest) -> None:
        edge_id = attached.peer.edge_id
        for topic_filter in interest.added:
            self._router.add_interest(edge_id, topic_filter)
        for topic_filter in interest.removed:
            self._router.remove_interest(edge_id, topic_filter)

    def _on_hold(self, attached: _Attached, hold: pb.Hold) -> None:
        edge_id = attached.peer.edge_id
        self._router.hold(edge_id, hold.client_id, hold.epoch, hold.incarnation, hold.ended)

    def _on_shared_member(self, attached: _Attached, member: pb.SharedMember) -> None:
        self._router.join_groups(
            attached.peer.edge_id,
            member.client_id,
            member.epoch,
            read_subscriptions(member.subscriptions),
        )

    def _on_leave_groups(self, _attached: _Attached, leave: pb.LeaveGroups) -> None:
        self._router.leave_groups(leave.client_id, leave.epoch, list(leave.topic_filters))

    def _on_redispatch(self, _attached: _Attached, operation: pb.Redispatch) -> None:
        self._router.redispatch(operation.topic_filter, read_message(operation.message))

    def _on_shared_returned(self, attached: _Attached, operation: pb.SharedReturned) -> None:
        found = attached.peer.shared.pop(operation.id, None)
        if found is not None:
            self._take_back(*found)

    def _take_back(self, group: str, message: Publish, receipt: SharedReceipt | None) -> None:
        """A member has not acknowledged a message: another one gets it."""
        if receipt is not None:
            receipt.returned()
        else:
            self._router.redispatch(group, message)

    def _on_echo(self, _attached: _Attached, echo: pb.Echo) -> None:
        future = self._echoes.pop(echo.id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def _on_figures(self, attached: _Attached, told: pb.Figures) -> None:
        self._figures[told.life] = dict(told.values)
        peer = attached.peer
        own = self.own_figures()
        if own and told.life == peer.edge_id:
            operation = peer.outbox.frame.operations.add().figures
            operation.life = self._router.instance
            operation.values.update(own)
            peer.outbox.grew(SMALL * len(own))

    def figures(self) -> dict[str, dict[str, int]]:
        """The figures of every process that is there, as far as they are known, by its life."""
        lives = {*self._streams, *self._router.living_routers()}
        self._figures = {life: found for life, found in self._figures.items() if life in lives}
        return {**self._figures, self._router.instance: self.own_figures()}

    # Requests

    def _on_request(self, attached: _Attached, request: pb.Request) -> None:
        kind = request.WhichOneof("kind")
        handle = self._requests.get(kind) if kind is not None else None
        if kind is None or handle is None:
            text = "this router does not know the request"
            attached.peer.reply(pb.Reply(id=request.id, failure=pb.FAILURE_UNSUPPORTED, text=text))
            return
        self._spawn(self._answer(attached, handle, getattr(request, kind), request.id))

    async def _answer(
        self,
        attached: _Attached,
        handle: Callable[[_Attached, Any, pb.Reply], Coroutine[Any, Any, None]],
        wanted: Any,
        number: int,
    ) -> None:
        reply = pb.Reply(id=number)
        try:
            await handle(attached, wanted, reply)
        except SessionFenced as error:
            reply = pb.Reply(id=number, failure=pb.FAILURE_FENCED, text=str(error))
        except RouterUnavailable as error:
            reply = pb.Reply(id=number, failure=pb.FAILURE_UNAVAILABLE, text=str(error))
        except Exception:
            log.exception("a request of an edge failed")
            self._counters.internal_errors += 1
            reply = pb.Reply(id=number, failure=pb.FAILURE_INTERNAL, text="a fault of the router")
        if not attached.peer.closed:
            attached.peer.reply(reply)

    async def _attach(self, attached: _Attached, wanted: pb.AttachRequest, reply: pb.Reply) -> None:
        session = await self._router.attach(attached.peer.edge_id, read_attach(wanted))
        write_attached(reply.attach, session)

    async def _detach(
        self, _attached: _Attached, wanted: pb.DetachRequest, _reply: pb.Reply
    ) -> None:
        await self._router.detach(read_detach(wanted))

    async def _subscribe(
        self, attached: _Attached, wanted: pb.SubscribeRequest, _reply: pb.Reply
    ) -> None:
        await self._router.subscribe(
            attached.peer.edge_id,
            wanted.client_id,
            wanted.epoch,
            wanted.incarnation,
            read_subscriptions(wanted.subscriptions),
            list(wanted.told),
        )

    async def _unsubscribe(
        self, attached: _Attached, wanted: pb.UnsubscribeRequest, _reply: pb.Reply
    ) -> None:
        await self._router.unsubscribe(
            attached.peer.edge_id,
            wanted.client_id,
            wanted.epoch,
            wanted.incarnation,
            list(wanted.topic_filters),
            list(wanted.told),
        )

    async def _fetch(self, attached: _Attached, wanted: pb.FetchRequest, reply: pb.Reply) -> None:
        async with attached.reads:
            await attached.peer.room()
            entries = await self._router.fetch(
                wanted.client_id,
                wanted.incarnation,
                wanted.after_seq,
                wanted.max_count,
                wanted.max_bytes,
            )
        reply.fetch.SetInParent()
        for seq, message in entries:
            entry = reply.fetch.entries.add()
            entry.seq = seq
            write_message(entry.message, message)

    async def _release(
        self, _attached: _Attached, wanted: pb.ReleaseRequest, _reply: pb.Reply
    ) -> None:
        await self._router.release(wanted.client_id, wanted.epoch, list(wanted.seqs))

    async def _receipt(
        self, _attached: _Attached, wanted: pb.ReceiptRequest, _reply: pb.Reply
    ) -> None:
        await self._router.complete_receipt(
            wanted.client_id, wanted.epoch, wanted.packet_id, wanted.value
        )

    async def _match_retained(
        self, attached: _Attached, wanted: pb.MatchRetainedRequest, reply: pb.Reply
    ) -> None:
        cursors = attached.cursors
        number = wanted.cursor
        if number:
            pages = cursors.pop(number, None)
            if pages is None:
                raise RouterUnavailable("the list was given up; ask again")
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
        self, attached: _Attached, wanted: pb.GetRetainedRequest, reply: pb.Reply
    ) -> None:
        reply.get_retained.SetInParent()
        async with attached.reads:
            await attached.peer.room()
            messages = await self._router.get_retained(list(wanted.topics))
        for message in messages:
            write_message(reply.get_retained.messages.add(), message)

    async def _enqueue(
        self, _attached: _Attached, wanted: pb.EnqueueRequest, _reply: pb.Reply
    ) -> None:
        messages = [read_message(message) for message in wanted.messages]
        await self._router.enqueue(wanted.client_id, wanted.incarnation, messages)

    async def _lease(self, attached: _Attached, _wanted: pb.LeaseRequest, reply: pb.Reply) -> None:
        lasted = await self._router.heartbeat(attached.peer.edge_id)
        reply.lease.was_lost = not lasted
        reply.lease.routers.extend(self._router.living_routers())

    async def _end_lease(
        self, attached: _Attached, _wanted: pb.EndLeaseRequest, _reply: pb.Reply
    ) -> None:
        await self._router.end_lease(attached.peer.edge_id)

    async def _verify(
        self, _attached: _Attached, wanted: pb.VerifyRequest, reply: pb.Reply
    ) -> None:
        connections: Sequence[tuple[str, int]] = list(
            zip(wanted.client_ids, wanted.epochs, strict=False)
        )
        reply.verify.live.extend(await self._router.verify(connections))

    async def _fence(self, _attached: _Attached, wanted: pb.FenceRequest, _reply: pb.Reply) -> None:
        await self._router.fence(wanted.instance)

    async def _catch_up(
        self, _attached: _Attached, _wanted: pb.CatchUpRequest, _reply: pb.Reply
    ) -> None:
        await self._router.catch_up()

    async def _edges(self, _attached: _Attached, wanted: pb.EdgesRequest, reply: pb.Reply) -> None:
        if wanted.living:
            reply.edges.living.extend(await self._router.living_edges())
        reply.edges.edge_ids.extend(peer.edge_id for peer in self.edges if peer.synced)

    async def _barrier(
        self, attached: _Attached, wanted: pb.BarrierRequest, _reply: pb.Reply
    ) -> None:
        """Everything this edge published is settled, and every edge has got what it was sent."""
        peer = attached.peer
        # What comes after this does not count: under load there is always something under way.
        before, peer.batch = [*peer.batches, peer.batch], Batch()
        peer.batches = before
        while any(batch.unsettled for batch in before) and not peer.closed:
            self._idle.clear()
            await self._idle.wait()
        peer.batches = [batch for batch in peer.batches if batch.unsettled]
        if wanted.last:
            peer.left = True
            self._idle.set()
            await self._all_left()
        await self._reach_all()

    async def _all_left(self) -> None:
        """Return when no edge publishes here any more, or when that has taken too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.stall_s):
                while not all(peer.left for peer in self.edges):
                    self._idle.clear()
                    await self._idle.wait()

    async def _reach_all(self) -> None:
        """Return when every edge has acted on what it was sent until now.

        One that does not answer while it is not heard of at all takes nothing: there is nothing to
        be overtaken.
        """
        waiting: dict[asyncio.Future[None], tuple[int, EdgePeer, int]] = {}
        for peer in self.edges:
            number = next(self._numbers)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._echoes[number] = future
            peer.outbox.frame.operations.add().echo.id = number
            peer.outbox.grew(SMALL)
            waiting[future] = (number, peer, peer.frames_received)
        try:
            while waiting:
                await asyncio.wait(waiting, timeout=self._config.stall_s)
                left = {}
                for future, (number, peer, heard) in waiting.items():
                    if future.done() or peer.closed or peer.stalled:
                        self._echoes.pop(number, None)
                    elif peer.frames_received != heard:
                        left[future] = (number, peer, peer.frames_received)
                    else:
                        self._echoes.pop(number, None)
                waiting = left
        finally:
            for number, _, _ in waiting.values():
                self._echoes.pop(number, None)


def _on_synced(attached: _Attached, synced: pb.Synced) -> None:
    attached.peer.synced = True
    attached.peer.outbox.frame.operations.add().applied.id = synced.id
    attached.peer.outbox.grew(SMALL)
