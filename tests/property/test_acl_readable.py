"""How much of a topic filter an ACL lets a client read, against every topic there is.

Rules and filters have at most three levels of a small alphabet, and the topics one more level and
one more name than these: whatever a wildcard stands for is there.
"""

from __future__ import annotations

import itertools
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge.auth.acl import DENY, READ, WRITE, ClientAcl, Readable
from tidegate.edge.auth.filter_sets import intersection, matches

TOPICS: Final = [
    "/".join((first, *rest))
    for count in range(4)
    for first in ("a", "b", "", "$x", "$y", "other")
    for rest in itertools.product(("a", "b", "", "other"), repeat=count)
]


@st.composite
def topic_filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=3))
    if draw(st.booleans()):
        levels[0] = draw(st.sampled_from(["a", "+", "$x"]))
    if draw(st.booleans()):
        levels[-1] = "#"
    return "/".join(levels)


entries = st.lists(st.tuples(st.sampled_from([DENY, READ, WRITE, READ | WRITE]), topic_filters()))


@given(entries, entries, topic_filters())
@settings(max_examples=200)
def test_readable_says_what_may_read_says_of_each_topic(
    own: list[tuple[int, str]], patterns: list[tuple[int, str]], topic_filter: str
) -> None:
    acl = ClientAcl(own, patterns, refuse_patterns=False)
    levels = topic_filter.split("/")
    answers = {acl.may_read(topic) for topic in TOPICS if matches(levels, topic.split("/"))}
    if answers == {True}:
        assert acl.readable(topic_filter) is Readable.ALL
    else:
        assert acl.readable(topic_filter) is (Readable.SOME if True in answers else Readable.NONE)


@given(topic_filters(), topic_filters())
@settings(max_examples=100)
def test_an_intersection_matches_what_both_filters_match(one: str, other: str) -> None:
    left, right = tuple(one.split("/")), tuple(other.split("/"))
    common = intersection(left, right)
    assert common == intersection(right, left)
    for topic in TOPICS:
        levels = topic.split("/")
        both = matches(left, levels) and matches(right, levels)
        assert (common is not None and matches(common, levels)) == both
