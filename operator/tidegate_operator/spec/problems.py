"""Turns what is in an ``MqttBroker`` into a spec, or into sentences that name the field.

The API server checks the same by the CRD; this is for what it could not (an object that is older
than a rule, a schema that says less) and for the people who read the status.
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
from tidegate_operator.spec.fields import AMOUNT, QUANTITY, camel, camel_text

#: A status is no place for hundreds of them.
MAX_PROBLEMS: Final = 20


class SpecError(Exception):
    """The spec cannot be used. ``problems`` has one sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def parse(name: str, spec: Mapping[str, Any]) -> MqttBrokerSpec:
    """Return the spec of the broker called ``name``. Raises SpecError."""
    problems = _of_name(name)
    try:
        found = MqttBrokerSpec.model_validate(spec)
    except ValidationError as error:
        problems += [_sentence(dict(problem)) for problem in error.errors()]
    if problems:
        rest = len(problems) - MAX_PROBLEMS
        if rest > 0:
            problems = [*problems[:MAX_PROBLEMS], f"and {rest} more problems"]
        raise SpecError(problems)
    return found


def _of_name(name: str) -> list[str]:
    problems = []
    if len(name) > MAX_BROKER_NAME:
        problems.append(
            f"metadata.name: has {len(name)} characters; {MAX_BROKER_NAME} are possible, because "
            "names of Services and pods are made of it"
        )
    if not re.match(BROKER_NAME_PATTERN, name):
        problems.append(
            "metadata.name: expected lower-case letters, digits and inner hyphens, a letter first, "
            "because a Service is called so"
        )
    return problems


_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a section (keys and values)",
    "model": "a section (keys and values)",
}
_PATTERNS: Final = {
    QUANTITY: "an amount such as 500m or 8Gi",
    AMOUNT: "a number or a percentage",
    BROKER_NAME_PATTERN: "lower-case letters, digits and inner hyphens, a letter first",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number not below"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number not above"),
}


def _sentence(problem: Mapping[str, Any]) -> str:
    location = tuple(problem["loc"])
    kind: str = problem["type"]
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        text = _unknown(location)
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
        return "text that is not empty"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return _PATTERNS.get(pattern, f"text that matches {pattern}")
    word = kind.partition("_")[0]
    return _KINDS.get(word, str(problem["msg"]))


def _got(value: object) -> str:
    if value is None:
        return ", got nothing"
    if isinstance(value, dict):
        return ", got a section"
    if isinstance(value, list):
        return f", got {len(value)}" if value else ", got none"
    text = str(value)
    return f", got {text if len(text) <= 60 else text[:60] + '…'}"


def _unknown(location: tuple[int | str, ...]) -> str:
    close = difflib.get_close_matches(str(location[-1]), _known(location[:-1]), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown key{hint}; a newer operator may know it"


def _known(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that there are at a place."""
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
