"""The topic index by itself; its agreement with a naive matcher is in tests/property."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.match_cache import check_cache
from tidegate.core.second_chance import LONGEST_TOPIC
from tidegate.core.topic_index import TopicIndex


def _index(*filters: str) -> TopicIndex[str, int]:
    index: TopicIndex[str, int] = TopicIndex()
    for number, topic_filter in enumerate(filters):
        assert index.add(topic_filter, topic_filter, number)
    return index


def _keys(index: TopicIndex[str, int], topic: str) -> list[str]:
    return sorted(key for key, _ in index.match(topic).pairs)


@pytest.mark.statement("MQTT-4.7.1-1", "MQTT-4.7.1-2")
def test_wildcards_match_as_the_specification_says() -> None:
    index = _index("a/b", "a/+", "a/#", "+/b", "#", "+", "a/b/#", "a/+/c", "+/+")
    assert _keys(index, "a/b") == ["#", "+/+", "+/b", "a/#", "a/+", "a/b", "a/b/#"]
    assert _keys(index, "a") == ["#", "+", "a/#"]
    assert _keys(index, "a/b/c") == ["#", "a/#", "a/+/c", "a/b/#"]
    assert _keys(index, "/b") == ["#", "+/+", "+/b"]
    assert _keys(index, "a/") == ["#", "+/+", "a/#", "a/+"]


@pytest.mark.statement("MQTT-4.7.2-1")
def test_dollar_topics_are_hidden_from_leading_wildcards() -> None:
    index = _index("#", "+/monitor", "$SYS/#", "$SYS/+", "$SYS/monitor")
    assert _keys(index, "$SYS/monitor") == ["$SYS/#", "$SYS/+", "$SYS/monitor"]
    assert _keys(index, "$SYS") == ["$SYS/#"]
    assert _keys(_index("#", "+"), "$x") == []
    assert _keys(_index("a/#"), "$x/y") == []


def test_a_dollar_behind_the_first_level_is_an_ordinary_character() -> None:
    index = _index("#", "+/$x", "a/+")
    assert _keys(index, "a/$x") == ["#", "+/$x", "a/+"]


@pytest.mark.parametrize("topic_filter", ["a/b", "a/+", "a/#", "#", "+"])
def test_keys_of_one_filter_are_counted_replaced_and_removed(topic_filter: str) -> None:
    index: TopicIndex[str, int] = TopicIndex()
    topic = "a/b" if "a" in topic_filter else "a"
    assert index.add(topic_filter, "one", 1)
    assert not index.add(topic_filter, "one", 2)
    assert index.match(topic).pairs == [("one", 2)]
    assert index.add(topic_filter, "two", 3)
    assert not index.add(topic_filter, "two", 4)
    assert index.add(topic_filter, "three", 5)
    assert len(index) == 3
    assert sorted(index.match(topic).pairs) == [("one", 2), ("three", 5), ("two", 4)]
    assert sorted(index.entries(topic_filter)) == sorted(index.match(topic).pairs)
    assert not index.remove(topic_filter, "four")
    assert index.remove(topic_filter, "one")
    assert index.remove(topic_filter, "two")
    assert not index.remove(topic_filter, "two")
    assert index.match(topic).pairs == index.entries(topic_filter) == [("three", 5)]
    assert index.remove(topic_filter, "three")
    assert not index.remove(topic_filter, "three")
    assert (len(index), index.match(topic).pairs) == (0, [])
    assert index.entries(topic_filter) == []


def test_removing_from_filters_that_share_a_path_leaves_the_others() -> None:
    index = _index("a/+/c", "a/+/d", "a/+", "a/b/#", "x/y/+")
    assert not index.remove("a/+/e", "a/+/e")
    assert not index.remove("a/#", "a/#")
    assert not index.remove("q/#", "q/#")
    assert index.remove("a/+/c", "a/+/c")
    assert index.remove("x/y/+", "x/y/+")
    assert index.remove("a/b/#", "a/b/#")
    assert _keys(index, "a/b") == ["a/+"]
    assert _keys(index, "a/b/d") == ["a/+/d"]
    assert index.remove("a/+", "a/+")
    assert index.remove("a/+/d", "a/+/d")
    assert index._root.is_empty()


def test_a_topic_with_more_levels_than_the_stack_is_matched() -> None:
    deep = "/".join("a" * 60_000)
    index = _index("/".join("+" * 60_000), "a/#", deep)
    assert len(index.match(deep).pairs) == 3
    assert index.remove("/".join("+" * 60_000), "/".join("+" * 60_000))
    assert len(index.match(deep).pairs) == 2


def test_the_same_list_comes_back_until_a_matching_filter_changes() -> None:
    index = _index("a/b/c", "a/+/c", "a/b/#")
    found = index.match("a/b/c")
    for unrelated in ("x/+", "a/q/#", "a/q/+", "a/b", "a/b/d", "x/y/#"):
        index.match(unrelated.replace("+", "1").replace("#", "1"))
        index.add(unrelated, "k", 1)
        assert index.match("a/b/c") is found
        index.remove(unrelated, "k")
        index.remove(unrelated, "k")
        assert index.match("a/b/c") is found


@pytest.mark.parametrize("topic_filter", ["a/b/c", "a/b/+", "a/+/c", "a/#", "+/b/c", "#", "a/b/#"])
def test_a_change_that_matters_gives_another_list_and_leaves_the_old_one(topic_filter: str) -> None:
    index = _index("a/b/c", "a/#", "#")
    changes: list[Callable[[], bool]] = [
        lambda: index.add(topic_filter, "k", 1),
        lambda: index.add(topic_filter, "k", 2),
        lambda: index.remove(topic_filter, "k"),
    ]
    for change in changes:
        found = index.match("a/b/c")
        copy = list(found.pairs)
        change()
        assert index.match("a/b/c") is not found
        assert found.pairs == copy


def test_a_first_subscriber_is_seen_by_a_topic_that_had_none() -> None:
    index: TopicIndex[str, int] = TopicIndex()
    assert index.match("a") is index.match("b")
    index.add("a/#", "k", 1)
    assert index.match("a").pairs == [("k", 1)]
    assert index.match("b").pairs == []


def test_topics_that_match_the_same_filters_share_one_list() -> None:
    index = _index("a/+", "a/#", "b/+/c", "a/0")
    found = index.match("a/1")
    assert index.match("a/2") is found
    assert index.match("a/1/2") is not found
    assert index.match("a/0") is not found
    assert index.match("b/1/c") is index.match("b/2/c")
    assert index.match("x") is index.match("y")


def test_a_parent_that_a_filter_matches_too_has_a_list_of_its_own() -> None:
    """Only below it do all topics begin with the whole filter."""
    index = _index("a/#")
    assert index.match("a") is not index.match("a/1")
    assert index.match("a").pairs == index.match("a/1").pairs


def test_topics_that_differ_in_what_the_caller_says_have_lists_of_their_own() -> None:
    index = _index("a/+", "a/0")
    for topic in ("a/1", "a/2", "a/3", "a/0"):
        found = index.match(topic)
        varied = index.vary(topic, found, topic == "a/3")
        assert varied.pairs == found.pairs
        assert index.match(topic) is varied
    assert index.match("a/1") is index.match("a/2")
    assert index.match("a/1") is not index.match("a/3")
    assert index.vary("a/0", index.match("a/0"), 1) is index.match("a/0")
    index.match("a/1").derived = index.match("a/3").derived = "derived"
    index.add("a/+", "k", 1)
    assert [index.match(topic).derived for topic in ("a/1", "a/2", "a/3")] == [None] * 3


def test_the_cache_stays_within_its_limit() -> None:
    index: TopicIndex[str, int] = TopicIndex(cached_topics=100)
    index.add("t/+", "k", 1)
    for number in range(1000):
        assert index.match(f"t/{number}").pairs == [("k", 1)]
        check_cache(index)
    assert len(index._cache) == 100
    # An exact filter's churn enters the same topic again and again.
    for _ in range(1000):
        index.add("t/1", "e", 1)
        index.match("t/1")
    check_cache(index)
    index.limit_cache(10)
    for number in range(200):
        index.match(f"t/{number}")
    check_cache(index)
    assert len(index._cache) == 10


def test_large_results_fill_the_cache_sooner_and_are_counted_once() -> None:
    index: TopicIndex[int, int] = TopicIndex(cached_topics=100)
    for key in range(320):
        index.add("#", key, 0)
    for number in range(100):
        index.add(f"t{number}", -1, 0)
    for number in range(100):
        assert len(index.match(f"t{number}").pairs) == 321
        check_cache(index)
    assert len(index._cache) == 9  # each counts 11
    index.forget_derived()
    for number in range(100):
        assert len(index.match(f"s{number}").pairs) == 320
        check_cache(index)
    assert len(index._cache) == 90


def test_a_result_larger_than_the_whole_cache_is_kept_alone() -> None:
    index: TopicIndex[int, int] = TopicIndex(cached_topics=100)
    for key in range(5000):
        index.add("+", key, 0)
    index.match("a/b")
    found = index.match("a")
    assert index.match("a") is found
    assert len(index._cache) == 1
    check_cache(index)


def test_long_names_are_not_kept() -> None:
    index = _index("#")
    name = "x" * (LONGEST_TOPIC + 1)
    found = index.match(name)
    assert found.pairs == [("#", 0)]
    assert index.vary(name, found, 1).pairs == [("#", 0)]
    assert len(index._cache) == 0
    index.match(name[:-1])
    assert len(index._cache) == 1


def test_equal_levels_of_many_filters_are_one_object_but_not_without_bound() -> None:
    index: TopicIndex[str, int] = TopicIndex()
    long = "x" * 1000
    for number in range(11_000):
        index.add(f"a/d{number}/word/+/{long}", "k", 1)
    assert len(index._words) == 10_000
    assert long not in index._words
    path = [index._path(["a", f"d{number}"])[-1] for number in (1, 10_900)]
    assert path[0].level is path[1].level
    assert len(index.match(f"a/d10999/word/1/{long}").pairs) == 1


def test_what_was_derived_from_a_result_goes_with_it() -> None:
    index: TopicIndex[str, int] = TopicIndex()
    index.add("a/+", "k", 1)
    found, nothing = index.match("a/1"), index.match("b")
    found.derived, nothing.derived = "derived", "from nothing"
    assert index.match("a/1").derived == "derived"
    index.add("a/#", "k", 2)
    assert index.match("a/1").derived is None
    index.match("a/1").derived = "derived"
    index.forget_derived()
    assert index.match("a/1").derived is None
    assert index.match("b").derived is None
    assert sorted(index.match("a/1").pairs) == [("k", 1), ("k", 2)]
