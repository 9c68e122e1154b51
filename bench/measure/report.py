"""The table of a run, in Markdown. No I/O."""

from __future__ import annotations

from typing import Final

from measure.figures import Spread, compare, paired, spread
from measure.results import Results
from measure.scenarios import SCENARIOS, Figure

#: The column that ratios are to.
REFERENCE: Final = "mosquitto"
NOT_OFFERED: Final = "–"
FAILED: Final = "failed"


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(found: Spread | None, reference: Spread | None) -> str:
    """Write the best and the worst round, and the ratio to the peer's best."""
    if found is None:
        return FAILED
    text = number(found.best)
    if found.count > 1:
        text += f" … {number(found.worst)}"
    if reference is not None and reference.best and reference is not found:
        text += f" ({found.best / reference.best:.2f} ×)"
    return text


def _row(results: Results, scenario: str, figure: Figure) -> list[str]:
    def of(column: str) -> Spread | None:
        values = results.values(scenario, column, figure)
        return spread(values, higher_is_better=figure.higher_is_better)

    reference = of(REFERENCE) if REFERENCE in results.columns else None
    return [
        (cell(reference if column == REFERENCE else of(column), reference))
        if results.was_played(scenario, column)
        else NOT_OFFERED
        for column in results.columns
    ]


def table(results: Results) -> str:
    """Return the table of all scenarios."""
    lines = [
        "| | scenario | figure | " + " | ".join(results.columns.values()) + " |",
        "|---|---|---|" + "---|" * len(results.columns),
    ]
    for name in results.scenarios():
        scenario = SCENARIOS[name]
        for at, figure in enumerate(scenario.figures):
            row = [name, scenario.title] if at == 0 else ["", ""]
            row += [figure.what, *_row(results, name, figure)]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def comparison(results: Results, margin: float) -> str:
    """Return the table of two checkouts: the ratio of paired rounds, and what it shows."""
    lines = [
        f"| | figure | columns | ratio (median) | interval | rounds | at most {margin:.0%} more |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in results.scenarios():
        for figure in SCENARIOS[name].figures:
            for mine, other in results.pairs:
                ours = results.by_round(name, mine, figure)
                theirs = results.by_round(name, other, figure)
                if figure.higher_is_better:
                    # So that more is worse here as well.
                    ours, theirs = theirs, ours
                found = compare(paired(ours, theirs))
                if found is None:
                    continue
                lines.append(
                    f"| {name} | {figure.what} | {mine} | {found.median:.3f} "
                    f"| {found.low:.3f} … {found.high:.3f} ({found.confidence:.0%}) "
                    f"| {found.count} | {found.verdict(margin)} |"
                )
    return "\n".join(lines)


def document(results: Results, margin: float, chart: str) -> str:
    """Return the whole page: what was played, the tables, what failed, what is missing."""
    about = results.about
    machine = about["machine"]
    lines = [
        f"# Benchmark of {about['date']}",
        "",
        f"`{about['command']}`",
        "",
        f"- machine: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"load {machine['load'][0]:.1f} at the start",
        *(
            f"- {name}: commit {c['commit']}{' and changes' if c['changed'] else ''}, "
            f"Python {c['python']}, uvloop {c['uvloop']}"
            for name, c in about["checkouts"].items()
        ),
        *(f"- {name} {version}" for name, version in about["versions"].items()),
        f"- {about['rounds']} rounds, brokers in turn in each; {about['scale']:g} times the work",
        *(f"- not measured: {what}" for what in about["missing"]),
        "",
        "Best … worst round; in brackets the ratio of the best ones to mosquitto. CPU time is that "
        "of all processes of the broker, its store included.",
        "",
        table(results),
    ]
    if results.pairs:
        lines += ["", comparison(results, margin)]
    failures = results.failures()
    if failures:
        lines += ["", "Failed:", "", *(f"- {line}" for line in failures)]
    lines += ["", f"![The main figures, relative to one broker]({chart})"]
    return "\n".join(lines) + "\n"
