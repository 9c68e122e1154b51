"""Shared subscription groups: membership and turns."""

from __future__ import annotations

import pytest

from tidegate.core.shared import SharedGroups
from tidegate.core.topic_index import TopicIndex


def _groups(*connected: str, offline: tuple[str, ...] = ()) -> SharedGroups[str]:
    groups: SharedGroups[str] = SharedGroups(TopicIndex())
    for client_id in connected:
        assert groups.subscribe("g", "a/+", client_id, client_id.upper(), True)
    for client_id in offline:
        assert groups.subscribe("g", "a/+", client_id, client_id.upper(), False)
    return groups


def test_connected_members_take_turns() -> None:
    groups = _groups("x", "y", "z", offline=("o",))
    assert [groups.pick("g", "a/+") for _ in range(6)] == ["X", "Y", "Z", "X", "Y", "Z"]


def test_offline_members_have_a_turn_only_when_nobody_is_connected() -> None:
    groups = _groups("x", offline=("o", "p"))
    assert groups.pick("g", "a/+", ["x"]) == "O"
    groups.set_connected("g", "a/+", "x", False)
    assert [groups.pick("g", "a/+") for _ in range(4)] == ["P", "O", "X", "P"]
    groups.set_connected("g", "a/+", "o", True)
    assert [groups.pick("g", "a/+") for _ in range(2)] == ["O", "O"]


def test_skipped_members_are_passed_over_until_nobody_is_left() -> None:
    groups = _groups("x", "y")
    assert groups.pick("g", "a/+", ["x"]) == "Y"
    assert groups.pick("g", "a/+", ["x", "y"]) is None
    assert groups.pick("g", "other") is None


def test_subscribing_again_replaces_the_member_and_moves_it_between_the_lines() -> None:
    groups = _groups("x", "y")
    assert not groups.subscribe("g", "a/+", "x", "X2", True)
    assert groups.pick("g", "a/+") == "X2"
    assert not groups.subscribe("g", "a/+", "x", "X3", False)
    assert groups.member("g", "a/+", "x") == "X3"
    assert [groups.pick("g", "a/+") for _ in range(2)] == ["Y", "Y"]
    assert len(groups) == 2


def test_unknown_groups_and_members_are_ignored() -> None:
    groups = _groups("x")
    groups.set_connected("g", "a/+", "unknown", True)
    groups.set_connected("g", "unknown", "x", False)
    assert not groups.unsubscribe("g", "a/+", "unknown")
    assert not groups.unsubscribe("g", "unknown", "x")
    assert groups.member("g", "a/+", "unknown") is None
    assert groups.member("g", "unknown", "x") is None
    assert groups.pick("g", "a/+") == "X"


def test_a_group_ends_with_its_last_member() -> None:
    groups = _groups("x", offline=("o",))
    assert groups.unsubscribe("g", "a/+", "x")
    assert groups._index.match("a/1").pairs == [("g", "a/+")]
    assert groups.unsubscribe("g", "a/+", "o")
    assert groups._index.match("a/1").pairs == []
    assert len(groups) == 0


@pytest.mark.statement("MQTT-4.7.2-1")
def test_every_matching_group_gets_the_topic_and_members_do_not_disturb_the_result() -> None:
    groups = _groups("x")
    groups.subscribe("h", "a/+", "x", "X", True)
    groups.subscribe("g", "#", "x", "X", True)
    found = groups._index.match("a/1")
    assert sorted(found.pairs) == [("g", "#"), ("g", "a/+"), ("h", "a/+")]
    groups.subscribe("g", "#", "y", "Y", True)
    groups.unsubscribe("g", "#", "x")
    assert groups._index.match("a/1") is found
    assert groups._index.match("$SYS/1").pairs == []


def test_a_group_is_revived_by_the_first_member_that_comes_to_others_that_are_gone() -> None:
    groups = _groups(offline=("o", "p"))
    groups.set_connected("g", "a/+", "o", True)
    groups.set_connected("g", "a/+", "p", True)
    assert groups.take_reconnected() == [("g", "a/+")]
    assert groups.take_reconnected() == []
    assert groups.offline("g", "a/+") == []
    groups.set_connected("g", "a/+", "o", False)
    groups.subscribe("g", "a/+", "x", "X", True)
    assert groups.take_reconnected() == []  # "p" had been there all the time
    groups.set_connected("g", "a/+", "p", False)
    groups.unsubscribe("g", "a/+", "x")
    groups.subscribe("g", "a/+", "x", "X", True)
    assert groups.take_reconnected() == [("g", "a/+")]
    assert sorted(groups.offline("g", "a/+")) == ["o", "p"]


def test_a_member_that_comes_back_alone_revives_nothing() -> None:
    groups = _groups("x")
    groups.set_connected("g", "a/+", "x", False)
    groups.set_connected("g", "a/+", "x", True)
    groups.subscribe("g", "a/+", "x", "X2", True)
    assert groups.take_reconnected() == []


def test_a_group_that_ends_is_not_revived() -> None:
    groups = _groups(offline=("o",))
    groups.subscribe("g", "a/+", "x", "X", True)
    groups.unsubscribe("g", "a/+", "x")
    groups.unsubscribe("g", "a/+", "o")
    assert groups.take_reconnected() == []
    assert groups.offline("g", "a/+") == []


def test_it_tells_whether_others_are_connected() -> None:
    groups = _groups("x", offline=("o",))
    assert groups.has_connected("g", "a/+")
    assert groups.has_connected("g", "a/+", besides="o")
    assert not groups.has_connected("g", "a/+", besides="x")
    assert not groups.has_connected("g", "unknown")
    groups.set_connected("g", "a/+", "o", True)
    assert groups.has_connected("g", "a/+", besides="x")
