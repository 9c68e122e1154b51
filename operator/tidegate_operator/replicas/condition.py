"""The condition StoreReplicated: whether the store survives the loss of any one node. Pure.

Called by ``status.conditions``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.replicas.servers import StoreServer, store_pods
from tidegate_operator.spec.status import Reason

#: How long replicas may not be in step: a pod that is replaced copies everything.
PATIENCE: Final = timedelta(minutes=3)
#: Status, reason and message of a condition.
Value = tuple[str, Reason, str]


def store_replicated(
    workload: Workload | None, pods: Sequence[Pod], servers: Mapping[str, StoreServer] | None
) -> Value | None:
    """Return status, reason and message; None for a store that is not replicated. ``servers`` are
    by the name of the pod."""
    if servers is None or workload is None or not workload.exists:
        return None
    if workload.desired == 1:
        return "False", Reason.NOT_REPLICATED, "The store is being reduced to one server."
    return _of_servers(workload.desired, store_pods(pods), servers)


def lasting_problem(value: Value | None, last: Mapping[str, Any], now: datetime) -> str:
    """Return what is wrong for longer than ``PATIENCE``, "" if nothing is. ``last``: the condition
    before. A shared node is none: small clusters have no other."""
    is_wrong = value is not None and value[0] == "False" and value[1] != Reason.SHARED_NODE
    if value is None or not is_wrong or last.get("status") != "False":
        return ""
    since = datetime.fromisoformat(last["lastTransitionTime"])
    return value[2] if now - since >= PATIENCE else ""


def _of_servers(count: int, own: Sequence[Pod], servers: Mapping[str, StoreServer]) -> Value:
    if not servers:
        return (
            "Unknown",
            Reason.NOT_REPORTED,
            "No server of the store reports: the operator cannot reach port 18083 of its pods, or "
            f"none runs{_failures(own)}.",
        )
    primary = next((name for name, server in sorted(servers.items()) if server.is_primary), "")
    if not primary:
        return (
            "False",
            Reason.NO_PRIMARY,
            "No server of the store is the primary: durable publishes wait, and new connections "
            "are rejected, until Sentinel has promoted one. That takes about 8 seconds, and needs "
            f"two running pods of three{_failures(own)}.",
        )
    found = servers[primary]
    if found.in_sync < count - 1:
        return "False", Reason.NOT_REPLICATED, _not_replicated(count, primary, own, servers)
    shared = _shared_node(own)
    if shared:
        return (
            "False",
            Reason.SHARED_NODE,
            f"All servers are in step, but {shared}: the loss of that node can stop the store. Add "
            "nodes that its pods fit on, then delete one of these pods.",
        )
    return (
        "True",
        Reason.REPLICATED,
        f"{found.in_sync} replicas are in step with the primary {primary} (last confirmation "
        f"{found.lag_s} s ago, {found.behind_bytes} bytes behind), each on a node of its own.",
    )


def _not_replicated(
    count: int, primary: str, pods: Sequence[Pod], servers: Mapping[str, StoreServer]
) -> str:
    found = servers[primary]
    late = [
        pod.name
        for pod in pods
        if pod.name != primary and not servers.get(pod.name, StoreServer()).link_up
    ]
    what = f"{found.in_sync} of {count - 1} replicas are in step with the primary {primary}"
    which = f" (not {' and '.join(late)})" if late else ""
    effect = (
        "Clients are served; the loss of another server stops durable publishes"
        if found.in_sync
        else "Durable publishes wait unacknowledged until one is"
    )
    waits = "; ".join(
        f"{name}: {server.waits}" for name, server in sorted(servers.items()) if server.waits
    )
    more = f" {waits}." if waits else ""
    return f"{what}{which}. {effect}{_failures(pods)}.{more}"


def _failures(pods: Sequence[Pod]) -> str:
    failing = [f"{pod.name}: {pod.failure}" for pod in pods if pod.failure]
    return f" ({'; '.join(failing)})" if failing else ""


def _shared_node(pods: Sequence[Pod]) -> str:
    """Return which pods are on the same node, "" if none are."""
    counts = Counter(pod.node for pod in pods if pod.node and not pod.is_terminating)
    for node, count in sorted(counts.items()):
        if count > 1:
            shared = [pod.name for pod in pods if pod.node == node]
            return f"{' and '.join(shared)} share node {node}"
    return ""
