"""Which pods of a replicated store are replaced next: replicas first, the primary last. Pure.

Their StatefulSet does not replace pods by itself (OnDelete). A pod that is deleted hands over
first, if its server is the primary. Called by ``reconcile``, which deletes the pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate_operator.live_state import Pod, template_hash
from tidegate_operator.replicas.servers import StoreServer, is_replicated, store_pods


@dataclass(slots=True, frozen=True)
class Replacement:
    """``pods``: to be deleted now. ``waits``: what the others wait for, "" if there are none."""

    pods: Sequence[Pod] = ()
    waits: str = ""


def replacement(
    stateful_set: Mapping[str, Any] | None,
    pods: Sequence[Pod],
    servers: Mapping[str, StoreServer],
    *,
    is_last: bool,
) -> Replacement:
    """Return the next step. ``servers`` are by the name of the pod; ``is_last``: whether edges and
    routers serve with what they are to have."""
    if stateful_set is None or not is_replicated(stateful_set):
        return Replacement()
    if (stateful_set["spec"].get("updateStrategy") or {}).get("type") != "OnDelete":
        # It is about to be created again as that of a replicated store.
        return Replacement()
    status: Mapping[str, Any] = stateful_set.get("status") or {}
    revision = status.get("updateRevision", "")
    if status.get("observedGeneration", 0) < stateful_set["metadata"].get("generation", 0):
        return Replacement()
    own = store_pods(pods)
    outdated = [pod for pod in own if pod.revision != revision and not pod.is_terminating]
    if not revision or not outdated:
        return Replacement()
    # Servers with another password can neither follow the primary nor be followed.
    wanted_hash = template_hash(stateful_set)
    apart = [pod for pod in outdated if pod.has_admin_port and pod.restart_hash != wanted_hash]
    if apart:
        return Replacement(apart)
    return _next(stateful_set["spec"].get("replicas", 1), own, outdated, servers, is_last=is_last)


def _next(
    count: int,
    own: Sequence[Pod],
    outdated: Sequence[Pod],
    servers: Mapping[str, StoreServer],
    *,
    is_last: bool,
) -> Replacement:
    """Return one pod to replace, if all servers are in step."""
    primaries = {name for name, server in servers.items() if server.role == "primary"}
    useless = [pod for pod in outdated if not pod.is_ready and pod.name not in primaries]
    if useless:
        return Replacement(useless[:1])
    if len(own) < count or any(pod.is_terminating for pod in own):
        return Replacement(waits="the next pod of the store waits for one that is being replaced")
    late = [pod.name for pod in own if not pod.is_ready]
    if late:
        return Replacement(
            waits=f"the next pod of the store waits until {' and '.join(late)} is in step"
        )
    if not is_last:
        return Replacement(waits="pods of the store wait until edges and routers serve")
    replicas = [pod for pod in outdated if _role(pod, servers) == "replica"]
    if replicas:
        return Replacement(replicas[-1:])
    if any(server.replicas < count - 1 for server in servers.values()):
        return Replacement(waits="the primary's pod waits until Sentinel knows all replicas")
    # The last one, or one that does not report although it is ready.
    return Replacement(outdated[:1])


def _role(pod: Pod, servers: Mapping[str, StoreServer]) -> str:
    found = servers.get(pod.name)
    return "" if found is None else found.role
