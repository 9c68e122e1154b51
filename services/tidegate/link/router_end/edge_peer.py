"""One attached edge, as a router sees it: what it is sent, and the credit that is due to it.

Implements ``EdgeLink`` over a stream. Owned by ``link_server``. What waits for a slow edge is
bounded: beyond the bound, copies are dropped and counted, and durable sessions read their queues
instead. Never waits, except in ``wait_for_room``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from tidegate.link.interfaces import PendingWill, SharedReceipt
from tidegate.link.messages import (
    SMALL_BYTES,
    size_of,
    write_message,
    write_options,
    write_will,
)
from tidegate.link.outbox import Outbox
from tidegate.link.records import PUSH, count_messages, delivery_of, encode_message, is_plain
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import FENCES_VERSION, RECORDS_VERSION
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.telemetry.counters import Counters

#: Shared messages of one edge that are kept until their member has acknowledged them.
MAX_SHARED: Final = 10_000
#: A mailbox never holds more than so many times ``mailbox_bytes``, which makes publishers wait.
HARD_FACTOR: Final = 4
#: An edge reports frames after 128 KiB of them; as counted here that may be a megabyte.
MIN_WINDOW_BYTES: Final = 1_048_576


class EdgePeer:
    """See the module's docstring."""

    __slots__ = (
        "_counters",
        "_credit_frame_bytes",
        "_mailbox_bytes",
        "_next_shared",
        "_pushes_lost",
        "_room",
        "_unsent_credit_bytes",
        "closed",
        "credit_due_bytes",
        "edge_id",
        "fences",
        "frames_received",
        "has_left",
        "name",
        "on_given_up",
        "outbox",
        "shared",
        "stalled",
        "synced",
        "unacknowledged_done",
        "version",
    )

    def __init__(
        self,
        edge_id: str,
        name: str,
        version: int,
        config: LinkConfig,
        counters: Counters,
    ) -> None:
        mailbox_bytes, credit_bytes = config.mailbox_bytes, config.credit_bytes
        self.edge_id = edge_id
        self.name = name
        self.version = version
        self.outbox: Outbox[pb.RouterFrame] = Outbox(
            pb.RouterFrame, max(mailbox_bytes // 2, MIN_WINDOW_BYTES), config.gather_s
        )
        self.closed = False
        #: It has sent its whole snapshot.
        self.synced = False
        #: It publishes nothing more to this router.
        self.has_left = False
        #: It has taken nothing for a while: publishers do not wait for it.
        self.stalled = False
        self.frames_received = 0
        #: Credit that has not been returned yet: bytes, and publishes without a number (QoS 0).
        self.credit_due_bytes = 0
        self.unacknowledged_done = 0
        #: Publishes since the last barrier, and earlier ones that are not confirmed.
        #: Shared messages of QoS 1 sent to it, by number, with their receipts.
        self.shared: dict[int, tuple[str, Publish, SharedReceipt | None]] = {}
        self._next_shared = 0
        #: By client identifier: publishes with a lower epoch have no effect. An entry stays until
        #: the edge has applied it, or its stream ends: over the next one it verifies connections.
        self.fences: dict[str, int] = {}
        #: Ends the stream; set by ``link_server``.
        self.on_given_up: Callable[[], None] = _nothing
        self._mailbox_bytes = mailbox_bytes
        self._counters = counters
        self._pushes_lost = False
        self._room = asyncio.Event()
        self._credit_frame_bytes = credit_bytes // 8
        self._unsent_credit_bytes = 0

    @property
    def congested(self) -> bool:
        """Whether publishers should wait for this edge."""
        return not self.stalled and self.outbox.queued_bytes > self._mailbox_bytes

    def _refuses(self) -> bool:
        """Whether there is no room for another copy."""
        queued = self.outbox.queued_bytes
        return queued > self._mailbox_bytes and (
            self.stalled or queued > HARD_FACTOR * self._mailbox_bytes
        )

    def _drop(self) -> None:
        self._counters.published += 1
        self._counters.dropped["mailbox_full"] += 1

    # EdgeLink

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        """See EdgeLink."""
        if self._refuses():
            self._drop()
            return
        outbox = self.outbox
        if not identity and self.version >= RECORDS_VERSION and is_plain(message):
            outbox.records.append(encode_message(message, publisher_id))
        else:
            if identity and self.version >= FENCES_VERSION:
                operation = outbox.operation().deliver_once
                operation.identity = identity
            else:
                operation = outbox.operation().deliver
            if publisher_id:
                operation.publisher_id = publisher_id
            write_message(operation.message, message)
        outbox.grew(size_of(message))

    def forward(self, record: bytes, size: int) -> None:
        """Deliver a message: as ``deliver``, but its record and ``size_of`` it are known."""
        if self.version < RECORDS_VERSION:
            self.deliver(*delivery_of(record))
        elif self._refuses():
            self._drop()
        else:
            self.outbox.records.append(record)
            self.outbox.grew(size)

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """See EdgeLink."""
        if self._refuses():
            self._pushes_lost = True
            return
        outbox = self.outbox
        if self.version >= RECORDS_VERSION and is_plain(message):
            outbox.records.append(encode_message(message, client_id, seq, epoch, PUSH))
        else:
            operation = outbox.operation().push
            operation.client_id = client_id
            operation.epoch = epoch
            operation.seq = seq
            write_message(operation.message, message)
        outbox.grew(size_of(message))

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """See EdgeLink; a member that is not connected any more is reported later."""
        if self.closed or self._refuses():
            return False
        outbox = self.outbox
        operation = outbox.operation().shared
        operation.client_id = client_id
        operation.epoch = epoch
        operation.group = group
        write_message(operation.message, message)
        write_options(operation.options, options)
        # QoS 0 is done when it is sent; QoS 2 must not go to another member [MQTT-4.8.2-5].
        if min(message.qos, options.qos) == 1 and len(self.shared) < MAX_SHARED:
            self._next_shared += 1
            operation.id = self._next_shared
            self.shared[self._next_shared] = (group, message, receipt)
        elif receipt is not None:
            receipt.done()
        outbox.grew(size_of(message))
        return True

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """See EdgeLink."""
        operation = self.outbox.operation().kick
        operation.client_id = client_id
        operation.epoch = epoch
        operation.reason_code = reason_code
        self.outbox.grew(SMALL_BYTES)

    def session_lost(self, client_id: str, epoch: int) -> None:
        """See EdgeLink."""
        operation = self.outbox.operation().session_lost
        operation.client_id = client_id
        operation.epoch = epoch
        self.outbox.grew(SMALL_BYTES)

    def connections(self) -> None:
        """It verifies them itself (see EdgeLink)."""

    def verify_sessions(self) -> None:
        """See EdgeLink."""
        self.outbox.operation().verify_sessions.SetInParent()
        self.outbox.grew(SMALL_BYTES)

    def fence(self, client_id: str, epoch: int) -> None:
        """See EdgeLink."""
        if self.closed or self.fences.get(client_id, 0) >= epoch:
            return
        self.fences[client_id] = epoch
        if self.version >= FENCES_VERSION:
            operation = self.outbox.operation().fence
            operation.client_id = client_id
            operation.epoch = epoch
            self.outbox.grew(SMALL_BYTES)

    def fenced(self, client_id: str, epoch: int) -> None:
        """The edge has applied a fence: it publishes nothing older of that client any more."""
        if self.fences.get(client_id) == epoch:
            del self.fences[client_id]

    @property
    def knows_wills(self) -> bool:
        """See EdgeLink."""
        return self.version >= FENCES_VERSION

    @property
    def publishes_wills(self) -> bool:
        """See EdgeLink."""
        return self.knows_wills and self.synced and not self.closed

    def publish_will(self, will: PendingWill) -> bool:
        """See EdgeLink."""
        if not self.publishes_wills:
            return False
        write_will(self.outbox.operation().publish_will, will)
        self.outbox.grew(size_of(will.message))
        return True

    def give_up(self) -> None:
        """See EdgeLink."""
        self.on_given_up()

    def pushes_lost(self) -> None:
        """See EdgeLink."""
        self.outbox.operation().pushes_lost.SetInParent()
        self.outbox.grew(SMALL_BYTES)

    def set_bans(self, bans: Sequence[bytes]) -> None:
        """See EdgeLink."""
        self.outbox.operation().bans.bans.extend(bans)
        self.outbox.grew(SMALL_BYTES + sum(map(len, bans)))

    # Called by other parts of this end

    def close(self) -> None:
        """The stream has ended: count what was for connected clients and was not sent.

        What was pushed is still in queues, and shared messages are given to other members.
        """
        self.closed = True
        self.on_given_up = _nothing
        self._room.set()
        lost = 0
        for frame in self.outbox.unsent():
            for operation in frame.operations:
                kind = operation.WhichOneof("kind")
                if kind == "records":
                    lost += count_messages(operation.records)
                else:
                    lost += kind in {"deliver", "deliver_once"} or (
                        kind == "shared" and not operation.shared.id
                    )
        self._counters.published += lost
        self._counters.dropped["link_lost"] += lost

    def frame_taken(self) -> None:
        """A frame was sent: report pushes that were left out while there was no room."""
        self._room.set()
        if self._pushes_lost and not self._refuses():
            self._pushes_lost = False
            self.pushes_lost()

    async def wait_for_room(self) -> None:
        """Return when there is room for a large reply, or the stream has ended."""
        while not self.closed and self.outbox.queued_bytes > self._mailbox_bytes // 2:
            self._room.clear()
            await self._room.wait()

    def reply(self, reply: pb.Reply) -> None:
        """Answer a request."""
        self.outbox.operation().reply.CopyFrom(reply)
        self.outbox.grew(SMALL_BYTES + reply.ByteSize())
        if reply.HasField("fetch"):
            self.outbox.hurry()

    def confirm(self, number: int, code: int) -> None:
        """Confirm an operation that has a number."""
        frame = self.outbox.frame
        frame.done_ids.append(number)
        frame.done_codes.append(code)
        self.outbox.grew(4)

    def return_credit(self) -> None:
        """Return the credit that is due."""
        if self.credit_due_bytes or self.unacknowledged_done:
            frame = self.outbox.frame
            frame.credit_bytes += self.credit_due_bytes
            frame.unacknowledged_done += self.unacknowledged_done
            self._unsent_credit_bytes += self.credit_due_bytes
            self.credit_due_bytes = self.unacknowledged_done = 0
            # It is sent with the next operation: a frame of its own costs as much as a hundred
            # messages, so it gets one only when the edge may run short of credit.
            if self._unsent_credit_bytes >= self._credit_frame_bytes:
                self._unsent_credit_bytes = 0
                self.outbox.grew(4)


def _nothing() -> None:
    pass
