"""All routers, as an edge uses them: one object for all of them.

Implements ``RouterLink`` for an edge in a process of its own, and builds its parts. A publish goes
to the router that rendezvous hashing names for its topic, session work to the one for its client
identifier, subscriptions to all. Nothing here decides about correctness: the store's scripts do.
Each part calls only those before it::

    router_table       which routers there are, and which of them gets what
    requests           requests and replies, repeated when a router connection is lost
    retained_reads     retained messages, from the routers that write them
    snapshot           what every router must know of this edge
    publish_dispatch   publishes and completed deliveries; whether publishers are paused
    endings            connections that have ended, with publishes under way
    will_publisher     wills that this edge publishes
    router_frames      frames from routers
    verification       which connections still own their sessions
    router_membership  routers that join, leave and return (it runs the streams)
    edge_figures       what this edge and routers count
    lease              this edge's lease in the store
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from typing import Final

from tidegate.core.attempt import Attempt
from tidegate.link.edge_end.edge_figures import EdgeFigures
from tidegate.link.edge_end.endings import Endings
from tidegate.link.edge_end.lease import Lease
from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.requests import TRIES, RequestFailed, Requests, raise_failure
from tidegate.link.edge_end.retained_reads import RetainedReads
from tidegate.link.edge_end.router_frames import RouterFrameHandler
from tidegate.link.edge_end.router_membership import RouterMembership
from tidegate.link.edge_end.router_peer import LinkLost
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.edge_end.snapshot import Snapshot
from tidegate.link.edge_end.verification import Verification
from tidegate.link.edge_end.will_publisher import WillPublisher
from tidegate.link.edge_end.withdrawn_connects import WithdrawnConnects
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    EdgeLink,
    OnRead,
    PendingWill,
    RetainedForQueue,
    RetainedPage,
    RouterUnavailable,
)
from tidegate.link.messages import (
    SMALL_BYTES,
    read_attached,
    read_message,
    read_will,
    write_attach,
    write_detach,
    write_replays,
    write_subscriptions,
)
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: A router for which more waits gets no events of the record.
RECORD_ROOM_BYTES: Final = 1_048_576


class RouterClient:
    """See the module's docstring. Call ``set_edge``, then ``start``."""

    def __init__(
        self, edge_id: str, name: str, config: LinkConfig, lease_s: float, counters: Counters
    ) -> None:
        self.edge_id = edge_id
        self.config = config
        self.counters = counters
        self._tasks = Tasks(counters)
        #: Numbers CONNECTs and changes of subscriptions; not as another process of this edge did.
        self._numbers = itertools.count(1 + (secrets.randbits(20) << 32))
        self.routers = RouterTable()
        self._requests = Requests(self.routers)
        self._retained_reads = RetainedReads(self.routers)
        self._snapshot = Snapshot(self.routers)
        self._withdrawn_connects = WithdrawnConnects(edge_id, self._requests, self._tasks)
        self.publish_dispatcher = PublishDispatcher(self.routers, counters)
        self.frame_handler = RouterFrameHandler(self.publish_dispatcher, counters)
        self.endings = self.frame_handler.endings = Endings(
            self.routers, self.publish_dispatcher, self._tasks
        )
        self.wills = self.frame_handler.wills = WillPublisher(
            edge_id, self.publish_dispatcher, self._requests, self._tasks
        )
        self.verification = Verification(
            edge_id,
            config.timeout_s,
            self._requests,
            self._tasks,
            endings=self.endings,
            wills=self.wills,
        )
        self.membership = RouterMembership(
            edge_id,
            name,
            config,
            counters,
            tasks=self._tasks,
            routers=self.routers,
            snapshot=self._snapshot,
            publish_dispatcher=self.publish_dispatcher,
            frame_handler=self.frame_handler,
            verification=self.verification,
        )
        self.frame_handler.on("verify_sessions", lambda _peer, _wanted: self.verification.start())
        self.figures = EdgeFigures(edge_id, self.routers, self.frame_handler)
        self.lease = Lease(
            edge_id,
            lease_s,
            self.routers,
            self._requests,
            self.verification,
            self.figures,
            self.membership.discover_now,
        )
        # The hot path: without a call in between.
        self.publish = self.publish_dispatcher.publish
        self.complete = self.publish_dispatcher.complete
        self.redispatch = self.publish_dispatcher.redispatch

    # Start and stop

    def set_edge(self, edge: EdgeLink) -> None:
        """Set the edge that frames of routers are for; before ``start``."""
        self.frame_handler.edge = self.membership.edge = self.verification.edge = edge

    async def start(self) -> None:
        """Begin to look for routers."""
        self.membership.start()
        self.lease.start(self._tasks)

    async def ready(self) -> None:
        """Return when a router is connected, and this edge has a lease."""
        while not self.routers.reachable() or not self.lease.granted:
            await self.routers.wait_changed()

    async def stop(self) -> None:
        """End the lease and the connections; the edge has no clients any more."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                # What clients published last may not have arrived yet.
                await asyncio.gather(
                    *(
                        peer.request(pb.Request(barrier=pb.BarrierRequest()))
                        for peer in self.routers.reachable()
                    ),
                    return_exceptions=True,
                )
                await self.lease.end()
        except (RouterUnavailable, TimeoutError) as error:
            log.warning("edge lease not ended", extra={"reason": str(error)})
        await self._tasks.stop(*(task for _, task in self.membership.streams.values()))

    # Sessions

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """Make this edge the owner of a session (see RouterLink)."""
        await self.lease.wait(self.config.timeout_s)
        message = pb.Request()
        write_attach(message.attach, request)
        size = SMALL_BYTES + (len(request.will.payload) if request.will else 0)
        # A request may be late: only the connection that is known to have the session may lose it.
        message.attach.supersedes = request.own_epoch
        message.attach.number = next(self._numbers)
        while True:
            reply = await self._send_attach(message, size, request)
            session = read_attached(reply.attach)
            if not session.taken_epoch:
                break
            message.attach.supersedes = session.taken_epoch
        if session.fence_position:
            # This takes as long as routers do not answer: the client's next connection may have
            # taken the wills to its edge meanwhile.
            claimed = self.wills.claim(session.wills)
            taken: set[str] = set()
            try:
                await self._settle(request.client_id, session.fence_position)
                session.wills = await self._without_withdrawn(request.client_id, session.wills)
            except RouterUnavailable:
                # It gets no connection: the session is given back, without its will.
                end = DetachSession(request.client_id, session.epoch, publish_will=False)
                self._tasks.spawn(self.detach(end))
                raise
            finally:
                taken = self.wills.release(claimed)
            session.wills = [will for will in session.wills if will.will_id not in taken]
        await self.wills.publish_all(session.wills, self.config.timeout_s)
        if session.incarnation:
            self._snapshot.add_session(request.client_id, session.epoch, session.incarnation)
        return session

    async def _send_attach(
        self, message: pb.Request, size: int, request: AttachSession
    ) -> pb.Reply:
        try:
            return await self._requests.send(request.client_id, message, size, request.is_wanted)
        except RouterUnavailable as error:
            wanted = message.attach
            if wanted.tries or isinstance(error, RequestFailed):
                attempt = Attempt(wanted.number, wanted.tries + 1)
                self._withdrawn_connects.add(request.client_id, attempt)
            raise

    async def _settle(self, client_id: str, position: int) -> None:
        """Return when every router refuses what older connections of a client still publish."""
        for _ in range(TRIES):
            excluded = self.routers.connected()
            request = pb.Request()
            request.settle.client_id, request.settle.position = client_id, position
            request.settle.told.extend(peer.instance for peer in excluded)
            answers = await asyncio.gather(
                self._requests.send(client_id, request),
                *(peer.request(pb.Request(catch_up=pb.CatchUpRequest())) for peer in excluded),
                return_exceptions=True,
            )
            for answer in answers:
                if not isinstance(answer, pb.Reply):
                    if not isinstance(answer, LinkLost):
                        raise answer
                elif answer.failure != pb.FAILURE_UNSUPPORTED:  # an older router has no fences
                    raise_failure(answer)
            if all(isinstance(answer, pb.Reply) for answer in answers):
                return
        raise RouterUnavailable("router connection lost at every attempt")

    async def _without_withdrawn(
        self, client_id: str, wills: list[PendingWill]
    ) -> list[PendingWill]:
        """Leave out wills of connections that have ended with DISCONNECT [MQTT-3.14.4-3].

        The store did not have that end yet, but the other edge has.
        """
        if not wills:
            return wills
        request = pb.Request()
        request.withdrawn.client_id = client_id
        request.withdrawn.will_ids.extend(will.will_id for will in wills)
        try:
            reply = await self._requests.send(client_id, request)
        except RouterUnavailable:
            return wills  # an older router, say
        withdrawn = set(reply.withdrawn.will_ids)
        return [will for will in wills if will.will_id not in withdrawn]

    async def detach(self, request: DetachSession) -> DetachedSession:
        """End a connection (see RouterLink)."""
        self._snapshot.remove_session(request.client_id, request.epoch)
        is_fenced = False
        self.endings.begin(request)
        try:
            await self.endings.wait(request)
            reply = await self._store_end(request)
            is_fenced = reply.detach.fenced
            if is_fenced:
                self.endings.supersede(request.client_id, request.epoch)
        finally:
            self.endings.stored(request, is_fenced)
        wills = [read_will(will) for will in reply.detach.wills]
        lost = request.lost_will if is_fenced else None
        await self.wills.publish_all(wills, self.config.timeout_s, lost)
        return DetachedSession(is_fenced=is_fenced)

    async def _store_end(self, request: DetachSession) -> pb.Reply:
        message = pb.Request()
        write_detach(message.detach, request)
        return await self._requests.send_until_answered(request.client_id, message)

    def record(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Add events to the record, by one of the routers that can take them (see RouterLink)."""
        for peer in self.routers.reachable():
            outbox = peer.outbox
            if outbox is not None and outbox.queued_bytes < RECORD_ROOM_BYTES:
                record = outbox.frame.operations.add().record
                record.client_ids.extend(key for key, _ in events)
                record.events.extend(event for _, event in events)
                outbox.grew(record.ByteSize())
                return True
        return False

    def ban(self, ban: bytes) -> None:
        """Have a router store a ban (see RouterLink)."""
        for peer in self.routers.reachable():
            if peer.outbox is not None:
                peer.outbox.frame.operations.add().ban.ban = ban
                peer.outbox.grew(SMALL_BYTES + len(ban))
                return

    def hasten(self, client_id: str) -> None:
        """Store the end of a client's connections now (see RouterLink)."""
        self.endings.hasten(client_id)

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue (see RouterLink)."""
        request = pb.Request(
            fetch=pb.FetchRequest(
                client_id=client_id,
                incarnation=incarnation,
                after_seq=after_seq,
                max_count=max_count,
                max_bytes=max_bytes,
            )
        )
        reply = await self._requests.send(client_id, request)
        return [(entry.seq, read_message(entry.message)) for entry in reply.fetch.entries]

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """Store that PUBREC was received (see RouterLink)."""
        await self._requests.send(
            client_id,
            pb.Request(release=pb.ReleaseRequest(client_id=client_id, epoch=epoch, seqs=seqs)),
        )

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """Store a receipt byte (see RouterLink)."""
        await self._requests.send(
            client_id,
            pb.Request(
                receipt=pb.ReceiptRequest(
                    client_id=client_id, epoch=epoch, packet_id=packet_id, value=value
                )
            ),
        )

    async def return_entries(
        self, client_id: str, epoch: int, incarnation: int, seqs: Sequence[int], sent_seq: int
    ) -> None:
        """Return entries that the client may not read (see RouterLink)."""
        request = pb.Request(
            return_entries=pb.ReturnEntriesRequest(
                client_id=client_id,
                epoch=epoch,
                incarnation=incarnation,
                seqs=seqs,
                sent_seq=sent_seq,
            )
        )
        await self._requests.send(client_id, request, request.ByteSize())

    # Subscriptions

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        *,
        generation: str = "",
        again: Sequence[str] = (),
    ) -> None:
        """Apply subscriptions everywhere (see RouterLink)."""
        if not incarnation:
            shared = [item for item in subscriptions if item[0].startswith("$share/")]
            if shared:
                self._snapshot.join_groups(client_id, epoch, shared)
            return
        request = pb.Request()
        wanted = request.subscribe
        wanted.client_id, wanted.epoch, wanted.incarnation = client_id, epoch, incarnation
        wanted.subscriptions.extend(write_subscriptions(subscriptions))
        wanted.generation = generation
        wanted.number = next(self._numbers)
        await self._change_on_all(client_id, request, wanted, again)

    async def _change_on_all(
        self,
        client_id: str,
        request: pb.Request,
        wanted: pb.SubscribeRequest | pb.UnsubscribeRequest,
        again: Sequence[str] = (),
    ) -> None:
        """Have subscriptions of a durable session stored, and known to every router."""
        for _ in range(TRIES):
            excluded = self.routers.connected()
            del wanted.told[:]
            wanted.told.extend(peer.instance for peer in excluded)
            await self._requests.send(
                client_id, request, request.ByteSize(), wait_s=self.config.timeout_s
            )
            answers = await asyncio.gather(
                *(peer.request(_catch_up(client_id, again)) for peer in excluded),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, pb.Reply):
                    raise_failure(answer)
            if all(isinstance(answer, pb.Reply) for answer in answers):
                return
            # A router whose connection was lost may still serve other edges, without knowing the
            # change. At the next attempt the router that stores it waits for that one.
        raise RouterUnavailable("router connection lost at every attempt")

    async def unsubscribe(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, filters: Sequence[str]
    ) -> None:
        """Remove subscriptions everywhere (see RouterLink)."""
        if not incarnation:
            self.leave_groups(client_id, epoch, filters)
            return
        request = pb.Request()
        wanted = request.unsubscribe
        wanted.client_id, wanted.epoch, wanted.incarnation = client_id, epoch, incarnation
        wanted.topic_filters.extend(filters)
        wanted.number = next(self._numbers)
        await self._change_on_all(client_id, request, wanted)

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Remove a connection from its groups (see RouterLink)."""
        self._snapshot.leave_groups(client_id, epoch, filters)

    def add_interest(self, edge_id: str, topic_filter: str) -> None:
        """Add interest (see RouterLink)."""
        self._snapshot.add_interest(topic_filter)

    def remove_interest(self, edge_id: str, topic_filter: str) -> None:
        """Remove interest (see RouterLink)."""
        self._snapshot.remove_interest(topic_filter)

    async def interest_synced(self) -> None:
        """Wait until all routers know this edge's interest (see RouterLink)."""
        for answer in [peer.sync() for peer in self.routers.connected()]:
            try:
                await answer
            except LinkLost:
                continue

    # Retained messages

    def retains_none(self, filters: Sequence[str]) -> bool:
        """Whether nothing is retained (see RouterLink): routers have to be asked."""
        return False

    async def read_retained(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """Read retained messages (see RouterLink)."""
        return await self._retained_reads.read(filters, last, on_read)

    async def queue_retained(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        """Queue retained messages (see RouterLink)."""
        await self._retained_reads.queue(client_id, incarnation, items)

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> None:
        """Store up to where retained messages were sent (see RouterLink)."""
        replayed = pb.ReplayedRequest(
            client_id=client_id, epoch=epoch, replays=write_replays(items)
        )
        await self._requests.send(client_id, pb.Request(replayed=replayed))


def _catch_up(client_id: str, again: Sequence[str]) -> pb.Request:
    if not again:
        return pb.Request(catch_up=pb.CatchUpRequest())
    return pb.Request(catch_up=pb.CatchUpRequest(client_id=client_id, topic_filters=again))
