"""Clean sessions that the store need not have: they end with their connection, and leave nothing.

Of a router that is alone with the store. Owns whether the store has anything of clients that this
process does not know of, which of them are stored, and the numbers (epochs) that were reserved for
connections that are not. ``sessions`` asks for each CONNECT, and reports what became of those that
it has stored; ``sweeper`` looks whether the store has connections of other processes (ADR 0050).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from tidegate.link.interfaces import AttachSession
from tidegate.router.edges import Edges
from tidegate.router.rollback import Rollback
from tidegate.router.table import RoutingTable
from tidegate.runtime.process.tasks import Tasks
from tidegate.store.api import AttachReply, Store, StoreUnavailable

log = logging.getLogger(__name__)

#: Numbers that are reserved at a time in a partition; more are, when fewer than half are left.
RESERVED: Final = 4096
#: Clients of which it is not known what the store has; when there are more, all are stored.
MAX_UNKNOWN: Final = 10_000
_UNKNOWN: Final = 0


class UnstoredSessions:
    """See the module's docstring."""

    __slots__ = (
        "_attaching",
        "_edges",
        "_is_open",
        "_numbers",
        "_reserving",
        "_rollback",
        "_store",
        "_stored",
        "_table",
        "_tasks",
        "_unknown_count",
        "is_alone",
    )

    def __init__(
        self,
        store: Store,
        *,
        tasks: Tasks,
        table: RoutingTable,
        edges: Edges,
        rollback: Rollback,
        is_alone: bool,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._table = table
        self._edges = edges
        self._rollback = rollback
        #: Whether no other router uses the store.
        self.is_alone = is_alone
        #: Whether all that the store has of connections and wills is known.
        self._is_open = False
        #: By partition: the next number and the one behind the last, in ascending order.
        self._numbers: dict[int, deque[tuple[int, int]]] = {}
        self._reserving: set[int] = set()
        #: How many CONNECTs of a client the store is asked for.
        self._attaching: dict[str, int] = {}
        #: Stored sessions that end with their connection, by client: its number, or _UNKNOWN.
        self._stored: dict[str, int] = {}
        self._unknown_count = 0

    # CONNECT and the end of connections

    def begin(self, request: AttachSession) -> int:
        """Return the number of a connection whose session is not stored; 0: it is to be stored.

        The store must have nothing of the client: no session that would go on, or has to be ended,
        and no will that is published before CONNACK.
        """
        client_id = request.client_id
        if (
            not self._is_open
            or request.session_expiry_s
            or request.will is not None
            or client_id in self._table.sessions
            or client_id in self._stored
            or client_id in self._attaching
            or not self._store.is_reachable
        ):
            return 0
        return self._next_number(self._store.partition(client_id))

    def _next_number(self, partition: int) -> int:
        """Return a number that no other connection has or gets; 0: none is reserved."""
        ranges = self._numbers.get(partition)
        if not ranges:
            self._reserve(partition)
            return 0
        number, end = ranges[0]
        if number + 1 < end:
            ranges[0] = (number + 1, end)
        else:
            ranges.popleft()
        if len(ranges) < 2 and end - number < RESERVED // 2:
            self._reserve(partition)
        return number

    def _reserve(self, partition: int) -> None:
        if partition not in self._reserving:
            self._reserving.add(partition)
            self._tasks.spawn(self._reserve_more(partition))

    async def _reserve_more(self, partition: int) -> None:
        history = self._rollback.history
        try:
            count = history.count
            first = await self._store.reserve_epochs(partition, RESERVED)
            if count == history.count and self._is_open:
                self._numbers.setdefault(partition, deque()).append((first, first + RESERVED))
        except StoreUnavailable as error:
            log.debug("no numbers reserved", extra={"reason": str(error)})
        finally:
            self._reserving.discard(partition)

    def storing(self, client_id: str) -> None:
        """The store is asked for a session; ``stored`` or ``failed`` must follow."""
        self._attaching[client_id] = self._attaching.get(client_id, 0) + 1

    def stored(self, client_id: str, reply: AttachReply) -> None:
        """The store has answered."""
        self._answered(client_id)
        if reply.incarnation:
            self._forget(client_id)  # the routing table has it
        elif reply.epoch:
            if self._stored.get(client_id) == _UNKNOWN:
                self._unknown_count -= 1
            self._stored[client_id] = reply.epoch

    def failed(self, client_id: str, *, is_refused: bool) -> None:
        """It has refused the session, and changed nothing; or it is not known what it has done."""
        self._answered(client_id)
        if not is_refused:
            self._note_unknown(client_id)

    def _answered(self, client_id: str) -> None:
        left = self._attaching[client_id] - 1
        if left:
            self._attaching[client_id] = left
        else:
            del self._attaching[client_id]

    def _note_unknown(self, client_id: str) -> None:
        if self._stored.get(client_id) != _UNKNOWN:
            self._unknown_count += 1
        self._stored[client_id] = _UNKNOWN
        if self._unknown_count > MAX_UNKNOWN:
            self.close()

    def _forget(self, client_id: str) -> None:
        if self._stored.pop(client_id, None) == _UNKNOWN:
            self._unknown_count -= 1

    def ended(self, client_id: str, epoch: int) -> None:
        """The store has the end of a connection, and no session of it any more."""
        if self._stored.get(client_id) == epoch:
            del self._stored[client_id]

    # What the store has of others

    def close(self) -> None:
        """Have all sessions stored: the store may have something that is not known here."""
        self._is_open = False
        self._numbers.clear()

    async def look(self) -> None:
        """Look whether all that is stored of connections is of this process, after a sweep.

        Sessions of edges that have ended are swept, with their wills. Of clients with wills that
        are being published it is noted that something is stored. Raises StoreUnavailable.
        """
        rollback = self._rollback
        if self._is_open or not self.is_alone or rollback.is_recovering:
            return
        count = rollback.history.count
        edges, clients = await self._store.connected_edges()
        if count != rollback.history.count or rollback.is_recovering:
            return
        if edges <= set(self._edges.by_id) and len(clients) <= MAX_UNKNOWN // 2:
            if self._unknown_count > MAX_UNKNOWN:
                return  # there is no end to what is not known
            self._is_open = True
            for client_id in clients:
                if client_id not in self._stored:
                    self._note_unknown(client_id)
