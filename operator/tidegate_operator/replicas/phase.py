"""From three servers to one, without loss: which spec is rendered meanwhile. Pure.

1. All three run on; the first one is made the primary (``wanted_primary``).
2. Only the first one is left, still with the settings of a replicated store: nothing is written,
   and nobody could be promoted any more.
3. It is the primary: it becomes a single server. Otherwise there has been a failover: back to 1.

From one to three needs no steps: replicas join the first server while it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.live_state import Pod
from tidegate_operator.replicas.servers import StoreServer, is_replicated, store_pods
from tidegate_operator.spec.broker import MqttBrokerSpec

_COUNT: Final = 3


@dataclass(slots=True, frozen=True)
class Phase:
    """What to render: ``pods`` and ``wanted_primary`` are of ``render.Inputs``; ``waits`` says what
    the change waits for, "" without one."""

    spec: MqttBrokerSpec
    pods: int | None = None
    wanted_primary: str = ""
    waits: str = ""


def phase(
    name: str,
    namespace: str,
    spec: MqttBrokerSpec,
    stateful_set: Mapping[str, Any] | None,
    pods: Iterable[Pod],
    servers: Mapping[str, StoreServer],
) -> Phase:
    """Return what to render now. ``servers`` are by the name of the pod."""
    if spec.redis.own is None or spec.redis.own.replicas > 1 or not is_replicated(stateful_set):
        return Phase(spec)
    assert stateful_set is not None
    first = f"{names.workload(name, 'redis')}-0"
    server = servers.get(first, StoreServer())
    is_alone = stateful_set["spec"].get("replicas") == 1
    others = [pod.name for pod in store_pods(pods) if pod.name != first]
    if is_alone and not others and server.is_primary:
        return Phase(spec)
    bundled = spec.redis.own.model_copy(update={"replicas": _COUNT})
    redis = spec.redis.model_copy(update={"bundled": bundled})
    kept = spec.model_copy(update={"redis": redis})
    host = names.store_members(name, namespace, 1)[0]
    if server.is_primary or (is_alone and server.role != "replica"):
        return Phase(kept, 1, host, f"the store is reduced to pod {first}: its replicas end")
    return Phase(
        kept,
        _COUNT,
        host,
        f"the store is reduced to one server once pod {first} is the primary; it must be in step "
        "with the present one for that",
    )
