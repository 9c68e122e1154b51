"""How long a frame waits for more operations: not at all unless recent ones were soon followed.

Each ``outbox`` has one for its stream. Given times, never reads a clock: no state but the mean, no
I/O.
"""

from __future__ import annotations

from typing import Final

#: A stream is busy when, in the mean, so many turns of the event loop that add something to it fall
#: into the time for which it may gather. Fewer would be worth little: each spares one frame.
MIN_COMPANY: Final = 3
#: The mean of gaps moves towards the newest one by this part of the difference.
NEWEST: Final = 1 / 16


class Gathering:
    """See the module's docstring. ``sent`` when a frame goes, ``wait_s`` when the next one begins.

    What is measured is the gap from a frame to the first operation behind it. Where these come at
    random it does not depend on whether frames wait, so the rule cannot keep itself in force. (At
    regular intervals it halves: a stream stays busy until they are twice as long.) What comes in
    one turn of the event loop, as out of a frame that was gathered at the edge, counts once.
    """

    __slots__ = ("_gap_s", "_gather_s", "_sent_s")

    def __init__(self, gather_s: float) -> None:
        """``gather_s``: the longest time from one frame to the next; 0: never wait."""
        self._gather_s = gather_s
        self._gap_s = gather_s
        self._sent_s = float("-inf")

    def sent(self, now_s: float) -> None:
        """A frame goes now."""
        self._sent_s = now_s

    def wait_s(self, now_s: float) -> float:
        """The first operation of the next frame has come: return for how long it waits for more.

        Once for each frame. A gap counts for ``gather_s`` at most, so a pause changes little.
        """
        gap_s = now_s - self._sent_s
        self._gap_s += (min(gap_s, self._gather_s) - self._gap_s) * NEWEST
        is_busy = self._gap_s * MIN_COMPANY <= self._gather_s
        return max(0.0, self._gather_s - gap_s) if is_busy else 0.0
