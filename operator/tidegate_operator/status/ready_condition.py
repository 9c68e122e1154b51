"""The condition Ready: whether clients can connect, and what is missing. Pure.

Called by ``conditions`` and ``degraded_condition``.
"""

from __future__ import annotations

from tidegate_operator.live_state import Workload
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.status import Reason
from tidegate_operator.status import blocking
from tidegate_operator.status.broker_state import BrokerState, Value
from tidegate_operator.status.failures import restore_reason


def ready(state: BrokerState) -> Value:
    """Return Ready."""
    nothing = _nothing_created(state)
    if nothing is not None:
        return nothing
    edges, routers, redis = state.edges, state.routers, state.redis
    if redis is not None and redis.ready == 0:
        is_lost = any(pod.lost_node for pod in state.pods if pod.component == "redis")
        check = "" if is_lost or redis.failure else " Check its pod and its PersistentVolumeClaim."
        return (
            "False",
            Reason.STORE_NOT_READY,
            f"The bundled store is not ready{_why(state, 'redis')}; new connections are rejected."
            f"{check}",
        )
    if state.restore is not None and not state.restore.is_over:
        return "False", restore_reason(state.restore), state.restore.message
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


def _nothing_created(state: BrokerState) -> Value | None:
    """Return why nothing of the broker exists; None if there is something, or soon will be."""
    if state.has_workloads:
        return None
    if state.is_paused:
        return "False", Reason.PAUSED, "Nothing is created: spec.paused is true."
    blocked = blocking.blocked(state)
    if blocked is None:
        return None
    pending = blocking.only_waits_for_certificates(state)
    reason = Reason.WAITING_FOR_CERTIFICATES if pending else blocked[0]
    return "False", reason, f"No pods have been created. {blocked[1]}"


def _unprotected(state: BrokerState) -> str:
    """Return a sentence about missing access rules, "" if there are some.

    Those of a spec that is refused are not in force, and those of the one before are.
    """
    spec = state.spec
    is_wanted = spec is not None and spec.acl is not None
    listeners = () if spec is None else spec.listeners
    open_ones = state.unprotected
    if open_ones is None:
        open_ones = [one.name for one in listeners if not is_wanted and one.acl is None]
    if not open_ones:
        return ""
    why = "spec.acl is not in use, see Degraded" if is_wanted else "spec.acl is not set"
    if spec is None or len(open_ones) == len(listeners):
        return f" No ACL is in force ({why}): clients may use every topic."
    return (
        f" No ACL is in force for listener {', '.join(open_ones)} ({why}): its clients may use "
        "every topic."
    )


def _previous_spec(state: BrokerState) -> str:
    """Return a sentence about a refused spec, "" if the newest one is in use."""
    blocked = blocking.blocked(state)
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
    parts = {"edge": state.edges, "router": state.routers, "redis": state.redis}
    workload = parts.get(component)
    return f" ({workload.failure})" if workload is not None and workload.failure else ""
