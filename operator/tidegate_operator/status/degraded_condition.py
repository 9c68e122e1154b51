"""The condition Degraded: the most important fault of a broker, and what to do about it. Pure.

Called by ``conditions``.
"""

from __future__ import annotations

from typing import Final

from tidegate_operator.pods.lost_nodes import lost_nodes
from tidegate_operator.spec.status import Reason
from tidegate_operator.status import blocking, ready_condition
from tidegate_operator.status.broker_state import BrokerState, Value, some
from tidegate_operator.status.failures import stuck_workloads, workload_failures
from tidegate_operator.status.image_condition import unpulled_images

#: Reasons why a broker is not ready that are as the spec says.
_WANTED: Final = frozenset({Reason.SCALED_TO_ZERO, Reason.PAUSED})


def degraded(state: BrokerState, replication_problem: str) -> Value:
    """Return Degraded."""
    blocked = blocking.blocked(state)
    if blocked is not None and not blocking.only_waits_for_certificates(state):
        return "True", blocked[0], blocked[1]
    partly = blocking.partly_applied(state)
    if partly is not None:
        return "True", *partly
    if state.restore is not None and state.restore.phase == "Failed":
        return "True", Reason.RESTORE_FAILED, state.restore.message
    unpulled = unpulled_images(state)
    if unpulled:
        return "True", Reason.IMAGE_NOT_PULLED, unpulled
    lost = lost_nodes(state.pods, 0 if state.redis is None else state.redis.ready)
    if lost:
        return "True", Reason.NODE_LOST, lost
    failing = _failing_pods(state)
    if failing:
        return "True", Reason.PODS_FAILING, failing
    rejecting = _rejecting_pods(state)
    if rejecting:
        return (
            "True",
            Reason.CONFIG_REJECTED,
            "Pods reject the newest configuration and keep using the previous one: "
            f"{some(rejecting)}. Correct the named settings or files; the pods' logs have "
            "details.",
        )
    stuck = stuck_workloads(state)
    if stuck:
        return (
            "True",
            Reason.DEADLINE_EXCEEDED,
            f"The rollout of {stuck} has exceeded its progress deadline: check the pods' logs and "
            "events.",
        )
    if replication_problem:
        return "True", Reason.STORE_NOT_REPLICATED, replication_problem
    if state.backups is not None and state.backups.problem:
        return "True", Reason.BACKUP_FAILING, state.backups.problem
    ready = ready_condition.ready(state)
    if ready[0] == "False" and ready[1] not in _WANTED:
        return (
            "False",
            Reason.AS_EXPECTED,
            f"No failing object found, but the broker is not ready: see Ready ({ready[1]}).",
        )
    return "False", Reason.AS_EXPECTED, "No problems found."


def _failing_pods(state: BrokerState) -> str:
    failures = [
        f"{pod.name}: {pod.failure}" for pod in state.pods if pod.failure and not pod.is_terminating
    ]
    if failures:
        return f"Pods are failing: {some(failures)}."
    failures = workload_failures(state)
    return f"Pods cannot be created: {some(failures)}." if failures else ""


def _rejecting_pods(state: BrokerState) -> list[str]:
    """Return which pods have rejected the desired configuration for long, and why.

    Not during a rollout: pods to be replaced may be of a version that does not support it.
    """
    is_replaced = {"edge": state.edges.is_replaced, "router": state.routers.is_replaced}
    return [
        f"{pod.name}: {state.outdated[pod.name].text}"
        for pod in state.pods
        if pod.name in state.failing
        and pod.name in state.outdated
        and is_replaced.get(pod.component)
    ]
