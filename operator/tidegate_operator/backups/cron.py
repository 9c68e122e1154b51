"""When a CronJob is due next. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from tidegate_operator.spec.cron import Cron

_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def next_time(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """Return the first time after a moment, None if the expression or zone is not understood.

    The API server is who accepts them, and may understand more.
    """
    try:
        return Cron.parse(_NAMED.get(cron, cron).replace("?", "*")).next(after, ZoneInfo(time_zone))
    except (ValueError, KeyError, OSError):
        return None
