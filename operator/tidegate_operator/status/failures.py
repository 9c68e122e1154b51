"""What of a broker's workloads and restore has failed, for several conditions. Pure.

Called by the modules of the conditions.
"""

from __future__ import annotations

from tidegate_operator.backups.restore import RestoreState
from tidegate_operator.spec.status import Reason
from tidegate_operator.status.broker_state import BrokerState


def restore_reason(restore: RestoreState) -> Reason:
    """Return the reason of what a restore prevents."""
    return Reason.RESTORE_FAILED if restore.phase == "Failed" else Reason.RESTORING


def stuck_workloads(state: BrokerState) -> str:
    """Return the names of the workloads whose rollout is stuck."""
    return " and ".join(name for name, workload in state.workloads if workload.is_stuck)


def first_failure(state: BrokerState) -> str:
    """Return the first failure of a pod or workload, to be appended to a sentence."""
    for pod in state.pods:
        if pod.failure and not pod.is_terminating:
            return f": pod {pod.name}: {pod.failure}"
    failures = workload_failures(state)
    return f": {failures[0]}" if failures else ""


def workload_failures(state: BrokerState) -> list[str]:
    """Return why pods cannot be created."""
    return [f"{name}: {workload.failure}" for name, workload in state.workloads if workload.failure]
