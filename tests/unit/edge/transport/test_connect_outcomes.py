"""Whether most connections of an address come to nothing, by how many did of late."""

from __future__ import annotations

import pytest

from tidegate.edge.transport.connect_outcomes import (
    FAILURES_OF_ONE,
    LEAST_FAILURES,
    MAX_SOURCES,
    WINDOW_S,
    ConnectOutcomes,
)


class Bed:
    """Outcomes with a clock of their own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.outcomes = ConnectOutcomes(lambda: self.now_s)

    def note(self, source: str = "a", *, failed: int = 0, accepted: int = 0) -> bool:
        """As a listener does it; return whether most of the address come to nothing."""
        for number in range(failed + accepted):
            is_accepted = number >= failed
            if not is_accepted:
                self.outcomes.add_failure()
            if self.outcomes.many_fail():
                self.outcomes.add_of(source, is_accepted=is_accepted)
        return self.outcomes.mostly_fail(source)


@pytest.fixture
def flooded() -> Bed:
    """Many connections of another address fail."""
    bed = Bed()
    assert bed.note("flood", failed=4 * LEAST_FAILURES)
    return bed


@pytest.mark.parametrize(
    ("failed", "accepted", "mostly_fail"),
    [
        (LEAST_FAILURES, 0, True),
        (LEAST_FAILURES - 1, 0, False),
        (0, 100_000, False),
        (1000, 1000 // FAILURES_OF_ONE, False),
        (1000, 1000 // FAILURES_OF_ONE - 1, True),
        (300, 100_000, False),
    ],
)
def test_most_fail_when_many_do_and_few_are_accepted(
    flooded: Bed, failed: int, accepted: int, mostly_fail: bool
) -> None:
    assert flooded.note(failed=failed, accepted=accepted) is mostly_fail
    assert flooded.outcomes.mostly_fail("flood")


def test_a_flood_that_is_over_counts_no_more(flooded: Bed) -> None:
    flooded.now_s += WINDOW_S
    assert flooded.outcomes.mostly_fail("flood")
    flooded.now_s += 2 * WINDOW_S
    assert not flooded.outcomes.mostly_fail("flood")
    assert not flooded.outcomes.many_fail()


@pytest.mark.parametrize("idle_s", [10.0, 1e9])
def test_what_was_long_ago_does_not_slow_a_fleet_that_comes_back(
    flooded: Bed, idle_s: float
) -> None:
    flooded.now_s += idle_s
    assert not flooded.outcomes.many_fail()
    assert not flooded.note("flood", accepted=1, failed=LEAST_FAILURES - 1)


def test_few_failures_at_a_time_are_no_flood() -> None:
    """Health probes connect and leave, all day long."""
    bed = Bed()
    for _ in range(1000):
        bed.now_s += WINDOW_S
        assert not bed.note(failed=LEAST_FAILURES // 2 - 1)
        assert not bed.outcomes.many_fail()


def test_a_fleet_does_not_end_the_pauses_of_a_flood(flooded: Bed) -> None:
    assert not flooded.note("fleet", accepted=10_000)
    assert flooded.outcomes.mostly_fail("flood")


def test_who_has_no_address_of_its_own_is_not_judged(flooded: Bed) -> None:
    """Behind a proxy that has not named the client yet, or by a Unix socket."""
    assert not flooded.note("", failed=1000)
    assert not flooded.outcomes.mostly_fail(object())


def test_addresses_are_counted_up_to_a_bound(flooded: Bed) -> None:
    for number in range(MAX_SOURCES - 1):
        flooded.note(str(number), accepted=1)
    assert flooded.outcomes.mostly_fail("flood")
    flooded.note("one more", accepted=1)
    assert not flooded.outcomes.mostly_fail("flood")
    assert len(flooded.outcomes._sources) == MAX_SOURCES
