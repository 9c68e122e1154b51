"""What the API server says of the spec of an MqttBroker, by the CRD's schema, without one.

JSON Schema and CEL evaluate what a real API server does; ``tests/kube`` asks one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from support import tools
from tidegate_operator.spec import crd

Schema = dict[str, Any]


def schemas(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every schema with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from schemas(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}.{key}")


def strict_schema() -> Schema:
    """Return the spec's schema as a JSON schema that refuses unknown keys."""

    def strict(schema: Schema) -> Schema:
        found = {key: value for key, value in schema.items() if not key.startswith("x-")}
        if "properties" in schema:
            found["properties"] = {
                name: strict(part) for name, part in schema["properties"].items()
            }
            found["additionalProperties"] = False
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                found[key] = strict(schema[key])
        for sign, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if found.pop(sign, False):
                found[sign] = found.pop(bound)
        return found

    return strict(crd.root_schema()["properties"]["spec"])


def schema_accepts(spec: Schema) -> bool:
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        tools.missing("jsonschema")
    return bool(Draft202012Validator(strict_schema()).is_valid(spec))


def failed_rules(schema: Schema, value: Any, old: Any = None) -> Iterator[str]:
    """Yield the messages of rules that do not hold, as the API server evaluates them."""
    try:
        import cel
    except ImportError:
        tools.missing("common-expression-language")
    for one in schema.get("x-kubernetes-validations", ()):
        uses_old = "oldSelf" in one["rule"]
        if uses_old and old is None:
            continue
        context = {"self": value} | ({"oldSelf": old} if uses_old else {})
        if not cel.evaluate(one["rule"], context):
            yield one["message"]
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                before = old.get(name) if isinstance(old, dict) else None
                yield from failed_rules(part, value[name], before)
    if isinstance(value, list):
        for item in value:
            yield from failed_rules(schema.get("items", {}), item)


def with_defaults(schema: Schema, value: Any) -> Any:
    """Return what the API server makes of a value: defaults filled in."""
    if isinstance(value, dict):
        found = copy.deepcopy(value)
        for name, part in schema.get("properties", {}).items():
            if name not in found and "default" in part:
                found[name] = copy.deepcopy(part["default"])
            if name in found:
                found[name] = with_defaults(part, found[name])
        return found
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    return value


def api_server_refuses(spec: Schema, old: Schema | None = None, name: str = "demo") -> list[str]:
    """Return why the API server would refuse a spec; a schema's refusal has no words here."""
    schema = crd.root_schema()
    if not schema_accepts(spec):
        return ["schema"]
    new = with_defaults(schema, {"metadata": {"name": name}, "spec": spec})
    before = None if old is None else with_defaults(schema, {"metadata": {}, "spec": old})
    return list(failed_rules(schema, new, before))
