"""Barriers: all that was published is confirmed, and every edge has handled its frames.

Owns the echoes that are awaited. ``request_handler`` waits for a barrier, ``edge_frames`` calls it
with the echoes; publishes that are not confirmed are counted in the batches of ``AttachedEdges``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from tidegate.link.messages import SMALL_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.router_end.edge_peer import EdgePeer
from tidegate.link.v1 import link_pb2 as pb


class Barriers:
    """See the module's docstring.

    Edges have ``stall_s`` to leave, and ``timeout_s`` to handle what they were sent, if they handle
    nothing meanwhile: after that both ends have closed the connection.
    """

    __slots__ = ("_echoes", "_edges", "_numbers", "_stall_s", "_timeout_s")

    def __init__(self, edges: AttachedEdges, stall_s: float, timeout_s: float) -> None:
        self._edges = edges
        self._stall_s = stall_s
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._echoes: dict[int, asyncio.Future[None]] = {}

    async def wait(self, peer: EdgePeer, *, last: bool) -> None:
        """Return when it is reached; ``last``: the edge publishes nothing more to this router.

        Publishes of other edges count, too, and of those that have gone: their clients may have
        connected at this one, and must not overtake themselves.
        """
        # What arrives after this does not count: under load there is always something under way.
        before = self._edges.cut()
        while any(batch.unconfirmed for batch in before) and not peer.closed:
            await self._edges.wait_changed()
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
        """Return when every edge has handled what it was sent until now, or is detached.

        An edge that is not heard of may be well, and only the path to it be silent: what was sent
        on it before comes when it heals, and what another router sends after this would overtake.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        waiting: dict[asyncio.Future[None], tuple[int, EdgePeer, int]] = {}
        for peer in self._edges.peers:
            number = next(self._numbers)
            future: asyncio.Future[None] = loop.create_future()
            self._echoes[number] = future
            peer.outbox.operation().echo.id = number
            peer.outbox.grew(SMALL_BYTES)
            waiting[future] = (number, peer, peer.frames_received)
        try:
            while waiting:
                await asyncio.wait(waiting, timeout=self._stall_s)
                is_late = loop.time() >= until_s
                left = {}
                for future, (number, peer, received) in waiting.items():
                    is_idle = peer.stalled or peer.frames_received == received
                    if future.done() or peer.closed or (is_late and is_idle):
                        self._echoes.pop(number, None)
                    else:
                        left[future] = (number, peer, peer.frames_received)
                waiting = left
        finally:
            for number, _, _ in waiting.values():
                self._echoes.pop(number, None)

    def echoed(self, _attached: AttachedEdge, echo: pb.Echo) -> None:
        """An edge has handled what it was sent before this echo."""
        future = self._echoes.pop(echo.id, None)
        if future is not None and not future.done():
            future.set_result(None)
