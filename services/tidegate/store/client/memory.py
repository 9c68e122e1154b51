"""Memory of a store server: when it is looked at, and whether messages are refused.

Each lane that writes messages owns one. The script compares the server's memory with ``maxmemory``
when a call has a share in its header, and refuses what adds messages while less than that share is
free; so CONNECT, acknowledgements and deletions go on. ADR 0017. Subscriptions and large wills are
refused while less than half of it is. ADR 0052.
"""

from __future__ import annotations

import logging
from typing import Final

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.client.servers import Word

log = logging.getLogger(__name__)

#: Memory is looked at after so many bytes or seconds, in the next call.
LOOK_BYTES: Final = 1_048_576
LOOK_S: Final = 1.0
#: What the header says when nothing is refused, while messages are, and while subscriptions are as
#: well; by what a look has found.
LEVELS: Final = (b"", b"!", b"!!")
NOT_FULL, FULL, SCARCE = LEVELS
#: What the log says when a level is reached.
_LINES: Final = (
    (1, "store full, refusing messages until memory is free"),
    (2, "store full, refusing new subscriptions and large wills until memory is free"),
)


class MemoryWatch:
    """Decides what the header of each call says of memory; see the module's docstring."""

    __slots__ = ("_counters", "_looked_s", "_name", "_share", "_written_bytes", "level")

    def __init__(self, name: str, reserve_percent: int, counters: Counters) -> None:
        """``reserve_percent`` of ``maxmemory`` is kept free; 0: memory is never looked at."""
        self._name = name
        self._counters = counters
        #: In thousandths.
        self._share = 10 * reserve_percent
        self._looked_s = float("-inf")
        self._written_bytes = 0
        #: What was found last: 1, messages are refused; 2, subscriptions and large wills, too.
        self.level = 0

    def word(self, size_bytes: int, now_s: float) -> Word:
        """Return the header's word for a call that writes about so many bytes."""
        if not self._share:
            return NOT_FULL
        self._written_bytes += size_bytes
        if self._written_bytes < LOOK_BYTES and now_s - self._looked_s < LOOK_S:
            return LEVELS[self.level]
        self._written_bytes = 0
        self._looked_s = now_s
        # More must be free again than what makes it full, so that it does not alternate.
        return self._share + self._share // 10 + 1 if self.level else self._share

    def looked(self, level: int) -> None:
        """Take what the script has found."""
        before, self.level = self.level, level
        for at, line in _LINES:
            if before < at <= level:
                log.error(
                    line,
                    extra={"server": self._name, "reserve_percent": self._share // 10},
                )
        self._counters.store_full += bool(level) - bool(before)
        if before and not level:
            log.info("store has memory again", extra={"server": self._name})

    def retire(self) -> None:
        """Stop counting as full: the server is no longer used."""
        if self.level:
            self.level = 0
            self._counters.store_full -= 1
