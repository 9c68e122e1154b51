"""Sweeper: lost edges, expired sessions, wills, expired messages, abandoned queues.

Owns the task that sweeps the store every SWEEP_INTERVAL_S and processes what is due. The router
starts and stops it. Every router sweeps, in a cluster sessions and wills only while it has an edge;
each thing is claimed by one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tidegate.link.interfaces import EdgeLink
from tidegate.record.events import Kind
from tidegate.router.abandoned_queues import AbandonedQueues
from tidegate.router.edge_leases import EdgeLeases
from tidegate.router.edges import Edges
from tidegate.router.failure_log import FailureLog
from tidegate.router.membership import Membership
from tidegate.router.offline_members import OfflineMembers
from tidegate.router.record import Record
from tidegate.router.retained import RetainedMessages
from tidegate.router.rollback import Rollback
from tidegate.router.sessions import Sessions
from tidegate.router.unstored import UnstoredSessions
from tidegate.router.wills import Wills
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWork, Store

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 0.5
SWEEP_LIMIT: Final = 500
#: Expired entries of queues that are deleted in one call: the store does nothing else meanwhile.
EXPIRE_LIMIT: Final = 2000
#: Why a sweep ends sessions, for the record.
_EXPIRED: Final = (Kind.SESSION_EXPIRED, "session_expiry_interval")
_CONNECTION_ENDED: Final = (Kind.SESSION_ENDED, "connection_ended")


class Sweeper:
    """See the module's docstring."""

    __slots__ = (
        "_abandoned_queues",
        "_counters",
        "_edges",
        "_failures",
        "_leases",
        "_membership",
        "_now_ms",
        "_offline_members",
        "_record",
        "_retained",
        "_rollback",
        "_sessions",
        "_store",
        "_task",
        "_tasks",
        "_unstored",
        "_wills",
    )

    def __init__(
        self,
        store: Store,
        now_ms: Callable[[], int],
        counters: Counters,
        *,
        tasks: Tasks,
        leases: EdgeLeases,
        retained: RetainedMessages,
        abandoned_queues: AbandonedQueues,
        offline_members: OfflineMembers,
        sessions: Sessions,
        wills: Wills,
        edges: Edges,
        membership: Membership | None,
        rollback: Rollback,
        record: Record,
        unstored: UnstoredSessions,
    ) -> None:
        """``membership`` None: this router is alone, and publishes wills itself."""
        self._store = store
        self._edges = edges
        self._membership = membership
        self._rollback = rollback
        self._record = record
        self._unstored = unstored
        self._now_ms = now_ms
        self._counters = counters
        self._tasks = tasks
        self._leases = leases
        self._retained = retained
        self._abandoned_queues = abandoned_queues
        self._offline_members = offline_members
        self._sessions = sessions
        self._wills = wills
        self._failures = FailureLog(log, "sweep")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._sweep_forever())

    async def stop(self) -> None:
        """Sweep no more; what was begun continues."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep_forever(self) -> None:
        while True:
            busy = False
            try:
                busy = await self.sweep()
            except Exception as error:
                # A fault in one sweep must not stop the later ones.
                self._counters.internal_errors += self._failures.failed(error)
            else:
                self._failures.succeeded()
            if not busy:
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> bool:
        """Process what is due; True when there may be more now. Raises StoreUnavailable."""
        self._record.tick()
        membership = self._membership
        found = 0
        await self._offline_members.schedule_checks()
        if membership is None:
            found = await self._sweep_sessions(None, None)
            await self._unstored.look()
        else:
            read_to = await membership.read_by_all()
            publisher = self._edges.will_publisher()
            if publisher is not None or self._edges.are_old():
                found = await self._sweep_sessions(read_to, publisher)
        expired = await self._retained.expire()
        more = await self._store.expire_queued(self._now_ms(), EXPIRE_LIMIT)
        self._leases.sweep_done()
        return more or found >= SWEEP_LIMIT or expired >= SWEEP_LIMIT

    async def _sweep_sessions(
        self, read_to: Sequence[int] | None, publisher: EdgeLink | None
    ) -> int:
        """Process lost edges and what is due; how much. Raises StoreUnavailable.

        All of it may bring wills, which edges publish in a cluster: a router without one leaves it
        to others. Where no router has an edge nothing is connected, and what is due waits for one.
        """
        # The store returns each ended session once: process a reply before the next call may fail.
        found = 0
        publisher_id = "" if publisher is None else publisher.edge_id
        if self._leases.may_sweep_edges():
            history = self._rollback.history
            work = await self._store.sweep_edges(
                self._now_ms(),
                SWEEP_LIMIT,
                publisher_id,
                read_to,
                partial(history.leases_hold, history.count),
            )
            found += self._process(work, publisher)
            if self._rollback.may_sweep():
                work = await self._store.sweep_history(self._now_ms(), SWEEP_LIMIT, publisher_id)
                found += self._process(work, publisher)
                self._rollback.swept(work)
        work = await self._store.sweep_due(self._now_ms(), SWEEP_LIMIT, publisher_id)
        return found + self._process(work, publisher, _EXPIRED)

    def _process(
        self, work: DueWork, publisher: EdgeLink | None, cause: tuple[Kind, str] = _CONNECTION_ENDED
    ) -> int:
        for queue in work.abandoned_queues:
            self._tasks.spawn(self._abandoned_queues.redispatch(queue))
        for member in work.offline_members:
            self._tasks.spawn(self._offline_members.redispatch(member))
        for ended in work.ended:
            self._sessions.ended(ended)
            kind, reason = cause
            self._record.note(kind, ended.client_id, reason)
        self._wills.publish_by(publisher, work.wills)
        waiting = len(work.abandoned_queues) + len(work.offline_members)
        return len(work.ended) + len(work.wills) + waiting
