"""One router, as an edge sees it: what has been sent to it and is not confirmed, and what waits.

Created and removed by ``router_membership``, used by ``publish_dispatch`` and ``router_frames``. It
outlives its connection: while the router is not connected, publishes for it wait here, in order, up
to the credit; when the same instance returns they are sent again, and when the router is removed
they go to others. Never decides which of the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from tidegate.link.messages import SMALL_BYTES, size_of, write_message
from tidegate.link.outbox import Outbox
from tidegate.link.records import encode_completion, encode_message, is_plain
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import RECORDS_VERSION

if TYPE_CHECKING:
    from tidegate.link.interfaces import Origin
    from tidegate.mqtt.packets import Publish

#: So many bytes may be handled before that is reported to the router.
REPORT_BYTES: Final = 131_072


class LinkLost(Exception):
    """The connection to the router was lost before the reply."""


class State(Enum):
    """How a publish for this router is handled."""

    DOWN = "down"  # not connected: publishes wait
    GATED = "gated"  # just joined: what others were sent before must be confirmed first
    UNVERIFIED = "unverified"  # connections may be superseded, the store is away: live QoS 0 only
    OPEN = "open"
    LEAVING = "leaving"  # shutting down: publishes wait until it is removed


class Unconfirmed:
    """A publish that no router has confirmed, or a completed delivery (then with ``seqs``)."""

    __slots__ = (
        "client_id",
        "done",
        "epoch",
        "identity",
        "message",
        "order",
        "origin",
        "receipt",
        "seqs",
        "size",
    )

    def __init__(self, client_id: str, epoch: int, order: int, size: int) -> None:
        self.client_id = client_id
        self.epoch = epoch
        #: Counts over all routers: the order in which the edge called.
        self.order = order
        self.size = size
        self.origin: Origin | None = None
        self.message: Publish | None = None
        self.identity = ""
        self.receipt = -1
        self.seqs: list[int] = []
        self.done: Callable[[], None] | None = None

    @property
    def is_superseded(self) -> bool:
        """Whether it must not take effect any more: a newer connection has the session."""
        return self.origin is not None and self.origin.is_superseded

    @property
    def needs_store(self) -> bool:
        """Whether it is a publish that has no effect, or no answer, before the store has it."""
        message = self.message
        return message is not None and bool(message.qos or message.retain or self.identity)


class UnconfirmedRedispatch(Unconfirmed):
    """A shared message for another member than its first one."""

    __slots__ = ("group",)

    def __init__(self, group: str, message: Publish, order: int) -> None:
        super().__init__("", 0, order, 0)
        self.group = group
        self.message = message


class RouterPeer:
    """See the module's docstring."""

    __slots__ = (
        "_loop",
        "_next_id",
        "address",
        "arrivals",
        "credit_bytes",
        "frames_received",
        "frames_taken",
        "gate",
        "instance",
        "name",
        "outbox",
        "outstanding_bytes",
        "requests",
        "state",
        "synced",
        "unacknowledged_count",
        "unconfirmed",
        "unfenced_instances",
        "unreported_bytes",
        "version",
        "waiting",
    )

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.instance = ""
        #: Instances of the router that may still write what they were sent: this one, and earlier
        #: ones that have not been fenced.
        self.unfenced_instances: set[str] = set()
        self.version = 0
        self.state = State.DOWN
        self.credit_bytes = 0
        self.outstanding_bytes = 0
        #: Publishes of QoS 0 that the router has not confirmed; they have no number.
        self.unacknowledged_count = 0
        self.outbox: Outbox[pb.EdgeFrame] | None = None
        self.unconfirmed: dict[int, Unconfirmed] = {}
        self.waiting: list[Unconfirmed] = []
        self.requests: dict[int, asyncio.Future[Any]] = {}
        #: Called with the reply to a request, before anything that was sent behind it is handled.
        self.arrivals: dict[int, Callable[[pb.Reply], None]] = {}
        self.synced: dict[int, asyncio.Future[None]] = {}
        self.frames_received = 0
        #: Frames of this connection that were handled, and bytes of them not yet reported.
        self.frames_taken = 0
        self.unreported_bytes = 0
        #: Set when what other routers were sent before this one joined is confirmed.
        self.gate: asyncio.Event | None = None
        self._next_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def attached(self) -> bool:
        """Whether it is connected."""
        return self.outbox is not None

    def has_credit(self) -> bool:
        """Whether more publishes may be sent, or wait while it is not connected."""
        return self.outstanding_bytes < self.credit_bytes

    def next_id(self) -> int:
        """Return a number that no other operation for this router has."""
        self._next_id += 1
        return self._next_id

    # Publishes and completions

    def has_waiting(self, client_id: str) -> bool:
        """Whether publishes of a client wait until it is open."""
        return any(
            entry.client_id == client_id and entry.message is not None for entry in self.waiting
        )

    def has_unconfirmed(self) -> bool:
        """Whether something was sent that the router has not confirmed."""
        return bool(self.unacknowledged_count or self.unconfirmed)

    def publish(self, entry: Unconfirmed) -> None:
        """Send a publish, or keep it until its state allows it."""
        self.outstanding_bytes += entry.size
        if self.takes(entry):
            self._send_publish(entry)
        else:
            self.waiting.append(entry)

    def takes(self, entry: Unconfirmed) -> bool:
        """Whether a publish can be sent now."""
        if self.state is State.UNVERIFIED:
            return not entry.needs_store
        return self.state is State.OPEN

    def publish_qos0(self, message: Publish, client_id: str, epoch: int) -> None:
        """Send a QoS 0 publish; only in state OPEN."""
        outbox = self.outbox
        assert outbox is not None
        size = size_of(message)
        self.outstanding_bytes += size
        self.unacknowledged_count += 1
        if self.version >= RECORDS_VERSION and is_plain(message):
            outbox.records.append(encode_message(message, client_id, 0, epoch))
        else:
            publish = outbox.operation().publish
            publish.client_id = client_id
            publish.epoch = epoch
            write_message(publish.message, message)
        outbox.grew(size)

    def _send_publish(self, entry: Unconfirmed) -> None:
        message = entry.message
        assert message is not None
        outbox = self.outbox
        assert outbox is not None
        number = 0
        if message.qos or entry.identity:
            number = self.next_id()
            self.unconfirmed[number] = entry
        else:
            self.unacknowledged_count += 1
        if self.version >= RECORDS_VERSION and not entry.identity and is_plain(message):
            outbox.records.append(encode_message(message, entry.client_id, number, entry.epoch))
        else:
            self._write_publish(outbox.operation().publish, entry, message, number)
        outbox.grew(entry.size)

    @staticmethod
    def _write_publish(
        publish: pb.Publish, entry: Unconfirmed, message: Publish, number: int
    ) -> None:
        publish.client_id = entry.client_id
        publish.epoch = entry.epoch
        publish.id = number
        write_message(publish.message, message)
        if entry.identity:
            publish.identity = entry.identity
            publish.dup = message.dup
            message.dup = True  # as on any hop: from now on it is sent again
        if entry.receipt >= 0:
            publish.receipt = entry.receipt + 1
            publish.packet_id = message.packet_id

    def complete(self, entry: Unconfirmed) -> None:
        """Send completed deliveries, or keep them until it is connected."""
        outbox = self.outbox
        if outbox is None:
            self.waiting.append(entry)
            return
        number = self.next_id()
        self.unconfirmed[number] = entry
        if self.version >= RECORDS_VERSION:
            record = encode_completion(entry.client_id, number, entry.epoch, entry.seqs)
            outbox.records.append(record)
        else:
            complete = outbox.operation().complete
            complete.id = number
            complete.client_id = entry.client_id
            complete.epoch = entry.epoch
            complete.seqs.extend(entry.seqs)
        outbox.grew(SMALL_BYTES + 8 * len(entry.seqs))

    def redispatch(self, entry: UnconfirmedRedispatch) -> None:
        """Send a shared message for another member, or keep it until it is connected."""
        if self.outbox is None:
            self.waiting.append(entry)
            return
        assert entry.message is not None
        redispatch = self.outbox.operation().redispatch
        redispatch.topic_filter = entry.group
        write_message(redispatch.message, entry.message)
        # Answered once the router has it: until then it may be lost with the connection.
        number = self.next_id()
        self.unconfirmed[number] = entry
        self.outbox.operation().synced.id = number
        self.outbox.grew(SMALL_BYTES + size_of(entry.message))

    def confirm(self, frame: pb.RouterFrame) -> None:
        """Handle the credit and the confirmations in a frame."""
        if frame.credit_bytes:
            self.outstanding_bytes = max(0, self.outstanding_bytes - frame.credit_bytes)
        if frame.unacknowledged_done:
            self.unacknowledged_count = max(
                0, self.unacknowledged_count - frame.unacknowledged_done
            )
        unconfirmed = self.unconfirmed
        for number, code in zip(frame.done_ids, frame.done_codes, strict=False):
            entry = unconfirmed.pop(number, None)
            if entry is None:
                continue
            if entry.message is not None:
                assert entry.origin is not None
                entry.origin.published(entry.message, code)
            elif entry.done is not None:
                entry.done()

    def send_waiting(self) -> int:
        """Send what has waited, in the order of the calls; in state UNVERIFIED or OPEN.

        What must not take effect any more is left out. Returns how many of these are of QoS 0.
        """
        dropped = 0
        waiting, self.waiting = self.waiting, []
        waiting.sort(key=_order_of)
        for entry in waiting:
            if isinstance(entry, UnconfirmedRedispatch):
                self.redispatch(entry)
            elif entry.message is None:
                self.complete(entry)
            elif entry.is_superseded:
                self.outstanding_bytes -= entry.size
                dropped += not entry.message.qos
            elif not self.takes(entry):
                self.waiting.append(entry)
            else:
                self._send_publish(entry)
        return dropped

    def disconnected(self) -> int:
        """The connection is lost: keep what is not confirmed, fail requests.

        Returns how many messages of QoS 0 may not have arrived.
        """
        lost = self.unacknowledged_count
        unconfirmed = []
        for entry in self.unconfirmed.values():
            if entry.message is not None and not entry.message.qos and not entry.identity:
                lost += 1
            else:
                unconfirmed.append(entry)
        self.unacknowledged_count = 0
        self.outbox = None
        self.state = State.DOWN
        self.waiting = [*unconfirmed, *self.waiting]
        self.unconfirmed = {}
        self.outstanding_bytes = sum(entry.size for entry in self.waiting)
        for future in [*self.requests.values(), *self.synced.values()]:
            if not future.done():
                future.set_exception(LinkLost(self.name))
        self.requests.clear()
        self.arrivals.clear()
        self.synced.clear()
        return lost

    def take_waiting(self) -> list[Unconfirmed]:
        """Return all that waits or is not confirmed, in order, and keep nothing: it is removed."""
        waiting = [*self.unconfirmed.values(), *self.waiting]
        self.unconfirmed, self.waiting = {}, []
        self.outstanding_bytes = 0
        waiting.sort(key=_order_of)
        return waiting

    def frame_handled(self, size_bytes: int) -> None:
        """A frame was handled: report it with the next frame sent, or now after many bytes."""
        outbox = self.outbox
        if outbox is None:
            return
        self.frames_taken += 1
        outbox.frame.frames_taken = self.frames_taken
        self.unreported_bytes += size_bytes
        if self.unreported_bytes >= REPORT_BYTES:
            self.unreported_bytes = 0
            outbox.grew(8)

    # Requests

    def _future(self) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is None:
            # Kept, since to look it up costs a system call until Python 3.12.
            loop = self._loop = asyncio.get_running_loop()
        return loop.create_future()

    def request(
        self,
        request: pb.Request,
        size: int = SMALL_BYTES,
        arrived: Callable[[pb.Reply], None] | None = None,
    ) -> asyncio.Future[pb.Reply]:
        """Send a request; the future ends with its reply, or with LinkLost.

        ``arrived`` is called before it ends, and before what the router sent after the reply.
        """
        future: asyncio.Future[pb.Reply] = self._future()
        if self.outbox is None:
            future.set_exception(LinkLost(self.name))
            return future
        request.id = number = self.next_id()
        self.requests[number] = future
        if arrived is not None:
            self.arrivals[number] = arrived
        self.outbox.operation().request.CopyFrom(request)
        self.outbox.grew(size)
        if request.HasField("fetch"):
            self.outbox.hurry()
        return future

    def replied(self, reply: pb.Reply) -> None:
        """Handle the reply to a request."""
        future = self.requests.pop(reply.id, None)
        arrived = self.arrivals.pop(reply.id, None) if self.arrivals else None
        if future is not None and not future.done():
            if arrived is not None:
                arrived(reply)
            future.set_result(reply)

    def sync(self) -> asyncio.Future[None]:
        """Return a future that ends when everything sent until now has taken effect."""
        future: asyncio.Future[None] = self._future()
        if self.outbox is None:
            future.set_exception(LinkLost(self.name))
            return future
        number = self.next_id()
        self.synced[number] = future
        self.outbox.operation().synced.id = number
        self.outbox.grew(SMALL_BYTES)
        return future

    def applied(self, number: int) -> None:
        """Everything up to the ``sync`` or ``redispatch`` with this number has taken effect."""
        future = self.synced.pop(number, None)
        if future is None:
            self.unconfirmed.pop(number, None)
        elif not future.done():
            future.set_result(None)


def _order_of(entry: Unconfirmed) -> int:
    return entry.order
