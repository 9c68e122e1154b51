"""A bounded cache that drops what has not been used for long, one entry at a time.

Owned by whoever computes the same again and again, above all for topics. What has been used since
the last turn is in one dict, the rest in another: an entry there that is used moves back (its
second chance), one that is not makes room for a new one. When none is left, it is the next turn. So
a hit needs no bookkeeping, no step is long, and nothing is emptied at once. Pure.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Longer topics are no keys of such caches: they would take more memory than save time.
LONGEST_TOPIC: Final = 256


class SecondChance(Generic[K, V]):
    """See the module's docstring. No value is None.

    Entries make room in the reverse of the order in which they came or were found again. So of keys
    that come round in turn, somewhat more than there is room for, most are found; the oldest first
    would find none of them.
    """

    __slots__ = ("earlier", "limit", "recent")

    def __init__(self, limit: int) -> None:
        """``limit``: entries that are kept, at least 1; it may be changed at any time."""
        self.limit = limit
        #: What has been used since the last turn. A hot path reads it without a call, and calls
        #: ``find`` for what it lacks; it may also put a new key there after having made room. It
        #: may keep this dict: what a turn has replaced holds nothing that is not valid, only less
        #: and less.
        self.recent: dict[K, V] = {}
        #: What has not been used since the last turn; only this class changes it.
        self.earlier: dict[K, V] = {}

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.recent) + len(self.earlier)

    def find(self, key: K) -> V | None:
        """Return the value that is kept for a key; None: there is none."""
        value = self.recent.get(key)
        if value is None and self.earlier:
            value = self.earlier.pop(key, None)
            if value is not None:
                self.recent[key] = value
        return value

    def add(self, key: K, value: V) -> None:
        """Keep a value for a key that has none, and make room for it."""
        if len(self.recent) + len(self.earlier) >= self.limit:
            self.evict()
            if len(self) >= self.limit:
                self.evict()  # the limit has been lowered: two for one
        self.recent[key] = value

    def evict(self) -> tuple[K, V]:
        """Drop an entry, and return it. Raises KeyError when there is none."""
        if not self.earlier:
            self.earlier, self.recent = self.recent, {}
        return self.earlier.popitem()

    def discard(self, key: K) -> V | None:
        """Drop what is outdated, and return it; None: nothing was kept."""
        value = self.recent.pop(key, None)
        return self.earlier.pop(key, None) if value is None else value

    def clear(self) -> None:
        """Drop everything: it is outdated."""
        self.recent.clear()
        self.earlier.clear()
