"""How long a frame waits for more, by the gaps between a frame and what comes behind it.

Inputs: times of operations on a stream. Observed: how long each frame waits, and how many
operations it has. Pure: time is a number here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from tidegate.link.gathering import MIN_COMPANY, Gathering

GATHER_S = 0.003
#: Frames after which a stream counts as busy when they follow each other at once.
SOON = 30


def frames(times_s: Iterable[float], gathering: Gathering) -> Iterator[tuple[float, int]]:
    """Play a stream that adds something at these times; yield wait and operations of each frame."""
    due_s, wait_s, count = 0.0, 0.0, 0
    for now_s in times_s:
        if count and now_s > due_s:
            gathering.sent(due_s)
            yield wait_s, count
            count = 0
        if not count:
            wait_s = gathering.wait_s(now_s)
            due_s = now_s + wait_s
        count += 1


def arrivals(per_s: float, count: int) -> list[float]:
    """Return times of operations that come independently of each other."""
    chance = random.Random(14)
    times_s, now_s = [], 0.0
    for _ in range(count):
        now_s += chance.expovariate(per_s)
        times_s.append(now_s)
    return times_s


def test_operations_that_come_alone_do_not_wait() -> None:
    every = [one * GATHER_S / 2 for one in range(500)]
    assert set(frames(every, Gathering(GATHER_S))) == {(0.0, 1)}


def test_the_first_operations_do_not_wait_however_soon_they_follow_each_other() -> None:
    every = [one * GATHER_S / 100 for one in range(10)]
    assert set(frames(every, Gathering(GATHER_S))) == {(0.0, 1)}


def test_operations_that_follow_each_other_soon_share_frames() -> None:
    every = [one * GATHER_S / 10 for one in range(2000)]
    found = list(frames(every, Gathering(GATHER_S)))
    busy = found[SOON:]
    assert all(0 < wait_s <= GATHER_S for wait_s, _ in busy)
    assert all(8 <= count <= 11 for _, count in busy)


@pytest.mark.parametrize(
    ("per_s", "least", "most"), [(100, 0, 0), (500, 0, 0.05), (2500, 0.95, 1), (50_000, 0.99, 1)]
)
def test_which_part_of_the_frames_waits_depends_on_the_rate_alone(
    per_s: float, least: float, most: float
) -> None:
    found = list(frames(arrivals(per_s, 50_000), Gathering(GATHER_S)))[SOON:]
    waited = sum(wait_s > 0 for wait_s, _ in found) / len(found)
    assert least <= waited <= most


def test_what_comes_in_one_turn_of_the_event_loop_counts_once() -> None:
    """A router gets eight messages in a frame: to wait for the next such frame spares little."""
    every = [turn * GATHER_S / 2 for turn in range(200) for _ in range(8)]
    assert set(frames(every, Gathering(GATHER_S))) == {(0.0, 8)}


def test_a_busy_stream_stays_busy_over_a_pause_and_does_not_wait_behind_it() -> None:
    gathering = Gathering(GATHER_S)
    busy = [one * GATHER_S / 20 for one in range(1000)]
    list(frames(busy, gathering))
    gathering.sent(busy[-1])
    now_s = busy[-1] + 3600
    assert gathering.wait_s(now_s) == 0
    gathering.sent(now_s)
    assert gathering.wait_s(now_s + GATHER_S / 20) == pytest.approx(GATHER_S * 0.95)


def test_a_stream_that_is_busy_no_more_stops_waiting() -> None:
    gathering = Gathering(GATHER_S)
    busy = [one * GATHER_S / 20 for one in range(1000)]
    rare = [busy[-1] + time_s for time_s in arrivals(100, 100)]
    found = list(frames([*busy, *rare], gathering))
    assert found[40][0] > 0
    last = max(at for at, (wait_s, _) in enumerate(found) if wait_s > 0)
    assert len(found) - last > 85


def test_the_bound_between_the_two() -> None:
    for part, waits in ((MIN_COMPANY * 0.9, False), (MIN_COMPANY * 1.1, True)):
        gathering, now_s = Gathering(GATHER_S), 0.0
        for _ in range(200):
            now_s += GATHER_S / part
            wait_s = gathering.wait_s(now_s)
            now_s += wait_s
            gathering.sent(now_s)
        assert (wait_s > 0) is waits


def test_without_time_to_gather_nothing_waits() -> None:
    every = [one * 1e-6 for one in range(500)]
    assert set(frames(every, Gathering(0.0))) == {(0.0, 1)}
