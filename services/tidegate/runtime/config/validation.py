"""Validation errors in words: the key, what is expected there, and what was found.

Used for the configuration (``config_file``) and for the spec of an ``MqttBroker``, which share
sections. Pure text; never decides what is valid. Tested in test_config_file.py and
tests/operator/test_spec.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, get_args

from tidegate.runtime.config.model import Section

Location: TypeAlias = tuple[int | str, ...]

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "path": "a path",
    "list": "a list",
    "dict": "a section (keys and values)",
    "model": "a section (keys and values)",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}
_LENGTHS: Final = {
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "a non-empty string",
}
_MAX_SHOWN: Final = 60


def path_text(location: Location) -> str:
    """Return ``("listeners", 0, "port")`` as ``listeners[0].port``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def mismatch_text(problem: Mapping[str, Any], patterns: Mapping[str, str]) -> str:
    """Return ``expected …, got …`` for one of pydantic's errors.

    ``patterns`` says in words what text each regular expression matches.
    """
    kind: str = problem["type"]
    return f"expected {_expected(kind, problem, patterns)}, got {_found(kind, problem['input'])}"


def _expected(kind: str, problem: Mapping[str, Any], patterns: Mapping[str, str]) -> str:
    context = problem.get("ctx", {})
    if kind in {"enum", "literal_error"}:
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {context[key]:g}" if key in context else words
    if kind in _LENGTHS:
        return _LENGTHS[kind].format_map(context)
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return patterns.get(pattern, f"a string that matches {pattern}")
    return _KINDS.get(kind.partition("_")[0], str(problem["msg"]))


def _found(kind: str, value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return str(len(value)) if kind in {"too_long", "too_short"} else "a list"
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def unknown_key_text(key: int | str, known: Sequence[str]) -> str:
    """Return ``unknown key``, and the known one that looks like it."""
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"unknown key; did you mean {close[0]}?" if close else "unknown key"


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field's type is, or is a list of; None without one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
