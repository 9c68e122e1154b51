"""The edges attached to a router, and the return of credit for their publishes.

Owns the table of streams, and the credit of all edges together: it is returned as publishes are
done, unless one edge is congested. ``link_server`` adds and removes edges; ``edge_frames`` and the
store's outcomes report publishes that are done; ``request_handler`` and ``barriers`` read it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

from tidegate.link.router_end.edge_peer import EdgePeer

#: Reads of queues and of retained messages at the same time for one edge; others wait.
MAX_READS: Final = 16
#: Withdrawn wills that are remembered: who takes a session over asks for them at once.
MAX_WITHDRAWN: Final = 4096


class Batch:
    """Publishes between two barriers: how many of them are not confirmed."""

    __slots__ = ("unconfirmed",)

    def __init__(self) -> None:
        self.unconfirmed = 0


class AttachedEdge:
    """What belongs to one stream: the peer, its end, and lists that are being read in pages."""

    __slots__ = ("closing", "cursors", "peer", "reads")

    def __init__(self, peer: EdgePeer) -> None:
        self.peer = peer
        #: Done: close the stream from this side. (Were its task cancelled instead, gRPC would not
        #: close it.)
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cursors: OrderedDict[int, AsyncIterator[list[str]]] = OrderedDict()
        #: Bounds the large replies that are under way at the same time.
        self.reads = asyncio.Semaphore(MAX_READS)

    @property
    def name(self) -> str:
        """The name of the edge."""
        return self.peer.name


class AttachedEdges:
    """See the module's docstring."""

    __slots__ = (
        "_changed",
        "_credit_scheduled",
        "_earlier",
        "_mailbox_bytes",
        "batch",
        "by_id",
        "withdrawn",
    )

    def __init__(self, mailbox_bytes: int) -> None:
        self._mailbox_bytes = mailbox_bytes
        #: By edge_id.
        self.by_id: dict[str, AttachedEdge] = {}
        #: Publishes of all edges since the last barrier, and those of before that had some left.
        self.batch = Batch()
        self._earlier: list[Batch] = []
        self._credit_scheduled = False
        self._changed = asyncio.Event()
        #: Wills that edges have withdrawn, the newest last.
        self.withdrawn: OrderedDict[str, None] = OrderedDict()

    def withdraw(self, will_id: str) -> None:
        """Note that a will is not to be published."""
        self.withdrawn[will_id] = None
        if len(self.withdrawn) > MAX_WITHDRAWN:
            self.withdrawn.popitem(last=False)

    @property
    def peers(self) -> list[EdgePeer]:
        """The edges that are attached."""
        return [attached.peer for attached in self.by_id.values()]

    def notify_changed(self) -> None:
        """Wake ``wait_changed``: an edge has left or is closed, or a batch is confirmed."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait for ``notify_changed``."""
        self._changed.clear()
        await self._changed.wait()

    # Publishes

    def cut(self) -> list[Batch]:
        """Begin another batch; return those until now of which something is not confirmed."""
        before = [batch for batch in (*self._earlier, self.batch) if batch.unconfirmed]
        self._earlier, self.batch = before, Batch()
        return before

    def forget_publishes(self) -> None:
        """This router was fenced: nothing that is not confirmed will be."""
        self._earlier, self.batch = [], Batch()

    # Credit

    def publish_done(
        self, peer: EdgePeer, number: int, size: int, code: int, *, now: bool = True
    ) -> None:
        """A publish has its outcome: confirm it, and return its credit."""
        if peer.closed:
            return
        peer.credit_due_bytes += size
        if number:
            peer.confirm(number, code)
        else:
            peer.unacknowledged_done += 1
        if now and not self._credit_scheduled:
            # A batch of the store's completes hundreds at a time: once for all of them.
            self._credit_scheduled = True
            asyncio.get_running_loop().call_soon(self._return_credit_soon)

    def _return_credit_soon(self) -> None:
        self._credit_scheduled = False
        self.return_all_credit()

    def frame_sent(self, peer: EdgePeer) -> None:
        """gRPC has accepted a frame: there may be room again."""
        peer.stalled = False
        peer.frame_taken()
        if peer.outbox.queued_bytes <= self._mailbox_bytes:
            self.return_all_credit()

    def return_all_credit(self) -> None:
        """Return the credit of all edges, unless one of them is congested."""
        streams = self.by_id.values()
        if any(attached.peer.congested for attached in streams):
            return
        for attached in streams:
            attached.peer.return_credit()
