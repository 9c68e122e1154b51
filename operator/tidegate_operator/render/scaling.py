"""HorizontalPodAutoscalers and PodDisruptionBudgets. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tidegate_operator import names
from tidegate_operator.names import Component
from tidegate_operator.render.inputs import Broker, Inputs, Manifest
from tidegate_operator.spec.fields import count_or_percent
from tidegate_operator.spec.workloads import (
    Autoscaling,
    DisruptionBudget,
    EdgeAutoscaling,
)

CONNECTIONS_METRIC: Final = "tidegate_connections_open"


def scaling(inputs: Inputs) -> Iterator[Manifest]:
    """Yield budgets and autoscalers of edges and routers."""
    broker, spec = inputs.broker, inputs.spec
    yield budget(broker, "edge", spec.edge.disruption_budget)
    yield budget(broker, "router", spec.router.disruption_budget)
    if spec.edge.autoscaling is not None:
        yield _autoscaler(broker, "edge", spec.edge.autoscaling)
    if spec.router.autoscaling is not None:
        yield _autoscaler(broker, "router", spec.router.autoscaling)


def budget(broker: Broker, component: Component, wanted: DisruptionBudget | None) -> Manifest:
    """Return the PodDisruptionBudget of a component; by default one pod may be evicted."""
    spec: Manifest = {
        "selector": {"matchLabels": names.selector(broker.name, component)},
        # Without the store no pod is ready, and the store may need the node that is drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    if wanted is not None and wanted.min_available is not None:
        spec["minAvailable"] = count_or_percent(wanted.min_available)
    elif wanted is not None and wanted.max_unavailable is not None:
        spec["maxUnavailable"] = count_or_percent(wanted.max_unavailable)
    else:
        spec["maxUnavailable"] = 1
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": broker.metadata(names.workload(broker.name, component), component),
        "spec": spec,
    }


def _autoscaler(broker: Broker, component: Component, autoscaling: Autoscaling) -> Manifest:
    name = names.workload(broker.name, component)
    metrics: list[Manifest] = [
        {
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": {
                    "type": "Utilization",
                    "averageUtilization": autoscaling.target_cpu_percent,
                },
            },
        }
    ]
    if isinstance(autoscaling, EdgeAutoscaling) and autoscaling.target_connections is not None:
        metrics.append(
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": CONNECTIONS_METRIC},
                    "target": {
                        "type": "AverageValue",
                        "averageValue": str(autoscaling.target_connections),
                    },
                },
            }
        )
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": broker.metadata(name, component),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": metrics,
            "behavior": {
                # One at a time: the clients of a removed edge reconnect to the others.
                "scaleDown": {
                    "stabilizationWindowSeconds": autoscaling.scale_down_stabilization_s,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                }
            },
        },
    }
