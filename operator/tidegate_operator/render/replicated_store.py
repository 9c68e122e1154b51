"""What a replicated bundled store has beyond a single server: Sentinel beside each. Pure.

Called by ``bundled_store``. The process in the second container (``store_member``) writes the
server's configuration at each start, so nothing here says which server is the primary.
"""

from __future__ import annotations

import json
from typing import Final

from tidegate_operator import names
from tidegate_operator.names import (
    ADMIN_PORT,
    CONFIG_DIR,
    FILES_DIR,
    SENTINEL_PORT,
    STORE_DATA_DIR,
    STORE_MEMBER_FILE,
    STORE_RUN_DIR,
)
from tidegate_operator.render.inputs import Broker, Inputs, Manifest
from tidegate_operator.render.pod_template import container_security, image, probe
from tidegate_operator.spec.workloads import BundledRedis

#: The container with Sentinel.
SENTINEL: Final = "sentinel"
START: Final = "start.sh"
STOP: Final = "stop.sh"
#: Time for a primary to hand over before it shuts down.
HAND_OVER_S: Final = 20
#: Age of a replica's last confirmation from which it does not count. No longer than Sentinel waits
#: before it promotes another server: a primary that is cut off stops accepting writes before that.
MAX_LAG_S: Final = 5
#: What a replica may miss and still continue without a full copy.
BACKLOG_BYTES: Final = 32 * 1024 * 1024

#: Sentinel does nothing else while it resolves a name.
DNS_CONFIG: Final[Manifest] = {
    "options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "2"}]
}
UPDATE_STRATEGY: Final[Manifest] = {"type": "OnDelete"}
#: Guaranteed: a server is not evicted because its node is short of memory.
SERVER_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "1", "memory": "2Gi"},
    "limits": {"cpu": "1", "memory": "2Gi"},
}
_SENTINEL_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "100m", "memory": "128Mi"},
}

_START_SCRIPT: Final = f"""\
# Starts the server once the container {SENTINEL} has written with which role.
set -eu
run=${{1:-{STORE_RUN_DIR}}}
server=${{2:-valkey-server}}
rm -f "$run/server.conf" "$run/stopping" "$run/may-stop"
: > "$run/starting"
until [ -s "$run/server.conf" ]; do sleep 0.1; done
exec "$server" "$run/server.conf"
"""
_STOP_SCRIPT: Final = f"""\
# Before the server is stopped: a primary hands over to a replica that has everything.
run=${{1:-{STORE_RUN_DIR}}}
: > "$run/stopping"
left={HAND_OVER_S * 5}
until [ -e "$run/may-stop" ] || [ "$left" -le 0 ]; do
  sleep 0.2
  left=$((left - 1))
done
"""


def settings_lines() -> list[str]:
    """Return what is in the server's configuration besides that of a single server."""
    return [
        # A primary that no replica follows accepts no writes: it may have been replaced.
        "min-replicas-to-write 1",
        f"min-replicas-max-lag {MAX_LAG_S}",
        f"repl-backlog-size {BACKLOG_BYTES}",
        "repl-diskless-sync-delay 0",
        "repl-ping-replica-period 1",
        "repl-timeout 20",
    ]


def files(inputs: Inputs) -> dict[str, str]:
    """Return what the ConfigMap of the store has besides the server's configuration."""
    return {
        START: _START_SCRIPT,
        STOP: _STOP_SCRIPT,
        STORE_MEMBER_FILE: json.dumps(
            {
                "members": members(inputs.broker),
                "wanted_primary": inputs.wanted_primary,
            }
        ),
    }


def members(broker: Broker) -> list[str]:
    """Return the host names of all servers."""
    bundled = broker.spec.redis.own
    assert bundled is not None
    return names.store_members(broker.name, broker.namespace, bundled.replicas)


def extend_container(container: Manifest) -> None:
    """Change the container of a single server to one of several."""
    container["command"] = ["/bin/sh", f"{CONFIG_DIR}/{START}"]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", f"{CONFIG_DIR}/{STOP}"]}}}
    # The port is closed while the server waits for its role, and open while it hangs.
    container["livenessProbe"] = probe("/serverz", 20, 5, 3)
    container["volumeMounts"].append({"name": "run", "mountPath": STORE_RUN_DIR})


def sentinel_container(inputs: Inputs) -> Manifest:
    """Return the container of Sentinel; its pod is ready while the server is in step."""
    return {
        "name": SENTINEL,
        **image(inputs),
        "command": ["python", "-m", "tidegate_operator.store_member", "--name", "$(POD_NAME)"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [
            {"name": "sentinel", "containerPort": SENTINEL_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": probe("/readyz", 2, 2, 4),
        "livenessProbe": probe("/livez", 10, 5, 6),
        "resources": _SENTINEL_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "files", "mountPath": FILES_DIR, "readOnly": True},
            {"name": "data", "mountPath": STORE_DATA_DIR},
            {"name": "run", "mountPath": STORE_RUN_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
        ],
    }


def run_volume() -> Manifest:
    """Return the directory that both containers use. In memory: a file in it has the password."""
    return {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}


def spread(broker: Broker, settings: BundledRedis) -> BundledRedis:
    """Return settings by which pods prefer nodes without another one, unless they say others."""
    if settings.affinity is not None:
        return settings
    term = {
        "labelSelector": {"matchLabels": names.selector(broker.name, "redis")},
        "topologyKey": "kubernetes.io/hostname",
    }
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    rules = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return settings.model_copy(update={"affinity": rules})


def extend_service(spec: Manifest) -> None:
    """Publish servers before they are ready: they find each other by these names."""
    spec["publishNotReadyAddresses"] = True
    spec["ports"].append(
        {
            "name": "sentinel",
            "port": SENTINEL_PORT,
            "targetPort": SENTINEL_PORT,
            "protocol": "TCP",
        }
    )


def budget(broker: Broker) -> Manifest:
    """Return the PodDisruptionBudget: two servers in step are left, always."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": broker.metadata(names.workload(broker.name, "redis"), "redis"),
        "spec": {
            "selector": {"matchLabels": names.selector(broker.name, "redis")},
            "maxUnavailable": 1,
        },
    }
