"""What must always hold inside the cache of a topic index."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tidegate.core.match_cache import PAIRS_PER_TOPIC
from tidegate.core.topic_index import TopicIndex


def check_cache(index: TopicIndex[Any, Any], *, is_bounded: bool = True) -> None:
    """Check that what the cache counts, shares and drops by is what it holds.

    ``is_bounded``: its limit has not been lowered just now.
    """
    cache = index._cache
    topics = {**cache.topics.earlier, **cache.topics.recent}
    assert len(topics) == len(cache)
    results = {id(found): found for found in topics.values()}
    counts = Counter(id(found) for found in topics.values())
    assert all(found.topics == counts[id(found)] for found in results.values())
    shared = {id(found) for found in results.values() if found.key is not None}
    assert {id(found) for found in cache.results.values()} == shared
    assert all(found.key == key for key, found in cache.results.items())
    large = sum(len(found.pairs) // PAIRS_PER_TOPIC for found in results.values())
    assert cache._weight == len(topics) + large
    assert not is_bounded or cache._weight <= cache.limit or len(topics) == 1
    placed = {}
    for first, bucket in cache._buckets.items():
        assert bucket
        for second, there in bucket.items():
            for topic in [there] if isinstance(there, str) else there:
                placed[topic] = [first, second]
    assert placed == {topic: [*topic.split("/"), ""][:2] for topic in topics}
