"""The health of a broker for Argo CD, as its script says it of what the operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa
import pytest

from support.brokers import spec_of
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.spec.status import not_observed

SCRIPT = Path(__file__).parents[2] / "examples" / "argocd" / "health.lua"


def health(broker: dict[str, Any]) -> tuple[str, str]:
    """Return status and message: Argo CD calls the script with a global ``obj``."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(broker, recursive=True)
    found = lua.execute(SCRIPT.read_text(encoding="utf-8"))
    return found["status"], found["message"]


def of(it: Harness) -> tuple[str, str]:
    return health(it.fake.get(names.KIND, "demo"))


async def test_a_broker_that_is_made_changed_and_refused() -> None:
    it = await harness("minimal")
    broker = it.fake.get(names.KIND, "demo")
    assert health(broker)[0] == "Progressing"
    assert health(broker | {"status": not_observed()})[0] == "Progressing"
    await it.reconcile()
    assert of(it)[0] == "Progressing"
    it.make_ready()
    await it.reconcile()
    assert of(it)[0] == "Healthy"
    it.put_spec(spec_of("minimal", redis={"external": {"url": "http://x"}}))
    # The operator has not seen it yet.
    assert of(it)[0] == "Progressing"
    await it.reconcile()
    status, message = of(it)
    assert status == "Degraded"
    assert "spec.redis.external.url" in message
    it.put_spec(spec_of("minimal", paused=True))
    assert of(it)[0] == "Suspended"


def broker_with(**conditions: tuple[str, str]) -> dict[str, Any]:
    found = [
        {"type": kind, "status": status, "reason": reason, "message": kind}
        for kind, (status, reason) in conditions.items()
    ]
    return {
        "metadata": {"generation": 2},
        "spec": {},
        "status": {"observedGeneration": 2, "conditions": found},
    }


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ("Healthy", "Ready")),
        ({"Degraded": ("True", "PodsFailing")}, ("Degraded", "Degraded")),
        (
            {"Degraded": ("True", "PodsFailing"), "Reconciling": ("True", "RollingOut")},
            ("Progressing", "Reconciling"),
        ),
        ({"Ready": ("False", "ScaledToZero")}, ("Suspended", "Ready")),
        ({"Ready": ("False", "AddressPending")}, ("Progressing", "Ready")),
        ({"Stalled": ("True", "DeadlineExceeded")}, ("Degraded", "Stalled")),
    ],
)
def test_conditions(changes: dict[str, tuple[str, str]], wanted: tuple[str, str]) -> None:
    usual = {
        "Ready": ("True", "Serving"),
        "Degraded": ("False", "AsExpected"),
        "Reconciling": ("False", "Complete"),
        "Stalled": ("False", "AsExpected"),
    }
    assert health(broker_with(**(usual | changes))) == wanted
