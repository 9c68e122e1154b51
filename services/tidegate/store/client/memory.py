"""Memory of a store server: when it is looked at, and whether messages are refused.

Each lane that writes messages owns one. The script compares the server's memory with ``maxmemory``
when a call has a share in its header, and refuses what adds messages while less than that share is
free; so CONNECT, acknowledgements and deletions go on. ADR 0017.
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
#: What the header says when nothing is refused, and while messages are.
NOT_FULL: Final = b""
FULL: Final = b"!"


class MemoryWatch:
    """Decides what the header of each call says of memory; see the module's docstring."""

    __slots__ = ("_counters", "_looked_s", "_name", "_share", "_written_bytes", "is_full")

    def __init__(self, name: str, reserve_percent: int, counters: Counters) -> None:
        """``reserve_percent`` of ``maxmemory`` is kept free; 0: memory is never looked at."""
        self._name = name
        self._counters = counters
        #: In thousandths.
        self._share = 10 * reserve_percent
        self._looked_s = float("-inf")
        self._written_bytes = 0
        #: Whether messages are refused.
        self.is_full = False

    def word(self, size_bytes: int, now_s: float) -> Word:
        """Return the header's word for a call that writes about so many bytes."""
        if not self._share:
            return NOT_FULL
        self._written_bytes += size_bytes
        if self._written_bytes < LOOK_BYTES and now_s - self._looked_s < LOOK_S:
            return FULL if self.is_full else NOT_FULL
        self._written_bytes = 0
        self._looked_s = now_s
        # More must be free again than what makes it full, so that it does not alternate.
        return self._share + self._share // 10 + 1 if self.is_full else self._share

    def looked(self, is_full: bool) -> None:
        """Take what the script has found."""
        if is_full == self.is_full:
            return
        self.is_full = is_full
        if is_full:
            self._counters.store_full += 1
            log.error(
                "store full, refusing messages until memory is free",
                extra={"server": self._name, "reserve_percent": self._share // 10},
            )
        else:
            self._counters.store_full -= 1
            log.info("store has memory again", extra={"server": self._name})

    def retire(self) -> None:
        """Stop counting as full: the server is no longer used."""
        if self.is_full:
            self.is_full = False
            self._counters.store_full -= 1
