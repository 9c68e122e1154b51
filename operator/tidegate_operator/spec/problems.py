"""Parses the spec of an ``MqttBroker``; validation errors become sentences that name the field.

The API server validates the same by the CRD. This covers what it cannot (an object older than a
rule, rules beyond the schema), and gives the text for the status. Called by ``reconcile``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError

from tidegate.runtime.config.config_file import path_text
from tidegate.runtime.config.model import Section
from tidegate_operator.names import BROKER_NAME_PATTERN, MAX_BROKER_NAME
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.fields import COUNT_OR_PERCENT, QUANTITY, camel, camel_text

#: At most this many problems are listed.
MAX_PROBLEMS: Final = 20


class SpecError(Exception):
    """The spec is invalid. ``problems`` has one sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def parse(name: str, spec: Mapping[str, Any]) -> MqttBrokerSpec:
    """Return the spec of the broker called ``name``. Raises SpecError."""
    problems = _name_problems(name)
    try:
        parsed = MqttBrokerSpec.model_validate(spec)
    except ValidationError as error:
        problems += [_sentence(dict(problem)) for problem in error.errors()]
    if problems:
        rest = len(problems) - MAX_PROBLEMS
        if rest > 0:
            problems = [*problems[:MAX_PROBLEMS], f"and {rest} more problems"]
        raise SpecError(problems)
    return parsed


def _name_problems(name: str) -> list[str]:
    problems = []
    if len(name) > MAX_BROKER_NAME:
        problems.append(
            f"metadata.name: {len(name)} characters, the maximum is {MAX_BROKER_NAME}, because "
            "names of Services and pods are derived from it"
        )
    if not re.match(BROKER_NAME_PATTERN, name):
        problems.append(
            "metadata.name: expected lower-case letters, digits and inner hyphens, starting with a "
            "letter, because it is the name of a Service"
        )
    return problems


_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "dict": "a section (keys and values)",
    "model": "a section (keys and values)",
}
_PATTERNS: Final = {
    QUANTITY: "a quantity such as 500m or 8Gi",
    COUNT_OR_PERCENT: "a number or a percentage",
    BROKER_NAME_PATTERN: "lower-case letters, digits and inner hyphens, starting with a letter",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}


def _sentence(problem: Mapping[str, Any]) -> str:
    location = tuple(problem["loc"])
    kind: str = problem["type"]
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        text = _unknown_key(location)
    elif kind == "missing":
        text = "is missing"
    elif kind == "value_error":
        text = camel_text(str(context["error"]))
    else:
        text = f"expected {_expected(kind, problem, context)}{_got(problem.get('input'))}"
    return f"{path_text(('spec', *location))}: {text}"


def _expected(kind: str, problem: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    if kind in {"enum", "literal_error"}:
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {context[key]:g}" if key in context else words
    if kind == "too_long":
        return f"at most {context['max_length']} entries"
    if kind == "too_short":
        return f"at least {context['min_length']} entries"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters"
    if kind == "string_too_short":
        return "a non-empty string"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return _PATTERNS.get(pattern, f"a string that matches {pattern}")
    word = kind.partition("_")[0]
    return _TYPES.get(word, str(problem["msg"]))


def _got(value: object) -> str:
    if value is None:
        return ", got nothing"
    if isinstance(value, dict):
        return ", got a section"
    if isinstance(value, list):
        return f", got {len(value)}" if value else ", got none"
    text = str(value)
    return f", got {text if len(text) <= 60 else text[:60] + '…'}"


def _unknown_key(location: tuple[int | str, ...]) -> str:
    close = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown key{hint} (it may require a newer operator version)"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys at a location."""
    model: type[Section] = MqttBrokerSpec
    for part in location:
        if isinstance(part, str):
            field = next(
                field
                for name, field in model.model_fields.items()
                if part in {camel(name), field.alias}
            )
            model = _section_in(field.annotation)
    return [field.alias or camel(name) for name, field in model.model_fields.items()]


def _section_in(annotation: Any) -> type[Section]:
    return next(
        candidate
        for candidate in (annotation, *get_args(annotation))
        if isinstance(candidate, type) and issubclass(candidate, Section)
    )
