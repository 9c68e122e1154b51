"""How many clients edges let go: never too many, and only where it is worth it."""

from __future__ import annotations

import datetime
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.brokers import NOW
from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.pods.rebalance import LONGEST_PAUSE_S, Rebalancer, pause_s, surplus
from tidegate_operator.spec.workloads import RebalanceSpec

EDGES = ["a", "b", "c", "d", "e", "f"]
counts = st.dictionaries(st.sampled_from(EDGES), st.integers(0, 100_000), min_size=1)
many = st.integers(1, 1_000_000)


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({"a": 2000, "b": 2000, "c": 0}, {"a": 666, "b": 666}),
        ({"a": 1200, "b": 1000}, {}),
        ({"a": 1300, "b": 700}, {"a": 300}),
        # Uneven, and not many.
        ({"a": 150, "b": 0}, {}),
        ({"a": 199, "b": 1}, {}),
        ({"a": 5000}, {}),
        ({"a": 0, "b": 0}, {}),
        ({}, {}),
    ],
)
def test_only_edges_that_have_far_too_many_let_some_go(
    there: dict[str, int], wanted: dict[str, int]
) -> None:
    assert surplus(there, 20, 100, 10_000) == wanted


@given(counts, st.integers(1, 1000), many, many)
def test_nobody_comes_below_the_mean(
    there: dict[str, int], percent: int, minimum: int, most: int
) -> None:
    mean = sum(there.values()) / len(there)
    found = surplus(there, percent, minimum, most)
    for edge, count in found.items():
        assert 0 < count <= most
        assert there[edge] - count >= mean
        assert there[edge] > mean * (1 + percent / 100) or percent == 0
        assert there[edge] - mean >= minimum
    # Those who are let go find room below the mean.
    room = sum(max(0, mean - count) for count in there.values())
    assert sum(found.values()) <= room + 1e-6
    assert len(found) < len(there)


@given(counts, st.integers(1, 1000), many)
def test_who_has_far_too_many_is_always_found(
    there: dict[str, int], percent: int, minimum: int
) -> None:
    found = surplus(there, percent, minimum, 10**9)
    mean = sum(there.values()) / len(there)
    for edge, count in there.items():
        is_much = count > mean * (1 + percent / 100) + 1 and count - mean >= minimum + 1
        assert not is_much or edge in found


@given(st.lists(st.integers(0, 50_000), min_size=2, max_size=6), st.integers(0, 10))
def test_a_load_balancer_that_chooses_by_chance_is_evened_out_in_a_few_rounds(
    there: list[int], seed: int
) -> None:
    chance = random.Random(seed)
    now = {str(number): count for number, count in enumerate(there)}
    for _ in range(12):
        found = surplus(now, 20, 500, 10**9)
        if not found:
            return
        for edge, count in found.items():
            now[edge] -= count
        share, rest = divmod(sum(found.values()), len(now))
        for edge in now:
            now[edge] += share
        now[chance.choice(list(now))] += rest
    raise AssertionError(now)


def test_rounds_that_do_not_help_become_rare() -> None:
    assert pause_s(60, 0, 0, 900) == 60
    assert pause_s(60, 60, 900, 400) == 60
    pause = 60.0
    for _ in range(10):
        pause = pause_s(60, pause, 900, 890)
    assert pause == LONGEST_PAUSE_S
    assert pause_s(60, pause, 890, 100) == 60


def test_a_clock_that_is_set_back_delays_the_next_round_by_one_pause_at_most() -> None:
    rebalancer = Rebalancer()
    spec = RebalanceSpec(enabled=True)
    edges = [Pod(name, "edge", "", True, False, "", uid=name) for name in ("a", "b")]
    complete = Workload(2, 2, 2, 2, is_current=True, exists=True)
    connections = {"a": 2000, "b": 0}

    def is_round(now: datetime.datetime) -> bool:
        rebalancer.update(edges, complete, now)
        return bool(rebalancer.overloaded_edges(spec, 1000, connections, now)[0])

    assert not is_round(NOW)
    stable = NOW + datetime.timedelta(seconds=spec.stabilization_s)
    assert is_round(stable)
    back = stable - datetime.timedelta(days=1)
    assert not is_round(back)
    # Rounds that have no effect have longer pauses, and edges count as stable from now on.
    assert is_round(back + datetime.timedelta(seconds=2 * spec.interval_s))
