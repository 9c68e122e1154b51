"""Topic filters as sets of topic names: what two have in common, and whether many contain one.

Called by ``acl`` to find out what of a topic filter a client may read. Exact, and pure. A filter is
the tuple of its levels; wildcards do not match a first level that begins with $ [MQTT-4.7.2-1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

#: The levels of a topic filter, or of a topic name.
Levels: TypeAlias = tuple[str, ...]

#: A level that is in no filter, since no topic has U+0000 in it [MQTT-1.5.4-2].
_FRESH: Final = "\0"


def matches(levels: Sequence[str], topic_levels: Sequence[str]) -> bool:
    """Return whether a topic filter matches a topic name, both split into levels.

    Wildcards do not match a first level that begins with $ [MQTT-4.7.2-1].
    """
    if topic_levels[0][:1] == "$" and levels[0] != topic_levels[0]:
        return False
    count = len(topic_levels)
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index == count or (level not in {"+", topic_levels[index]}):
            # "a/#" also matches its parent "a" (MQTT5 §4.7.1.2).
            return False
    return len(levels) == count


def intersection(one: Levels, other: Levels) -> Levels | None:
    """Return the topic filter that matches what both match; None if that is nothing."""
    for first, second in ((one[0], other[0]), (other[0], one[0])):
        if first in {"+", "#"} and second[:1] == "$":
            return None
    common: list[str] = []
    for index in range(max(len(one), len(other)) + 1):
        left = one[index] if index < len(one) else None
        right = other[index] if index < len(other) else None
        if left == "#":
            return (*common, *other[index:])
        if right == "#":
            return (*common, *one[index:])
        if left is None or right is None:
            break
        if right in {left, "+"}:
            common.append(left)
        elif left == "+":
            common.append(right)
        else:
            return None
    return tuple(common) if len(one) == len(other) else None


def is_contained(levels: Levels, others: Sequence[Levels]) -> bool:
    """Return whether each topic name that a filter matches is matched by one of the others."""
    depth = max(map(len, others), default=0)
    return all(any(matches(other, name) for other in others) for name in _samples(levels, depth))


def _samples(levels: Levels, depth: int) -> Iterator[Levels]:
    """Topic names of a filter: what matches them all matches each name of the filter.

    A wildcard stands for a level that no filter names, so only a wildcard matches that. What
    matches a name that is longer than all filters ends in #, and matches all longer ones, too.
    """
    name = tuple(_FRESH if level == "+" else level for level in levels)
    if levels[-1] != "#":
        yield name
        return
    name = name[:-1]
    if name:
        yield name
    for _ in range(max(1, depth + 1 - len(name))):
        name = (*name, _FRESH)
        yield name
