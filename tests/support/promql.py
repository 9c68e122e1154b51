"""Expressions of Prometheus that the chart ships, and which metrics and labels they use.

For the tests of rules and dashboards: reads files, and never evaluates anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from support.chart import CHART

RULES: Final = CHART / "monitoring" / "rules.yaml"
DASHBOARDS: Final = sorted((CHART / "monitoring" / "dashboards").glob("*.json"))
#: Given by a ServiceMonitor, not by the process that is scraped.
TARGET_LABELS: Final = frozenset({"namespace", "service", "pod"})

_KEYWORDS: Final = frozenset({"and", "or", "unless", "offset", "bool"})
_STRING: Final = re.compile(r'"[^"]*"')
_SELECTOR: Final = re.compile(r"\{([^}]*)\}")
_RANGE: Final = re.compile(r"\[[^\]]*\]")
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_NAME: Final = re.compile(r"\b[a-zA-Z_]\w*\b(?!\s*\()")


def alerts() -> list[dict[str, Any]]:
    """Return the alerts of the rules, in order."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where it is, expression) for every alert and every panel."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


def metrics_of(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    rest = _STRING.sub('""', expression)
    for part in (_SELECTOR, _RANGE, _GROUPING):
        rest = part.sub(" ", rest)
    return set(_NAME.findall(rest)) - _KEYWORDS


def labels_of(expression: str) -> set[str]:
    """Return the labels that an expression selects or groups by, without ``TARGET_LABELS``."""
    rest = _STRING.sub('""', expression)
    selected = [
        one for part in _SELECTOR.findall(rest) for one in re.findall(r"(\w+)\s*[=!]", part)
    ]
    grouped = [one for part in _GROUPING.findall(rest) for one in re.findall(r"\w+", part)]
    return {*selected, *grouped} - TARGET_LABELS
