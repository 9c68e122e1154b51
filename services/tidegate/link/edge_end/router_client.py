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
    session_requests   CONNECT and the end of a connection
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from typing import Final

from tidegate.link.edge_end.edge_figures import EdgeFigures
from tidegate.link.edge_end.endings import Endings
from tidegate.link.edge_end.lease import Lease
from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.requests import TRIES, Requests, raise_failure
from tidegate.link.edge_end.retained_reads import RetainedReads
from tidegate.link.edge_end.router_frames import RouterFrameHandler
from tidegate.link.edge_end.router_membership import RouterMembership
from tidegate.link.edge_end.router_peer import LinkLost
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.edge_end.session_requests import SessionRequests
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
    RetainedForQueue,
    RetainedPage,
    RouterUnavailable,
)
from tidegate.link.messages import (
    SMALL_BYTES,
    read_message,
    write_replays,
    write_subscriptions,
)
from tidegate.link.records import decode, message_of
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
        self._sessions = SessionRequests(
            config.timeout_s,
            self._numbers,
            self._tasks,
            routers=self.routers,
            requests=self._requests,
            lease=self.lease,
            snapshot=self._snapshot,
            endings=self.endings,
            wills=self.wills,
            withdrawn_connects=WithdrawnConnects(edge_id, self._requests, self._tasks),
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

    def attach(self, edge_id: str, request: AttachSession) -> asyncio.Future[AttachedSession]:
        """Make this edge the owner of a session (see RouterLink)."""
        return self._sessions.attach(request)

    def detach(self, request: DetachSession) -> asyncio.Future[DetachedSession]:
        """End a connection (see RouterLink)."""
        return self._sessions.detach(request)

    def record(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Add events to the record, by one of the routers that can take them (see RouterLink)."""
        for peer in self.routers.reachable():
            outbox = peer.outbox
            if outbox is not None and outbox.queued_bytes < RECORD_ROOM_BYTES:
                record = outbox.operation().record
                record.client_ids.extend(key for key, _ in events)
                record.events.extend(event for _, event in events)
                outbox.grew(record.ByteSize())
                return True
        return False

    def ban(self, ban: bytes) -> None:
        """Have a router store a ban (see RouterLink)."""
        for peer in self.routers.reachable():
            if peer.outbox is not None:
                peer.outbox.operation().ban.ban = ban
                peer.outbox.grew(SMALL_BYTES + len(ban))
                return

    def hasten(self, client_id: str) -> None:
        """Store the end of a client's connections now (see RouterLink)."""
        self.endings.hasten(client_id)

    async def fetch(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue (see RouterLink)."""
        request = pb.Request(
            fetch=pb.FetchRequest(
                client_id=client_id,
                epoch=epoch,
                incarnation=incarnation,
                after_seq=after_seq,
                max_count=max_count,
                max_bytes=max_bytes,
            )
        )
        found = (await self._requests.send(client_id, request)).fetch
        if found.records:
            records = found.records
            return [(record[1], message_of(records, record)) for record in decode(records)]
        return [(entry.seq, read_message(entry.message)) for entry in found.entries]

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
        write_subscriptions(wanted, subscriptions)
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

    def add_interest(
        self, edge_id: str, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """Add interest (see RouterLink)."""
        self._snapshot.add_interest(filters, only_qos0=only_qos0)

    def remove_interest(self, edge_id: str, filters: Sequence[str]) -> None:
        """Remove interest (see RouterLink)."""
        self._snapshot.remove_interest(filters)

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
