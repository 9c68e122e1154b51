"""What a router does when the store has gone back to an older state, or may have lost something.

It loads subscriptions and retained topics again, has connections verified (those of an earlier
history are ended), and leaves edges the time to renew lost leases. Owns the history and which of
that is still to be done. The router makes it; parts that find a connection fenced call ``fenced``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from tidegate.core.standing import Standing
from tidegate.link.interfaces import RouterUnavailable, SessionFenced, SessionLost
from tidegate.mqtt.enums import ReasonCode
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.edges import Edges
from tidegate.router.membership import Membership
from tidegate.router.replica import Replica
from tidegate.router.store_calls import Backoff
from tidegate.router.store_history import StoreHistory
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import GLOBAL, DueWork, Store, StoreUnavailable

log = logging.getLogger(__name__)

#: Connections that were being made are verified once more after so long.
VERIFY_AGAIN_S: Final = 2.0
#: Sessions that are still connected by an earlier history are set offline after so long, beyond
#: the length of a lease.
SWEEP_AFTER_S: Final = 10.0


class Rollback:
    """See the module's docstring."""

    __slots__ = (
        "_edges",
        "_leases",
        "_loop",
        "_membership",
        "_reload",
        "_reloading",
        "_replica",
        "_store",
        "_sweep_s",
        "_tasks",
        "history",
        "on_back",
    )

    def __init__(
        self,
        store: Store,
        counters: Counters,
        *,
        tasks: Tasks,
        edges: Edges,
        leases: EdgeLeases,
        replica: Replica,
        membership: Membership | None,
    ) -> None:
        """``membership`` None: this router is alone."""
        self._store = store
        self._tasks = tasks
        self._edges = edges
        self._leases = leases
        self._replica = replica
        self._membership = membership
        self._loop = asyncio.get_running_loop()
        self._reload = False
        self._reloading = False
        #: When connections of earlier histories are swept; 0: there are none.
        self._sweep_s = 0.0
        #: Called when it has gone back.
        self.on_back: Callable[[], None] = _nothing
        self.history = StoreHistory(store, counters, self._went_back, self._replaced)
        if membership is not None:
            membership.on_gap = self.history.look

    def status(self) -> dict[str, Any]:
        """What /status reports of the store's history."""
        history = self.history
        last = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(history.last_s))
        return {
            "state": "reloading" if self._reloading or history.is_back else "current",
            "id": history.first.get(GLOBAL),
            "rollbacks": history.count,
            "last_rollback": last if history.count else None,
        }

    @property
    def is_recovering(self) -> bool:
        """Whether it is not known yet what the store has."""
        return self._reloading or self._reload or self.history.is_back

    async def fenced(self, client_id: str, epoch: int) -> bool:
        """A write of a connection was refused: end it if the store has lost its session."""
        await self.history.look()
        if not self.history.is_lost(client_id, epoch):
            return False
        self._edges.session_lost(client_id, epoch)
        return True

    async def refuse(self, client_id: str, epoch: int) -> NoReturn:
        """The same; raises SessionLost, or SessionFenced if another connection has the session."""
        if await self.fenced(client_id, epoch):
            raise SessionLost(client_id)
        raise SessionFenced(client_id)

    def may_sweep(self) -> bool:
        """Whether sessions that are connected by an earlier history are to be set offline now."""
        return 0 < self._sweep_s <= self._loop.time()

    def swept(self, work: DueWork) -> None:
        """They were, or some of them."""
        if not work.ended:
            self._sweep_s = 0.0

    def _went_back(self, _partitions: Sequence[int]) -> None:
        self.on_back()
        self._leases.pause_sweeps()
        self._sweep_s = self._loop.time() + SWEEP_AFTER_S + self._leases.duration_s
        self._reload = True
        if self._membership is not None:
            self._membership.outdated()
        if not self._reloading:
            self._reloading = True
            self._tasks.spawn(self._recover())

    async def _recover(self) -> None:
        try:
            backoff = Backoff()
            while self._reload:
                self._reload = False
                try:
                    await self._load()
                except (StoreUnavailable, RouterUnavailable) as error:
                    self._reload = True
                    await backoff.pause("load a store that has gone back", str(error))
        finally:
            self._reloading = False
        await self._verify()
        await asyncio.sleep(VERIFY_AGAIN_S)
        await self._verify()

    async def _load(self) -> None:
        if self._membership is not None:
            await self._membership.catch_up()
        else:
            await self._replica.load()

    def _replaced(self) -> None:
        self._tasks.spawn(self._after_replacement())

    async def _after_replacement(self) -> None:
        """Verify what a server may have lost that was replaced, or restarted."""
        if self._reloading:
            return
        if self._membership is None:
            lost, evidence = await self._verify(), "sessions of connections are not there"
        else:
            lost, evidence = await self._compare_logs(), "change logs end before what was read"
        if lost:
            self.history.declare(lost, evidence)
        elif self._membership is not None:
            await self._verify()

    async def _compare_logs(self) -> list[int]:
        """The partitions whose change logs end before what has been read of them."""
        backoff = Backoff()
        while self._membership is not None:
            try:
                return await self._membership.is_ahead()
            except StoreUnavailable as error:
                await backoff.pause("compare change logs", str(error))
        return []

    async def _verify(self) -> list[int]:
        """Have every edge verify its connections.

        For one in this process it is done here; returns the partitions that have lost some of them.
        """
        lost: set[int] = set()
        for edge in list(self._edges.by_id.values()):
            connections = edge.connections()
            if connections is None:
                edge.verify_sessions()
                continue
            standings = await self._standings(connections)
            left = set(edge.connections() or ())
            for connection, standing in zip(connections, standings, strict=True):
                # Nobody but this edge ends its sessions.
                if standing in {Standing.LOST, Standing.GONE} and connection in left:
                    edge.session_lost(*connection)
                    lost.add(self._store.partition(connection[0]))
                elif standing in {Standing.TAKEN, Standing.ENDED}:
                    edge.kick(*connection, ReasonCode.SESSION_TAKEN_OVER)
        return sorted(lost)

    async def _standings(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        backoff = Backoff()
        while True:
            try:
                return await self._store.verify(connections)
            except StoreUnavailable as error:
                await backoff.pause("verify connections", str(error))


def _nothing() -> None:
    pass
