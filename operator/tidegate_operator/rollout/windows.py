"""Whether a maintenance window is open, and when the next one is. Pure; called by ``gate``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tidegate_operator.spec.cron import Cron
from tidegate_operator.spec.maintenance import MaintenanceSpec, MaintenanceWindow


def waits_until(
    maintenance: MaintenanceSpec, defaults: Sequence[MaintenanceWindow], now: datetime
) -> str:
    """Return which window opens next, and when; "" if pods may be replaced now.

    ``defaults`` are the operator's windows, for specs that have none of their own.
    """
    windows = defaults if maintenance.windows is None else maintenance.windows
    if not windows or any(_is_open(window, now) for window in windows):
        return ""
    if maintenance.open_until and now < datetime.fromisoformat(maintenance.open_until):
        return ""
    where = (
        "maintenance.windows of the operator's chart"
        if maintenance.windows is None
        else "spec.maintenance.windows"
    )
    starts = [(start, window) for window in windows if (start := _next(window, now)) is not None]
    if not starts:
        return f"none of {where} comes any more"
    start, window = min(starts, key=lambda found: found[0])
    return (
        f"the next one opens at {start:%Y-%m-%dT%H:%M:%SZ} ({window.schedule}, {window.time_zone}, "
        f"of {where})"
    )


def _is_open(window: MaintenanceWindow, now: datetime) -> bool:
    cron, zone = Cron.parse(window.schedule), ZoneInfo(window.time_zone)
    # It is open for its whole last minute, and closed after it.
    earliest = now - timedelta(minutes=window.duration_minutes) + timedelta(microseconds=1)
    return next(cron.times(earliest, now, zone), None) is not None


def _next(window: MaintenanceWindow, now: datetime) -> datetime | None:
    return Cron.parse(window.schedule).next(now, ZoneInfo(window.time_zone))
