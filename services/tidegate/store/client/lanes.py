"""Lanes: one connection to a server each, on which the operations of many callers are batched.

While one script call is in flight the next operations gather, and are sent as one call after its
reply: no timer when idle, natural batches under load, operations in the order of ``submit``. The
operation of a caller that was cancelled is still sent, and other callers are not affected.
``topology`` and ``cluster`` make lanes. redis-py makes the connection; commands are packed here,
because its command objects cost more than the server's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeAlias

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store import operations as op
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.circuit import MAX_FAILURES, Circuit, Outages
from tidegate.store.client.failures import Failures, StoreRefused, is_permission_denied
from tidegate.store.client.in_sync import LOOK_S, MAX_LAG_S, InSync
from tidegate.store.client.in_sync import name as in_sync_name
from tidegate.store.client.memory import NOT_FULL, MemoryWatch
from tidegate.store.client.servers import Opened, Word, call, drop, pack

log = logging.getLogger(__name__)

#: Bounds of one script call: the server does nothing else meanwhile.
MAX_BATCH_OPERATIONS: Final = 256
MAX_BATCH_BYTES: Final = 1_048_576
#: Operations that may wait; more are refused at once.
MAX_WAITING: Final = 100_000

#: The beginnings of error replies that are transient; all others are faults of Tidegate.
_TRANSIENT = (
    "READONLY",
    "OOM",
    "LOADING",
    "MISCONF",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "ELSEWHERE",
    "NOREPLICAS",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "UNKILLABLE",
    "ERR max number of clients",
)
_TRANSIENT_TYPES = (
    OSError,
    TimeoutError,
    StoreRefused,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.BusyLoadingError,
    redis_errors.AuthenticationError,
    redis_errors.NoPermissionError,
)
#: How many counts of removed entries a call returns; the result of a look at memory follows.
_DROPPED: Final = 4
#: The script's error for an operation whose partition is moving to another server.
_ELSEWHERE: Final = "ELSEWHERE"

#: Opens a connection to the server of a lane; the argument bounds each step, in seconds.
Connect: TypeAlias = Callable[[float], Awaitable[Opened]]

#: One operation: the prefix of its partition, its words (letter, count of arguments, arguments),
#: about how many bytes it moves, the caller's future. A tuple, because each message has one.
Operation: TypeAlias = tuple[bytes, Sequence[Word], int, asyncio.Future[Any]]


class StoreFault(Exception):
    """The server refused an operation as invalid: a fault of Tidegate or foreign data."""


def start_failure(error: BaseException, setting: str) -> BaseException:
    """Return what to raise when the connection to a store cannot be opened or used."""
    if isinstance(error, StoreRefused) or not isinstance(error, Exception):
        return error
    failure = translate(error)
    if isinstance(failure, StoreFault):
        return StoreRefused(f"{setting}: the store refuses: {failure}")
    return failure


def translate(error: Exception) -> Exception:
    """Turn an error of redis-py or of the network into one of the store's."""
    if isinstance(error, StoreUnavailable | StoreFault):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, _TRANSIENT_TYPES) or text.startswith(_TRANSIENT):
        return StoreUnavailable(text)
    # What a script's command says, in several wordings.
    if "cluster is down" in text or is_permission_denied(error):
        return StoreUnavailable(text)
    return StoreFault(text)


def first_words(sha1: bytes, header: Sequence[Word], guards: Sequence[bytes]) -> list[Word]:
    """Return the words of a call before its operations, without a look at the server's memory."""
    return [b"EVALSHA", sha1, 0, *header, NOT_FULL, len(guards), *guards]


