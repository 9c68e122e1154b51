"""Frames from edges: each operation in them becomes a call of the router.

Owns the table of the functions for each kind. ``link_server`` calls ``receive`` with every frame of
every edge. Operations are handled in their order and never wait: the outcome of what must be stored
follows later, bounded by the credit of the edge.
"""

from __future__ import annotations

import logging
from typing import Final

from tidegate.link.frames import OperationTable
from tidegate.link.interfaces import FENCED, RouterService, SharedReceipt
from tidegate.link.messages import SMALL_BYTES, read_message, read_subscriptions, size_of
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.router_end.barriers import Barriers
from tidegate.link.router_end.edge_peer import EdgePeer
from tidegate.link.router_end.request_handler import RequestHandler
from tidegate.link.router_end.router_figures import RouterFigures
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import FENCES_VERSION
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: What a router must know of an edge: where it cannot be noted the connection ends, for the edge
#: sends all of it again over the next one. Of other operations a fault spoils only the one.
ESSENTIAL: Final = frozenset({"interest", "hold", "shared_member", "leave_groups", "synced"})


class RemoteOrigin:
    """A publisher on an edge: outcomes are sent back over the link."""

    __slots__ = (
        "_batch",
        "_edges",
        "_id",
        "_peer",
        "_receipt",
        "_size",
        "client_id",
        "epoch",
        "exchange",
    )

    is_will = False

    def __init__(
        self, edges: AttachedEdges, peer: EdgePeer, publish: pb.Publish, size: int
    ) -> None:
        # Values, never the message of the frame: it would keep the whole frame in memory.
        self._edges = edges
        self._peer = peer
        self._batch = edges.batch
        self._id = publish.id
        self.exchange = publish.identity
        self._receipt = publish.receipt - 1
        self._size = size
        self.client_id = publish.client_id
        self.epoch = publish.epoch

    @property
    def is_superseded(self) -> bool:
        """Whether its edge is fenced for it, or has to send it again (see Origin)."""
        return self._peer.closed or self._peer.fences.get(self.client_id, 0) > self.epoch

    def identity(self, message: Publish) -> str:
        """Return what the edge has sent (see Origin)."""
        return self.exchange

    def receipt(self, message: Publish) -> int:
        """Return what the edge has sent (see Origin)."""
        return self._receipt

    def published(self, message: Publish, code: int) -> None:
        """Send the outcome to the edge (see Origin)."""
        self._batch.unconfirmed -= 1
        self._edges.publish_done(self._peer, self._id, self._size, code)
        if not self._batch.unconfirmed:
            self._edges.notify_changed()


class RemoteWill(RemoteOrigin):
    """The connection that has ended whose will an edge publishes."""

    __slots__ = ()

    is_will = True


