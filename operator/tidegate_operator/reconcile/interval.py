"""When to look at a broker again if nothing changes in the cluster. Pure.

Called by ``reconciler`` at the end of a reconcile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tidegate_operator.kube.writer import WriteResult
from tidegate_operator.pods.config_tracker import COUNT_S
from tidegate_operator.pods.poller import PodSummary
from tidegate_operator.reconcile.changes import Desired
from tidegate_operator.reconcile.observation import Observed
from tidegate_operator.spec.status import SEEN_INTERVAL, STORE_REPLICATED, Reason

#: How soon to reconcile again during a rollout, and while something is wrong. Changes in the
#: cluster come by watches; this is for everything else. While nothing changes, the interval is a
#: tenth of that time, so that many brokers that never become ready do not starve others.
PROGRESSING_S: Final = 2.0
DEGRADED_S: Final = 10.0
_UNCHANGED_SHARE: Final = 0.1


def requeue_after_s(
    observed: Observed,
    desired: Desired,
    result: WriteResult,
    pods: PodSummary,
    status: Mapping[str, Any],
    resync_s: float,
) -> float:
    """Return when to reconcile again if nothing changes in the cluster."""
    idle_s = pods.unchanged_s * _UNCHANGED_SHARE
    after_s = _status_interval_s(observed, desired, pods, status, idle_s, resync_s)
    if result.kept:
        after_s = min(after_s, max(PROGRESSING_S, idle_s))
    if result.backoff_s:
        after_s = min(after_s, result.backoff_s)
    return after_s


def _status_interval_s(
    observed: Observed,
    desired: Desired,
    pods: PodSummary,
    status: Mapping[str, Any],
    idle_s: float,
    resync_s: float,
) -> float:
    """Return the interval that the status asks for, or the time until something is due."""
    by_type = {condition["type"]: condition for condition in status["conditions"]}
    is_applying = by_type["ConfigApplied"]["reason"] == Reason.APPLYING
    if by_type["Progressing"]["status"] == "True" or (is_applying and pods.is_fresh):
        return max(PROGRESSING_S, min(idle_s, resync_s, SEEN_INTERVAL.total_seconds()))
    published = [*(status.get("listeners") or []), status.get("console") or {}]
    routes = [one["route"] for one in published if "route" in one]
    is_wrong = (
        by_type["Degraded"]["status"] == "True"
        or any(
            by_type[kind]["status"] != "True"
            for kind in ("Ready", STORE_REPLICATED)
            if kind in by_type
        )
        or any(one["accepted"] == "Unknown" for one in routes)
    )
    after_s = min(max(DEGRADED_S, idle_s), resync_s) if is_wrong or is_applying else resync_s
    if observed.spec is not None and observed.spec.edge.rebalance.enabled:
        after_s = min(after_s, COUNT_S)
    due_s = (desired.owned_secrets.next_change - observed.now).total_seconds()
    return max(1.0, min(after_s, due_s, SEEN_INTERVAL.total_seconds()))
