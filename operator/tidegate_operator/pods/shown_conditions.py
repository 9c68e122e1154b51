"""What the pods of a console are given of the status of their broker: an annotation of theirs.

Called by ``reconcile``, after the status was made. The kubelet writes the annotation into a file of
the pod, so that the console needs no right to the API server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tidegate_operator import names
from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.live_state import Pod
from tidegate_operator.names import BrokerKey

log = logging.getLogger(__name__)

_SHOWN = ("type", "status", "reason", "message", "lastTransitionTime")


async def show_conditions(
    cluster: Cluster,
    broker: BrokerKey,
    generation: int,
    pods: Sequence[Pod],
    status: Mapping[str, Any],
) -> None:
    """Annotate the pods of the console that have not got this status yet."""
    wanted = [pod for pod in pods if pod.component == "console" and not pod.is_terminating]
    if not wanted:
        return
    text = conditions_text(broker, generation, status)
    for pod in wanted:
        if pod.conditions == text:
            continue
        try:
            await cluster.annotate_pod(broker[0], pod.name, pod.uid, text, names.CONDITIONS)
        except KubeError as error:
            # The pod is gone, or the operator lacks the right: its page shows the ones before.
            log.info("pod annotation failed", extra={"pod": pod.name, "reason": str(error)})


def conditions_text(broker: BrokerKey, generation: int, status: Mapping[str, Any]) -> str:
    """Return the annotation; ``tidegate.console.resource`` reads it."""
    namespace, name = broker
    return json.dumps(
        {
            "name": name,
            "namespace": namespace,
            "generation": generation,
            "observedGeneration": status.get("observedGeneration", 0),
            "lastSeen": status.get("lastSeen", ""),
            "conditions": [
                {key: condition.get(key, "") for key in _SHOWN}
                for condition in status.get("conditions") or []
            ],
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )
