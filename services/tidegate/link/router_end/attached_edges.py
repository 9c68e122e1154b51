"""The edges attached to a router: who is there, and what they are paid for their publishes.

Owns the table of streams, and the credit of all edges together: it is given back as publishes are
settled, unless one edge has to be waited for. ``link_server`` adds and removes; ``frame_handler``
and the answers of the store settle; ``answers`` and ``barriers`` look who is there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

from tidegate.link.router_end.edge_peer import EdgePeer

#: Queues, and retained messages, that are read at the same time for one edge; more wait.
MAX_READS: Final = 16


class AttachedEdge:
    """What belongs to one stream: the peer, its end, and lists that are read page by page."""

    __slots__ = ("closing", "cursors", "peer", "reads")

    def __init__(self, peer: EdgePeer) -> None:
        self.peer = peer
        #: Done: the stream is to be closed from this side. (Were its task cancelled instead, gRPC
        #: would say nothing to the edge.)
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cursors: OrderedDict[int, AsyncIterator[list[str]]] = OrderedDict()
        #: Bounds the answers that may be large and are under way at the same time.
        self.reads = asyncio.Semaphore(MAX_READS)

    @property
    def name(self) -> str:
        """The name of the edge."""
        return self.peer.name


class AttachedEdges:
    """See the module's docstring."""

    __slots__ = ("_changed", "_credit_scheduled", "_mailbox_bytes", "by_id")

    def __init__(self, mailbox_bytes: int) -> None:
        self._mailbox_bytes = mailbox_bytes
        #: By edge_id.
        self.by_id: dict[str, AttachedEdge] = {}
        self._credit_scheduled = False
        self._changed = asyncio.Event()

    @property
    def peers(self) -> list[EdgePeer]:
        """The edges that are attached."""
        return [attached.peer for attached in self.by_id.values()]

    def notify_changed(self) -> None:
        """An edge has gone, or ends; or nothing of some batch is under way any more."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait for that."""
        self._changed.clear()
        await self._changed.wait()

    # Credit

    def publish_done(
        self, peer: EdgePeer, number: int, size: int, code: int, *, now: bool = True
    ) -> None:
        """A publish has come to its end: answer it, and give its credit back."""
        if peer.closed:
            return
        peer.credit_due_bytes += size
        if number:
            peer.confirm(number, code)
        else:
            peer.unacknowledged_done += 1
        if now and not self._credit_scheduled:
            # A batch of the store's settles hundreds at a time: once for all of them.
            self._credit_scheduled = True
            asyncio.get_running_loop().call_soon(self._return_credit_soon)

    def _return_credit_soon(self) -> None:
        self._credit_scheduled = False
        self.return_all_credit()

    def frame_sent(self, peer: EdgePeer) -> None:
        """A frame is on its way: there may be place again."""
        peer.stalled = False
        peer.frame_taken()
        if peer.outbox.queued_bytes <= self._mailbox_bytes:
            self.return_all_credit()

    def return_all_credit(self) -> None:
        """Give edges their credit back, unless one has to be waited for."""
        streams = self.by_id.values()
        if any(attached.peer.congested for attached in streams):
            return
        for attached in streams:
            attached.peer.return_credit()
