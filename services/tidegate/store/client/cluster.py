"""Redis Cluster: which server has which partition, and operations that find it when it moves.

Every operation names one partition, whose keys share a slot. An operation that reaches a server
without the whole slot is not begun there (``scripts/dispatch.lua``); it is held here, with all that
follow it on its partition, until the map names a server that takes them, in their order. Made by
``topology``; the lanes themselves are ``batch``'s.
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
from tidegate.store.client.lanes import MAX_WAITING, Lane, LaneSettings, Operation, fail, translate
from tidegate.store.client.servers import DataServers, StoreRefused, Word, call, drop, name_of

log = logging.getLogger(__name__)

#: Pauses before an operation is tried on the next server, or the map is asked for again.
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.5
#: How long a server may take to say which slots are where.
MAP_STEP_S: Final = 1.0
#: A partition that is refused again within this time has not arrived yet: it is tried less often.
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
        #: Prefix → the server that has the partition; those whose slot nobody serves are missing.
        self.owners: dict[bytes, Address] = {}

    async def refresh(self, step_s: float) -> None:
        """Ask a server of the cluster, any, for the map.

        Raises StoreRefused when all that answer are unusable, StoreUnavailable when none answers.
        """
        async with self._asking:
            candidates = list(dict.fromkeys([*self._known, *self._seeds]))
            random.shuffle(candidates)
            candidates.sort(key=lambda address: address in self._silent)
            refused: StoreRefused | None = None
            reasons = []
            for address in candidates:
                try:
                    reply = await self._ask(address, step_s)
                except StoreRefused as error:
                    refused = error
                except Exception as error:  # the next one is asked, and all are named at the end
                    self._silent.add(address)
                    reasons.append(f"{name_of(address)}: {translate(error)}")
                else:
                    self._silent.discard(address)
                    self._read(reply, address)
                    return
            raise refused or StoreUnavailable("; ".join(sorted(reasons)))

    async def _ask(self, address: Address, step_s: float) -> list[Any]:
        connection, _ = await self._servers.open(address, step_s)
        try:
            reply: list[Any] = await call(connection, step_s, "CLUSTER", "SLOTS")
        finally:
            await drop(connection)
        return reply

    def _read(self, reply: list[Any], asked: Address) -> None:
        def address_of(server: list[Any]) -> Address:
            # A server that does not know its own name leaves it out: it is the one we reached.
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


class _Held:
    """A partition without a server: the operations on it, and since when the first one waits."""

    __slots__ = ("operations", "ready_s", "reason", "since_s", "tries")

    def __init__(self, since_s: float | None, tries: int, ready_s: float) -> None:
        self.operations: deque[Operation] = deque()
        self.since_s = since_s
        self.tries = tries
        #: Not before this time it is given to a server again.
        self.ready_s = ready_s
        #: Set when it has taken too long: operations fail at once.
        self.reason: StoreUnavailable | None = None


class ClusterLanes:
    """One lane to each server in use, and for each partition the lane that takes it now.

    A partition is either settled on one lane, or held: then its operations wait here.
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
        self._settled: dict[bytes, Lane] = {}
        now_s = self._loop.time()
        self._held = {prefix: _Held(None, 0, now_s) for prefix in settings.prefixes}
        # Prefix → when it was settled last, and how long that had taken.
        self._history: dict[bytes, tuple[float, _Held]] = {}
        self._circuit = Circuit("cluster", settings.counters)
        self._task: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self._closing = False

    def submit(self, prefix: bytes, words: Sequence[Word], size: int) -> asyncio.Future[Any]:
        """Queue an operation; see ``batch.Lane.submit``."""
        lane = self._settled.get(prefix)
        if lane is not None:
            return lane.submit(prefix, words, size)
        reply: asyncio.Future[Any] = self._loop.create_future()
        held = self._held[prefix]
        if held.reason is not None:
            reply.set_exception(StoreUnavailable(*held.reason.args))
        elif self._closing:
            reply.set_exception(StoreUnavailable("the store is closed"))
        elif len(held.operations) >= MAX_WAITING:
            reply.set_exception(StoreUnavailable("too many operations wait for the store"))
        else:
            if held.since_s is None:
                held.since_s = self._loop.time()
            held.operations.append((prefix, words, size, reply))
            self._watch()
        return reply

    def generation(self, prefix: bytes) -> object:
        """Something that changes whenever the partition may have come to another server."""
        lane = self._settled.get(prefix)
        return None if lane is None else (lane.name, lane.generation(prefix))

    async def open(self) -> None:
        """Learn the map and connect to every server in it. Raises what connecting raises."""
        await self._map.refresh(self._timeout_s)
        self._place()
        if self._held:
            raise StoreUnavailable("the cluster has slots that no server serves")
        await asyncio.gather(*(lane.open() for lane in self._lanes.values()))

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""
        self._closing = True
        if self._task is not None:
            self.stir()
            await asyncio.wait([self._task])
        for held in self._held.values():
            fail(held.operations, held.reason or StoreUnavailable("the store is closed"))
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()), *self._retiring)
        self._circuit.retire()

    def stir(self) -> None:
        """Look at the map now: something is not where it was, or a server is down."""
        self._stirred.set()
        self._watch()

    def _watch(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(_report)

    def displaced(self, lane: Lane, operations: Sequence[Operation]) -> None:
        """Take operations back that a server has refused because it has not their partition."""
        prefixes = {operation[0] for operation in operations}
        groups: dict[bytes, list[Operation]] = {}
        for operation in (*operations, *lane.withdraw(prefixes)):
            groups.setdefault(operation[0], []).append(operation)
        for prefix, group in groups.items():
            # Whatever is held already was submitted later.
            self._hold(prefix).operations.extendleft(reversed(group))
        self.stir()

    def _hold(self, prefix: bytes) -> _Held:
        self._settled.pop(prefix, None)
        held = self._held.get(prefix)
        if held is not None:
            return held
        now_s = self._loop.time()
        settled_s, before = self._history.get(prefix, (0.0, None))
        if before is not None and now_s - settled_s < _SAME_MOVE_S:
            tries = before.tries + 1
            held = _Held(before.since_s or now_s, tries, now_s + _pause_s(tries))
        else:
            held = _Held(now_s, 0, now_s)
        self._held[prefix] = held
        return held

    async def _run(self) -> None:
        """Follow the map until every partition is settled and every server answers."""
        try:
            tries = 0
            while self._held or any(lane.is_down for lane in self._lanes.values()):
                self._stirred.clear()
                reason = await self._look()
                self._place()
                self._give_up(reason)
                if self._closing and not any(held.operations for held in self._held.values()):
                    return
                tries += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._rest_s(tries)):
                        await self._stirred.wait()
            self._circuit.close()
        finally:
            self._task = None

    async def _look(self) -> str:
        """Ask for the map; what to tell those who have waited too long."""
        try:
            await self._map.refresh(min(self._timeout_s, MAP_STEP_S))
        except Exception as error:  # told to them
            return str(translate(error))
        return "its slot is on its way from one server to another, or nobody serves it"

    def _rest_s(self, tries: int) -> float:
        now_s = self._loop.time()
        ready_s = (held.ready_s for held in self._held.values())
        return min([_pause_s(tries), *(at_s - now_s for at_s in ready_s if at_s > now_s)])

    def _place(self) -> None:
        """Settle partitions where the map says they are."""
        now_s = self._loop.time()
        owners = self._map.owners
        for prefix, lane in list(self._settled.items()):
            # A server that answers says itself when a partition has left it.
            if lane.is_down and owners.get(prefix) not in {None, self._address(lane)}:
                self._hold(prefix).operations.extendleft(reversed(lane.withdraw({prefix})))
        busy = {one[0] for lane in self._lanes.values() for one in lane.under_way}
        for prefix, held in list(self._held.items()):
            address = owners.get(prefix)
            # What is under way somewhere else comes first, whatever becomes of it.
            if address is None or prefix in busy or held.ready_s > now_s:
                continue
            lane = self._lanes.get(address) or self._make_lane(address, self)
            self._lanes[address] = lane
            del self._held[prefix]
            self._settled[prefix] = lane
            self._history[prefix] = (now_s, held)
            if held.operations:
                lane.adopt(held.operations)
        self._retire_unused()

    def _address(self, lane: Lane) -> Address | None:
        return next((address for address, one in self._lanes.items() if one is lane), None)

    def _retire_unused(self) -> None:
        used = {*self._settled.values()}
        owning = {*self._map.owners.values()}
        for address, lane in list(self._lanes.items()):
            if lane not in used and address not in owning and not lane.under_way:
                del self._lanes[address]
                task = self._loop.create_task(lane.close())
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def _give_up(self, reason: str) -> None:
        """Fail what has been held for too long; as it was never begun, nothing is in doubt."""
        too_old_s = self._loop.time() - self._timeout_s
        overdue = [
            held
            for held in self._held.values()
            if held.since_s is not None and held.since_s <= too_old_s
        ]
        for held in overdue:
            held.reason = StoreUnavailable(reason)
            fail(held.operations, held.reason)
            held.operations.clear()
        if overdue:
            self._circuit.open(reason)
        elif not self._held:
            self._circuit.close()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the map of the cluster cannot be followed", exc_info=error)


def _pause_s(tries: int) -> float:
    longest_s = min(FIRST_PAUSE_S * (1 << min(tries, _MAX_DOUBLINGS)), LONGEST_PAUSE_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
