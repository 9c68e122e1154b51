"""Replaces the pods of a replicated store, one by one: ``replicas.rollout`` says which is next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tidegate_operator.kube.interface import Cluster
from tidegate_operator.live_state import Pod
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest
from tidegate_operator.replicas.rollout import replacement
from tidegate_operator.replicas.servers import StoreServer

log = logging.getLogger(__name__)


async def replace_servers(
    cluster: Cluster,
    broker: BrokerKey,
    stateful_set: Manifest | None,
    pods: Sequence[Pod],
    servers: Mapping[str, StoreServer],
    *,
    is_last: bool,
) -> str:
    """Delete the pods that are next; return what the others wait for, "" if there are none."""
    found = replacement(stateful_set, pods, servers, is_last=is_last)
    for pod in found.pods:
        await cluster.delete(ObjectRef("v1", "Pod", pod.name), broker[0], pod.uid)
        log.info(
            "pod of the store is replaced",
            extra={"namespace": broker[0], "broker": broker[1], "pod": pod.name},
        )
    waits = [found.waits, *(f"pod {pod.name} of the store is replaced" for pod in found.pods)]
    return "; ".join(filter(None, waits))
