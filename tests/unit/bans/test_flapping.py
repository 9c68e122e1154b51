"""When a client flaps."""

from __future__ import annotations

import pytest

from tidegate.bans import flapping
from tidegate.bans.flapping import Flapping


def test_as_many_disconnects_as_are_allowed_in_the_window_and_one_more() -> None:
    rule = Flapping()
    assert [rule.disconnected("c", at_s, 3, 60.0) for at_s in (0, 59, 60, 61)] == [False] * 4
    assert rule.disconnected("other", 62, 3, 60.0) is False
    assert rule.disconnected("c", 62, 3, 60.0) is True
    assert rule.disconnected("c", 63, 3, 60.0) is False


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flapping, "MAX_COUNTED", 2)
    rule = Flapping()
    for key in ("a", "b", "c", "b"):
        rule.disconnected(key, 0, 3, 60.0)
    assert rule.disconnected("b", 1, 3, 60.0) is True
    assert rule.disconnected("a", 1, 3, 60.0) is False
