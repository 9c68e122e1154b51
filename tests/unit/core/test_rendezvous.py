"""Which of several names a key belongs to."""

from __future__ import annotations

from collections import Counter

import pytest

from tidegate.core.rendezvous import owner

KEYS = [f"site/{number}/temperature" for number in range(4000)]


def test_the_answer_depends_on_names_and_key_only() -> None:
    names = ["router-0", "router-1", "router-2"]
    for key in KEYS[:200]:
        assert owner(key, names) == owner(key, reversed(names)) == owner(key, set(names))


def test_the_answer_is_the_same_in_every_process_and_release() -> None:
    # Edges of two versions run side by side: these must never change.
    names = ["router-0", "router-1", "router-2"]
    found = [owner(key, names) for key in ("a", "a/b", "sport/tennis", "ß/☂", "")]
    assert found == ["router-1", "router-1", "router-0", "router-2", "router-1"]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_keys_are_spread_evenly(count: int) -> None:
    names = [f"router-{number}" for number in range(count)]
    shares = Counter(owner(key, names) for key in KEYS)
    fair = len(KEYS) / count
    # Five standard deviations of a binomial distribution.
    tolerance = 5 * (fair * (1 - 1 / count)) ** 0.5
    assert all(abs(shares[name] - fair) < tolerance for name in names), shares


def test_when_a_name_comes_only_the_keys_that_it_wins_move() -> None:
    before = ["router-0", "router-1", "router-2"]
    after = [*before, "router-3"]
    moved = [key for key in KEYS if owner(key, before) != owner(key, after)]
    assert moved
    assert {owner(key, after) for key in moved} == {"router-3"}


def test_when_a_name_goes_only_its_own_keys_move() -> None:
    before = ["router-0", "router-1", "router-2", "router-3"]
    after = before[:-1]
    for key in KEYS:
        if owner(key, before) != "router-3":
            assert owner(key, after) == owner(key, before)


def test_what_a_lost_name_had_is_spread_over_all_others() -> None:
    before = ["router-0", "router-1", "router-2", "router-3"]
    orphans = [key for key in KEYS if owner(key, before) == "router-0"]
    heirs = Counter(owner(key, before[1:]) for key in orphans)
    assert len(heirs) == 3
    assert max(heirs.values()) < 0.45 * len(orphans)


def test_names_that_differ_only_at_their_end_share_the_keys_however_long_they_are() -> None:
    host = "a-host-with-a-name-of-sixty-three-characters-as-long-as-it-gets"
    names = [f"{host}-01", f"{host}-02"]
    shares = Counter(owner(key, names) for key in KEYS)
    assert min(shares[name] for name in names) > 0.4 * len(KEYS)


def test_without_names_there_is_no_owner() -> None:
    with pytest.raises(ValueError, match="empty"):
        owner("a", [])
