"""The index of retained topic names; agreement with a naive matcher is in tests/property."""

from __future__ import annotations

import pytest

from tidegate.core.retained_index import RetainedIndex


def _index(*topics: str) -> RetainedIndex:
    index = RetainedIndex()
    for topic in topics:
        assert index.add(topic)
    return index


def test_a_topic_and_the_ones_below_it_live_side_by_side() -> None:
    index = _index("a", "a/b", "a/b/c", "a/", "/")
    assert len(index) == 5
    assert not index.add("a")
    assert not index.add("a/b/c")
    assert sorted(index.match("a/#")) == ["a", "a/", "a/b", "a/b/c"]
    assert sorted(index.match("a/+")) == ["a/", "a/b"]
    assert index.match("a") == ["a"]
    assert index.match("a/b/c/d") == index.match("q/+/c") == index.match("q") == []
    assert "a/b" in index
    assert "a/b/c" in index
    assert "a/b/c/d" not in index
    assert "a/q" not in index


def test_everything_below_a_topic_without_levels_below_it_is_the_topic() -> None:
    index = _index("a", "b/c", "b/d/e")
    assert index.match("a/#") == ["a"]
    assert sorted(index.match("+/#")) == ["a", "b/c", "b/d/e"]
    assert index.match("+/+/e") == ["b/d/e"]


def test_a_level_that_is_no_topic_is_not_found() -> None:
    index = _index("a/b/c")
    assert "a/b" not in index
    assert not index.discard("a/b")
    assert index.match("a/b") == index.match("+") == []
    assert index.match("a/b/#") == ["a/b/c"]


def test_a_discarded_topic_leaves_nothing_behind() -> None:
    index = _index("a/b/c", "a/b", "a", "x/y/z")
    assert not index.discard("a/b/c/d")
    assert not index.discard("a/q")
    assert not index.discard("q/r")
    assert index.discard("a/b/c")
    assert sorted(index.match("#")) == ["a", "a/b", "x/y/z"]
    assert index.discard("x/y/z")
    assert index.discard("a")
    assert not index.discard("a")
    assert index.match("#") == ["a/b"]
    assert index.discard("a/b")
    assert len(index) == 0
    assert index._root.children == {}


@pytest.mark.statement("MQTT-4.7.2-1")
def test_leading_wildcards_do_not_select_dollar_topics() -> None:
    index = _index("$SYS/a", "$SYS/b", "a/$x", "$d")
    assert index.match("#") == ["a/$x"]
    assert index.match("+/+") == ["a/$x"]
    assert index.match("+/a") == index.match("+") == []
    assert sorted(index.match("$SYS/#")) == sorted(index.match("$SYS/+")) == ["$SYS/a", "$SYS/b"]


def test_a_topic_with_more_levels_than_the_stack_is_kept() -> None:
    deep = "/".join("a" * 60_000)
    index = _index(deep)
    assert index.match("#") == index.match(deep) == [deep]
    assert index.discard(deep)
    assert index._root.children == {}


def test_a_discarded_topic_leaves_its_neighbours() -> None:
    index = _index("x/y/1", "x/y/2")
    assert index.discard("x/y/1")
    assert index.match("x/#") == ["x/y/2"]


def test_a_filter_is_excluded_by_its_levels_before_the_first_wildcard() -> None:
    index = RetainedIndex()
    assert not any(map(index.may_match, ["#", "+", "a", "a/#"]))
    index.add("a/b/c")
    assert all(map(index.may_match, ["#", "+/x", "a/+", "a/b/#", "a/b/c", "a/b/c/#"]))
    assert not any(map(index.may_match, ["a", "a/b", "b/#", "a/x/#", "a/b/c/d"]))
