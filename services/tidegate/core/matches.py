"""What a topic matches: the result of a topic index, shared by topics with the same filters.

Made by ``TopicIndex``, kept by ``MatchCache``. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Matches(Generic[K, V]):
    """What a topic matches, and so do all others that match the same filters. Never changed.

    ``derived`` is the caller's: what it has made of the matches, free when they are outdated. It
    must not refer to the matches themselves, which would make it a reference cycle.
    """

    __slots__ = ("derived", "key", "pairs", "topics")

    def __init__(self, pairs: list[tuple[K, V]], key: Hashable = None) -> None:
        #: A (key, value) for each matching topic filter and key.
        self.pairs = pairs
        self.derived: object = None
        #: What it is found by for further topics; None: it is of one topic only.
        self.key = key
        #: How many topics in the cache have it.
        self.topics = 0
