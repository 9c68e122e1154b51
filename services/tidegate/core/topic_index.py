"""Which subscriptions match a topic name: the index that every publish goes through.

Owned by whoever owns subscriptions (an edge its clients', a router its table). Filters without
wildcards live in one dict; the others in a trie of topic levels. Knows nothing of clients: keys
and values are opaque. Topic filters and names must have been validated, ``$share`` prefixes taken
off; an index of any other string is merely useless, never harmful.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

from tidegate.core.match_cache import MatchCache
from tidegate.core.matches import Matches

K = TypeVar("K")
V = TypeVar("V")

# What is subscribed to one filter: one (key, value) pair, or pairs by key. Nearly all filters have
# one subscriber, and a dict costs four times a pair.
_Entry: TypeAlias = "tuple[K, V] | dict[K, tuple[K, V]]"

#: How many topics' results are kept; large results count as several.
CACHED_TOPICS: Final = 10_000
_SHARED_WORDS: Final = 10_000
_SHARED_WORD_LENGTH: Final = 32


class _Node(Generic[K, V]):
    """One topic level of the wildcard filters.

    ``here`` is what subscribed to exactly this path, ``below`` to this path plus ``/#``. The only
    literal level below is ``level`` with ``child``; a second one turns them into ``children``,
    since a dict each would be most of the memory, and of the cache misses of a match.
    """

    __slots__ = ("below", "child", "children", "here", "level", "plus")

    def __init__(self) -> None:
        self.level: str | None = None
        self.child: _Node[K, V] | None = None
        self.children: dict[str, _Node[K, V]] | None = None
        self.plus: _Node[K, V] | None = None
        self.here: _Entry[K, V] | None = None
        self.below: _Entry[K, V] | None = None

    def get(self, level: str) -> _Node[K, V] | None:
        """Return what is below a literal level."""
        if self.level == level:
            return self.child
        return None if self.children is None else self.children.get(level)

    def put(self, level: str, child: _Node[K, V]) -> None:
        """Add a literal level that is not there."""
        if self.children is not None:
            self.children[level] = child
        elif self.level is None or self.child is None:
            self.level, self.child = level, child
        else:
            self.children = {self.level: self.child, level: child}
            self.level = self.child = None

    def drop(self, level: str) -> None:
        """Remove a literal level that is there."""
        if self.children is None:
            self.level = self.child = None
        else:
            del self.children[level]
            if not self.children:
                self.children = None

    def is_empty(self) -> bool:
        """Say whether nothing is subscribed here or below."""
        return (
            self.here is None
            and self.below is None
            and self.plus is None
            and self.child is None
            and self.children is None
        )


class TopicIndex(Generic[K, V]):
    """Topic filters, each with any number of keys, each of those with a value."""

    __slots__ = (
        "_cache",
        "_exact",
        "_len",
        "_recent",
        "_root",
        "_words",
    )

    def __init__(self, cached_topics: int = CACHED_TOPICS) -> None:
        self._exact: dict[str, _Entry[K, V]] = {}
        self._root: _Node[K, V] = _Node()
        self._words: dict[str, str] = {}
        self._len = 0
        self._cache: MatchCache[K, V] = MatchCache(cached_topics)
        #: That of the cache, which ``match`` reads without a step in between.
        self._recent = self._cache.topics.recent

    def __len__(self) -> int:
        """Count the (topic filter, key) pairs."""
        return self._len

    def match(self, topic: str) -> Matches[K, V]:
        """Return the pairs of every matching (topic filter, key), in no particular order.

        A key comes once for each of its filters that match. Topics that begin with ``$`` are not
        matched by filters that begin with a wildcard [MQTT-4.7.2-1].

        Topics that match the same filters have the same object (but where a filter is the
        topic itself it has one of its own), until an ``add`` or ``remove`` could change the result.
        So whatever a caller derived from a result without looking at the topic is valid as long as
        ``match(topic) is result``; ``vary`` is for what depends on the topic.
        """
        found = self._recent.get(topic)
        if found is None:
            found = self._fill(topic)
        return found

    def vary(self, topic: str, found: Matches[K, V], by: Hashable) -> Matches[K, V]:
        """Have a topic matched by the same as others with the same ``by``, and return that.

        ``found`` is the result of ``match``, ``by`` stands for all that is derived from the topic.
        """
        return self._cache.vary(topic, found, by)

    def forget_derived(self) -> None:
        """Have everything derived anew: something else that it depends on has changed."""
        self._cache.clear()

    def limit_cache(self, topics: int) -> None:
        """Keep results of so many topics from now on, at least one."""
        self._cache.limit = topics

    def entries(self, topic_filter: str) -> list[tuple[K, V]]:
        """Return (key, value) for every key of exactly this topic filter."""
        if "+" not in topic_filter and "#" not in topic_filter:
            return _pairs(self._exact.get(topic_filter))
        levels = topic_filter.split("/")
        below = levels[-1] == "#"
        path = self._path(levels[:-1] if below else levels)
        if not path:
            return []
        return _pairs(path[-1].below if below else path[-1].here)

    def add(self, topic_filter: str, key: K, value: V) -> bool:
        """Add a subscription; True if it is new, False if it replaced the key's value."""
        entry: _Entry[K, V] | None
        if "+" not in topic_filter and "#" not in topic_filter:
            entry = self._exact.get(topic_filter)
            self._exact[topic_filter], is_new = _put(entry, key, value)
            self._cache.discard(topic_filter)
        else:
            levels = topic_filter.split("/")
            if levels[-1] == "#":
                node = self._make_path(levels[:-1])
                entry = node.below
                node.below, is_new = _put(entry, key, value)
            else:
                node = self._make_path(levels)
                entry = node.here
                node.here, is_new = _put(entry, key, value)
            self._cache.drop(levels)
        if is_new:
            self._len += 1
        return is_new

    def remove(self, topic_filter: str, key: K) -> bool:
        """Remove a subscription; False if there was none."""
        if "+" not in topic_filter and "#" not in topic_filter:
            left, is_removed = _take(self._exact.get(topic_filter), key)
            if not is_removed:
                return False
            if left is None:
                del self._exact[topic_filter]
            else:
                self._exact[topic_filter] = left
            self._cache.discard(topic_filter)
        else:
            levels = topic_filter.split("/")
            below = levels[-1] == "#"
            path = self._path(levels[:-1] if below else levels)
            if not path:
                return False
            node = path[-1]
            left, is_removed = _take(node.below if below else node.here, key)
            if not is_removed:
                return False
            if below:
                node.below = left
            else:
                node.here = left
            if left is None:
                _prune(path, levels)
            self._cache.drop(levels)
        self._len -= 1
        return True

    def _fill(self, topic: str) -> Matches[K, V]:
        """Find what matches ``topic`` and keep it."""
        cache = self._cache
        topics = cache.topics
        if topics.earlier and (found := topics.find(topic)) is not None:
            return found
        levels = topic.split("/")
        entries, parents = self._collect(topic, levels)
        exact = self._exact.get(topic)
        if exact is None:
            if len(entries) == 1 and not parents:
                key: Hashable = id(entries[0])
            else:
                key = (*map(id, entries), parents)
            found = cache.results.get(key)
            if found is None:
                found = Matches([], key)
        else:
            entries.append(exact)
            found = Matches([])
        pairs = found.pairs
        if not pairs:
            for entry in entries:
                _append(pairs, entry)
        cache.add(topic, levels, found)
        self._recent = topics.recent
        return found

    def _collect(self, topic: str, levels: list[str]) -> tuple[list[_Entry[K, V]], int]:
        """Return what the wildcard filters have for ``topic``, those last that end in ``/#`` and
        match it as their parent level; and how many these are.

        Level by level with all the paths that still match, not recursive: a topic name may have
        more levels than Python has stack.
        """
        entries: list[_Entry[K, V]] = []
        node = self._root
        rest = iter(levels)
        if topic[:1] == "$":  # [MQTT-4.7.2-1]
            first = node.get(next(rest))
            if first is None:
                return entries, 0
            node = first
        for level in rest:  # as long as there is one path, without lists
            if node.below is not None:
                entries.append(node.below)
            child, plus = node.child if node.level == level else None, node.plus
            if node.children is not None:
                child = node.children.get(level)
            if plus is None:
                if child is None:
                    return entries, 0
                node = child
            elif child is None:
                node = plus
            else:
                return self._spread([plus, child], rest, entries)
        if node.here is not None:
            entries.append(node.here)
        if node.below is None:
            return entries, 0
        entries.append(node.below)  # "a/#" matches "a" too (MQTT5 §4.7.1.2)
        return entries, 1

    @staticmethod
    def _spread(
        nodes: list[_Node[K, V]], rest: Iterator[str], entries: list[_Entry[K, V]]
    ) -> tuple[list[_Entry[K, V]], int]:
        """Go on where there are several paths (see ``_collect``)."""
        for level in rest:
            following = []
            for node in nodes:
                if node.below is not None:
                    entries.append(node.below)
                if node.plus is not None:
                    following.append(node.plus)
                child = node.child if node.level == level else None
                if node.children is not None:
                    child = node.children.get(level)
                if child is not None:
                    following.append(child)
            if not following:
                return entries, 0
            nodes = following
        parents = 0
        for node in nodes:
            if node.here is not None:
                entries.append(node.here)
            if node.below is not None:
                parents += 1
        if parents:
            entries += [node.below for node in nodes if node.below is not None]
        return entries, parents

    def _make_path(self, levels: list[str]) -> _Node[K, V]:
        """Return the node of a filter's levels, made where it does not exist."""
        node = self._root
        for level in levels:
            child = node.plus if level == "+" else node.get(level)
            if child is None:
                child = _Node()
                if level == "+":
                    node.plus = child
                else:
                    node.put(self._shared(level), child)
            node = child
        return node

    def _shared(self, level: str) -> str:
        """Return one object for equal levels as long as they are not too many.

        Filters of a million devices end in the same few words; one object for each of those saves
        memory, and a match finds it in the processor's cache.
        """
        if len(self._words) < _SHARED_WORDS and len(level) <= _SHARED_WORD_LENGTH:
            return self._words.setdefault(level, level)
        return self._words.get(level, level)

    def _path(self, levels: list[str]) -> list[_Node[K, V]]:
        """Return the nodes from the root to that of a filter's levels; empty if it has none."""
        node = self._root
        path = [node]
        for level in levels:
            child = node.plus if level == "+" else node.get(level)
            if child is None:
                return []
            node = child
            path.append(node)
        return path


