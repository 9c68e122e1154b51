"""Frames from routers: each operation in them becomes a call of the edge, or of a part of this end.

Owns the table of the functions for each kind. ``router_stream`` calls ``receive`` with every frame;
other parts of the router client register their functions with ``on``.
"""

from __future__ import annotations

import logging
from typing import Final

from tidegate.link.edge_end.endings import Endings
from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.router_peer import RouterPeer
from tidegate.link.edge_end.will_publisher import WillPublisher
from tidegate.link.frames import OperationTable
from tidegate.link.interfaces import EdgeLink
from tidegate.link.messages import SMALL_BYTES, read_message, read_options, read_will
from tidegate.link.records import KIND, MESSAGE, PUSH, decode, message_of
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Records that are not complete end the connection: what follows them is not known either.
ESSENTIAL: Final = frozenset({"records"})


class RemoteReceipt:
    """Reports to the router that sent a shared message how its delivery ended."""

    __slots__ = ("_group", "_id", "_message", "_outbox", "_peer", "_publish_dispatcher")

    def __init__(
        self,
        publish_dispatcher: PublishDispatcher,
        peer: RouterPeer,
        number: int,
        group: str,
        message: Publish,
    ) -> None:
        self._publish_dispatcher = publish_dispatcher
        self._peer = peer
        self._outbox = peer.outbox
        self._id = number
        self._group = group
        self._message = message

    def done(self) -> None:
        """Report that it is done (see SharedReceipt)."""
        outbox = self._outbox
        if outbox is not None and self._peer.outbox is outbox:
            outbox.frame.shared_done.append(self._id)
            outbox.grew(8)

    def returned(self) -> None:
        """Return it for another member (see SharedReceipt)."""
        outbox = self._outbox
        if outbox is not None and self._peer.outbox is outbox:
            outbox.operation().shared_returned.id = self._id
            outbox.grew(SMALL_BYTES)
        else:
            self._publish_dispatcher.redispatch(self._group, self._message)


class RouterFrameHandler:
    """See the module's docstring. Its attributes must be set before the first frame."""

    __slots__ = ("_counters", "_dispatch", "_publish_dispatcher", "edge", "endings", "on", "wills")

    edge: EdgeLink
    endings: Endings
    wills: WillPublisher

    def __init__(self, publish_dispatcher: PublishDispatcher, counters: Counters) -> None:
        self._publish_dispatcher = publish_dispatcher
        table: OperationTable[RouterPeer] = OperationTable(
            counters,
            {
                "deliver": self._on_deliver,
                "deliver_once": self._on_deliver_once,
                "push": self._on_push,
                "shared": self._on_shared,
                "kick": self._on_kick,
                "session_lost": self._on_session_lost,
                "fence": self._on_fence,
                "publish_will": self._on_publish_will,
                "reply": _on_reply,
                "applied": _on_applied,
                "echo": _on_echo,
                "pushes_lost": self._on_pushes_lost,
                "bans": self._on_bans,
                "records": self._on_records,
            },
            ESSENTIAL,
        )
        self._counters = counters
        self._dispatch = table.dispatch
        self.on = table.on

    def receive(self, peer: RouterPeer, frame: pb.RouterFrame) -> None:
        """Handle a frame from a router."""
        self._dispatch(peer, frame.operations)
        peer.frame_handled(frame.ByteSize())
        if frame.credit_bytes or frame.done_ids or frame.unacknowledged_done:
            peer.confirm(frame)
            if self._publish_dispatcher.is_paused:
                self._publish_dispatcher.resume()

    def _on_records(self, peer: RouterPeer, records: bytes) -> None:
        deliver, push = self.edge.deliver, self.edge.push
        for record in decode(records):
            message = message_of(records, record)
            flags, number, epoch, _, client_id = record[:5]
            try:
                if flags & KIND == MESSAGE:
                    deliver(message, client_id)
                elif flags & KIND == PUSH:
                    push(client_id, epoch, number, message)
            except Exception:
                # A fault of ours in one of them: the others are for other clients.
                log.exception("record of a frame failed", extra={"peer": peer.name})
                self._counters.internal_errors += 1

    def _on_deliver(self, _peer: RouterPeer, operation: pb.Deliver) -> None:
        self.edge.deliver(read_message(operation.message), operation.publisher_id)

    def _on_deliver_once(self, _peer: RouterPeer, operation: pb.Deliver) -> None:
        message = read_message(operation.message)
        self.edge.deliver(message, operation.publisher_id, operation.identity)

    def _on_push(self, _peer: RouterPeer, operation: pb.Push) -> None:
        self.edge.push(
            operation.client_id, operation.epoch, operation.seq, read_message(operation.message)
        )

    def _on_shared(self, peer: RouterPeer, operation: pb.Shared) -> None:
        message = read_message(operation.message)
        group = operation.group
        receipt = None
        if operation.id:
            receipt = RemoteReceipt(self._publish_dispatcher, peer, operation.id, group, message)
        taken = self.edge.deliver_shared(
            operation.client_id,
            operation.epoch,
            message,
            group,
            read_options(operation.options),
            receipt,
        )
        if taken:
            return
        if receipt is not None:
            receipt.returned()
        else:
            self._publish_dispatcher.redispatch(group, message)

    def _on_kick(self, _peer: RouterPeer, operation: pb.Kick) -> None:
        try:
            reason = ReasonCode(operation.reason_code)
        except ValueError:  # the router is newer
            reason = ReasonCode.UNSPECIFIED_ERROR
        self.edge.kick(operation.client_id, operation.epoch, reason)

    def _on_session_lost(self, _peer: RouterPeer, operation: pb.SessionLost) -> None:
        self.edge.session_lost(operation.client_id, operation.epoch)

    def _on_fence(self, peer: RouterPeer, operation: pb.Fence) -> None:
        client_id, epoch = operation.client_id, operation.epoch
        # Before the connection that is superseded ends, too: its will is the store's business.
        withdrawn = self.endings.withdrawn(client_id, epoch)
        self.edge.fence(client_id, epoch)
        self.endings.supersede(client_id, epoch - 1)
        self.wills.fence(client_id, epoch)
        outbox = peer.outbox
        if outbox is not None:
            fenced = outbox.operation().fenced
            fenced.client_id, fenced.epoch = client_id, epoch
            fenced.withdrawn = withdrawn
            outbox.grew(SMALL_BYTES)

    def _on_publish_will(self, _peer: RouterPeer, operation: pb.PublishWill) -> None:
        self.wills.publish(read_will(operation))

    def _on_bans(self, _peer: RouterPeer, operation: pb.Bans) -> None:
        self.edge.set_bans(list(operation.bans))

    def _on_pushes_lost(self, _peer: RouterPeer, _operation: pb.PushesLost) -> None:
        self.edge.pushes_lost()


def _on_reply(peer: RouterPeer, operation: pb.Reply) -> None:
    peer.replied(operation)


def _on_applied(peer: RouterPeer, operation: pb.Applied) -> None:
    peer.applied(operation.id)


def _on_echo(peer: RouterPeer, operation: pb.Echo) -> None:
    outbox = peer.outbox
    if outbox is not None:
        outbox.operation().echo.id = operation.id
        outbox.grew(SMALL_BYTES)