@dataclass(slots=True, frozen=True)
class LaneSettings:
    """What the lanes of a store have in common.

    ``prefixes`` are those of all partitions, ``header`` the script's first words, whose values may
    change while lanes use them. ``on_dropped`` gets how many queue entries a call has removed
    because queues were full, how many because sessions ended, how many of these had not been sent,
    and how many because they had expired. ``on_replaced`` is called when a lane has connected to a
    server process that is not among ``processes``, where it is added. ``timeout_s`` bounds every
    round trip; after it the outcome is unknown, the connection is dropped, and callers get
    StoreUnavailable.
    With ``replicas``, replies wait until so many replicas have confirmed the call; with
    ``all_in_sync``, until all that keep up have, and so many at least.
    ``reserve_percent`` of the server's memory is kept free (``MemoryWatch``).
    """

    script: tuple[bytes, bytes]
    prefixes: tuple[bytes, ...]
    header: list[Word]
    on_dropped: Callable[[int, int, int, int], None]
    timeout_s: float
    counters: Counters
    on_replaced: Callable[[], None]
    processes: set[bytes]
    replicas: int = 0
    all_in_sync: bool = False
    replication_timeout_s: float = 1.0
    #: Puts failures into words; None in tests of lanes alone.
    failures: Failures | None = None
    #: What is logged as unavailable, by all lanes together.
    outages: Outages = field(default_factory=Outages)
    reserve_percent: int = 0


