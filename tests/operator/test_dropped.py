"""Fields that the API server drops: what ``kubectl apply`` has written says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.brokers import spec_of
from support.operator_harness import harness
from tidegate_operator import names
from tidegate_operator.spec.dropped import dropped_fields

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def body(text: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {LAST_APPLIED: text}}}


def applied(**changes: Any) -> str:
    return json.dumps({"spec": spec_of(**changes)})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (applied(), []),
        (applied(acls={"rules": ""}), ["spec.acls: unknown key; did you mean acl?"]),
        (
            applied(edge={"replicaz": 3}, listeners=[{"name": "a", "porrt": 1}]),
            ["spec.listeners[0].porrt: unknown key", "spec.edge.replicaz: unknown key"],
        ),
        (
            json.dumps({"acl": {"rules": ""}, "spec": spec_of()}),
            ["acl: unknown key; did you mean spec"],
        ),
        (json.dumps({"kind": "x", "nothing": 1, "spec": spec_of()}), ["nothing: unknown key"]),
        # What is wrong otherwise is said elsewhere.
        (applied(edge={"replicas": "many"}), []),
        ("no json", []),
        ("[]", []),
        ('{"spec": 3}', []),
        ("{}", []),
    ],
)
def test_unknown_fields_are_found(text: str, fields: list[str]) -> None:
    found = dropped_fields(body(text))
    assert len(found) == len(fields)
    assert all(one.startswith(start) for one, start in zip(found, fields, strict=True))
    assert dropped_fields({"metadata": {}}) == []


async def test_a_misspelt_acl_does_not_pass_for_an_applied_one() -> None:
    it = await harness("minimal")
    metadata = it.fake.get(names.KIND, "demo")["metadata"]
    metadata["annotations"] = {LAST_APPLIED: applied(acls={"rules": "topic read a\n"})}
    await it.settle()
    assert it.conditions()["Degraded"] == ("True", "FieldsDropped")
    assert "spec.acls: unknown key; did you mean acl?" in it.message("Degraded")
    assert it.conditions()["ConfigApplied"] == ("False", "FieldsDropped")
    assert ("Warning", "FieldsDropped") in {one[:2] for one in it.cluster.events}
