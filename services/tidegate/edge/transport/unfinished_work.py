"""When bytes of connections without CONNACK are handled: for a bounded time, in fair order.

One for all listeners of a process (`ConnectionTotal`). A TLS handshake, an HTTP upgrade and a
CONNECT cost much more than the packets of a connected client, which waits for all that its turn of
the event loop has to do. So once the time for it is used up, what arrives for such connections
waits, and each of the next turns handles some of it: one connection of each client address, then
the next one of each. What clients are to be sent in a turn goes out before.

What comes from addresses of which most connections come to nothing (`ConnectOutcomes`) always
waits, and has turns of its own with pauses between them: what a turn has caused, the opening and
closing of connections included, has about half of the event loop's time (docs/adr/0056). No address
is refused for it. No I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Protocol

from tidegate.edge.transport.connect_outcomes import ConnectOutcomes

#: What a turn may spend on it: a TLS handshake or some CONNECTs, and one costly one at least.
TURN_S: Final = 0.000_25
#: The same where the rest of the turn takes long, so that a busy edge accepts clients, too.
LONG_TURN_S: Final = 0.001
#: How much of it there may be for one second of everything else.
SHARE: Final = 0.5
#: Connections of a paced turn: to refuse one costs little, and to close it and to open the next one
#: much more.
PACED_CONNECTIONS: Final = 4
#: The part of its time that the event loop may be busy, with whatever it is, until the next one.
PACED_SHARE: Final = 0.5
#: From one paced turn to the next at least, and at most where clients keep the event loop busy.
LEAST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.004


class WaitingConnection(Protocol):
    """A connection whose bytes wait. Compared by identity."""

    def resume_work(self) -> None:
        """Handle what was received."""


class _Waiting:
    """What waits, in fair order."""

    __slots__ = ("_count", "_groups")

    def __init__(self) -> None:
        #: By what counts as one address, in the order of their turns; oldest connection first.
        self._groups: OrderedDict[object, deque[WaitingConnection]] = OrderedDict()
        #: How many wait; some of them may have ended.
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, connection: WaitingConnection, source: object) -> None:
        self._count += 1
        self._groups.setdefault(source, deque()).append(connection)

    def pop(self) -> WaitingConnection:
        """Take out the first connection of the address whose turn it is."""
        source, group = next(iter(self._groups.items()))
        connection = group.popleft()
        self._count -= 1
        if group:
            self._groups.move_to_end(source)
        else:
            del self._groups[source]
        return connection


class UnfinishedWork:
    """See the module's docstring."""

    __slots__ = (
        "_busy_clock",
        "_clock",
        "_depth",
        "_has_yielded",
        "_left_s",
        "_paced",
        "_paced_busy_s",
        "_paced_s",
        "_seen_s",
        "_waiting",
        "has_unsent",
        "outcomes",
        "pauses",
        "waited",
    )

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        has_unsent: Callable[[], bool] = lambda: False,
        busy_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``has_unsent``: whether clients are to be sent something at the end of this turn.

        ``busy_clock``: how long the event loop has been busy.
        """
        self._clock = clock
        self._busy_clock = busy_clock
        self.outcomes = ConnectOutcomes(clock)
        self.has_unsent = has_unsent
        #: Whether the last turn was left to what is sent to clients.
        self._has_yielded = False
        #: How much may be spent at once, as of ``_seen_s``.
        self._left_s = TURN_S
        self._seen_s = clock()
        self._waiting = _Waiting()
        #: What waits for a paced turn, and when the last one was, by either clock.
        self._paced = _Waiting()
        self._paced_s = 0.0
        self._paced_busy_s = 0.0
        #: How many that have begun have not ended: a CONNECT may come in the last of a handshake.
        self._depth = 0
        #: How often a connection had to wait.
        self.waited = 0
        #: How often a paced turn was put off.
        self.pauses = 0

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._waiting) + len(self._paced)

    def begin(self, source: object = None) -> bool:
        """Whether bytes may be handled at once; if so, call `end` afterwards.

        ``source`` may be None unless `ConnectOutcomes.many_fail`.
        """
        if self._depth:
            self._depth += 1
            return True
        if self._waiting or (source is not None and self.outcomes.mostly_fail(source)):
            return False
        now_s = self._clock()
        left_s = self._left_s + (now_s - self._seen_s) * SHARE
        self._left_s = min(left_s, TURN_S)
        self._seen_s = now_s
        if left_s <= 0:
            return False
        self._depth = 1
        return True

    def end(self) -> None:
        """Note that what was begun is done."""
        self._depth -= 1
        if self._depth:
            return
        now_s = self._clock()
        self._left_s -= now_s - self._seen_s
        self._seen_s = now_s

    def wait(self, connection: WaitingConnection, source: object) -> None:
        """Let a connection of ``source`` wait; the caller reads nothing more of it until then."""
        self.waited += 1
        if self.outcomes.mostly_fail(source):
            if not self._paced:
                asyncio.get_running_loop().call_soon(self._paced_turn)
            self._paced.add(connection, source)
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.add(connection, source)

    def _turn(self) -> None:
        """Handle some of what waits, one connection at least."""
        # The transports send when all callbacks of a turn have run. Not twice in a row: where
        # each turn has something to send, nobody would connect.
        self._has_yielded = not self._has_yielded and self.has_unsent()
        if self._has_yielded:
            asyncio.get_running_loop().call_soon(self._turn)
            return
        now_s = self._clock()
        end_s = now_s + min(max(TURN_S, (now_s - self._seen_s) * SHARE), LONG_TURN_S)
        self._depth = 1
        try:
            while self._waiting and now_s < end_s:
                self._waiting.pop().resume_work()
                now_s = self._clock()
        finally:
            # Whatever one connection raises, the next turn comes.
            self._depth = 0
            self._left_s, self._seen_s = 0.0, self._clock()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._turn)

    def _paced_turn(self) -> None:
        """Handle few of those that come to nothing, if there is to be no pause first."""
        pause_s = self._pause_s()
        if pause_s > 0:
            self._pause(pause_s)
            return
        now_s = self._clock()
        end_s, count = now_s + TURN_S, min(len(self._paced), PACED_CONNECTIONS)
        self._paced_s, self._paced_busy_s = now_s, self._busy_clock()
        self._depth = 1
        try:
            while count and now_s < end_s:
                count -= 1
                self._paced.pop().resume_work()
                now_s = self._clock()
        finally:
            self._depth = 0
            if self._paced:
                self._pause(LEAST_PAUSE_S)

    def _pause_s(self) -> float:
        """How long the next paced turn has to wait; 0 for less than half of the shortest pause."""
        busy_s = self._busy_clock() - self._paced_busy_s
        pause_s = min(max(busy_s / PACED_SHARE, LEAST_PAUSE_S), LONGEST_PAUSE_S)
        left_s = self._paced_s + pause_s - self._clock()
        return left_s if left_s >= LEAST_PAUSE_S / 2 else 0.0

    def _pause(self, pause_s: float) -> None:
        self.pauses += 1
        # What is shorter than the timers' resolution would be no pause.
        asyncio.get_running_loop().call_later(max(pause_s, LEAST_PAUSE_S), self._paced_turn)
