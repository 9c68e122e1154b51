"""What a message waits for: writes that are under way for it, counted.

Whoever has something written for a message makes one; the queue writer and the retained messages
hold and release it, and tell it when its writes are given up.
"""

from __future__ import annotations

from collections.abc import Callable


class Pending:
    """A message that waits for writes; ``finished`` is called once, after the last of them."""

    __slots__ = ("_finished", "_remaining", "failed", "refused")

    def __init__(self, finished: Callable[[], None]) -> None:
        #: A write was refused for good: the publish must not be acknowledged as a success.
        self.failed = False
        #: A member of a group could not take its message; perhaps another one could.
        self.refused = False
        self._finished = finished
        self._remaining = 1  # the caller's own hold, given back by ``release``

    def hold(self) -> None:
        """Wait for one more write."""
        self._remaining += 1

    def last_hold(self) -> bool:
        """True when nothing is waited for any more but the caller's own hold."""
        return self._remaining == 1

    def release(self) -> None:
        """One write is done."""
        self._remaining -= 1
        if not self._remaining:
            # What is called holds this object more often than not: no circle may stay, because it
            # would hold the message until a full garbage collection.
            finished, self._finished = self._finished, _nothing
            finished()

    def forget(self) -> None:
        """Its writes were given up, because others have taken over: ``finished`` is not called.

        A publisher must not be answered then: its edge sends the message again.
        """
        self._finished = _nothing


def _nothing() -> None:
    pass
