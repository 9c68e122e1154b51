"""The condition Progressing: what is being rolled out, and what it waits for. Pure.

Called by ``conditions``.
"""

from __future__ import annotations

from tidegate_operator.spec.status import Reason
from tidegate_operator.status import blocking
from tidegate_operator.status.broker_state import BrokerState, Value
from tidegate_operator.status.failures import first_failure, restore_reason, stuck_workloads


def progressing(state: BrokerState) -> Value:
    """Return Progressing."""
    if state.is_paused:
        return "False", Reason.PAUSED, "Reconciliation is paused (spec.paused is true)."
    stuck = stuck_workloads(state)
    if stuck:
        kept = ", and the bundled store is kept for them" if state.keeps_store else ""
        return (
            "False",
            Reason.DEADLINE_EXCEEDED,
            f"The rollout of {stuck} has exceeded its progress deadline{first_failure(state)}. "
            f"Old pods keep serving{kept}.",
        )
    if blocking.only_waits_for_certificates(state):
        return (
            "True",
            Reason.WAITING_FOR_CERTIFICATES,
            "Waiting for cert-manager to issue certificates before pods are created (kubectl "
            "describe certificate).",
        )
    blocked = blocking.blocked(state)
    if blocked is not None and not state.has_edges:
        return "False", blocked[0], blocked[1]
    if state.restore is not None and not state.restore.is_over:
        is_failed = state.restore.phase == "Failed"
        value = "False" if is_failed else "True"
        return value, restore_reason(state.restore), state.restore.message
    rolling = [
        f"{name}: {workload.ready} of {workload.desired} ready, {workload.updated} updated"
        for name, workload in state.workloads
        if not workload.is_complete
    ]
    if state.keeps_store and blocked is None:
        rolling.append("the bundled store is kept until no router uses it")
    if state.store_progress:
        rolling.append(state.store_progress)
    if rolling:
        return "True", Reason.ROLLING_OUT, f"Rolling out {'; '.join(rolling)}."
    if state.waiting is not None:
        return "False", state.waiting.reason, state.waiting.text
    return "False", Reason.COMPLETE, "All rollouts are complete."
