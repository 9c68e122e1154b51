"""Building blocks of the resource's models: camelCase names, CEL rules, Kubernetes' types.

A ``SpecSection`` is a ``Section`` of the runtime's configuration whose keys are spelled as
Kubernetes spells them: ``deadline_s`` is ``deadlineSeconds``. Sections that are the same in both
derive from the runtime's; single fields are copied with ``like``. So there is one schema.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tidegate.runtime.config.model import Section
from tidegate.runtime.config.spelling import camel

_BOUNDS: Final = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
#: Marks a field's schema: the default is the runtime's, and may change with its version.
DESCRIBED_DEFAULT: Final = "x-tidegate-described-default"


def camel_text(text: str) -> str:
    """Return a sentence with its keys, not its {placeholders}, as the resource spells them."""
    return re.sub(r"(?<!\{)\b[a-z0-9]+(?:_[a-z0-9]+)+\b", lambda match: camel(match.group()), text)


class SpecSection(Section):
    """A part of the resource: immutable, strict, in camelCase."""

    model_config = ConfigDict(
        alias_generator=camel,
        validate_by_alias=True,
        validate_by_name=False,
        serialize_by_alias=True,
    )


class RuntimeSection(SpecSection):
    """A section that the runtime's configuration has too: derive from it and from that one."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            field[DESCRIBED_DEFAULT] = True
        return schema


def like(section: type[Section], name: str) -> Any:
    """Return a field with the default, range and description that a runtime setting has.

    The annotation is the caller's; a test compares it with the runtime's.
    """
    info = section.model_fields[name]
    options: dict[str, Any] = {
        "default": info.default,
        "description": info.description,
        "json_schema_extra": {DESCRIBED_DEFAULT: True},
    }
    for rule in info.metadata:
        for bound in _BOUNDS:
            value = getattr(rule, bound, None)
            if value is not None:
                options[bound] = value
    return Field(**options)


def rules(*pairs: tuple[str, str]) -> ConfigDict:
    """Return the model configuration with CEL rules: (expression, message) each."""
    return ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": rule, "message": message} for rule, message in pairs
            ]
        }
    )


QUANTITY: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$"
)


def _number_as_text(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _int_or_string(pattern: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": pattern,
            "x-kubernetes-int-or-string": True,
        }
    )


#: A quantity of Kubernetes: 500m, 2, 8Gi.
Quantity = Annotated[
    str,
    BeforeValidator(_number_as_text),
    StringConstraints(pattern=QUANTITY, max_length=32),
    _int_or_string(QUANTITY),
]

COUNT_OR_PERCENT: Final = r"^[0-9]{1,5}%?$"

#: A number of pods, or a share of them: 1, 25%.
CountOrPercent = Annotated[
    str,
    BeforeValidator(_number_as_text),
    StringConstraints(pattern=COUNT_OR_PERCENT, max_length=6),
    _int_or_string(COUNT_OR_PERCENT),
]

#: A part of the Kubernetes API; the API server validates it when it is applied.
Opaque = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]

#: A list of such things.
OpaqueList = Annotated[
    list[dict[str, Any]],
    Field(max_length=64),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": 64,
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        }
    ),
]

_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"

#: The name of an object.
ObjectName = Annotated[str, StringConstraints(pattern=_SUBDOMAIN, min_length=1, max_length=253)]
#: A key in a Secret or ConfigMap.
DataKey = Annotated[
    str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)
]
#: A DNS name of a certificate.
DnsName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[a-zA-Z0-9]([-a-zA-Z0-9.]{0,251}[a-zA-Z0-9])?$", max_length=253
    ),
]


def _check_address(address: str) -> str:
    ipaddress.ip_address(address)
    if "%" in address:
        raise ValueError(f"{address!r} has a zone, which is not allowed in certificates")
    return address


#: An IP address of a certificate.
IpAddress = Annotated[str, Field(max_length=45), AfterValidator(_check_address)]

#: Labels and annotations.
LabelMap = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=262_144)]], Field(max_length=64)
]


def count_or_percent(value: str) -> int | str:
    """Return a ``CountOrPercent`` as Kubernetes wants it: 1 or "25%"."""
    return int(value) if value.isdigit() else value
