"""The lease of an edge in the store: while it lasts, the edge's sessions stay its own.

Owns until when the lease lasts, and which routers had a lease at the last renewal; with each of
these it sets the edge's clock to broker time. Started by the router client, which also waits for
it before a session is attached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tidegate.link.edge_end.edge_figures import EdgeFigures
from tidegate.link.edge_end.requests import RETRY_S, Requests
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.edge_end.verification import Verification
from tidegate.link.interfaces import RouterUnavailable
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.process.clock import BrokerClock
from tidegate.runtime.process.tasks import Tasks

#: How often queues are read while a router with a lease is not connected.
DEGRADED_S: Final = 1.0


class Lease:
    """See the module's docstring. ``discover_now`` starts a search for routers at once."""

    __slots__ = (
        "_discover_now",
        "_edge_id",
        "_figures",
        "_live_routers",
        "_loop",
        "_requests",
        "_routers",
        "_verification",
        "clock",
        "duration_s",
        "granted",
        "until_s",
    )

    def __init__(
        self,
        edge_id: str,
        duration_s: float,
        routers: RouterTable,
        requests: Requests,
        verification: Verification,
        figures: EdgeFigures,
        discover_now: Callable[[], None],
    ) -> None:
        self._edge_id = edge_id
        self.duration_s = duration_s
        self._routers = routers
        self._requests = requests
        self._verification = verification
        self._figures = figures
        self._discover_now = discover_now
        #: Set to broker time at every renewal; None: there is none in this process.
        self.clock: BrokerClock | None = None
        #: Whether it has been granted once.
        self.granted = False
        #: Until when it lasts, in the event loop's time.
        self.until_s = 0.0
        #: Instances of the routers with a lease.
        self._live_routers: set[str] = set()
        #: Kept: ``wait`` is called for each CONNECT, and to look it up costs a system call until
        #: Python 3.12.
        self._loop = asyncio.get_running_loop()

    def start(self, tasks: Tasks) -> None:
        """Begin to renew it."""
        tasks.spawn(self.keep())
        tasks.spawn(self.watch_unreachable())

    async def keep(self) -> None:
        """Renew the lease; when it had expired, verify which sessions are still this edge's."""
        loop = asyncio.get_running_loop()
        while True:
            asked_s = loop.time()
            try:
                reply = await self._requests.send(
                    self._edge_id, pb.Request(lease=pb.LeaseRequest())
                )
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            self._live_routers = set(reply.lease.routers)
            self._follow(reply.lease, loop.time() - asked_s)
            self._figures.send()
            if reply.lease.was_lost and self.granted:
                self._verification.start()
            self.granted = True
            self.until_s = asked_s + self.duration_s
            self._routers.notify_changed()
            await asyncio.sleep(self.duration_s / 4)

    def _follow(self, lease: pb.LeaseReply, age_s: float) -> None:
        if self.clock is not None and lease.broker_time_ms:
            self.clock.follow(lease.broker_time_ms, lease.wall_time_ms, age_s)

    async def watch_unreachable(self) -> None:
        """Have queues read and sessions verified while a router with a lease is not connected.

        Its pushes do not arrive, and neither do its kicks for sessions taken over elsewhere.
        """
        while True:
            await asyncio.sleep(DEGRADED_S)
            here = {peer.instance for peer in self._routers.connected()}
            if self._live_routers - here:
                self._discover_now()
                self._verification.events_missed()

    @property
    def lasts(self) -> bool:
        """Whether it lasts, as far as this edge knows."""
        return self._loop.time() < self.until_s

    async def wait(self, timeout_s: float) -> None:
        """Return once the lease lasts: sessions of an edge without one are given to others.

        Raises RouterUnavailable after ``timeout_s``.
        """
        if self.lasts:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not self.lasts:
                    await self._routers.wait_changed()
        except TimeoutError:
            raise RouterUnavailable("edge lease not renewed") from None

    async def end(self) -> None:
        """Remove the lease from the store. Raises RouterUnavailable."""
        await self._requests.send(self._edge_id, pb.Request(end_lease=pb.EndLeaseRequest()))
