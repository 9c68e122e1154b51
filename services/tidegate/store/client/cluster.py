"""Redis Cluster: which server has which partition, and where operations go when it moves.

Every operation names one partition, whose keys share a slot. A server without the whole slot does
not run an operation (``scripts/dispatch.lua``); the operation waits here, with all that follow on
its partition, until the map names a server for them, in their order. Made by ``topology``; the
lanes themselves are in ``lanes``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.crc import key_slot

from tidegate.runtime.config.store_url import Address
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.circuit import Circuit
from tidegate.store.client.failures import StoreRefused, combined
from tidegate.store.client.lanes import MAX_WAITING, Lane, LaneSettings, Operation, fail, translate
from tidegate.store.client.servers import DataServers, Word, call, drop, name_of

log = logging.getLogger(__name__)

#: Pauses before an operation is retried on the next server, or the map is read again.
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.5
#: How long a server may take to return the map of slots.
MAP_STEP_S: Final = 1.0
#: A partition that is refused again within this time is still moving: it is retried less often.
_SAME_MOVE_S: Final = 2.0
_MAX_DOUBLINGS: Final = 16


class ClusterMap:
    """Knows the servers of a cluster, and which of them has which partition."""

    def __init__(
        self, servers: DataServers, seeds: Sequence[Address], prefixes: Sequence[bytes]
    ) -> None:
        self._servers = servers
        self._seeds = seeds
        self._slots = {prefix: key_slot(prefix) for prefix in prefixes}
        self._known: list[Address] = []
        self._silent: set[Address] = set()
        self._asking = asyncio.Lock()
        #: Prefix → the server that has the partition; none for a slot that no server serves.
        self.owners: dict[bytes, Address] = {}

    async def refresh(self, step_s: float) -> None:
        """Read the map from any server of the cluster.

        Raises StoreRefused when all that answer are unusable, StoreUnavailable when none answers.
        """
        async with self._asking:
            candidates = list(dict.fromkeys([*self._known, *self._seeds]))
            random.shuffle(candidates)
            candidates.sort(key=lambda address: address in self._silent)
            refused: StoreRefused | None = None
            errors = []
            for address in candidates:
                try:
                    reply = await self._ask(address, step_s)
                except StoreRefused as error:
                    refused = error
                except Exception as error:  # the next one is tried, all are named at the end
                    self._silent.add(address)
                    errors.append(translate(error))
                else:
                    self._silent.discard(address)
                    self._read(reply, address)
                    return
            raise refused or combined(errors)

    def incomplete(self) -> StoreUnavailable:
        """Return the failure of a cluster in which slots are without a server."""
        cluster = f"the cluster of {name_of(self._seeds[0])}"
        text = self._servers.failures.of_url(cluster, "has slots that no server serves")
        return StoreUnavailable(text)

    async def _ask(self, address: Address, step_s: float) -> list[Any]:
        connection, _ = await self._servers.open(address, step_s)
        try:
            reply: list[Any] = await call(connection, step_s, "CLUSTER", "SLOTS")
        finally:
            await drop(connection)
        return reply

    def _read(self, reply: list[Any], asked: Address) -> None:
        def address_of(server: list[Any]) -> Address:
            # A server that does not know its own name leaves it out: it is the one that answered.
            host = server[0].decode() if server[0] else ""
            return (asked[0] if host in {"", "?"} else host, int(server[1]))

        ranges = [(one[0], one[1], address_of(one[2])) for one in reply]
        self._known = list(dict.fromkeys(address_of(server) for one in reply for server in one[2:]))
        self.owners = {
            prefix: address
            for prefix, slot in self._slots.items()
            for first, last, address in ranges
            if first <= slot <= last
        }


class _Unplaced:
    """A partition without a lane: its operations, and since when the first one waits."""

    __slots__ = ("operations", "ready_s", "reason", "since_s", "tries")

    def __init__(self, since_s: float | None, tries: int, ready_s: float) -> None:
        self.operations: deque[Operation] = deque()
        self.since_s = since_s
        self.tries = tries
        #: Not placed on a lane again before this time.
        self.ready_s = ready_s
        #: Set when it takes too long: operations fail at once.
        self.reason: StoreUnavailable | None = None


class ClusterLanes:
    """One lane to each server in use, and for each partition the lane that serves it now.

    A partition is either placed on one lane, or unplaced: then its operations wait here.
    """

    def __init__(
        self,
        cluster: ClusterMap,
        make_lane: Callable[[Address, ClusterLanes], Lane],
        settings: LaneSettings,
    ) -> None:
        self._map = cluster
        self._make_lane = make_lane
        self._timeout_s = settings.timeout_s
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Address, Lane] = {}
        self._placed: dict[bytes, Lane] = {}
        now_s = self._loop.time()
        self._unplaced = {prefix: _Unplaced(None, 0, now_s) for prefix in settings.prefixes}
        # Prefix → when it was placed last, and its state before that.
        self._history: dict[bytes, tuple[float, _Unplaced]] = {}
        self._circuit = Circuit("cluster", settings.counters, settings.outages)
        self._task: asyncio.Task[None] | None = None
        self._refresh_wanted = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self._closing = False

    def submit(self, prefix: bytes, words: Sequence[Word], size: int) -> asyncio.Future[Any]:
        """Queue an operation; see ``Lane.submit``."""
        lane = self._placed.get(prefix)
        if lane is not None:
            return lane.submit(prefix, words, size)
        reply: asyncio.Future[Any] = self._loop.create_future()
        unplaced = self._unplaced[prefix]
        if unplaced.reason is not None:
            reply.set_exception(StoreUnavailable(*unplaced.reason.args))
        elif self._closing:
            reply.set_exception(StoreUnavailable("store closed"))
        elif len(unplaced.operations) >= MAX_WAITING:
            reply.set_exception(StoreUnavailable("too many operations are waiting for the store"))
        else:
            if unplaced.since_s is None:
                unplaced.since_s = self._loop.time()
            unplaced.operations.append((prefix, words, size, reply))
            self._watch()
        return reply

    @property
    def is_down(self) -> bool:
        """True while some partitions are on no server, or a server is down."""
        return bool(self._unplaced) or any(lane.is_down for lane in self._lanes.values())

    def generation(self, prefix: bytes) -> object:
        """Something that changes whenever the partition may have moved to another server."""
        lane = self._placed.get(prefix)
        return None if lane is None else (lane.name, lane.generation(prefix))

    async def open(self) -> None:
        """Read the map and connect to every server in it. Raises what connecting raises."""
        await self._map.refresh(self._timeout_s)
        self._place()
        if self._unplaced:
            raise self._map.incomplete()
        await asyncio.gather(*(lane.open() for lane in self._lanes.values()))

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""
        self._closing = True
        if self._task is not None:
            self.refresh()
            await asyncio.wait([self._task])
        for unplaced in self._unplaced.values():
            fail(unplaced.operations, unplaced.reason or StoreUnavailable("store closed"))
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()), *self._retiring)
        self._circuit.retire()

    def refresh(self) -> None:
        """Read the map again: a partition has moved, or a server is down."""
        self._refresh_wanted.set()
        self._watch()

    def _watch(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(_log_failure)

    def take_back(self, lane: Lane, operations: Sequence[Operation]) -> None:
        """Take operations back that a server refused because it does not have their partition."""
        prefixes = {operation[0] for operation in operations}
        groups: dict[bytes, list[Operation]] = {}
        for operation in (*operations, *lane.withdraw(prefixes)):
            groups.setdefault(operation[0], []).append(operation)
        for prefix, group in groups.items():
            # Operations that wait already were submitted later.
            self._unplace(prefix).operations.extendleft(reversed(group))
        self.refresh()

    def _unplace(self, prefix: bytes) -> _Unplaced:
        self._placed.pop(prefix, None)
        unplaced = self._unplaced.get(prefix)
        if unplaced is not None:
            return unplaced
        now_s = self._loop.time()
        placed_s, before = self._history.get(prefix, (0.0, None))
        if before is not None and now_s - placed_s < _SAME_MOVE_S:
            tries = before.tries + 1
            unplaced = _Unplaced(before.since_s or now_s, tries, now_s + _pause_s(tries))
        else:
            unplaced = _Unplaced(now_s, 0, now_s)
        self._unplaced[prefix] = unplaced
        return unplaced

    async def _run(self) -> None:
        """Read the map until every partition is placed and every server answers."""
        try:
            tries = 0
            while self._unplaced or any(lane.is_down for lane in self._lanes.values()):
                self._refresh_wanted.clear()
                reason = await self._refresh_map()
                self._place()
                self._fail_overdue(reason)
                waiting = any(unplaced.operations for unplaced in self._unplaced.values())
                if self._closing and not waiting:
                    return
                tries += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._next_pause_s(tries)):
                        await self._refresh_wanted.wait()
            self._circuit.close()
        finally:
            self._task = None

    async def _refresh_map(self) -> str:
        """Read the map; the reason for operations that have waited too long."""
        try:
            await self._map.refresh(min(self._timeout_s, MAP_STEP_S))
        except Exception as error:  # the reason
            return str(translate(error))
        return "its slot is moving between servers, or no server serves it"

    def _next_pause_s(self, tries: int) -> float:
        now_s = self._loop.time()
        ready_s = (unplaced.ready_s for unplaced in self._unplaced.values())
        return min([_pause_s(tries), *(at_s - now_s for at_s in ready_s if at_s > now_s)])

    def _place(self) -> None:
        """Place partitions on the lanes of the servers that the map names."""
        now_s = self._loop.time()
        owners = self._map.owners
        for prefix, lane in list(self._placed.items()):
            # A server that answers refuses operations on a partition that has moved.
            if lane.is_down and owners.get(prefix) not in {None, self._address(lane)}:
                self._unplace(prefix).operations.extendleft(reversed(lane.withdraw({prefix})))
        busy = {one[0] for lane in self._lanes.values() for one in lane.in_flight}
        for prefix, unplaced in list(self._unplaced.items()):
            address = owners.get(prefix)
            # Operations in flight on another server come first, whatever their outcome.
            if address is None or prefix in busy or unplaced.ready_s > now_s:
                continue
            lane = self._lanes.get(address) or self._make_lane(address, self)
            self._lanes[address] = lane
            del self._unplaced[prefix]
            self._placed[prefix] = lane
            self._history[prefix] = (now_s, unplaced)
            if unplaced.operations:
                lane.requeue(unplaced.operations)
        self._retire_unused()

    def _address(self, lane: Lane) -> Address | None:
        return next((address for address, one in self._lanes.items() if one is lane), None)

    def _retire_unused(self) -> None:
        used = {*self._placed.values()}
        owning = {*self._map.owners.values()}
        for address, lane in list(self._lanes.items()):
            if lane not in used and address not in owning and not lane.in_flight:
                del self._lanes[address]
                task = self._loop.create_task(lane.close())
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def _fail_overdue(self, reason: str) -> None:
        """Fail operations that have waited too long; they were not run, so nothing is in doubt."""
        too_old_s = self._loop.time() - self._timeout_s
        overdue = [
            unplaced
            for unplaced in self._unplaced.values()
            if unplaced.since_s is not None and unplaced.since_s <= too_old_s
        ]
        for unplaced in overdue:
            unplaced.reason = StoreUnavailable(reason)
            fail(unplaced.operations, unplaced.reason)
            unplaced.operations.clear()
        if overdue:
            self._circuit.open(reason)
        elif not self._unplaced:
            self._circuit.close()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("cluster map task failed", exc_info=error)


def _pause_s(tries: int) -> float:
    longest_s = min(FIRST_PAUSE_S * (1 << min(tries, _MAX_DOUBLINGS)), LONGEST_PAUSE_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
