"""The chart of a run, an SVG: the main figure of each scenario, relative to a peer. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import floor, log10
from typing import Final

from measure.figures import Spread, spread
from measure.report import REFERENCE
from measure.results import Results
from measure.scenarios import SCENARIOS

BAR: Final = 13
GAP: Final = 12
LEFT: Final = 310
WIDTH: Final = 980
TOP: Final = 74
#: Told apart by people who see no red or green, too.
COLOURS: Final = ("#0072b2", "#56b4e9", "#009e73", "#777777", "#e69f00", "#cc79a7", "#d55e00", "#333333")  # fmt: skip  # noqa: E501
FONT: Final = "font-family='sans-serif' font-size='12'"


def _bars(results: Results, scenario: str, base: str) -> list[tuple[str, float, float]]:
    """Return column, best and worst of each bar, relative to the best of ``base``."""
    figure = SCENARIOS[scenario].figures[0]

    def of(column: str) -> Spread | None:
        values = results.values(scenario, column, figure)
        return spread(values, higher_is_better=figure.higher_is_better)

    reference = of(base)
    if reference is None or reference.best <= 0:
        return []
    bars = []
    for column in results.columns:
        found = of(column)
        if found is not None and found.best > 0:
            bars.append((column, found.best / reference.best, found.worst / reference.best))
    return bars


def _ticks(low: float, high: float) -> Iterator[float]:
    for power in range(floor(log10(low)), floor(log10(high)) + 1):
        for step in (1, 2, 5):
            if low <= step * 10.0**power <= high:
                yield step * 10.0**power


def draw(results: Results) -> str:
    """Return the chart; scenarios that the reference has not played are left out."""
    base = REFERENCE if REFERENCE in results.columns else next(iter(results.columns))
    groups = [(name, _bars(results, name, base)) for name in results.scenarios()]
    groups = [(name, bars) for name, bars in groups if bars]
    values = [v for _, bars in groups for _, best, worst in bars for v in (best, worst)]
    low, high = min([0.5, *values]) / 1.1, max([2.0, *values]) * 1.1
    scale = (WIDTH - LEFT - 70) / (log10(high) - log10(low))

    def at(value: float) -> float:
        return LEFT + (log10(value) - log10(low)) * scale

    body, y = [], TOP
    for name, bars in groups:
        scenario = SCENARIOS[name]
        title = escape(f"{name}  {scenario.title}")
        middle = y + len(bars) * BAR / 2 + 4
        body.append(
            f"<text x='{LEFT - 8}' y='{middle:.0f}' text-anchor='end' {FONT}>{title}</text>"
        )
        for column, best, worst in bars:
            body += _bar(y, at(low), at(best), at(worst), _colour(results, column), best)
            y += BAR
        y += GAP
    lines = [
        f"<line x1='{at(tick):.1f}' x2='{at(tick):.1f}' y1='{TOP - 6}' y2='{y}' "
        f"stroke='{'#000' if tick == 1 else '#ddd'}'/>"
        f"<text x='{at(tick):.1f}' y='{TOP - 10}' text-anchor='middle' {FONT}>{tick:g}</text>"
        for tick in _ticks(low, high)
    ]
    height = y + 10
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
            f"viewBox='0 0 {WIDTH} {height}'>",
            f"<rect width='{WIDTH}' height='{height}' fill='#fff'/>",
            f"<text x='12' y='20' {FONT}>{escape(_heading(results, base))}</text>",
            *_legend(results),
            *lines,
            *body,
            "</svg>",
            "",
        ]
    )


def _heading(results: Results, base: str) -> str:
    return f"Cost relative to {results.columns[base]} (1), best round; the line ends at the worst"


def _bar(y: float, left: float, best: float, worst: float, colour: str, value: float) -> list[str]:
    middle = y + BAR / 2
    right = max(best, worst)
    return [
        f"<rect x='{left:.1f}' y='{y:.1f}' width='{best - left:.1f}' height='{BAR - 2}' "
        f"fill='{colour}'/>",
        f"<line x1='{best:.1f}' x2='{worst:.1f}' y1='{middle:.1f}' y2='{middle:.1f}' "
        "stroke='#000'/>",
        f"<text x='{right + 4:.1f}' y='{middle + 4:.1f}' {FONT}>{value:.2f}</text>",
    ]


def _colour(results: Results, column: str) -> str:
    return COLOURS[list(results.columns).index(column) % len(COLOURS)]


def _legend(results: Results) -> list[str]:
    made, x = [], 12.0
    for column, title in results.columns.items():
        made.append(
            f"<rect x='{x:.0f}' y='32' width='11' height='11' fill='{_colour(results, column)}'/>"
            f"<text x='{x + 15:.0f}' y='42' {FONT}>{escape(title)}</text>"
        )
        x += 30 + 6.6 * len(title)
    return made
