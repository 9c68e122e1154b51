"""Schedules of maintenance windows: which minutes they name, in which zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tidegate_operator.spec.cron import Cron

UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
#: A Sunday.
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


@pytest.mark.parametrize(
    ("schedule", "following"),
    [
        ("0 2 * * *", ["2026-03-02T02:00", "2026-03-03T02:00"]),
        ("*/20 13 * * *", ["2026-03-01T13:00", "2026-03-01T13:20", "2026-03-01T13:40"]),
        ("5,1 14-15 * * *", ["2026-03-01T14:01", "2026-03-01T14:05", "2026-03-01T15:01"]),
        ("0 2 * * sun", ["2026-03-08T02:00", "2026-03-15T02:00"]),
        ("0 2 * * 7", ["2026-03-08T02:00"]),
        ("0 2 * * 1-5", ["2026-03-02T02:00", "2026-03-03T02:00"]),
        ("0 0 1 JAN *", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        # Two restricted days: either.
        ("0 0 3 * mon", ["2026-03-02T00:00", "2026-03-03T00:00", "2026-03-09T00:00"]),
        # One that begins with * is not restricted: both.
        ("0 0 */2 * mon", ["2026-03-09T00:00", "2026-03-23T00:00"]),
        ("30/15 12 * * *", ["2026-03-01T12:30", "2026-03-01T12:45", "2026-03-02T12:30"]),
    ],
)
def test_the_next_times(schedule: str, following: list[str]) -> None:
    cron, now = Cron.parse(schedule), START
    for text in following:
        found = cron.next(now, UTC_ZONE)
        assert found == at(text)
        now = found


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        ("0 2 * *", "has 4 fields"),
        ("60 2 * * *", "'60' is no minute: expected 0 to 59"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 2 0 * *", "'0' is no day of the month"),
        ("0 2 * foo *", "'foo' is no month: expected 1 to 12 or jan to dec"),
        ("0 2 * * mon-foo", "'foo' is no day of the week"),
        ("5-1 2 * * *", "5 is after 1"),
        ("*/0 2 * * *", "'0' is no step of the minute"),
        ("1,,2 2 * * *", "'' is no minute"),
        ("@daily", "has 1 fields"),
        ("² 2 * * *", "is no minute"),
    ],
)
def test_what_is_no_schedule_says_why(schedule: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        Cron.parse(schedule)


def test_a_day_that_never_comes_ends_the_search() -> None:
    assert Cron.parse("0 0 31 2 *").next(START, UTC_ZONE) is None


def test_times_are_those_of_the_zones_clocks() -> None:
    cron = Cron.parse("0 3 * * *")
    assert cron.next(at("2026-03-01T12:00"), BERLIN) == at("2026-03-02T02:00")
    assert cron.next(at("2026-07-01T12:00"), BERLIN) == at("2026-07-02T01:00")


def test_a_time_that_is_skipped_comes_later_and_one_that_is_doubled_comes_once() -> None:
    cron = Cron.parse("30 2 * * *")
    # In 2026 clocks go forward on March 29 at 02:00, and back on October 25 at 03:00.
    assert cron.next(at("2026-03-28T12:00"), BERLIN) == at("2026-03-29T01:30")
    first = cron.next(at("2026-10-24T12:00"), BERLIN)
    assert first == at("2026-10-25T00:30")
    assert cron.next(first, BERLIN) == at("2026-10-26T01:30")


def test_both_ends_of_a_span_are_in_it() -> None:
    cron = Cron.parse("0 * * * *")
    found = list(cron.times(START, START + timedelta(hours=2), UTC_ZONE))
    assert found == [START + timedelta(hours=hour) for hour in range(3)]