class EdgeFrameHandler:
    """See the module's docstring."""

    __slots__ = ("_counters", "_dispatch", "_edges", "_router", "_withdraw")

    def __init__(
        self,
        router: RouterService,
        counters: Counters,
        edges: AttachedEdges,
        request_handler: RequestHandler,
        barriers: Barriers,
        figures: RouterFigures,
    ) -> None:
        self._router = router
        self._counters = counters
        self._edges = edges
        self._withdraw = request_handler.withdraw_will
        table: OperationTable[AttachedEdge] = OperationTable(
            counters,
            {
                "publish": self._on_publish,
                "request": request_handler.on_request,
                "interest": self._on_interest,
                "hold": self._on_hold,
                "leave_groups": self._on_leave_groups,
                "redispatch": self._on_redispatch,
                "complete": self._on_complete,
                "synced": _on_synced,
                "fenced": self._on_fenced,
                "echo": barriers.echoed,
                "shared_member": self._on_shared_member,
                "shared_returned": self._on_shared_returned,
                "figures": figures.on_figures,
                "record": self._on_record,
                "ban": self._on_ban,
            },
            ESSENTIAL,
        )
        self._dispatch = table.dispatch

    def receive(self, attached: AttachedEdge, frame: pb.EdgeFrame) -> None:
        """Handle a frame from an edge."""
        self._dispatch(attached, frame.operations)
        peer = attached.peer
        if frame.frames_taken:
            peer.outbox.confirm(frame.frames_taken)
        for number in frame.shared_done:
            found = peer.shared.pop(number, None)
            if found is not None and found[2] is not None:
                found[2].done()
        if peer.credit_due_bytes or peer.unacknowledged_done:
            self._edges.return_all_credit()

    def take_back_all(self, peer: EdgePeer) -> None:
        """An edge is detached: other members get what its own have not acknowledged."""
        lost, peer.shared = list(peer.shared.values()), {}
        for found in lost:
            self._take_back(*found)

    # Publishes

    def _on_publish(self, attached: AttachedEdge, publish: pb.Publish) -> None:
        message = read_message(publish.message)
        peer = attached.peer
        if publish.packet_id:
            message.packet_id = publish.packet_id
        size = size_of(message)
        if peer.fences and self._is_fenced(peer, publish):
            self._refuse(peer, publish, size)
            return
        origin = RemoteOrigin(self._edges, peer, publish, size)
        if origin.exchange and message.qos != 2:
            origin = RemoteWill(self._edges, peer, publish, size)
        batch = self._edges.batch
        batch.unconfirmed += 1
        code: int | None
        try:
            code = self._router.publish(origin, message)
        except Exception:
            # A fault of ours: without an outcome the edge would send it again at every connection.
            log.exception("routing a publish failed")
            self._counters.internal_errors += 1
            code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        if code is not None:
            batch.unconfirmed -= 1
            self._edges.publish_done(peer, publish.id, size, code, now=False)

    def _is_fenced(self, peer: EdgePeer, publish: pb.Publish) -> bool:
        """Whether a newer connection has the session, at another edge."""
        epoch: int = publish.epoch
        if not epoch and peer.version < FENCES_VERSION:
            return False  # a publish of QoS 0: older edges do not send its epoch
        return epoch < peer.fences.get(publish.client_id, 0)

    def _refuse(self, peer: EdgePeer, publish: pb.Publish, size: int) -> None:
        if not publish.message.flags & 3:
            # Others have not been acknowledged, so the client can send them again.
            self._counters.published += 1
            self._counters.dropped["superseded"] += 1
        self._edges.publish_done(peer, publish.id, size, FENCED, now=False)

    def _on_fenced(self, attached: AttachedEdge, fenced: pb.Fenced) -> None:
        if fenced.withdrawn:
            self._withdraw(f"{fenced.withdrawn}:{fenced.client_id}")
        attached.peer.fenced(fenced.client_id, fenced.epoch)
        self._edges.notify_changed()

    def _on_complete(self, attached: AttachedEdge, complete: pb.Complete) -> None:
        peer, number = attached.peer, complete.id

        def done() -> None:
            if not peer.closed:
                peer.confirm(number, 0)

        self._router.complete(complete.client_id, complete.epoch, list(complete.seqs), done)

    # What a router must know of an edge

    def _on_interest(self, attached: AttachedEdge, interest: pb.Interest) -> None:
        edge_id = attached.peer.edge_id
        for topic_filter in interest.added:
            self._router.add_interest(edge_id, topic_filter)
        for topic_filter in interest.removed:
            self._router.remove_interest(edge_id, topic_filter)

    def _on_hold(self, attached: AttachedEdge, hold: pb.Hold) -> None:
        edge_id = attached.peer.edge_id
        self._router.set_session_location(
            edge_id, hold.client_id, hold.epoch, hold.incarnation, hold.ended
        )

    def _on_shared_member(self, attached: AttachedEdge, member: pb.SharedMember) -> None:
        if member.epoch < attached.peer.fences.get(member.client_id, 0):
            return
        self._router.join_groups(
            attached.peer.edge_id,
            member.client_id,
            member.epoch,
            read_subscriptions(member.subscriptions),
        )

    def _on_leave_groups(self, _attached: AttachedEdge, leave: pb.LeaveGroups) -> None:
        self._router.leave_groups(leave.client_id, leave.epoch, list(leave.topic_filters))

    def _on_redispatch(self, _attached: AttachedEdge, operation: pb.Redispatch) -> None:
        self._router.redispatch(operation.topic_filter, read_message(operation.message))

    def _on_record(self, _attached: AttachedEdge, record: pb.Record) -> None:
        self._router.record(list(zip(record.client_ids, record.events, strict=False)))

    def _on_ban(self, _attached: AttachedEdge, operation: pb.BanClient) -> None:
        self._router.ban(operation.ban)

    def _on_shared_returned(self, attached: AttachedEdge, operation: pb.SharedReturned) -> None:
        found = attached.peer.shared.pop(operation.id, None)
        if found is not None:
            self._take_back(*found)

    def _take_back(self, group: str, message: Publish, receipt: SharedReceipt | None) -> None:
        """A member has not acknowledged a message: give it to another one."""
        if receipt is not None:
            receipt.returned()
        else:
            self._router.redispatch(group, message)


def _on_synced(attached: AttachedEdge, synced: pb.Synced) -> None:
    attached.peer.synced = True
    attached.peer.outbox.frame.operations.add().applied.id = synced.id
    attached.peer.outbox.grew(SMALL_BYTES)
