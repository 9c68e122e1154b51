"""Frames from edges: each operation in them becomes a call of the router.

Owns the table of the functions for each kind. ``link_server`` calls ``receive`` with every frame of
every edge. Operations are handled in their order and never wait: the outcome of what must be stored
follows later, bounded by the credit of the edge.
"""

from __future__ import annotations

import logging
from typing import Final

from tidegate.link.frames import OperationTable
from tidegate.link.interfaces import FENCED, PUBLISHED, RouterService, SharedReceipt
from tidegate.link.messages import (
    OVERHEAD_BYTES,
    SMALL_BYTES,
    read_message,
    read_subscriptions,
    size_of,
)
from tidegate.link.records import COMPLETE, KIND, MalformedRecords, decode, message_of, seqs_of
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
#: sends all of it again over the next one. Of other operations a fault spoils only the one. Records
#: that are not complete end it, too: what follows them is not known.
ESSENTIAL: Final = frozenset(
    {"interest", "hold", "shared_member", "leave_groups", "synced", "records"}
)


class RemoteOrigin:
    """A publisher on an edge: outcomes are sent back over the link."""

    __slots__ = (
        "_batch",
        "_edges",
        "_number",
        "_peer",
        "_size",
        "client_id",
        "epoch",
        "exchange",
        "receipt_value",
    )

    is_will = False

    def __init__(
        self,
        edges: AttachedEdges,
        peer: EdgePeer,
        client_id: str,
        epoch: int,
        number: int,
        size: int,
    ) -> None:
        """``number`` 0: no outcome is sent, only credit returned."""
        # Values, never the message of the frame: it would keep the whole frame in memory.
        self._edges = edges
        self._peer = peer
        self._batch = edges.batch
        self._number = number
        self._size = size
        self.client_id = client_id
        self.epoch = epoch
        #: Of a QoS 2 exchange or of a will, and the receipt byte to store; else empty and -1.
        self.exchange = ""
        self.receipt_value = -1

    @property
    def is_superseded(self) -> bool:
        """Whether its edge is fenced for it, or has to send it again (see Origin)."""
        return self._peer.closed or self._peer.fences.get(self.client_id, 0) > self.epoch

    def identity(self, message: Publish) -> str:
        """Return what the edge has sent (see Origin)."""
        return self.exchange

    def receipt(self, message: Publish) -> int:
        """Return what the edge has sent (see Origin)."""
        return self.receipt_value

    def settle(self, code: int) -> None:
        """Send an outcome that is there at once."""
        self._edges.publish_done(self._peer, self._number, self._size, code, now=False)

    def published(self, message: Publish, code: int) -> None:
        """Send the outcome to the edge (see Origin)."""
        self._batch.unconfirmed -= 1
        self._edges.publish_done(self._peer, self._number, self._size, code)
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
                "records": self._on_records,
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
        made = RemoteWill if publish.identity and message.qos != 2 else RemoteOrigin
        origin = made(
            self._edges, peer, publish.client_id, publish.epoch, publish.id, size_of(message)
        )
        message.dup = publish.dup
        origin.exchange = publish.identity
        origin.receipt_value = publish.receipt - 1
        self._publish(peer, origin, message)

    def _publish(self, peer: EdgePeer, origin: RemoteOrigin, message: Publish) -> None:
        if peer.fences and self._is_fenced(peer, origin):
            if not message.qos:
                # Others have not been acknowledged, so the client can send them again.
                self._counters.published += 1
                self._counters.dropped["superseded"] += 1
            origin.settle(FENCED)
            return
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
            origin.settle(code)

    @staticmethod
    def _is_fenced(peer: EdgePeer, origin: RemoteOrigin) -> bool:
        """Whether a newer connection has the session, at another edge."""
        epoch = origin.epoch
        if not epoch and peer.version < FENCES_VERSION:
            return False  # a publish of QoS 0: older edges do not send its epoch
        return epoch < peer.fences.get(origin.client_id, 0)

    def _on_records(self, attached: AttachedEdge, records: bytes) -> None:
        """Forward the publishes that only connected clients get, and route the others."""
        edges_only, attached_edges = self._router.edges_only, self._edges.by_id
        peer = attached.peer
        for record in decode(records):
            flags, number, epoch, topic, client_id, _, begin, properties_at, _, end = record
            size = OVERHEAD_BYTES + len(topic) + end - properties_at
            try:
                if flags & KIND == COMPLETE:
                    self._complete(peer, client_id, epoch, number, seqs_of(records, record))
                elif edges := edges_only(topic, flags) if flags < 2 and not peer.fences else ():
                    forwarded = records[begin:end]
                    for edge in edges:
                        attached_edges[edge.edge_id].peer.forward(forwarded, size)
                    self._edges.publish_done(peer, number, size, PUBLISHED, now=False)
                else:
                    origin = RemoteOrigin(self._edges, peer, client_id, epoch, number, size)
                    self._publish(peer, origin, message_of(records, record))
            except MalformedRecords:
                raise
            except Exception:
                # A fault of ours in one of them: the others are of other clients.
                log.exception("record of a frame failed", extra={"peer": peer.name})
                self._counters.internal_errors += 1

    def _on_fenced(self, attached: AttachedEdge, fenced: pb.Fenced) -> None:
        if fenced.withdrawn:
            self._withdraw(f"{fenced.withdrawn}:{fenced.client_id}")
        attached.peer.fenced(fenced.client_id, fenced.epoch)
        self._edges.notify_changed()

    def _on_complete(self, attached: AttachedEdge, complete: pb.Complete) -> None:
        self._complete(
            attached.peer, complete.client_id, complete.epoch, complete.id, list(complete.seqs)
        )

    def _complete(
        self, peer: EdgePeer, client_id: str, epoch: int, number: int, seqs: list[int]
    ) -> None:
        def done() -> None:
            if not peer.closed:
                peer.confirm(number, 0)

        self._router.complete(client_id, epoch, seqs, done)

    # What a router must know of an edge

    def _on_interest(self, attached: AttachedEdge, interest: pb.Interest) -> None:
        edge_id = attached.peer.edge_id
        if interest.added:
            self._router.add_interest(edge_id, list(interest.added), only_qos0=interest.only_qos0)
        if interest.removed:
            self._router.remove_interest(edge_id, list(interest.removed))

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
    attached.peer.outbox.operation().applied.id = synced.id
    attached.peer.outbox.grew(SMALL_BYTES)
