"""The status of a broker: conditions with a closed set of reasons, and what to do about them.

Pure: made from a ``BrokerState``, the status before, and the time. Called by ``reconcile``. The
messages say what is wrong, where, and what to do; docs/kubernetes.md lists the reasons.

A refused spec does not change what runs, so ``Ready`` stays True, of the generation before: it is
``Degraded`` and ``Stalled``, and ``ConfigApplied`` is False.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import kstatus, listener_status, names
from tidegate_operator.backups.restore import RestoreState
from tidegate_operator.broker_state import BrokerState, Value, sentences, some, time_text
from tidegate_operator.certificate_condition import certificates_ready
from tidegate_operator.image_condition import unpulled_images
from tidegate_operator.live_state import Workload
from tidegate_operator.plan import ObjectRef
from tidegate_operator.pods.config_state import Outdated, has_config
from tidegate_operator.pods.lost_nodes import lost_nodes
from tidegate_operator.replicas.condition import lasting_problem, store_replicated
from tidegate_operator.secrets.references import Fault, Problem
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.status import (
    MAX_MESSAGE,
    STORE_REPLICATED,
    BrokerStatus,
    Condition,
    ConditionType,
    PodsStatus,
    Reason,
)

#: How long pods may not be creatable before that is reported: quotas and ServiceAccounts are
#: eventually consistent.
PATIENCE: Final = timedelta(seconds=5)
#: Reasons why a broker is not ready that are as the spec says.
_WANTED: Final = frozenset({Reason.SCALED_TO_ZERO, Reason.PAUSED})
_REST_IS_APPLIED: Final = "Everything else of the spec is applied."


def status(state: BrokerState, before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return the new status. ``lastTransitionTime`` is kept while a condition's status is."""
    state = replace(
        state,
        edges=_ignore_short_failure(state.edges, now),
        routers=_ignore_short_failure(state.routers, now),
    )
    old = {condition["type"]: condition for condition in (before or {}).get("conditions") or []}
    replicated = store_replicated(state.redis, state.pods, state.servers)
    problem = lasting_problem(replicated, old.get(STORE_REPLICATED, {}), now)
    ready, progressing = _ready(state), _progressing(state)
    degraded = _degraded(state, problem)
    config_applied = _config_applied(state)
    stalled = kstatus.stalled(state, degraded)
    values: dict[ConditionType, Value] = {
        "Ready": ready,
        "Progressing": progressing,
        "Degraded": degraded,
        "CertificatesReady": certificates_ready(state, now),
        "ConfigApplied": config_applied,
        "Reconciling": kstatus.reconciling(state, stalled, degraded, progressing, config_applied),
        "Stalled": stalled,
        **({} if replicated is None else {"StoreReplicated": replicated}),
    }
    new = BrokerStatus.model_validate(
        {
            "observedGeneration": state.generation,
            "conditions": [
                _condition(
                    kind, value, last := old.get(kind, {}), _generation(state, kind, last), now
                )
                for kind, value in values.items()
            ],
            "address": listener_status.address(state, before),
            "listeners": listener_status.listeners(state, before),
            "edges": _pods_status(state, state.edges, "edge"),
            "routers": _pods_status(state, state.routers, "router"),
            "connections": state.connections,
            "backup": _backups(state),
            "restore": None if state.restore is None else state.restore.shown(),
        }
    )
    return new.model_dump(by_alias=True, exclude_none=True)


def _condition(
    kind: ConditionType, value: Value, last: Mapping[str, Any], generation: int, now: datetime
) -> Condition:
    state, reason, message = value
    is_same = last.get("status") == state and last.get("lastTransitionTime")
    return Condition.model_validate(
        {
            "type": kind,
            "status": state,
            "reason": reason.value,
            "message": _truncated(message),
            "lastTransitionTime": last["lastTransitionTime"] if is_same else time_text(now),
            "observedGeneration": generation,
        }
    )


def _generation(state: BrokerState, kind: ConditionType, last: Mapping[str, Any]) -> int:
    """Return the generation that a condition refers to.

    What serves is of the newest spec that was not refused: ``kubectl wait`` must not end before.
    """
    is_previous = kind == "Ready" and state.has_workloads and _blocked(state) is not None
    return int(last.get("observedGeneration", 0)) if is_previous else state.generation


