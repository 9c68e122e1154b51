"""Results of a topic index by topic, within a bound: those that no change has made wrong.

Owned by ``TopicIndex``, which says which filters have changed. Topics that match the same filters
share one result, with all that has been derived from it: where each device of a fleet has topics of
its own, there are few results for many topics. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import Final, Generic, TypeVar

from tidegate.core.matches import Matches
from tidegate.core.second_chance import LONGEST_TOPIC, SecondChance

K = TypeVar("K")
V = TypeVar("V")

#: So many pairs of a result count as one more topic: what is derived from them takes memory.
PAIRS_PER_TOPIC: Final = 32


class MatchCache(Generic[K, V]):
    """See the module's docstring."""

    __slots__ = ("_buckets", "_weight", "limit", "results", "topics")

    def __init__(self, limit: int) -> None:
        """``limit``: topics that are kept, at least 1; it may be changed at any time."""
        self.limit = limit
        #: By topic; only this class changes it, but for what ``find`` does. Bounded here, by more
        #: than the number.
        self.topics: SecondChance[str, Matches[K, V]] = SecondChance(sys.maxsize)
        #: The results that a topic has, by their keys; only this class changes it.
        self.results: dict[Hashable, Matches[K, V]] = {}
        #: Topics, and what large results count besides.
        self._weight = 0
        # First level -> second level -> topics (one by itself, more in a dict, which takes less
        # time to fill than a set): what a change of a filter with wildcards drops. A topic is
        # dropped at most once for each time it was added, so that dropping is paid for by misses,
        # and churn of subscriptions is cheap while nobody publishes there.
        self._buckets: dict[str, dict[str, str | dict[str, None]]] = {}

    def __len__(self) -> int:
        """Count the topics."""
        return len(self.topics)

    # Results

    def add(self, topic: str, levels: Sequence[str], found: Matches[K, V]) -> None:
        """Keep the result of a topic that has none, and make room for it."""
        if len(topic) > LONGEST_TOPIC:
            return
        topics = self.topics
        if found.topics:
            found.topics += 1
            self._weight += 1
        else:
            self._count(found)
        if self._weight > self.limit:
            self._make_room(found)
        topics.recent[topic] = found
        second = levels[1] if len(levels) > 1 else ""
        bucket = self._buckets.get(levels[0])
        if bucket is None:
            self._buckets[levels[0]] = {second: topic}
            return
        there = bucket.get(second)
        if there is None:
            bucket[second] = topic
        elif isinstance(there, str):
            bucket[second] = {there: None, topic: None}
        else:
            there[topic] = None

    def vary(self, topic: str, found: Matches[K, V], by: Hashable) -> Matches[K, V]:
        """Return the result of the topics that have ``found``, and ``by`` in common.

        For what is derived from the topic besides, which ``by`` stands for. The topic has it from
        now on.
        """
        if found.key is None:
            return found
        key = (found.key, by)
        varied = self.results.get(key)
        if varied is None:
            varied = Matches(found.pairs, key)
        before = self.topics.discard(topic)
        if before is not None:
            self.topics.recent[topic] = varied
            self._count(varied)
            self._uncount(before)
        return varied

    # Changes

    def discard(self, topic: str) -> None:
        """Drop the result of one topic."""
        topics = self.topics
        if topic in topics.recent or topic in topics.earlier:
            found = topics.discard(topic)
            assert found is not None
            self._forget(topic, found)

    def drop(self, levels: Sequence[str]) -> None:
        """Drop the results that a filter with wildcards, of these levels, may change."""
        first = levels[0]
        if first in {"+", "#"}:
            self.clear()
            return
        bucket = self._buckets.get(first)
        if bucket is None:
            return
        second = levels[1]  # a filter with a wildcard behind its first level has a second
        if second in {"+", "#"}:
            del self._buckets[first]
            for topics in bucket.values():
                self._drop(topics)
        elif (dropped := bucket.pop(second, None)) is not None:
            if not bucket:
                del self._buckets[first]
            self._drop(dropped)

    def clear(self) -> None:
        """Drop everything."""
        self.topics.clear()
        self.results.clear()
        self._buckets.clear()
        self._weight = 0

    def _drop(self, topics: str | dict[str, None]) -> None:
        discard, uncount = self.topics.discard, self._uncount
        for topic in (topics,) if isinstance(topics, str) else topics:
            found = discard(topic)
            if found is not None:
                uncount(found)

    # The bound

    def _make_room(self, found: Matches[K, V]) -> None:
        """Make it for one topic and for a large result; a step more if the limit was lowered."""
        topics = self.topics
        for _ in range(2 + len(found.pairs) // PAIRS_PER_TOPIC):
            if not topics or self._weight <= self.limit:
                break
            self._forget(*topics.evict())

    def _forget(self, topic: str, found: Matches[K, V]) -> None:
        """A topic is not in the cache any more."""
        self._uncount(found)
        levels = topic.split("/", 2)
        second = levels[1] if len(levels) > 1 else ""
        bucket = self._buckets[levels[0]]
        there = bucket[second]
        if not isinstance(there, str):
            del there[topic]
            if there:
                return
        del bucket[second]
        if not bucket:
            del self._buckets[levels[0]]

    def _count(self, found: Matches[K, V]) -> None:
        self._weight += 1
        if not found.topics:
            self._weight += len(found.pairs) // PAIRS_PER_TOPIC
            if found.key is not None:
                self.results[found.key] = found
        found.topics += 1

    def _uncount(self, found: Matches[K, V]) -> None:
        self._weight -= 1
        found.topics -= 1
        if not found.topics:
            self._weight -= len(found.pairs) // PAIRS_PER_TOPIC
            if found.key is not None:
                del self.results[found.key]
