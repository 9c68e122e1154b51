"""Barriers: all that an edge has published is confirmed, and every edge has handled its frames.

Owns the echoes that are awaited. ``request_handler`` waits for a barrier, ``edge_frames`` calls it
with the echoes; publishes that are not confirmed are counted in the batches of ``EdgePeer``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from tidegate.link.messages import SMALL_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.router_end.edge_peer import Batch, EdgePeer
from tidegate.link.v1 import link_pb2 as pb


class Barriers:
    """See the module's docstring. ``stall_s``: an edge that is silent for so long is skipped."""

    __slots__ = ("_echoes", "_edges", "_numbers", "_stall_s")

    def __init__(self, edges: AttachedEdges, stall_s: float) -> None:
        self._edges = edges
        self._stall_s = stall_s
        self._numbers = itertools.count(1)
        self._echoes: dict[int, asyncio.Future[None]] = {}

    async def wait(self, peer: EdgePeer, *, last: bool) -> None:
        """Return when it is reached; ``last``: the edge publishes nothing more to this router."""
        # What arrives after this does not count: under load there is always something under way.
        before, peer.batch = [*peer.batches, peer.batch], Batch()
        peer.batches = before
        while any(batch.unconfirmed for batch in before) and not peer.closed:
            await self._edges.wait_changed()
        peer.batches = [batch for batch in peer.batches if batch.unconfirmed]
        if last:
            peer.has_left = True
            self._edges.notify_changed()
            await self._all_left()
        await self._reach_all()

    async def _all_left(self) -> None:
        """Return when no edge publishes to this router any more, or after ``stall_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stall_s):
                while not all(peer.has_left for peer in self._edges.peers):
                    await self._edges.wait_changed()

    async def _reach_all(self) -> None:
        """Return when every edge has handled what it was sent until now.

        An edge that sends nothing at all handles nothing either: no later message can overtake.
        """
        waiting: dict[asyncio.Future[None], tuple[int, EdgePeer, int]] = {}
        for peer in self._edges.peers:
            number = next(self._numbers)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._echoes[number] = future
            peer.outbox.frame.operations.add().echo.id = number
            peer.outbox.grew(SMALL_BYTES)
            waiting[future] = (number, peer, peer.frames_received)
        try:
            while waiting:
                await asyncio.wait(waiting, timeout=self._stall_s)
                left = {}
                for future, (number, peer, received) in waiting.items():
                    if future.done() or peer.closed or peer.stalled:
                        self._echoes.pop(number, None)
                    elif peer.frames_received != received:
                        left[future] = (number, peer, peer.frames_received)
                    else:
                        self._echoes.pop(number, None)
                waiting = left
        finally:
            for number, _, _ in waiting.values():
                self._echoes.pop(number, None)

    def echoed(self, _attached: AttachedEdge, echo: pb.Echo) -> None:
        """An edge has handled what it was sent before this echo."""
        future = self._echoes.pop(echo.id, None)
        if future is not None and not future.done():
            future.set_result(None)
