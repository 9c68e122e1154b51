"""How ready the bundled store is, by its StatefulSet and by its pods."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tidegate_operator import names
from tidegate_operator.live_state import bundled_store, pods


def _pod(is_ready: bool) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "demo-redis-0",
            "uid": "1",
            "labels": {names.COMPONENT_LABEL: "redis"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
        },
    }


@pytest.mark.parametrize("observed", [0, 1], ids=["no status yet", "pod not adopted yet"])
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_new_stateful_set_around_a_running_pod_counts_it(observed: int, is_ready: bool) -> None:
    manifest = {
        "metadata": {"name": "demo-redis", "generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": observed, "replicas": 0},
    }
    found = pods([_pod(is_ready)], datetime.now(UTC))
    assert bundled_store(manifest, found).ready == is_ready
