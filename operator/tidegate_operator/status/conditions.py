"""The status of a broker: conditions with a closed set of reasons, and what to do about them.

Pure: made from a ``BrokerState``, the status before, and the time. Called by ``reconcile``. The
messages say what is wrong, where, and what to do; docs/kubernetes.md lists the reasons.

A refused spec does not change what runs, so ``Ready`` stays True, of the generation before: it is
``Degraded`` and ``Stalled``, and ``ConfigApplied`` is False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.live_state import Workload, has_no_pods, timestamp
from tidegate_operator.pods.config_state import Outdated, has_config
from tidegate_operator.replicas.condition import lasting_problem, store_replicated
from tidegate_operator.spec.routes import OF_CONSOLE
from tidegate_operator.spec.status import (
    MAX_MESSAGE,
    STORE_REPLICATED,
    BrokerStatus,
    Condition,
    ConditionType,
    PodsStatus,
    Reason,
)
from tidegate_operator.status import (
    blocking,
    degraded_condition,
    kstatus,
    listener_status,
    progressing_condition,
    ready_condition,
)
from tidegate_operator.status.broker_state import BrokerState, Value, some, time_text
from tidegate_operator.status.certificate_condition import certificates_ready

#: How long pods may not be creatable before that is reported: quotas and ServiceAccounts are
#: eventually consistent.
PATIENCE: Final = timedelta(seconds=5)


def status(state: BrokerState, before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return the new status. ``lastTransitionTime`` is kept while a condition's status is."""
    state = replace(
        state,
        edges=_ignore_short_failure(state.edges, now),
        routers=_ignore_short_failure(state.routers, now),
        console=None if state.console is None else _ignore_short_failure(state.console, now),
    )
    old = {condition["type"]: condition for condition in (before or {}).get("conditions") or []}
    state = replace(state, redis=_store_without_pod(state, old.get("Ready", {}), now))
    replicated = store_replicated(state.redis, state.pods, state.servers)
    problem = lasting_problem(replicated, old.get(STORE_REPLICATED, {}), now)
    ready, progressing = ready_condition.ready(state), progressing_condition.progressing(state)
    degraded = degraded_condition.degraded(state, problem)
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
            "console": _console(state),
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
    is_previous = kind == "Ready" and state.has_workloads and blocking.blocked(state) is not None
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


def _console(state: BrokerState) -> dict[str, Any] | None:
    if state.console is None or state.spec is None:
        return None
    console = state.spec.console
    service = names.workload(state.name, "console")
    token = names.console_token(state.name) if console.has_own_token else ""
    certificate = state.console_certificate
    return {
        "service": f"{service}:{console.exposed_port}",
        "tokenSecret": token,
        "desired": state.console.desired,
        "ready": state.console.ready,
        "route": state.routes.get(OF_CONSOLE),
        "certificateNotAfter": None if certificate is None else time_text(certificate.not_after),
    }


def _backups(state: BrokerState) -> dict[str, Any] | None:
    if state.backups is None:
        return None
    return {
        "lastSuccessful": state.backups.last_successful,
        "lastFailed": state.backups.last_failed,
        "nextTime": state.backups.next_time,
    }


def _ignore_short_failure(workload: Workload, now: datetime) -> Workload:
    """Return a workload without a failure to create pods that is younger than ``PATIENCE``."""
    since = workload.failure_since
    is_lasting = since is None or now - since >= PATIENCE
    return workload if is_lasting else replace(workload, failure="")


def _store_without_pod(
    state: BrokerState, ready: Mapping[str, Any], now: datetime
) -> Workload | None:
    """Return the store; with a failure if it has had no pod to be ready for ``PATIENCE``, or if it
    will have none."""
    store, since = state.redis, timestamp(ready.get("lastTransitionTime"))
    if store is None or not has_no_pods(store, state.pods):
        return store
    if ready.get("status") != "False" or since is None:
        return store
    # Events stay for an hour: one of an earlier failure says nothing of this one. Clocks differ.
    found = state.creation_failure
    if found is not None and (found.last is None or found.last < since - PATIENCE):
        found = None
    if now - since < PATIENCE and not (found is not None and found.is_final):
        return store
    name = names.workload(state.name, "redis")
    general = (
        f"kubectl describe statefulset {name} says why (a quota, a PriorityClass or a "
        "ServiceAccount that does not exist, an admission webhook)"
    )
    reason = general if found is None else found.text
    return replace(store, failure=f"StatefulSet {name} makes no pod: {reason}")


# ConfigApplied


def _config_applied(state: BrokerState) -> Value:
    blocked = blocking.blocked(state)
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
    partly = blocking.partly_applied(state)
    if partly is not None:
        return "False", *partly
    rolling = [name for name, workload in state.workloads if not workload.is_up_to_date]
    if rolling:
        text = f"{count}; the rollout of {' and '.join(rolling)} is in progress."
        return "False", Reason.APPLYING, text
    if state.store_progress:
        return "False", Reason.APPLYING, f"{count}; {state.store_progress}."
    return "True", Reason.APPLIED, f"{count}."


def _continued(outdated: Outdated) -> str:
    return f"rejects it: {outdated.text}" if outdated.is_rejected else outdated.text
