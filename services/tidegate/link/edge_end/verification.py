"""Which connections of an edge still own their sessions, verified after kicks may have been missed.

The same of the wills that it publishes: a newer connection may have taken one to another edge.

Owns whether a verification is under way, and whether another one must follow. Called by
``router_membership`` and ``lease``; closes the connections that own nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tidegate.link.edge_end.endings import Endings
from tidegate.link.edge_end.requests import Requests, RequestUnsupported
from tidegate.link.edge_end.will_publisher import WillPublisher
from tidegate.link.interfaces import EdgeLink
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.process.tasks import Tasks

log = logging.getLogger(__name__)

VERIFY_PAGE: Final = 500
#: How long a router is not used at all because connections cannot be verified: so many times the
#: time after which a router that says nothing is lost.
WAIT_FACTOR: Final = 2


class Verification:
    """See the module's docstring. ``edge`` must be set before the first call."""

    __slots__ = (
        "_again",
        "_edge_id",
        "_endings",
        "_requests",
        "_running",
        "_tasks",
        "_wait_s",
        "_wills",
        "connections",
        "edge",
    )

    edge: EdgeLink

    def __init__(
        self,
        edge_id: str,
        timeout_s: float,
        requests: Requests,
        tasks: Tasks,
        *,
        endings: Endings,
        wills: WillPublisher,
    ) -> None:
        self._edge_id = edge_id
        self._wait_s = WAIT_FACTOR * timeout_s
        self._requests = requests
        self._tasks = tasks
        self._endings = endings
        self._wills = wills
        self._running = False
        self._again = False
        #: Connections of this edge, as (client_id, epoch).
        self.connections: Callable[[], list[tuple[str, int]]] = list

    def events_missed(self) -> None:
        """Verify sessions and read queues: pushes and kicks of a router may have been missed."""
        self.start()
        self.edge.pushes_lost()

    def start(self) -> None:
        """Close the connections whose sessions other edges have taken over meanwhile."""
        self._again = True
        if not self._running:
            self._running = True
            self._tasks.spawn(self._verify())

    async def verify(self) -> bool:
        """Close the connections that are superseded by now, before a router is used.

        While the store is away it waits, but not for long: QoS 0 messages need no store. Returns
        whether the store has answered.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self.verified()
        except TimeoutError:
            log.warning("connections not verified: no store")
            return False
        return True

    async def verified(self) -> None:
        """Do the same, and wait until the store has answered."""
        await self._verify_all(self._requests.send_until_answered)

    async def _verify(self) -> None:
        try:
            while self._again:
                self._again = False
                await self.verified()
        finally:
            self._running = False

    async def _verify_all(
        self, send: Callable[[str, pb.Request], Coroutine[Any, Any, pb.Reply]]
    ) -> None:
        connections = self.connections() + self._endings.connections()
        for start in range(0, len(connections), VERIFY_PAGE):
            page = connections[start : start + VERIFY_PAGE]
            request = pb.Request()
            request.verify.client_ids.extend(client_id for client_id, _ in page)
            request.verify.epochs.extend(epoch for _, epoch in page)
            self._close_others(page, await send(self._edge_id, request))
        wills = self._wills.claimed()
        for start in range(0, len(wills), VERIFY_PAGE):
            await self._verify_wills(wills[start : start + VERIFY_PAGE], send)

    async def _verify_wills(
        self,
        will_ids: list[str],
        send: Callable[[str, pb.Request], Coroutine[Any, Any, pb.Reply]],
    ) -> None:
        """Publish no will that the client's next connection has taken to its own edge."""
        request = pb.Request()
        request.verify_wills.will_ids.extend(will_ids)
        try:
            reply = await send(self._edge_id, request)
        except RequestUnsupported:
            return
        for will_id, here in zip(will_ids, reply.verify_wills.here, strict=False):
            if not here:
                self._wills.leave(will_id)

    def _close_others(self, page: list[tuple[str, int]], reply: pb.Reply) -> None:
        found = reply.verify
        # A router of an older version does not say which are lost.
        all_lost = found.lost or [False] * len(found.live)
        for (client_id, epoch), live, lost in zip(page, found.live, all_lost, strict=False):
            if live:
                continue
            if lost:
                self.edge.session_lost(client_id, epoch)
            else:
                self.edge.kick(client_id, epoch, ReasonCode.SESSION_TAKEN_OVER)
            self._endings.supersede(client_id, epoch)