def _truncated(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def _pods_status(state: BrokerState, workload: Workload, component: names.Component) -> PodsStatus:
    labels = names.selector(state.name, component)
    pods = [pod for pod in state.pods if pod.component == component and has_config(pod)]
    return PodsStatus.model_validate(
        {
            "desired": workload.desired,
            "ready": workload.ready,
            "updated": workload.updated,
            "configured": sum(pod.name not in state.outdated for pod in pods),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        }
    )


def _backups(state: BrokerState) -> dict[str, Any] | None:
    if state.backups is None:
        return None
    return {
        "lastSuccessful": state.backups.last_successful,
        "lastFailed": state.backups.last_failed,
        "nextTime": state.backups.next_time,
    }


# Ready


def _ready(state: BrokerState) -> Value:
    nothing = _nothing_created(state)
    if nothing is not None:
        return nothing
    edges, routers, redis = state.edges, state.routers, state.redis
    if redis is not None and redis.ready == 0:
        is_lost = any(pod.lost_node for pod in state.pods if pod.component == "redis")
        check = "" if is_lost else " Check its pod and its PersistentVolumeClaim."
        return (
            "False",
            Reason.STORE_NOT_READY,
            f"The bundled store is not ready{_why(state, 'redis')}; new connections are rejected."
            f"{check}",
        )
    if state.restore is not None and not state.restore.is_over:
        return "False", _restore_reason(state.restore), state.restore.message
    if routers.ready == 0:
        return "False", Reason.ROUTERS_NOT_READY, _routers_not_ready(state)
    if edges.exists and edges.desired == 0:
        return (
            "False",
            Reason.SCALED_TO_ZERO,
            "There are no edges: spec.edge.replicas is 0. Sessions are kept.",
        )
    if edges.ready == 0:
        return (
            "False",
            Reason.EDGES_NOT_READY,
            f"{_ready_of(edges)} edges are ready{_why(state, 'edge')}. Edges become ready when "
            "they reach a router: check their logs.",
        )
    pending = [one.service for one in state.addresses if one.is_pending]
    if pending:
        return (
            "False",
            Reason.ADDRESS_PENDING,
            f"Service {' and '.join(pending)} {'has' if len(pending) == 1 else 'have'} no load "
            "balancer address yet: check the events (kubectl describe service "
            f"{' '.join(pending)}).",
        )
    count = f"{_ready_of(edges)} edges and {_ready_of(routers)} routers are ready"
    notes = [_unusable_listeners(state.spec), _unprotected(state), _previous_spec(state)]
    return "True", Reason.SERVING, f"{count}.{''.join(notes)}"


def _restore_reason(restore: RestoreState) -> Reason:
    return Reason.RESTORE_FAILED if restore.phase == "Failed" else Reason.RESTORING


def _nothing_created(state: BrokerState) -> Value | None:
    """Return why nothing of the broker exists; None if there is something, or soon will be."""
    if state.has_workloads:
        return None
    if state.is_paused:
        return "False", Reason.PAUSED, "Nothing is created: spec.paused is true."
    blocked = _blocked(state)
    if blocked is None:
        return None
    pending = _only_waits_for_certificates(state)
    reason = Reason.WAITING_FOR_CERTIFICATES if pending else blocked[0]
    return "False", reason, f"No pods have been created. {blocked[1]}"


def _unprotected(state: BrokerState) -> str:
    """Return a sentence about missing access rules, "" if there are some.

    Those of a spec that is refused are not in force, and those of the one before are.
    """
    spec = state.spec
    is_wanted = spec is not None and spec.acl is not None
    if state.has_acl if state.has_acl is not None else spec is None or is_wanted:
        return ""
    why = "spec.acl is not in use, see Degraded" if is_wanted else "spec.acl is not set"
    return f" No ACL is in force ({why}): clients may use every topic."


def _previous_spec(state: BrokerState) -> str:
    """Return a sentence about a refused spec, "" if the newest one is in use."""
    blocked = _blocked(state)
    return (
        "" if blocked is None else f" The newest spec is not in use ({blocked[0]}): see Degraded."
    )


def _routers_not_ready(state: BrokerState) -> str:
    check = "their logs" if state.redis is not None else "spec.redis.external and their logs"
    return (
        f"{_ready_of(state.routers)} routers are ready{_why(state, 'router')}. Routers become "
        f"ready when they reach the store: check {check}."
    )


def _unusable_listeners(spec: MqttBrokerSpec | None) -> str:
    """Return a sentence about listeners where no client can authenticate, "" without any."""
    if spec is None or spec.auth.passwords is not None:
        return ""
    unusable = [
        listener.name
        for listener in spec.listeners
        if not (
            spec.auth.allow_anonymous
            if listener.allow_anonymous is None
            else listener.allow_anonymous
        )
        and listener.passwords is None
        and (listener.tls is None or listener.tls.identity_as_username == "off")
    ]
    if not unusable:
        return ""
    return (
        f" No client can connect to listener {', '.join(unusable)}: anonymous clients are not "
        "allowed, and spec.auth.passwords is not set."
    )


def _ready_of(workload: Workload) -> str:
    return f"{workload.ready} of {workload.desired}"


def _why(state: BrokerState, component: str) -> str:
    """Return the first failure of a component's pods in parentheses, "" if none is known."""
    for pod in state.pods:
        if pod.component == component and pod.lost_node:
            return f" (pod {pod.name} is on node {pod.lost_node}, which is lost, see Degraded)"
        if pod.component == component and pod.failure:
            unpulled = "its image cannot be pulled, see Degraded" if pod.unpulled_image else ""
            return f" (pod {pod.name}: {unpulled or pod.failure})"
    workload = {"edge": state.edges, "router": state.routers}.get(component)
    return f" ({workload.failure})" if workload is not None and workload.failure else ""


# Progressing


def _progressing(state: BrokerState) -> Value:
    if state.is_paused:
        return "False", Reason.PAUSED, "Reconciliation is paused (spec.paused is true)."
    stuck = _stuck_workloads(state)
    if stuck:
        kept = ", and the bundled store is kept for them" if state.keeps_store else ""
        return (
            "False",
            Reason.DEADLINE_EXCEEDED,
            f"The rollout of {stuck} has exceeded its progress deadline{_first_failure(state)}. "
            f"Old pods keep serving{kept}.",
        )
    if _only_waits_for_certificates(state):
        return (
            "True",
            Reason.WAITING_FOR_CERTIFICATES,
            "Waiting for cert-manager to issue certificates before pods are created (kubectl "
            "describe certificate).",
        )
    blocked = _blocked(state)
    if blocked is not None and not state.has_edges:
        return "False", blocked[0], blocked[1]
    if state.restore is not None and not state.restore.is_over:
        is_failed = state.restore.phase == "Failed"
        value = "False" if is_failed else "True"
        return value, _restore_reason(state.restore), state.restore.message
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


def _stuck_workloads(state: BrokerState) -> str:
    return " and ".join(name for name, workload in state.workloads if workload.is_stuck)


def _first_failure(state: BrokerState) -> str:
    for pod in state.pods:
        if pod.failure and not pod.is_terminating:
            return f": pod {pod.name}: {pod.failure}"
    failures = _workload_failures(state)
    return f": {failures[0]}" if failures else ""


def _ignore_short_failure(workload: Workload, now: datetime) -> Workload:
    """Return a workload without a failure to create pods that is younger than ``PATIENCE``."""
    since = workload.failure_since
    is_lasting = since is None or now - since >= PATIENCE
    return workload if is_lasting else replace(workload, failure="")


def _workload_failures(state: BrokerState) -> list[str]:
    """Return why pods cannot be created."""
    return [f"{name}: {workload.failure}" for name, workload in state.workloads if workload.failure]


# What blocks writing


def _blocked(state: BrokerState) -> tuple[Reason, str] | None:
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


def _partly_applied(state: BrokerState) -> tuple[Reason, str] | None:
    """Return what of the spec is not in use although the rest is applied; None if all is."""
    others = [problem for problem in state.reference_problems if not problem.blocking]
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


def _only_waits_for_certificates(state: BrokerState) -> bool:
    """Whether nothing but pending certificates blocks writing."""
    blocking = [problem for problem in state.reference_problems if problem.blocking]
    is_blocked_otherwise = state.spec_problems or state.foreign or state.apply_error
    return not is_blocked_otherwise and bool(blocking) and _are_pending(blocking)


def _are_pending(problems: Sequence[Problem]) -> bool:
    return all(problem.fault is Fault.PENDING for problem in problems)


# Degraded


def _degraded(state: BrokerState, replication_problem: str) -> Value:
    blocked = _blocked(state)
    if blocked is not None and not _only_waits_for_certificates(state):
        return "True", blocked[0], blocked[1]
    partly = _partly_applied(state)
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
    stuck = _stuck_workloads(state)
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
    ready = _ready(state)
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
    failures = _workload_failures(state)
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


# ConfigApplied


def _config_applied(state: BrokerState) -> Value:
    blocked = _blocked(state)
    if blocked is not None:
        return "False", blocked[0], blocked[1]
    if state.is_paused:
        return "Unknown", Reason.PAUSED, "Reconciliation is paused (spec.paused is true)."
    if state.waiting is not None and state.waiting.is_of_spec:
        return "False", state.waiting.reason, state.waiting.text
    pods = [pod for pod in state.pods if has_config(pod)]
    if not pods:
        return "False", Reason.NO_PODS, "There are no pods."
    outdated = [pod.name for pod in pods if pod.name in state.outdated]
    count = f"{len(pods) - len(outdated)} of {len(pods)} pods use the newest configuration"
    if outdated:
        outdated.sort(key=lambda name: not state.outdated[name].is_rejected)
        reasons = some([f"{name} {_continued(state.outdated[name])}" for name in outdated])
        return "False", Reason.APPLYING, f"{count}; {reasons}."
    partly = _partly_applied(state)
    if partly is not None:
        return "False", *partly
    if not (state.edges.is_replaced and state.routers.is_replaced):
        return "False", Reason.APPLYING, f"{count}; a rollout is in progress."
    if state.store_progress:
        return "False", Reason.APPLYING, f"{count}; {state.store_progress}."
    return "True", Reason.APPLIED, f"{count}."


def _continued(outdated: Outdated) -> str:
    return f"rejects it: {outdated.text}" if outdated.is_rejected else outdated.text
