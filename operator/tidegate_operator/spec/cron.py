"""Schedules in the format of cron: five fields, in a time zone. Pure.

Used by ``maintenance``. Fields have numbers, ``*``, ranges, steps and lists; months and days of the
week also have names. As with cron, either day counts if both are restricted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

#: How far the next time is looked for: February 29 comes within eight years.
_HORIZON: Final = timedelta(days=8 * 366 + 1)
_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: Lowest and highest number of each field, and the names of its numbers.
_FIELDS: Final[tuple[tuple[str, int, int, tuple[str, ...]], ...]] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)


@dataclass(slots=True, frozen=True)
class Cron:
    """When something starts; days are of a calendar, times of a clock on the wall."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    #: Whether a day has to match both fields: one of them is unrestricted.
    needs_both: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Parse five fields. Raises ValueError, which says what is wrong."""
        parts = text.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"{text!r} has {len(parts)} fields: expected minute, hour, day of the month, month "
                "and day of the week, such as '0 2 * * sun'"
            )
        minutes, hours, days, months, weekdays = (
            _numbers(part, *field) for part, field in zip(parts, _FIELDS, strict=True)
        )
        return cls(
            tuple(sorted(minutes)),
            tuple(sorted(hours)),
            frozenset(days),
            frozenset(months),
            frozenset(day % 7 for day in weekdays),
            parts[2].startswith("*") or parts[4].startswith("*"),
        )

    def times(self, after: datetime, before: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Yield the times in UTC, both ends included, in order.

        A time that a clock change skips is that much later; one that comes twice counts once.
        """
        day, last = after.astimezone(zone).date(), before.astimezone(zone).date()
        while day <= last:
            if self._has_day(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                        found = local.astimezone(UTC)
                        if after <= found <= before:
                            yield found
            day += timedelta(days=1)

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        """Return the first time after a moment, None if there is none."""
        start = after + timedelta(microseconds=1)
        return next(self.times(start, after + _HORIZON, zone), None)

    def _has_day(self, day: date) -> bool:
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        is_day = of_month and of_week if self.needs_both else of_month or of_week
        return is_day and day.month in self.months


def _numbers(text: str, what: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, has_step, step_text = part.partition("/")
        step = _number(step_text, f"step of the {what}", 1, high, ()) if has_step else 1
        if span == "*":
            first, last = low, high
        else:
            start, has_end, end = span.partition("-")
            first = _number(start, what, low, high, names)
            last = _number(end, what, low, high, names) if has_end else first
            if has_step and not has_end:
                last = high
        if first > last:
            raise ValueError(f"{part!r} is no {what}: {first} is after {last}")
        found |= set(range(first, last + 1, step))
    return found


def _number(text: str, what: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text.lower() in names:
        # Months count from one, days of the week from zero.
        return names.index(text.lower()) + low
    if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
        known = f" or {names[0]} to {names[-1]}" if names else ""
        raise ValueError(f"{text!r} is no {what}: expected {low} to {high}{known}")
    return int(text)
