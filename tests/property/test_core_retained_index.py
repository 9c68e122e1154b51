"""The retained index selects what a matcher that looks at every topic selects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.retained_index import RetainedIndex

_LEVELS = st.sampled_from(["", "a", "b", "$s"])
_TOPICS = st.lists(_LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
_FILTERS = st.builds(
    lambda levels, tail: "/".join(levels + tail),
    st.lists(st.sampled_from(["", "a", "b", "$s", "+"]), max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def _naive_match(topic_filter: str, topic: str) -> bool:
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        w in {"+", level} for w, level in zip(wanted, levels, strict=True)
    )


@given(
    changes=st.lists(st.tuples(st.booleans(), _TOPICS), max_size=40),
    filters=st.lists(_FILTERS, max_size=10),
)
def test_matches_are_those_of_a_naive_matcher(
    changes: list[tuple[bool, str]], filters: list[str]
) -> None:
    index = RetainedIndex()
    model: set[str] = set()
    for is_added, topic in changes:
        if is_added:
            assert index.add(topic) == (topic not in model)
            model.add(topic)
        else:
            assert index.discard(topic) == (topic in model)
            model.discard(topic)
        assert len(index) == len(model)
    for topic_filter in filters:
        expected = sorted(topic for topic in model if _naive_match(topic_filter, topic))
        assert sorted(index.match(topic_filter)) == expected
        assert index.may_match(topic_filter) or not expected
        if "+" not in topic_filter and "#" not in topic_filter:
            assert index.may_match(topic_filter) == bool(expected)
    for _, topic in changes:
        assert (topic in index) == (topic in model)
    for topic in model:
        assert index.discard(topic)
    assert index._root.children == {}
