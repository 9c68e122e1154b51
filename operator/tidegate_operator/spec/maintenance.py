"""``spec.maintenance``: when the operator may replace pods by itself.

The operator's own default windows are of the same model. ``rollout.windows`` decides by them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from tidegate_operator.spec.cron import Cron
from tidegate_operator.spec.fields import SpecSection

#: A window that is always open is no window.
_MAX_MINUTES = 7 * 24 * 60


class MaintenanceWindow(SpecSection):
    """A time that comes again and again."""

    schedule: Annotated[str, Field(min_length=9, max_length=200)]
    """When it opens: minute, hour, day of the month, month and day of the week, as in cron, such as
    `0 2 * * sun`."""
    duration_minutes: Annotated[int, Field(ge=10, le=_MAX_MINUTES)] = 60
    """How many minutes it is open. A rollout that has begun is finished."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """The time zone of the schedule, by its name in the IANA database, such as `Europe/Berlin`."""

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        if Cron.parse(value).next(datetime.fromisoformat("2024-01-01T00:00Z"), ZoneInfo("UTC")):
            return value
        raise ValueError(f"{value!r} never comes: no month has that day")

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"{value!r} is no time zone, such as Europe/Berlin") from error
        return value


class MaintenanceSpec(SpecSection):
    """When the operator may replace pods by itself, as for its new default image."""

    windows: list[MaintenanceWindow] | None = Field(default=None, max_length=16)
    """Only in these; empty: at any time; unset: those of the operator (the chart's
    `maintenance.windows`), none by default."""
    policy: Literal["operator", "all"] = "operator"
    """What waits for a window: what the operator changes by itself, or all that replaces pods, also
    changes of the spec. Credentials, certificates, rules and other settings that need no new pods
    never wait."""
    open_until: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """Until this time every change may be made at once, whatever the windows are; a time that has
    passed means nothing."""

    @field_validator("open_until")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None and datetime.fromisoformat(value).tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: append Z for UTC")
        return value
