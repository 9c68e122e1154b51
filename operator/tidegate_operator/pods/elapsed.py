"""Elapsed time of moments that may be unset, whatever is done to the clock. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta


def not_after(moment: datetime | None, now: datetime) -> datetime | None:
    """Return a remembered moment, at the latest now: the clock may have been set back."""
    return None if moment is None else min(moment, now)


def has_elapsed(since: datetime | None, length_s: float, now: datetime) -> bool:
    """Whether so many seconds have elapsed since a moment; never if it is unset."""
    return since is not None and now - since >= timedelta(seconds=length_s)
