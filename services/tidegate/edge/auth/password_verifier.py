"""Verifies passwords without blocking the event loop, and without letting a flood keep others out.

Called by `Authenticator`. Owns the threads, the passwords that wait for one, and what is remembered
of passwords that were right: keyed digests, never a password. One for all password files of a
process.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, TypeVar

from tidegate.edge.auth.password_queue import PasswordQueue, source_of
from tidegate.edge.auth.passwords import PasswordFile, PasswordHash
from tidegate.runtime.process.processors import available_processors
from tidegate.runtime.process.thread_priority import yield_to_event_loop
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: Durations kept of each kind of hash, and kinds.
_DURATIONS: Final = 16
_MAX_KINDS: Final = 64
#: Weight of the last duration in the mean.
_WEIGHT: Final = 0.2

#: Threads where there are processors enough.
_THREADS: Final = 2

_K = TypeVar("_K")
_V = TypeVar("_V")


def thread_count(configured: int, processors: int | None = None) -> int:
    """Return how many threads compute hashes; ``configured``: 0 to go by the processors.

    One processor stays without: a thread that has just computed a hash holds Python's lock, and
    waits for a processor that another one has for a whole slice, while the event loop waits for it.
    """
    if configured:
        return configured
    available = available_processors() if processors is None else processors
    return min(_THREADS, max(1, available - 1))


def threads_of_one(threads: int, processors: int | None = None) -> int:
    """Return how many threads compute one argon2id hash while ``threads`` are computed at a time.

    As many as there are processors for it, one of them being left to the event loop.
    """
    available = available_processors() if processors is None else processors
    return max(1, (available - 1) // threads)


class PasswordCheck(Enum):
    """The result of a verification. The values are reasons of ``Counters.auth_failures``."""

    ACCEPTED = "accepted"
    BAD_PASSWORD = "bad_password"  # noqa: S105 - a reason, not a secret
    UNKNOWN_USER = "unknown_user"
    BUSY = "busy"


@dataclass(slots=True, eq=False)
class _Hashing:
    """A hash that waits for a thread or is being computed, for all who gave that password."""

    key: tuple[bytes, PasswordHash]
    source: str
    username: str
    password: bytes = field(repr=False)
    #: Whether the password is right; None: it was not verified, the server is busy.
    outcome: asyncio.Future[bool | None]
    clients: int = 0

    def set_outcome(self, outcome: bool | None) -> None:
        """Let all who wait have it."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class PasswordVerifier:
    """See the module's docstring.

    Costly hashes run in ``threads`` threads; who waits for one has turns with the others
    (`PasswordQueue`). First come those whose user name was recognised before at their address, one
    of each pair at a time. A hash is not computed when all who wait for it have gone. Who cannot
    have a turn in time, and what exceeds ``max_pending``, gets BUSY at once.

    A password that was accepted is remembered as a MAC with a key of this process, so that a storm
    of reconnects costs one hash per user. Unknown users take as long as known ones: a hash where no
    other is computed, else the time that one would take.
    """

    __slots__ = (
        "_counters",
        "_durations",
        "_executor",
        "_hashing",
        "_key",
        "_late",
        "_max_pending",
        "_max_remembered",
        "_mean_s",
        "_others",
        "_recognised",
        "_remembered",
        "_running",
        "_threads",
        "_threads_of_one",
        "_timeout_s",
        "_waiting",
    )

    def __init__(
        self,
        counters: Counters,
        *,
        threads: int = 2,
        max_pending: int = 1000,
        max_remembered: int = 10_000,
    ) -> None:
        self._counters = counters
        self._threads = threads
        self._threads_of_one = threads_of_one(threads)
        self._max_pending = max_pending
        self._max_remembered = max_remembered
        self._key = secrets.token_bytes(32)
        self._executor: ThreadPoolExecutor | None = None
        self._hashing: dict[tuple[bytes, PasswordHash], _Hashing] = {}
        self._running = 0
        #: What waits for a thread: recognised before, and the others.
        self._waiting: PasswordQueue[_Hashing] = PasswordQueue()
        self._others: PasswordQueue[_Hashing] = PasswordQueue()
        #: Unknown users that are refused later.
        self._late = 0
        #: Digests of user name and password, with the hash that they were right for: a user may be
        #: in the files of several listeners.
        self._remembered: OrderedDict[tuple[bytes, PasswordHash], None] = OrderedDict()
        #: Digests of user name and address; True while one of them waits.
        self._recognised: OrderedDict[bytes, bool] = OrderedDict()
        #: How long the last one that came may wait.
        self._timeout_s = math.inf
        #: How long a hash takes: the mean of all, and the last durations of each kind.
        self._mean_s = 0.0
        self._durations: dict[str, deque[float]] = {}

    @property
    def waiting_count(self) -> int:
        """How many hashes wait for a thread."""
        return len(self._waiting) + len(self._others)

    def reconfigure(self, *, threads: int, max_pending: int, max_remembered: int) -> None:
        """Take other bounds; hashes that wait or are being computed are finished."""
        if threads != self._threads:
            self.release_threads()
        self._threads = threads
        self._threads_of_one = threads_of_one(threads)
        self._max_pending = max_pending
        self._max_remembered = max_remembered
        _forget(self._remembered, max_remembered)
        _forget(self._recognised, max_remembered)
        self._start_next()

    def release_threads(self) -> None:
        """Shut the threads down when what they compute is done."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def close(self) -> None:
        """Shut the threads down; hashes that wait are not computed."""
        for queue in (self._waiting, self._others):
            while (hashing := queue.pop()) is not None:
                self._give_up(hashing)
        self.release_threads()

    def verify_now(
        self, file: PasswordFile, username: str, password: bytes
    ) -> PasswordCheck | None:
        """Return the result if it is cheap (remembered, or a cheap hash), else None."""
        hashed, known = self._hash_of(file, username)
        if hashed.costly:
            remembered = known and (self._mac(username, password), hashed) in self._remembered
            return PasswordCheck.ACCEPTED if remembered else None
        self._counters.password_hashes += 1
        return _result(known=known, right=hashed.verify(password))

    async def verify(
        self,
        file: PasswordFile,
        username: str,
        password: bytes,
        address: str = "",
        timeout_s: float = math.inf,
    ) -> PasswordCheck:
        """Return the result, computing the hash in a thread if it is a costly one.

        ``address``: of the client. Cancelled when the client has gone: then nothing is computed
        for it any more.
        """
        result = self.verify_now(file, username, password)
        if result is not None:
            return result
        hashed, known = self._hash_of(file, username)
        source = source_of(address)
        if not known and (self._running or self.waiting_count):
            return await self._refuse_unknown(hashed, source, username, timeout_s)
        mac = self._mac(username, password)
        hashing = self._hashing.get((mac, hashed))
        if hashing is None:
            hashing = self._begin((mac, hashed), source, username, password, timeout_s)
            if hashing is None:
                return PasswordCheck.BUSY
        right = await self._outcome(hashing, timeout_s)
        if right is None:
            return PasswordCheck.BUSY
        result = _result(known=known, right=right)
        self._learn(mac, hashed, self._pair(username, source), result)
        return result

    # Waiting

    async def _outcome(self, hashing: _Hashing, timeout_s: float) -> bool | None:
        hashing.clients += 1
        try:
            async with asyncio.timeout(timeout_s if math.isfinite(timeout_s) else None):
                # A client that disconnects must not cancel what others wait for.
                return await asyncio.shield(hashing.outcome)
        except TimeoutError:
            return None
        finally:
            hashing.clients -= 1
            if not hashing.clients:
                self._withdraw(hashing)

    async def _refuse_unknown(
        self, hashed: PasswordHash, source: str, username: str, timeout_s: float
    ) -> PasswordCheck:
        """Refuse after the time that a hash would take now; none is computed while others are."""
        durations = self._durations.get(hashed.cost)
        hash_s = secrets.choice(durations) if durations else self._mean_s
        delay_s = self._wait_s(source, username) + hash_s
        if delay_s > timeout_s or self._late >= self._max_pending:
            return PasswordCheck.BUSY
        self._late += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._late -= 1
        return PasswordCheck.UNKNOWN_USER

    def _wait_s(self, source: str, username: str) -> float:
        """How long one that comes now waits for a thread, if no other comes."""
        if self._running < self._threads:
            return 0.0
        ahead = len(self._waiting) + self._others.ahead_of(source, username) + 0.5
        return ahead * self._mean_s / self._threads

    def _begin(
        self,
        key: tuple[bytes, PasswordHash],
        source: str,
        username: str,
        password: bytes,
        timeout_s: float,
    ) -> _Hashing | None:
        """Start a hash, or let it wait; None when it cannot have its turn in time."""
        hashing = _Hashing(
            key, source, username, password, asyncio.get_running_loop().create_future()
        )
        if self._running >= self._threads and not self._enqueue(hashing, timeout_s):
            return None
        self._hashing[key] = hashing
        if self._running < self._threads:
            self._start(hashing)
        return hashing

    def _enqueue(self, hashing: _Hashing, timeout_s: float) -> bool:
        """Let it wait where it may; another that has less right to the place is refused for it."""
        pair = self._pair(hashing.username, hashing.source)
        if self._recognised.get(pair) is False and len(self._waiting) < self._max_pending:
            self._recognised[pair] = True
            self._waiting.add(hashing)
            return True
        self._timeout_s = timeout_s
        if not self._make_room(hashing.source, 1):
            return False
        self._others.add(hashing)
        return True

    def _make_room(self, source: str, count: int) -> bool:
        """Refuse what cannot have its turn in time; whether ``count`` more may wait."""
        room = float(self._max_pending)
        if self._mean_s:
            room = min(room, self._timeout_s * self._threads / self._mean_s)
        room -= len(self._waiting) + count
        while len(self._others) > room:
            refused = self._others.to_refuse(source)
            if refused is None:
                return False
            self._others.remove(refused)
            self._give_up(refused)
        return True

    def _withdraw(self, hashing: _Hashing) -> None:
        """Nobody waits for it any more; one that a thread computes goes on."""
        if self._take_out(hashing) or self._others.remove(hashing):
            self._give_up(hashing)

    def _take_out(self, hashing: _Hashing) -> bool:
        if not self._waiting.remove(hashing):
            return False
        self._no_longer_waits(hashing)
        return True

    def _no_longer_waits(self, hashing: _Hashing) -> None:
        pair = self._pair(hashing.username, hashing.source)
        if pair in self._recognised:
            self._recognised[pair] = False

    def _give_up(self, hashing: _Hashing) -> None:
        self._hashing.pop(hashing.key, None)
        hashing.set_outcome(None)

    # Computing

    def _start_next(self) -> None:
        while self._running < self._threads:
            hashing = self._waiting.pop()
            if hashing is not None:
                self._no_longer_waits(hashing)
            else:
                hashing = self._others.pop()
            if hashing is None:
                return
            self._start(hashing)

    def _start(self, hashing: _Hashing) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, "passwords", yield_to_event_loop)
        self._running += 1
        self._counters.password_hashes += 1
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, _timed, hashing.key[1], hashing.password, self._threads_of_one
        )
        work.add_done_callback(partial(self._computed, hashing))

    def _computed(self, hashing: _Hashing, work: asyncio.Future[tuple[bool, float]]) -> None:
        self._running -= 1
        self._hashing.pop(hashing.key, None)
        if work.cancelled():
            hashing.set_outcome(None)
            return
        error = work.exception()
        if isinstance(error, MemoryError):
            log.error("no memory for a password hash")
            hashing.set_outcome(None)
        elif error is not None:
            if not hashing.outcome.done():
                hashing.outcome.set_exception(error)
                hashing.outcome.exception()  # all who waited may have gone
        else:
            right, duration_s = work.result()
            self._measured(hashing.key[1].cost, duration_s)
            self._make_room("", 0)
            hashing.set_outcome(right)
        self._start_next()

    def _measured(self, cost: str, duration_s: float) -> None:
        mean_s = self._mean_s or duration_s
        self._mean_s = mean_s + _WEIGHT * (duration_s - mean_s)
        durations = self._durations.get(cost)
        if durations is None:
            if len(self._durations) >= _MAX_KINDS:
                self._durations.clear()
            durations = self._durations[cost] = deque(maxlen=_DURATIONS)
        durations.append(duration_s)

    # Remembering

    def _learn(self, mac: bytes, hashed: PasswordHash, pair: bytes, result: PasswordCheck) -> None:
        if result is not PasswordCheck.ACCEPTED:
            # Who is recognised and fails goes to the others: no guessing at the front.
            self._recognised.pop(pair, None)
        elif self._max_remembered:
            _put(self._remembered, (mac, hashed), None, self._max_remembered)
            _put(self._recognised, pair, self._recognised.get(pair, False), self._max_remembered)

    def _hash_of(self, file: PasswordFile, username: str) -> tuple[PasswordHash, bool]:
        """Return the user's hash; for an unknown one always the same other user's, as a decoy."""
        hashed = file.users.get(username)
        if hashed is not None:
            return hashed, True
        digest = hmac.digest(self._key, username.encode(), "sha256")
        return file.decoy(int.from_bytes(digest[:8])), False

    def _mac(self, username: str, password: bytes) -> bytes:
        return hmac.digest(self._key, username.encode() + b"\0" + password, "sha256")

    def _pair(self, username: str, source: str) -> bytes:
        return hmac.digest(self._key, username.encode() + b"\0\0" + source.encode(), "sha256")


def _put(known: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Add one as the last, and forget the first ones beyond ``most``."""
    known[key] = value
    known.move_to_end(key)
    _forget(known, most)


def _forget(known: OrderedDict[_K, _V], most: int) -> None:
    while len(known) > most:
        known.popitem(last=False)


def _result(*, known: bool, right: bool) -> PasswordCheck:
    if not known:
        return PasswordCheck.UNKNOWN_USER
    return PasswordCheck.ACCEPTED if right else PasswordCheck.BAD_PASSWORD


def _timed(hashed: PasswordHash, password: bytes, threads: int) -> tuple[bool, float]:
    """Verify, in a thread; return the result and how long it took, in seconds."""
    begin_s = time.perf_counter()
    right = hashed.verify(password, threads)
    return right, time.perf_counter() - begin_s
