"""The conditions of kstatus, by which Helm 4 and Flux wait: Reconciling and Stalled. Pure.

They follow from the other conditions; called by ``conditions``.
"""

from __future__ import annotations

from typing import Final

from tidegate_operator.spec.status import Reason
from tidegate_operator.status.broker_state import BrokerState, Value

#: Reasons of Degraded that end only when somebody changes something.
_LASTING: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_TAKEN,
        Reason.APPLY_REFUSED,
        Reason.STORAGE_NOT_APPLIED,
        Reason.FIELDS_DROPPED,
        Reason.GATEWAY_API_MISSING,
        Reason.REFERENCE_MISSING,
        Reason.REFERENCE_INVALID,
        Reason.CONFIG_REJECTED,
        Reason.DEADLINE_EXCEEDED,
        Reason.RESTORE_FAILED,
    }
)


def _waits(state: BrokerState, degraded: Value) -> bool:
    """Whether what is missing is usual for a new broker, and often comes by itself."""
    is_new = degraded[1] == Reason.REFERENCE_MISSING and not state.has_workloads
    return degraded[0] == "True" and (is_new or bool(state.foreign and state.is_garbage))


def stalled(state: BrokerState, degraded: Value) -> Value:
    """Return Stalled: somebody has to correct something."""
    is_stuck = any(workload.is_stuck for _, workload in state.workloads)
    is_lasting = degraded[1] in _LASTING or is_stuck
    if degraded[0] == "True" and is_lasting and not _waits(state, degraded):
        return degraded
    if degraded[0] == "True":
        text = "The operator goes on by itself once the problem is solved: see Degraded."
        return "False", Reason.AS_EXPECTED, text
    return "False", Reason.AS_EXPECTED, "Nothing has to be corrected."


def reconciling(
    state: BrokerState,
    stalled_value: Value,
    degraded: Value,
    progressing: Value,
    config_applied: Value,
) -> Value:
    """Return Reconciling: the newest spec is not in use yet, and will be."""
    if stalled_value[0] == "True":
        return "False", stalled_value[1], "The newest spec cannot be reached: see Stalled."
    if _waits(state, degraded):
        return degraded
    if progressing[0] == "True":
        return progressing
    if state.is_paused:
        return "False", progressing[1], progressing[2]
    if config_applied[0] == "False":
        return "True", config_applied[1], config_applied[2]
    if state.waiting is not None:
        # A window may be days away, and the newest spec is in use: nothing to wait for.
        is_soon = state.waiting.reason is Reason.ROLLOUT_WAITING
        return "True" if is_soon else "False", state.waiting.reason, state.waiting.text
    return "False", Reason.COMPLETE, "The newest spec is in use."
