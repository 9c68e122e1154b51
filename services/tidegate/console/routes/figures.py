"""Figures of the last hour."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from tidegate.console.access import VIEWER
from tidegate.console.errors import invalid
from tidegate.console.figures import FIGURES, STEP_S
from tidegate.console.models.figures import FigureSeries
from tidegate.console.parts import PartsOf

router = APIRouter(tags=["overview"])


@router.get("/figures", dependencies=[VIEWER])
async def figures(
    parts: PartsOf,
    names: Annotated[
        str, Query(max_length=2000, description="Figures, with commas; empty: all.")
    ] = "",
    since: Annotated[
        float, Query(ge=0, le=1e12, description="Only samples after this time (since 1970).")
    ] = 0,
) -> FigureSeries:
    """Return samples of the main figures."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(FIGURES)
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        raise invalid(f"there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    steps = [step for step in parts.figures.steps if step.at > since]
    return FigureSeries(
        step_s=STEP_S,
        at=[step.at for step in steps],
        series={name: [step.values.get(name) for step in steps] for name in wanted},
        descriptions={name: FIGURES[name] for name in wanted},
        missing=steps[-1].missing if steps else [],
    )