def _pairs(entry: _Entry[K, V] | None) -> list[tuple[K, V]]:
    found: list[tuple[K, V]] = []
    if entry is not None:
        _append(found, entry)
    return found


def _append(found: list[tuple[K, V]], entry: _Entry[K, V]) -> None:
    if isinstance(entry, tuple):
        found.append(entry)
    else:
        found.extend(entry.values())


def _put(entry: _Entry[K, V] | None, key: K, value: V) -> tuple[_Entry[K, V], bool]:
    """Return the entry with the pair in it, and whether the key is new."""
    pair = (key, value)
    if entry is None:
        return pair, True
    if isinstance(entry, tuple):
        if entry[0] == key:
            return pair, False
        return {entry[0]: entry, key: pair}, True
    is_new = key not in entry
    entry[key] = pair
    return entry, is_new


def _take(entry: _Entry[K, V] | None, key: K) -> tuple[_Entry[K, V] | None, bool]:
    """Return the entry without the key (None: nothing left), and whether the key was there."""
    if entry is None:
        return None, False
    if isinstance(entry, tuple):
        return (None, True) if entry[0] == key else (entry, False)
    if entry.pop(key, None) is None:
        return entry, False
    if len(entry) == 1:
        return next(iter(entry.values())), True
    return entry, True


def _prune(path: list[_Node[K, V]], levels: list[str]) -> None:
    """Take nodes that hold nothing any more out of their parents, from the end of the path."""
    for depth in range(len(path) - 1, 0, -1):
        if not path[depth].is_empty():
            return
        if levels[depth - 1] == "+":
            path[depth - 1].plus = None
        else:
            path[depth - 1].drop(levels[depth - 1])
