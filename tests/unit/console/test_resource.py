"""The conditions of the MqttBroker in the overview: how they are read, and what they say.

Input: the file as the operator has it written, conditions and the time. Output: what the overview
shows, and its sentences. That pods get the file is in tests/operator/test_console.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.console.findings import of_resource
from tidegate.console.models.overview import Condition, Finding, Resource
from tidegate.console.resource import read_resource

NOW = 1_764_499_327.0
WRITTEN: dict[str, Any] = {
    "name": "demo",
    "namespace": "iot",
    "generation": 4,
    "observedGeneration": 3,
    "lastSeen": "2025-11-30T10:42:07Z",
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Serving",
            "message": "2 of 2 edges are ready.",
            "lastTransitionTime": "2025-11-30T10:00:00Z",
        }
    ],
}


def test_the_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "conditions.json"
    file.write_text(json.dumps(WRITTEN))
    assert read_resource(file) == Resource(
        name="demo",
        namespace="iot",
        generation=4,
        observed_generation=3,
        seen_at=NOW,
        conditions=[
            Condition(
                type="Ready",
                status="True",
                reason="Serving",
                message="2 of 2 edges are ready.",
                changed_at=NOW - 2527,
            )
        ],
    )


@pytest.mark.parametrize(
    "content", ["", "\n", "{", "[]", "null", json.dumps(WRITTEN | {"conditions": [{}]})]
)
def test_without_the_operator_there_is_nothing(tmp_path: Path, content: str) -> None:
    assert read_resource(None) is None
    assert read_resource(tmp_path / "nowhere") is None
    file = tmp_path / "conditions.json"
    file.write_text(content)
    assert read_resource(file) is None


def _said(*conditions: str, seen_at: float = NOW) -> list[Finding]:
    """Return the sentences of conditions: `Type Status Reason message`."""
    found = []
    for text in conditions:
        kind, status, reason, message = text.split(" ", 3)
        found.append(Condition(type=kind, status=status, reason=reason, message=message))
    resource = Resource(
        name="demo",
        namespace="iot",
        generation=1,
        observed_generation=1,
        seen_at=seen_at,
        conditions=found,
    )
    return list(of_resource(resource, NOW))


WELL = (
    "Ready True Serving all",
    "Progressing True RollingOut more",
    "Degraded False AsExpected nothing",
    "CertificatesReady True Issued fine",
    "ConfigApplied False Applying 1 of 2",
    "Stalled False AsExpected no",
)


@pytest.mark.parametrize(
    ("condition", "level", "words"),
    [
        ("Degraded True PodsFailing demo-edge-0: crash", "problem", "is degraded (PodsFailing): d"),
        ("Ready False StoreNotReady no store", "problem", "is not ready (StoreNotReady): no st"),
        ("CertificatesReady False Missing s", "advice", "lacks a certificate that is valid (Mis"),
        ("CertificatesReady True EndsSoon s", "advice", "has a certificate that ends soon (Ends"),
        ("StoreReplicated False SharedNode n", "advice", "has a store that is not replicated (S"),
        ("ConfigApplied False Refused x", "advice", "does not use its newest configuration (R"),
    ],
)
def test_what_is_wrong_is_said_with_its_reason(condition: str, level: str, words: str) -> None:
    assert _said(*WELL) == []
    (found,) = _said(*WELL, condition)
    assert (found.level, found.area) == (level, "kubernetes")
    assert found.text.startswith(f"MqttBroker iot/demo {words}")
    assert found.change


def test_what_several_conditions_say_is_said_once() -> None:
    found = _said(
        "ConfigApplied False ApplyRefused the API server rejects it",
        "CertificatesReady False Missing no Secret",
        "Degraded True ApplyRefused the API server rejects it",
    )
    assert [one.level for one in found] == ["problem", "advice"]
    assert "is degraded" in found[0].text


def test_conditions_that_nobody_writes_any_more_are_said() -> None:
    assert _said(*WELL, seen_at=NOW - 890) == []
    (found,) = _said(*WELL, seen_at=NOW - 1500)
    assert (found.level, "no operator" in found.text, "25 min" in found.text) == (
        "problem",
        True,
        True,
    )
