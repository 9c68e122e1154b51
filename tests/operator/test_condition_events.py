"""Which changes of conditions are events, and which of them are warnings."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate_operator.status.condition_events import changes


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "m"}


@pytest.mark.parametrize(
    ("kind", "before", "after", "event"),
    [
        ("Ready", ("Unknown", "NotObserved"), ("False", "StoreNotReady"), "Normal"),
        ("Ready", ("False", "StoreNotReady"), ("False", "RoutersNotReady"), "Normal"),
        ("Ready", ("False", "EdgesNotReady"), ("True", "Serving"), "Normal"),
        ("Ready", ("True", "Serving"), ("False", "StoreNotReady"), "Warning"),
        ("Ready", ("True", "Serving"), ("False", "ScaledToZero"), "Normal"),
        ("Degraded", ("False", "AsExpected"), ("True", "InvalidSpec"), "Warning"),
        ("Degraded", ("True", "InvalidSpec"), ("True", "ApplyRefused"), "Warning"),
        ("Degraded", ("True", "InvalidSpec"), ("False", "AsExpected"), "Normal"),
        ("CertificatesReady", ("True", "Issued"), ("True", "EndsSoon"), "Warning"),
        ("CertificatesReady", ("True", "Issued"), ("False", "Missing"), "Warning"),
        ("CertificatesReady", ("True", "EndsSoon"), ("False", "Invalid"), "Warning"),
        ("CertificatesReady", ("False", "Invalid"), ("True", "Issued"), "Normal"),
        ("CertificatesReady", ("True", "Issued"), ("False", "Pending"), "Normal"),
        ("CertificatesReady", ("True", "Issued"), ("Unknown", "InvalidSpec"), None),
        ("Ready", ("True", "Serving"), ("True", "Serving"), None),
        ("Stalled", ("False", "AsExpected"), ("True", "InvalidSpec"), None),
        ("Progressing", ("False", "Complete"), ("True", "RollingOut"), None),
    ],
)
def test_changes(
    kind: str, before: tuple[str, str], after: tuple[str, str], event: str | None
) -> None:
    new = condition(kind, *after)
    found = list(changes({"conditions": [condition(kind, *before)]}, {"conditions": [new]}))
    assert found == ([] if event is None else [(event, new)])


def test_the_first_status_is_compared_with_none() -> None:
    new = condition("Ready", "False", "StoreNotReady")
    assert list(changes({}, {"conditions": [new]})) == [("Normal", new)]
