"""One connection to Redis, on which the operations of many callers travel together.

While one script call is under way the next operations gather, and go out as one call when it has
been answered: no timer when idle, natural batches under load, operations in the order they came.
A caller that is cancelled leaves; what it asked for still happens, and nobody else notices.
``redis_store`` is the only caller. redis-py makes the connection; commands are packed here, because
its command objects cost more than the server's work.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tidegate.runtime.telemetry import Counters
from tidegate.store.api import StoreUnavailable

log = logging.getLogger(__name__)

#: A word of a command; numbers travel as decimal digits.
Word: TypeAlias = bytes | str | int

# hiredis declares its argument as a tuple of exactly one element.
_pack = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

#: Bounds of one script call: the server does nothing else meanwhile.
MAX_BATCH_OPERATIONS: Final = 256
MAX_BATCH_BYTES: Final = 1_048_576
#: Operations that may wait; more are refused at once.
MAX_WAITING: Final = 100_000
#: Back-off between attempts to connect.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

#: The beginnings of error replies that pass by themselves; all others are faults of ours.
_PASSING = (
    "READONLY",
    "OOM",
    "LOADING",
    "MISCONF",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "UNKILLABLE",
    "ERR max number of clients",
)
_PASSING_TYPES = (
    OSError,
    TimeoutError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.BusyLoadingError,
    redis_errors.AuthenticationError,
    redis_errors.NoPermissionError,
)


class StoreFault(Exception):
    """The server refused an operation as wrong: a fault of ours or foreign contents, no outage."""


def translate(error: Exception) -> Exception:
    """Turn an error of redis-py or of the network into one of the store's."""
    if isinstance(error, StoreUnavailable | StoreFault):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, _PASSING_TYPES) or text.startswith(_PASSING):
        return StoreUnavailable(text)
    return StoreFault(text)


class Operation:
    """One operation under way: its words in the script's language, and who waits for it."""

    __slots__ = ("prefix", "reply", "size", "words")

    def __init__(
        self, prefix: bytes, words: Sequence[Word], size: int, reply: asyncio.Future[Any]
    ) -> None:
        self.prefix = prefix
        self.words = words
        self.size = size
        self.reply = reply


