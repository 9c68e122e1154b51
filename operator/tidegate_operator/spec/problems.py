"""Parses the spec of an ``MqttBroker``; validation errors become sentences that name the field.

The API server validates the same by the CRD. This covers what it cannot (an object older than a
rule, rules beyond the schema), and gives the text for the status. Called by ``reconcile``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from tidegate.runtime.config.model import Section
from tidegate.runtime.config.spelling import camel
from tidegate.runtime.config.validation import (
    mismatch_text,
    path_text,
    section_in,
    unknown_key_text,
)
from tidegate_operator.names import BROKER_NAME_PATTERN, MAX_BROKER_NAME
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_problems
from tidegate_operator.spec.fields import COUNT_OR_PERCENT, QUANTITY, camel_text
from tidegate_operator.spec.routes import console_name_problems

#: At most this many problems are listed.
MAX_PROBLEMS: Final = 20
#: What pydantic calls a key that the model does not have.
_EXTRA: Final = "extra_forbidden"


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
    else:
        problems += service_problems(name, parsed)
        problems += console_name_problems(name, parsed)
    if problems:
        rest = len(problems) - MAX_PROBLEMS
        if rest > 0:
            problems = [*problems[:MAX_PROBLEMS], f"and {rest} more problems"]
        raise SpecError(problems)
    return parsed


def unknown_keys(spec: Mapping[str, Any], model: type[Section] = MqttBrokerSpec) -> list[str]:
    """Return one sentence for each key that a spec cannot have; other problems are ignored."""
    try:
        model.model_validate(spec)
    except ValidationError as error:
        found = [dict(problem) for problem in error.errors() if problem["type"] == _EXTRA]
        return [_sentence(problem, model) for problem in found]
    return []


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


_PATTERNS: Final = {
    QUANTITY: "a quantity such as 500m or 8Gi",
    COUNT_OR_PERCENT: "a number or a percentage",
    BROKER_NAME_PATTERN: "lower-case letters, digits and inner hyphens, starting with a letter",
}


def _sentence(problem: Mapping[str, Any], model: type[Section] = MqttBrokerSpec) -> str:
    location = tuple(problem["loc"])
    kind: str = problem["type"]
    if kind == _EXTRA:
        text = _unknown_key(location, model)
    elif kind == "missing":
        text = "is missing"
    elif kind == "value_error":
        text = camel_text(str(problem["ctx"]["error"]))
    else:
        text = mismatch_text(problem, _PATTERNS)
    return f"{path_text(('spec', *location))}: {text}"


def _unknown_key(location: tuple[int | str, ...], model: type[Section]) -> str:
    text = unknown_key_text(location[-1], _known_keys(location[:-1], model))
    return f"{text} (it may require a newer operator version)"


def _known_keys(location: tuple[int | str, ...], model: type[Section]) -> list[str]:
    """Return the valid keys at a location of a spec."""
    for part in location:
        if isinstance(part, str):
            field = next(
                field
                for name, field in model.model_fields.items()
                if part in {camel(name), field.alias}
            )
            section = section_in(field.annotation)
            assert section is not None
            model = section
    return [field.alias or camel(name) for name, field in model.model_fields.items()]
