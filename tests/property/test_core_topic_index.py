"""The topic index answers like a matcher that compares every filter, through any changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.match_cache import check_cache
from tidegate.core.matches import Matches
from tidegate.core.topic_index import TopicIndex
from tidegate.mqtt.topics import matches

_LEVELS = st.sampled_from(["", "a", "b", "$s"])
TOPICS = st.lists(_LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
_FILTER_LEVELS = st.sampled_from(["", "a", "b", "$s", "+"])
FILTERS = st.builds(
    lambda levels, tail: "/".join(levels + tail),
    st.lists(_FILTER_LEVELS, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)
_KEYS = st.sampled_from(["k1", "k2", "k3"])


def naive_match(topic_filter: str, topic: str) -> bool:
    """The specification's words, one filter at a time (MQTT5 §4.7)."""
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


class IndexAgainstNaive(RuleBasedStateMachine):
    """Adds, removes and matches; remembers results to check that they are never changed."""

    def __init__(self) -> None:
        super().__init__()
        self.index: TopicIndex[str, int] = TopicIndex(cached_topics=5)
        self.model: dict[tuple[str, str], int] = {}
        #: Whom what is derived from a topic leaves out, by the last level.
        self.refused: dict[str, str] = {}
        self.results: dict[str, tuple[Matches[str, int], list[tuple[str, int]]]] = {}

    @rule(topic_filter=FILTERS, key=_KEYS, value=st.integers(0, 3))
    def add(self, topic_filter: str, key: str, value: int) -> None:
        assert self.index.add(topic_filter, key, value) == ((topic_filter, key) not in self.model)
        self.model[topic_filter, key] = value

    @rule(topic_filter=FILTERS, key=_KEYS)
    def remove_any(self, topic_filter: str, key: str) -> None:
        known = self.model.pop((topic_filter, key), None) is not None
        assert self.index.remove(topic_filter, key) == known

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_known(self, data: st.DataObject) -> None:
        topic_filter, key = data.draw(st.sampled_from(sorted(self.model)))
        del self.model[topic_filter, key]
        assert self.index.remove(topic_filter, key)

    @rule(topic=TOPICS)
    def match(self, topic: str) -> None:
        found = self.index.match(topic)
        expected = sorted(
            (key, value)
            for (topic_filter, key), value in self.model.items()
            if naive_match(topic_filter, topic)
        )
        assert sorted(found.pairs) == expected
        before = self.results.get(topic)
        if before is not None and before[0] is found:
            assert before[1] == found.pairs  # the same object must mean the same result
        self.results[topic] = (found, list(found.pairs))

    @rule(topic=TOPICS)
    def derive(self, topic: str) -> None:
        """What is shared between topics is what each of them would derive by itself."""
        found = self.index.match(topic)
        refused = self.refused.get(topic.rsplit("/", maxsplit=1)[-1], "")
        wanted = (
            topic.count("/") if found.pairs and found.key is None else 0,
            sorted(pair for pair in found.pairs if pair[0] != refused),
        )
        if found.derived is None:
            places = tuple(place for place, pair in enumerate(found.pairs) if pair[0] == refused)
            found = self.index.vary(topic, found, places)
            if found.derived is None:
                found.derived = wanted
        assert found.derived == wanted
        assert len(topic) > 256 or self.index.match(topic) is found

    @rule(refused=st.dictionaries(_LEVELS, _KEYS, max_size=3))
    def change_rules(self, refused: dict[str, str]) -> None:
        self.refused = refused
        self.index.forget_derived()

    @rule(limit=st.integers(3, 8))
    def change_limit(self, limit: int) -> None:
        self.index.limit_cache(limit)

    @invariant()
    def counts_and_old_results_hold(self) -> None:
        assert len(self.index) == len(self.model)
        check_cache(self.index, is_bounded=False)
        for found, copy in self.results.values():
            assert found.pairs == copy

    def teardown(self) -> None:
        for topic_filter, key in self.model:
            assert self.index.remove(topic_filter, key)
        assert self.index._root.is_empty()


IndexAgainstNaive.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestIndexAgainstNaive = IndexAgainstNaive.TestCase


@given(topic_filter=FILTERS, topic=TOPICS)
def test_one_filter_matches_as_the_protocols_own_matcher_says(
    topic_filter: str, topic: str
) -> None:
    index: TopicIndex[str, int] = TopicIndex()
    index.add(topic_filter, "k", 0)
    assert bool(index.match(topic).pairs) == matches(topic_filter, topic)