class Lane:
    """Sends operations over one connection and hands out the answers.

    ``header`` are the script's first words. ``on_evicted`` is told how many queue entries a call
    has thrown away. ``timeout_s`` bounds every round trip; after it the outcome is unknown, the
    connection is dropped, and whoever waited gets StoreUnavailable.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        script: tuple[bytes, bytes],
        header: Sequence[Word],
        on_evicted: Callable[[int], None],
        timeout_s: float,
        counters: Counters,
    ) -> None:
        self._make_connection = connect
        self._source, self._sha = script
        self._header = header
        self._on_evicted = on_evicted
        self._timeout_s = timeout_s
        self._counters = counters
        self._waiting: deque[Operation] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._connection: AbstractConnection | None = None
        self._closing = False
        self._down: StoreUnavailable | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def submit(self, prefix: bytes, words: Sequence[Word], size: int) -> asyncio.Future[Any]:
        """Queue an operation: its letter, the count of its arguments, its arguments.

        ``prefix`` is that of the partition whose keys it touches, ``size`` about how many bytes
        it moves in either direction. The future ends with the script's result, StoreUnavailable,
        or StoreFault.
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self._down is not None:
            reply.set_exception(StoreUnavailable(*self._down.args))
        elif self._closing:
            reply.set_exception(StoreUnavailable("the store is closed"))
        elif len(self._waiting) >= MAX_WAITING:
            reply.set_exception(StoreUnavailable("too many operations wait for the store"))
        else:
            self._waiting.append(Operation(prefix, words, size, reply))
            if self._task is None:
                self._task = self._loop.create_task(self._run())
                self._task.add_done_callback(self._stopped)
            elif self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        return reply

    async def execute(self, *command: Word) -> Any:
        """Run one plain command, outside of any batch; only before the first ``submit``."""
        connection = await self._connected()
        async with asyncio.timeout(self._timeout_s):
            await connection.send_packed_command(_pack(command), check_health=False)
            return await connection.read_response(disable_decoding=True)

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""
        self._closing = True
        if self._task is not None:
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
            await asyncio.wait([self._task])
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake = self._loop.create_future()
                await self._wake
                continue
            try:
                await self._connected()
            except Exception as error:  # translated and handed to every caller
                await self._pause(translate(error))
                continue
            batch = self._take()
            began_s = self._loop.time()
            counters = self._counters
            counters.store_round_trips += 1
            counters.store_commands += len(batch)
            try:
                await self._round(batch)
                counters.store_latency.observe(self._loop.time() - began_s)
            except Exception as error:  # translated and handed to every caller
                counters.store_errors += 1
                failure = translate(error)
                if not isinstance(error, redis_errors.ResponseError):
                    await self._disconnect()
                _fail(batch, failure)
            except BaseException:
                _fail(batch, StoreUnavailable("the connection to the store was ended"))
                raise

    def _stopped(self, task: asyncio.Task[None]) -> None:
        # Nobody may wait for a task that is gone; the next operation starts another one.
        self._task = None
        _fail(list(self._waiting), StoreUnavailable("the connection to the store was ended"))
        self._waiting.clear()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the store's connection failed", exc_info=error)

    def _take(self) -> list[Operation]:
        waiting = self._waiting
        batch: list[Operation] = []
        size = 0
        while waiting and len(batch) < MAX_BATCH_OPERATIONS and size < MAX_BATCH_BYTES:
            operation = waiting.popleft()
            # Whoever has left before the call was sent asked for something that may still matter
            # to others (a completed delivery, an ended connection): it goes all the same.
            batch.append(operation)
            size += operation.size
        return batch

    async def _round(self, batch: list[Operation]) -> None:
        connection = self._connection
        assert connection is not None
        packed = self._pack_batch(batch)
        async with asyncio.timeout(self._timeout_s):
            await connection.send_packed_command(packed, check_health=False)
            try:
                results = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except redis_errors.NoScriptError:
                await self._load(connection)
                await connection.send_packed_command(packed, check_health=False)
                results = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
        for operation, result in zip(batch, results, strict=False):
            reply = operation.reply
            if reply.done():
                continue
            if isinstance(result, Exception):
                reply.set_exception(translate(result))
            else:
                reply.set_result(result)
        if results[-1]:
            self._on_evicted(results[-1])
        if any(isinstance(result, redis_errors.ReadOnlyError) for result in results):
            # The server has become a replica; a new connection finds the one that took over.
            await self._disconnect()

    def _pack_batch(self, batch: list[Operation]) -> bytes:
        words: list[Word] = [b"EVALSHA", self._sha, 0, *self._header, 0]
        for operation in batch:
            words += operation.words
        try:
            return _pack(tuple(words))
        except (TypeError, ValueError):
            # One operation has words that are no bytes (a lone surrogate): it fails alone.
            kept = []
            for operation in batch:
                try:
                    _pack(tuple(operation.words))
                except (TypeError, ValueError) as error:
                    _fail([operation], StoreFault(str(error)))
                else:
                    kept.append(operation)
            batch[:] = kept
            return self._pack_batch(batch)

    async def _load(self, connection: AbstractConnection) -> None:
        command = _pack((b"SCRIPT", b"LOAD", self._source))
        await connection.send_packed_command(command, check_health=False)
        await connection.read_response(disable_decoding=True)

    async def _connected(self) -> AbstractConnection:
        connection = self._connection
        if connection is None:
            connection = self._make_connection()
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
            # A bound of its own: one that runs out inside of connect() may be swallowed there.
            async with asyncio.timeout(self._timeout_s):
                await self._load(connection)
            self._connection = connection
            if self._down is not None:
                log.info("the store is reachable again")
        return connection

    async def _pause(self, failure: Exception) -> None:
        """Fail whoever waits, and everybody who comes until the server answers again."""
        if self._down is None:
            log.warning("the store is not reachable", extra={"error": str(failure)})
        self._down = StoreUnavailable(str(failure))
        pause_s = FIRST_PAUSE_S
        while not self._closing:
            _fail(list(self._waiting), self._down)
            self._waiting.clear()
            self._wake = self._loop.create_future()
            jitter = random.uniform(0.5, 1.0)  # noqa: S311  # no secret
            await asyncio.wait([self._wake], timeout=pause_s * jitter)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._disconnect()
                await self._connected()
            except Exception as error:  # the next attempt follows
                self._down = StoreUnavailable(str(translate(error)))
            else:
                self._down = None
                return
        _fail(list(self._waiting), self._down)
        self._waiting.clear()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _fail(batch: Sequence[Operation], failure: Exception) -> None:
    for operation in batch:
        if not operation.reply.done():
            # An exception object of its own for each: a traceback grows with every raise.
            operation.reply.set_exception(type(failure)(*failure.args))
