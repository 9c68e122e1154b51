"""What blocks a spec from being written, and what of it is not in use although the rest is. Pure.

Called by the modules of the conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidegate_operator.plan import ObjectRef
from tidegate_operator.secrets.references import Fault, Problem
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.status import Reason
from tidegate_operator.status import listener_status
from tidegate_operator.status.broker_state import BrokerState, sentences, some

_REST_IS_APPLIED: Final = "Everything else of the spec is applied."


def blocked(state: BrokerState) -> tuple[Reason, str] | None:
    """Return why the spec is not applied, and what to do; None if it is."""
    unchanged = " Running pods are unchanged." if state.has_edges else ""
    if state.spec_problems:
        return Reason.INVALID_SPEC, f"Invalid spec: {some(state.spec_problems)}.{unchanged}"
    if state.foreign:
        return Reason.NAME_TAKEN, f"{_conflict(state)}.{unchanged}"
    blocking = [problem for problem in state.reference_problems if problem.blocking]
    if blocking and not (state.apply_error and _are_pending(blocking)):
        return _reference_reason(blocking), f"{sentences(blocking)}.{unchanged}"
    if state.apply_error:
        if state.is_partly_applied:
            unchanged = " Its dry run was accepted, so other objects may have been applied."
        return (
            Reason.APPLY_REFUSED,
            f"The API server rejects {state.apply_error}.{unchanged}",
        )
    return None


def _conflict(state: BrokerState) -> str:
    taken = some([str(ref) for ref in state.foreign])
    if state.is_garbage:
        return f"Waiting for the garbage collection of a deleted MqttBroker of this name: {taken}"
    own = "" if state.spec is None else _named_services(state.name, state.spec, state.foreign)
    return (
        f"Objects with required names are not owned by this MqttBroker: {taken}. Delete them, or "
        f"give the MqttBroker{own} another name"
    )


def _named_services(name: str, spec: MqttBrokerSpec, foreign: Sequence[ObjectRef]) -> str:
    """Return the fields that give foreign Services their names, to go on with; "" without any."""
    taken = {ref.name for ref in foreign if ref.kind == "Service"}
    fields = [
        f"spec.listeners[{index}].service"
        for index, listener in enumerate(spec.listeners)
        if listener.service is not None and service_name(name, listener) in taken
    ]
    return f", or {some(fields)}," if fields else ""


def _reference_reason(problems: Sequence[Problem]) -> Reason:
    is_missing = any(problem.fault is not Fault.INVALID for problem in problems)
    return Reason.REFERENCE_MISSING if is_missing else Reason.REFERENCE_INVALID


def partly_applied(state: BrokerState) -> tuple[Reason, str] | None:
    """Return what of the spec is not in use although the rest is applied; None if all is."""
    others = [
        problem
        for problem in state.reference_problems
        if not (problem.blocking or problem.is_awaited)
    ]
    if others:
        is_invalid = any(problem.fault is Fault.INVALID for problem in others)
        reason = Reason.REFERENCE_INVALID if is_invalid else Reason.REFERENCE_MISSING
        return reason, f"{sentences(others)}."
    if state.dropped:
        return (
            Reason.FIELDS_DROPPED,
            "The manifest has fields that do not exist, and the API server has dropped them: "
            f"{some(state.dropped)}. {_REST_IS_APPLIED}",
        )
    refused = listener_status.refused_routes(state)
    if refused is not None:
        return refused
    if state.store_problem:
        return Reason.STORAGE_NOT_APPLIED, f"{state.store_problem}. {_REST_IS_APPLIED}"
    return None


def only_waits_for_certificates(state: BrokerState) -> bool:
    """Whether nothing but pending certificates blocks writing."""
    blocking = [problem for problem in state.reference_problems if problem.blocking]
    is_blocked_otherwise = state.spec_problems or state.foreign or state.apply_error
    return not is_blocked_otherwise and bool(blocking) and _are_pending(blocking)


def _are_pending(problems: Sequence[Problem]) -> bool:
    return all(problem.fault is Fault.PENDING for problem in problems)
