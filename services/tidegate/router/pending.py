"""Pending writes of a message: counted, with a callback after the last one.

Made by the caller that has a message written; the queue writer and the retained messages add and
release writes, and cancel it when its writes are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pending:
    """The pending writes of a message; ``finished`` is called once, after the last of them."""

    __slots__ = ("_finished", "_remaining", "failed", "over_quota", "refused")

    def __init__(self, finished: Callable[[], None]) -> None:
        #: A write failed for good: the publish must not be acknowledged as a success.
        self.failed = False
        #: Something was refused by a quota: the publisher gets 0x97.
        self.over_quota = False
        #: A member of a group could not take its message; perhaps another member could.
        self.refused = False
        self._finished = finished
        self._remaining = 1  # the caller's own, ended by its ``release``

    def add(self) -> None:
        """Count one more write."""
        self._remaining += 1

    def is_last(self) -> bool:
        """True when no write is pending but the caller's own."""
        return self._remaining == 1

    def release(self) -> None:
        """One write is done."""
        self._remaining -= 1
        if not self._remaining:
            # The callback often refers to this object: that cycle is cut here, because it would
            # keep the message until a full garbage collection.
            finished, self._finished = self._finished, _nothing
            finished()

    def cancel(self) -> None:
        """Give its writes up because this router is fenced: ``finished`` is not called.

        The publisher gets no answer then: its edge resends the message.
        """
        self._finished = _nothing


class PendingEnqueue(Pending):
    """Messages that an edge has queued and waits for; it gets an error when they are cancelled."""

    __slots__ = ("cancelled", "done")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.cancelled = False
        super().__init__(self.done.set)

    def cancel(self) -> None:
        """End the waiting (see Pending)."""
        super().cancel()
        self.cancelled = True
        self.done.set()


def _nothing() -> None:
    pass
