"""The chart, sets of values for it, and what helm makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from support import helm
from support.brokers import pick

CHART: Final = Path(__file__).parents[2] / "charts" / "tidegate"
VALUES: Final = sorted((CHART.parents[1] / "tests" / "charts" / "values").glob("*.yaml"))
VALUES_IDS: Final = [file.stem for file in VALUES]


def made(home: Path, file: Path | None = None, *more: str) -> list[dict[str, Any]]:
    """Return the manifests that it makes with a file of values."""
    return helm.rendered(home, CHART, *with_values(file), *more)


def with_values(file: Path | None) -> list[str | Path]:
    """Return helm's arguments for a file of values."""
    return [] if file is None else ["--values", file]


def values(stem: str) -> Path:
    """Return a file of tests/charts/values by its name."""
    return next(file for file in VALUES if file.stem == stem)


def operator(found: list[dict[str, Any]], name: str = "tidegate") -> dict[str, Any]:
    """Return the spec of the operator's pod."""
    pod: dict[str, Any] = pick(found, "Deployment", name)["spec"]["template"]["spec"]
    return pod