class Lane:
    """Sends operations over one connection and distributes the results.

    In a cluster ``on_moved`` gets, in their order, the operations that were not run because their
    partition is no longer on this server. ``on_down`` is called when the circuit opens. When
    ``leader`` has connected again, this lane does too, before it sends anything: its own connection
    may be to a server that was replaced, and has noticed nothing of that.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        settings: LaneSettings,
        *,
        on_moved: Callable[[Lane, list[Operation]], None] | None = None,
        on_down: Callable[[], None] | None = None,
        leader: Lane | None = None,
    ) -> None:
        self.name = name
        self._open_connection = connect
        self._settings = settings
        self._on_moved = on_moved
        self._on_down = on_down
        self._leader = leader
        #: How often the leader had connected when this lane began to connect.
        self._leader_connects = 0
        self._head = (b"EVALSHA", settings.script[1], 0)
        self._wait_command = b""
        self._round_s = settings.timeout_s
        self._wanted = settings.replicas
        #: The replicas that keep up; None where a fixed number confirms.
        self._in_sync: InSync | None = None
        self._looked_s = 0.0
        if settings.replicas:
            self._round_s += settings.replication_timeout_s
            self._want(settings.replicas)
            if settings.all_in_sync:
                self._in_sync = InSync(settings.replicas)
        self._circuit = Circuit(name, settings.counters, settings.outages)
        self._memory = MemoryWatch(name, settings.reserve_percent, settings.counters)
        self._waiting: deque[Operation] = deque()
        #: Sent, without a reply yet.
        self.in_flight: Sequence[Operation] = ()
        self._wake: asyncio.Future[None] | None = None
        self._connection: AbstractConnection | None = None
        #: How many connections have been opened.
        self.connects = 0
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_down(self) -> bool:
        """True while the circuit is open: every operation fails at once."""
        return self._circuit.reason is not None

    def submit(self, prefix: bytes, words: Sequence[Word], size: int) -> asyncio.Future[Any]:
        """Queue an operation: its letter, the count of its arguments, its arguments.

        ``prefix`` is that of the partition whose keys it touches, ``size`` about how many bytes
        it moves in either direction. The future ends with the script's result, StoreUnavailable,
        or StoreFault.
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        if (reason := self._circuit.reason) is not None:
            self._circuit.failed_at_once += 1
            reply.set_exception(StoreUnavailable(*reason.args))
        elif self._closing:
            reply.set_exception(StoreUnavailable("store closed"))
        elif len(self._waiting) >= MAX_WAITING:
            reply.set_exception(StoreUnavailable("too many operations are waiting for the store"))
        else:
            self._waiting.append((prefix, words, size, reply))
            if self._task is None:
                self._start()
            elif self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        return reply

    def requeue(self, operations: Sequence[Operation]) -> None:
        """Queue operations that another lane has not run."""
        if self._closing or self.is_down:
            fail(operations, self._circuit.reason or StoreUnavailable("store closed"))
            return
        self._waiting.extend(operations)
        if self._task is None:
            self._start()
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def withdraw(self, prefixes: Collection[bytes]) -> list[Operation]:
        """Remove and return, in order, the operations on these partitions that wait to be sent."""
        taken = [operation for operation in self._waiting if operation[0] in prefixes]
        if taken:
            rest = [operation for operation in self._waiting if operation[0] not in prefixes]
            self._waiting.clear()
            self._waiting.extend(rest)
        return taken

    def generation(self, prefix: bytes) -> object:  # all partitions are here
        """Something that changes when the server may be another (or a new) process."""
        return self.connects

    async def open(self) -> None:
        """Connect before the first operation. Raises whatever connecting raises."""
        await self._connect(self._settings.timeout_s)

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""
        self._closing = True
        if self._task is not None:
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
            await asyncio.wait([self._task])
        await self._disconnect()
        self._circuit.retire()
        self._memory.retire()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._stopped)

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake = self._loop.create_future()
                await self._wake
                continue
            if self._leader is not None and self._leader_connects != self._leader.connects:
                await self._disconnect()
            if self._connection is None:
                try:
                    await self._connect(self._circuit.probe_s(self._settings.timeout_s))
                except Exception as error:  # translated, for every caller
                    self._circuit.failures += 1
                    await self._outage(self._failure(error))
                    continue
            await self._send(self._take())

    def _want(self, replicas: int) -> None:
        """Have so many replicas confirm the next call."""
        self._wanted = replicas
        wait_ms = max(1, round(self._settings.replication_timeout_s * 1000))
        self._wait_command = pack((b"WAIT", replicas, wait_ms))

    def _stopped(self, task: asyncio.Task[None]) -> None:
        # No operation may wait for a task that has ended; the next one starts another task.
        self._task = None
        self._fail_waiting(StoreUnavailable("connection to the store closed"))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("store connection failed", exc_info=error)

    def _take(self) -> list[Operation]:
        waiting = self._waiting
        batch: list[Operation] = []
        size = 0
        while waiting and len(batch) < MAX_BATCH_OPERATIONS and size < MAX_BATCH_BYTES:
            operation = waiting.popleft()
            # Operations of cancelled callers are sent, too: they may matter to others (a completed
            # delivery, an ended connection).
            batch.append(operation)
            size += operation[2]
        return batch

    async def _send(self, batch: list[Operation]) -> None:
        counters = self._settings.counters
        counters.store_round_trips += 1
        counters.store_commands += len(batch)
        # The time of uvloop moves in steps of a millisecond.
        began_s = monotonic()
        self.in_flight = batch
        try:
            await self._round(batch)
            counters.store_latency.observe(monotonic() - began_s)
            self._circuit.failures = 0
        except Exception as error:  # translated, for every caller
            counters.store_errors += 1
            failure = self._failure(error)
            fail(batch, failure)
            self.in_flight = ()
            if isinstance(error, redis_errors.ResponseError):
                return
            await self._disconnect()
            self._circuit.failures += 1
            hangs = isinstance(error, TimeoutError)
            if hangs or self.is_down or self._circuit.failures >= MAX_FAILURES:
                await self._outage(failure)
        except BaseException:
            fail(batch, StoreUnavailable("connection to the store closed"))
            raise
        finally:
            self.in_flight = ()

    async def _round(self, batch: list[Operation]) -> None:
        connection = self._connection
        assert connection is not None
        if self._in_sync is not None and self._loop.time() - self._looked_s >= LOOK_S:
            await self._look(connection, self._settings.timeout_s)
        packed = self._pack_batch(batch)
        try:
            results = await self._exchange(connection, packed)
        except redis_errors.NoScriptError:
            await self._load(connection, self._settings.timeout_s)
            results = await self._exchange(connection, packed)
        self._hand_out(batch, results)
        dropped = results[-1]
        if type(dropped) is list:
            if len(dropped) > _DROPPED:
                self._memory.looked(dropped.pop())
            self._settings.on_dropped(*dropped)
        elif dropped:
            self._settings.on_dropped(dropped, 0, 0, 0)
        if any(isinstance(result, redis_errors.ReadOnlyError) for result in results):
            # The server has become a replica; a new connection finds the master.
            await self._disconnect()

    def _hand_out(self, batch: list[Operation], results: list[Any]) -> None:
        moved: list[Operation] = []
        for operation, result in zip(batch, results, strict=False):
            reply = operation[3]
            if isinstance(result, Exception):
                if self._on_moved is not None and str(result).startswith(_ELSEWHERE):
                    moved.append(operation)
                elif not reply.done():
                    reply.set_exception(self._failure(result))
            elif not reply.done():
                reply.set_result(result)
        if moved and self._on_moved is not None:
            self._settings.counters.store_moved += len(moved)
            self._on_moved(self, moved)

    async def _exchange(self, connection: AbstractConnection, packed: bytes) -> list[Any]:
        """Send a call and return its reply, after enough replicas have confirmed it."""
        confirmed = 0
        async with asyncio.timeout(self._round_s):
            await connection.send_packed_command(packed, check_health=False)
            try:
                results: list[Any] = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except redis_errors.ResponseError:
                if self._wait_command:
                    await connection.read_response(disconnect_on_error=False)
                raise
            if self._wait_command:
                confirmed = await self._read_confirmed(connection)
        if confirmed < self._wanted:
            await self._wait_for_replicas(connection)
        return results

    async def _look(self, connection: AbstractConnection, step_s: float) -> None:
        """Ask which replicas keep up, and have all of them confirm from now on."""
        in_sync = self._in_sync
        assert in_sync is not None
        self._looked_s = self._loop.time()
        try:
            role = await call(connection, step_s, b"ROLE")
        except redis_errors.NoPermissionError:
            log.warning(
                "store user lacks +role: only the minimum of replicas confirms writes",
                extra={
                    "server": self.name,
                    "missing": "+role",
                    "minimum": self._settings.replicas,
                },
            )
            self._in_sync = None
            self._want(self._settings.replicas)
            return
        if in_sync.looked(role):
            log.info(
                "replicas in sync have changed: all of them confirm writes",
                extra={"server": self.name, "replicas": ", ".join(in_sync.names())},
            )
        self._want(in_sync.wanted)

    async def _wait_for_replicas(self, connection: AbstractConnection) -> None:
        """Wait until enough replicas have confirmed the last call.

        Its operations have run on the master, so failing them would make callers repeat them. A
        replica that is disconnected, or has not confirmed it for ``MAX_LAG_S``, is not waited for
        where others are enough. After ``timeout_s`` new operations fail at once.
        """
        settings = self._settings
        began_s = self._loop.time()
        deadline_s = began_s + settings.timeout_s
        max_lag_s = min(MAX_LAG_S, settings.timeout_s / 2)
        log.warning("waiting for replicas", extra={"server": self.name})
        opened = False
        if self._in_sync is not None:
            self._in_sync.fell_short()
        while True:
            settings.counters.store_replica_waits += 1
            if self._loop.time() >= deadline_s:
                if self._closing:
                    raise StoreUnavailable("replicas have not confirmed a write")
                opened = True
                self._circuit.open(f"fewer than {self._wanted} replicas confirm writes")
                self._fail_waiting(self._circuit.reason)
            if self._in_sync is not None:
                await self._look(connection, settings.timeout_s)
                if self._loop.time() - began_s >= max_lag_s:
                    self._leave_out()
            async with asyncio.timeout(self._round_s):
                await connection.send_packed_command(self._wait_command, check_health=False)
                if await self._read_confirmed(connection) >= self._wanted:
                    break
        if opened:
            self._circuit.close()
        log.info("replicas confirmed", extra={"server": self.name})

    def _leave_out(self) -> None:
        if self._in_sync is None:
            return
        for replica in self._in_sync.leave_out():
            log.warning(
                "replica does not keep up: writes are confirmed without it",
                extra={"server": self.name, "replica": in_sync_name(replica)},
            )
        self._want(self._in_sync.wanted)

    async def _read_confirmed(self, connection: AbstractConnection) -> int:
        try:
            return int(await connection.read_response(disconnect_on_error=False))
        except redis_errors.ResponseError as error:
            # The server has become a replica: its writes are lost.
            raise StoreUnavailable(f"WAIT failed: {error}") from error

    def _pack_batch(self, batch: list[Operation]) -> bytes:
        size = sum(operation[2] for operation in batch)
        memory = self._memory.word(size, self._loop.time())
        words: list[Word] = [*self._head, *self._settings.header, memory]
        if self._on_moved is None:
            words.append(0)
        else:
            words.append(len(batch))
            words += [operation[0] for operation in batch]
        for operation in batch:
            words += operation[1]
        try:
            packed = pack(tuple(words))
        except (TypeError, ValueError):
            # One operation cannot be encoded (a lone surrogate): it fails alone.
            kept = []
            for operation in batch:
                try:
                    pack(tuple(operation[1]))
                except (TypeError, ValueError) as error:
                    fail([operation], StoreFault(str(error)))
                else:
                    kept.append(operation)
            batch[:] = kept
            return self._pack_batch(batch)
        return packed + self._wait_command if self._wait_command else packed

    async def _load(self, connection: AbstractConnection, step_s: float) -> None:
        await call(connection, step_s, b"SCRIPT", b"LOAD", self._settings.script[0])

    async def _skip_epochs(
        self, connection: AbstractConnection, process: bytes, step_s: float
    ) -> None:
        """Skip epochs that an earlier server process may have assigned.

        It may fail (the partition is on another server, memory is full): that is ignored.
        """
        prefixes = self._settings.prefixes
        guards = () if self._on_moved is None else prefixes
        words = first_words(self._settings.script[1], self._settings.header, guards)
        for prefix in prefixes:
            words += (op.SKIP_EPOCHS, 2, prefix, process)
        await call(connection, step_s, *words)

    async def _connect(self, step_s: float) -> None:
        if self._connection is not None:
            return
        if self._leader is not None:
            self._leader_connects = self._leader.connects
        connection, process = await self._open_connection(step_s)
        try:
            await self._load(connection, step_s)
            if self._in_sync is not None:
                self._in_sync.forget()
                await self._look(connection, step_s)
            if process:
                await self._skip_epochs(connection, process, step_s)
                if process not in self._settings.processes:
                    self._settings.processes.add(process)
                    self._settings.on_replaced()
        except BaseException as error:
            await drop(connection)
            failures = self._settings.failures
            if failures is None or not isinstance(error, Exception):
                raise
            raise failures.explain(error, self.name) from error
        self._connection = connection
        self.connects += 1

    def _failure(self, error: Exception) -> Exception:
        """Return what callers get for an error, in words."""
        failure, failures = translate(error), self._settings.failures
        if failures is None or isinstance(failure, StoreFault):
            return failure
        return translate(failures.explain(error, self.name))

    async def _outage(self, failure: Exception) -> None:
        """Fail waiting and new operations until the server can be reached again."""
        circuit = self._circuit
        circuit.open(str(failure))
        if self._on_down is not None:
            self._on_down()
        while not self._closing:
            self._fail_waiting(circuit.reason)
            self._wake = self._loop.create_future()
            await asyncio.wait([self._wake], timeout=circuit.pause_s())
            if self._closing:
                break
            try:
                await self._connect(circuit.probe_s(self._settings.timeout_s))
            except Exception as error:  # retried
                circuit.failures += 1
                circuit.open(str(self._failure(error)))
            else:
                circuit.close()
                return
        self._fail_waiting(circuit.reason)

    def _fail_waiting(self, failure: Exception | None) -> None:
        fail(self._waiting, failure or StoreUnavailable("store unavailable"))
        self._waiting.clear()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await drop(connection)


def fail(batch: Collection[Operation], failure: Exception) -> None:
    """Fail these operations for callers that still wait."""
    for _, _, _, reply in batch:
        if not reply.done():
            # An exception object for each: a traceback grows with every raise.
            reply.set_exception(type(failure)(*failure.args))
