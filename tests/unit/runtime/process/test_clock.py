"""Broker time of one process: what sets it, what does not, and how far the wall clock is from it.

Inputs: a monotonic clock and a wall clock that the test moves, times as the store and routers
return them. Observed: the time, the offset of the wall clock, log lines.
"""

from __future__ import annotations

import logging

import pytest

from tidegate.runtime.process.clock import MAX_OFFSET_S, SETTLE_S, BrokerClock

START_MS = 1_700_000_000_000
HOUR_S = 3600


class Clocks:
    """A process with both of its clocks; ``clock`` is set to broker time."""

    def __init__(self) -> None:
        self.monotonic_ns = 77_000_000_000
        self.wall_ns = START_MS * 1_000_000
        self.clock = BrokerClock(lambda: self.monotonic_ns, lambda: self.wall_ns)

    def pass_s(self, seconds: float) -> None:
        self.monotonic_ns += int(seconds * 1e9)
        self.step_s(seconds)

    def step_s(self, seconds: float) -> None:
        """Step the wall clock."""
        self.wall_ns += int(seconds * 1e9)


@pytest.fixture
def clocks() -> Clocks:
    clocks = Clocks()
    clocks.clock.set(START_MS, START_MS)
    return clocks


def test_it_shows_the_wall_clocks_time_and_no_offset_until_it_is_set() -> None:
    clocks = Clocks()
    clocks.pass_s(2)
    clocks.step_s(HOUR_S)
    assert clocks.clock.now_ms() == START_MS + 2000
    assert clocks.clock.offset_s() == 0
    assert clocks.clock.problem() == ""


@pytest.mark.parametrize("step_s", [30, -30, HOUR_S, -HOUR_S])
def test_a_step_of_the_wall_clock_is_an_offset_and_changes_no_time(
    clocks: Clocks, step_s: int
) -> None:
    clocks.step_s(step_s)
    clocks.pass_s(1.5)
    assert clocks.clock.now_ms() == START_MS + 1500
    assert clocks.clock.wall_ms() == START_MS + 1500
    assert clocks.clock.offset_s() == step_s
    side = "ahead of" if step_s > 0 else "behind"
    assert clocks.clock.problem() == f"wall clock {abs(step_s)} s {side} the broker's"


def test_an_offset_within_the_bound_is_no_problem(clocks: Clocks) -> None:
    clocks.step_s(MAX_OFFSET_S)
    assert clocks.clock.problem() == ""
    clocks.step_s(-2 * MAX_OFFSET_S)
    assert clocks.clock.problem() == ""


def test_a_wrong_wall_clock_at_the_start_is_an_offset() -> None:
    """The store's server has the right time."""
    clocks = Clocks()
    clocks.clock.set(START_MS - 60_000, START_MS - 50_000)
    assert clocks.clock.now_ms() == START_MS - 60_000
    assert clocks.clock.offset_s() == 50


def test_a_router_that_is_behind_gets_the_stores_time_and_one_that_is_ahead_keeps_its_own(
    clocks: Clocks,
) -> None:
    clocks.clock.advance(START_MS + 400, START_MS, 0)
    assert clocks.clock.now_ms() == START_MS + 400
    clocks.clock.advance(START_MS + 100, START_MS, 0)
    assert clocks.clock.now_ms() == START_MS + 400


def test_an_edge_takes_a_routers_time_as_exactly_as_the_answer_allows(clocks: Clocks) -> None:
    """What is between the oldest and the newest possible time stays as it is."""
    clocks.clock.follow(START_MS - 300, START_MS - 300, 0.5)
    assert clocks.clock.now_ms() == START_MS
    clocks.clock.follow(START_MS - 900, START_MS - 900, 0.5)
    assert clocks.clock.now_ms() == START_MS - 400
    clocks.clock.follow(START_MS + 700, START_MS + 10_000, 0.5)
    assert clocks.clock.now_ms() == START_MS + 700
    assert clocks.clock.wall_ms() == START_MS + 10_000


def test_a_step_of_the_stores_clock_counts_when_it_has_lasted(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    ahead_ms = HOUR_S * 1000
    clocks.clock.advance(START_MS, START_MS + ahead_ms, 0)
    clocks.pass_s(SETTLE_S - 1)
    now_ms = clocks.clock.now_ms()
    clocks.clock.advance(now_ms, now_ms + ahead_ms, 0)
    assert clocks.clock.offset_s() == 0
    clocks.pass_s(2)
    now_ms = clocks.clock.now_ms()
    clocks.clock.advance(now_ms, now_ms + ahead_ms, 0)
    assert clocks.clock.offset_s() == -HOUR_S
    assert clocks.clock.now_ms() == now_ms
    (line,) = caplog.records
    assert line.getMessage() == "clock of the store's server has stepped, expiry is not affected"
    assert vars(line)["step_s"] == HOUR_S


def test_a_step_of_the_stores_clock_that_is_taken_back_begins_anew(clocks: Clocks) -> None:
    ahead_ms = HOUR_S * 1000
    for shown_ms in (ahead_ms, 0, ahead_ms):
        now_ms = clocks.clock.now_ms()
        clocks.clock.advance(now_ms, now_ms + shown_ms, 0)
        assert clocks.clock.offset_s() == 0
        clocks.pass_s(SETTLE_S - 1)


def test_a_slow_answer_is_no_step_of_the_stores_clock(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.pass_s(60)
    clocks.clock.advance(START_MS, START_MS, 60)
    assert clocks.clock.offset_s() == 0
    assert caplog.records == []


def test_a_store_whose_clock_drifts_is_followed(clocks: Clocks) -> None:
    for drift_ms in range(0, 20_000, 1000):
        clocks.clock.advance(START_MS, START_MS + drift_ms, 0)
    assert clocks.clock.offset_s() == -19


def test_an_offset_is_logged_when_it_begins_and_when_it_ends(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks.clock.check()
    assert caplog.records == []
    clocks.step_s(30)
    clocks.clock.check()
    clocks.step_s(30)
    clocks.clock.check()
    clocks.step_s(-60)
    clocks.clock.check()
    clocks.clock.check()
    assert [(line.levelname, vars(line)["offset_s"]) for line in caplog.records] == [
        ("WARNING", 30.0),
        ("INFO", 0.0),
    ]
