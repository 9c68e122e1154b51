"""Shapes of figures."""

from __future__ import annotations

from tidegate.console.models.common import Partial


class FigureSeries(Partial):
    """Figures of the last hour."""

    step_s: float
    """Distance of two samples."""
    at: list[float]
    """When each sample was taken, seconds since 1970; the oldest first."""
    series: dict[str, list[float | None]]
    """By figure, a value for each sample; null where there is none."""
    descriptions: dict[str, str]
    """What each figure is, with its unit."""
