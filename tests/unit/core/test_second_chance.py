"""The cache by itself; its agreement with no cache at all is in tests/property."""

from __future__ import annotations

from typing import Final

import pytest

from tidegate.core.second_chance import SecondChance

ROUNDS: Final = 20


def _hits(limit: int, keys: int) -> float:
    """Look up keys that come round in turn; return the share that was found after the start."""
    cache: SecondChance[int, int] = SecondChance(limit)
    found = 0
    for turn in range(ROUNDS):
        for key in range(keys):
            if cache.find(key) is not None:
                found += turn > 0
            else:
                cache.add(key, -key)
            assert len(cache) <= limit
    return found / keys / (ROUNDS - 1)


def test_all_are_found_as_long_as_they_fit() -> None:
    assert _hits(100, 100) == 1


@pytest.mark.parametrize(("keys", "share"), [(101, 0.95), (110, 0.75), (150, 0.3)])
def test_what_comes_round_in_turn_and_does_not_quite_fit_is_mostly_found(
    keys: int, share: float
) -> None:
    assert share <= _hits(100, keys) < 1


def test_what_is_used_outlives_any_number_of_keys_that_are_not() -> None:
    cache: SecondChance[int, str] = SecondChance(100)
    for key in range(10):
        cache.add(-key - 1, "used")
    for key in range(10_000):
        cache.add(key, "once")
        if key % 20 == 0:
            assert all(cache.find(-used - 1) == "used" for used in range(10))
    assert len(cache) == 100


def test_one_entry_makes_room_for_one() -> None:
    cache: SecondChance[int, int] = SecondChance(100)
    for key in range(100):
        cache.add(key, key)
    before = set(range(100))
    for key in range(100, 300):
        cache.add(key, key)
        now = {key for key in range(300) if key in cache.recent or key in cache.earlier}
        assert len(before - now) == 1
        before = now


def test_a_dict_that_a_hot_path_has_kept_holds_nothing_outdated() -> None:
    cache: SecondChance[int, int] = SecondChance(10)
    kept = [cache.recent]
    for key in range(200):
        cache.add(key, key)
        if cache.recent is not kept[-1]:
            kept.append(cache.recent)
        if key % 3 == 0:
            cache.discard(key - 2)
            assert all(key - 2 not in one for one in kept)
        assert {found for one in kept for found in one} <= {*cache.recent, *cache.earlier}
    cache.clear()
    assert len(kept) > 10
    assert not any(kept)


def test_a_discarded_entry_is_returned_wherever_it_was() -> None:
    cache: SecondChance[str, int] = SecondChance(2)
    cache.add("a", 1)
    cache.add("b", 2)
    cache.add("c", 3)  # the next turn: "b" has made room
    assert "a" not in cache.recent
    assert [cache.discard(key) for key in "abc"] == [1, None, 3]
    assert len(cache) == 0
    with pytest.raises(KeyError):
        cache.evict()


def test_a_lower_limit_is_reached_step_by_step_and_a_higher_one_used() -> None:
    cache: SecondChance[int, int] = SecondChance(100)
    for key in range(100):
        cache.add(key, key)
    cache.limit = 50
    sizes = []
    for key in range(100, 160):
        cache.add(key, key)
        sizes.append(len(cache))
    assert sizes[:50] == list(range(99, 49, -1))
    assert set(sizes[50:]) == {50}
    cache.limit = 60
    for key in range(200, 260):
        cache.add(key, key)
    assert len(cache) == 60


def test_false_is_a_value() -> None:
    cache: SecondChance[str, bool] = SecondChance(1)
    cache.add("a", False)
    assert cache.find("a") is False
