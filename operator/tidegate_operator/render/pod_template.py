"""Pod templates: the common part of all pods of a broker. Pure.

They meet the restricted Pod Security Standard of Kubernetes: no root, no privileges, a read-only
root file system, no token of the API server.
"""

from __future__ import annotations

import math
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.names import ADMIN_PORT, CONFIG_DIR, FILES_DIR, Component
from tidegate_operator.render.inputs import Broker, Inputs, Manifest, Settings
from tidegate_operator.render.merge import merged
from tidegate_operator.spec.workloads import PodSettings

#: User and group of the image, and of mounted files.
USER: Final = 65532
#: Margin between the last deadline of a process and SIGKILL.
MARGIN_S: Final = 5
#: Grace periods are rounded up to these.
GRACE_STEPS_S: Final = (30, 90, 180, 300, 600, 1200, 1800, 3600)
CONTAINER: Final = "tidegate"

#: No CPU limit: a throttled event loop misses deadlines.
DEFAULT_RESOURCES: Final[dict[Component, Manifest]] = {
    "edge": {
        "requests": {"cpu": "250m", "memory": "256Mi"},
        "limits": {"memory": "1Gi"},
    },
    "router": {
        "requests": {"cpu": "250m", "memory": "256Mi"},
        "limits": {"memory": "1Gi"},
    },
    "console": {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "512Mi"},
    },
    "redis": {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"memory": "2Gi"},
    },
}


def grace_period_s(*parts_s: float) -> int:
    """Return the seconds from SIGTERM to SIGKILL that a process needs in the worst case, rounded up
    because processes reload deadlines, and grace periods of running pods are immutable."""
    needed_s = math.ceil(sum(parts_s)) + MARGIN_S
    return next((step_s for step_s in GRACE_STEPS_S if step_s >= needed_s), needed_s)


def image(inputs: Inputs) -> Manifest:
    """Return the image of edges and routers, and its pull policy."""
    spec = inputs.spec
    fields: Manifest = {"image": spec.image or inputs.settings.image}
    if spec.image_pull_policy is not None:
        fields["imagePullPolicy"] = spec.image_pull_policy
    return fields


def account_name(broker: Broker, component: Component, settings: PodSettings) -> str:
    """Return the ServiceAccount of a component's pods."""
    return settings.service_account_name or names.workload(broker.name, component)


def resources(component: Component, settings: PodSettings) -> Manifest:
    """Return the resources of the main container."""
    configured = settings.resources
    if configured is None:
        return DEFAULT_RESOURCES[component]
    return {
        key: dict(amounts)
        for key, amounts in (("requests", configured.requests), ("limits", configured.limits))
        if amounts
    }


def container_security() -> Manifest:
    """Return the security context of containers: the restricted standard, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def probe(path: str, period_s: int, timeout_s: int, failures: int) -> Manifest:
    """Return a probe of the admin port."""
    return {
        "httpGet": {"path": path, "port": ADMIN_PORT, "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def template(
    inputs: Inputs,
    component: Component,
    settings: PodSettings,
    containers: list[Manifest],
    volumes: list[Manifest],
    grace_s: int,
    annotations: dict[str, str],
) -> Manifest:
    """Return a pod template with ``podTemplate`` merged into it.

    Labels of the selector and the restart hash cannot be overridden.
    """
    broker, spec = inputs.broker, inputs.spec
    labels = names.labels(broker.name, component)
    if component in names.PROCESSES or (component == "redis" and spec.redis.is_replicated):
        labels[names.METRICS_LABEL] = "true"
    pod: Manifest = {
        "serviceAccountName": account_name(broker, component, settings),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_s,
        "securityContext": pod_security(inputs.settings),
        "containers": containers,
        "volumes": volumes,
        "topologySpreadConstraints": _spread(broker, component, settings),
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image_pull_secrets]
    for key, value in (
        ("nodeSelector", settings.node_selector),
        ("affinity", _affinity(broker, component, settings)),
        ("tolerations", settings.tolerations),
        ("priorityClassName", settings.priority_class_name),
    ):
        if value:
            pod[key] = value
    base = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    pod_template = merged(base, settings.pod_template)
    pod_template["metadata"] = merged(pod_template["metadata"], base["metadata"])
    return pod_template


def pod_security(settings: Settings) -> Manifest:
    """Return the security context of a pod: the restricted standard.

    OpenShift refuses users and groups outside the namespace's range, and sets those that are not
    given. Elsewhere, fsGroup is what makes volumes and Secrets accessible.
    """
    users = {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    return {
        "runAsNonRoot": True,
        **({} if settings.platform_sets_users else users),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _spread(broker: Broker, component: Component, settings: PodSettings) -> list[dict[str, Any]]:
    if settings.topology_spread_constraints is not None:
        return settings.topology_spread_constraints
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names.selector(broker.name, component)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def _affinity(broker: Broker, component: Component, settings: PodSettings) -> dict[str, Any] | None:
    """Return the affinity of the spec; without one, edges and routers prefer different nodes.

    Where nodes have no zones (no label), the scheduler leaves all ScheduleAnyway constraints of a
    pod out of account, those by host included; this one stays. The bundled store has one pod.
    """
    has_own = settings.affinity is not None or settings.topology_spread_constraints is not None
    if component == "redis" or has_own:
        return settings.affinity
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": names.selector(broker.name, component)},
    }
    wish = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wish}}


def process_container(inputs: Inputs, component: Component, settings: PodSettings) -> Manifest:
    """Return the container of an edge, a router or a console."""
    return {
        "name": CONTAINER,
        **image(inputs),
        "command": [
            "tidegate",
            component,
            "--config",
            f"{CONFIG_DIR}/{names.CONFIG_FILE}",
            # Stable over container restarts, so that a restarted router is recognized.
            "--name",
            "$(POD_NAME)",
        ],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        # Edges resolve only ready routers, and clients reach only ready edges: rollouts wait for
        # it.
        "readinessProbe": probe("/readyz", 2, 2, 4),
        "livenessProbe": probe("/livez", 10, 5, 6),
        "resources": resources(component, settings),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "files", "mountPath": FILES_DIR, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
        ],
    }


def process_volumes(broker: Broker, component: Component) -> list[Manifest]:
    """Return the volumes of an edge, a router or a console."""
    name = names.workload(broker.name, component)
    return [
        {"name": "config", "configMap": {"name": name}},
        # Readable by the pod's group only.
        {"name": "files", "secret": {"secretName": name, "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
