"""When bytes of connections without CONNACK are handled: for a bounded time, in fair order.

One for all listeners of a process (`ConnectionTotal`). A TLS handshake, an HTTP upgrade and a
CONNECT cost much more than the packets of a connected client, which waits for all that its turn of
the event loop has to do. So once the time for it is used up, what arrives for such connections
waits, and each of the next turns handles some of it: one connection of each client address, then
the next one of each. No address is refused or remembered for it. No I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Protocol

#: What a turn may spend on it; about five TLS handshakes, and one costly one at least.
TURN_S: Final = 0.002
#: Part of the time that may be spent on it with no turn between: the rest is for what is connected.
SHARE: Final = 0.5


class WaitingConnection(Protocol):
    """A connection whose bytes wait. Compared by identity."""

    def resume_work(self) -> None:
        """Handle what was received."""


class UnfinishedWork:
    """See the module's docstring."""

    __slots__ = ("_clock", "_depth", "_groups", "_left_s", "_seen_s", "_waiting", "waited")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        #: How much may be spent at once, as of ``_seen_s``.
        self._left_s = TURN_S
        self._seen_s = clock()
        #: By what counts as one address, in the order of their turns; oldest connection first.
        self._groups: OrderedDict[object, deque[WaitingConnection]] = OrderedDict()
        #: How many wait; some of them may have ended.
        self._waiting = 0
        #: How many that have begun have not ended: a CONNECT may come in the last of a handshake.
        self._depth = 0
        #: How often a connection had to wait.
        self.waited = 0

    def __len__(self) -> int:
        """Return how many connections wait."""
        return self._waiting

    def begin(self) -> bool:
        """Whether bytes may be handled at once; if so, call `end` afterwards."""
        if self._depth:
            self._depth += 1
            return True
        if self._waiting:
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
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self.waited += 1
        self._waiting += 1
        self._groups.setdefault(source, deque()).append(connection)

    def _turn(self) -> None:
        """Handle some of what waits, one connection at least."""
        now_s = self._clock()
        end_s = now_s + TURN_S
        self._depth = 1
        try:
            while self._waiting and now_s < end_s:
                self._next().resume_work()
                now_s = self._clock()
        finally:
            # Whatever one connection raises, the next turn comes.
            self._depth = 0
            self._left_s, self._seen_s = 0.0, self._clock()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._turn)

    def _next(self) -> WaitingConnection:
        """Take out the first connection of the address whose turn it is."""
        source, group = next(iter(self._groups.items()))
        connection = group.popleft()
        self._waiting -= 1
        if group:
            self._groups.move_to_end(source)
        else:
            del self._groups[source]
        return connection
