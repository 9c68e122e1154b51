"""What runs: the Deployments of edges and routers, and their configuration.

Routers are a Deployment too: they hold nothing that has to be found again after a restart, a new
one is there before an old one goes, and a node that is lost takes no name with it (docs/adr/0010).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from tidegate.runtime.config.model import Config
from tidegate_operator import names
from tidegate_operator.names import LINK_PORT, Component
from tidegate_operator.render.broker_config import (
    BUNDLED_PASSWORD,
    as_yaml,
    edge_config,
    router_config,
)
from tidegate_operator.render.inputs import Inputs, Manifest
from tidegate_operator.render.pod_template import (
    MARGIN_S,
    grace_period_s,
    process_container,
    process_volumes,
    template,
)
from tidegate_operator.render.restart_hash import restart_hash
from tidegate_operator.secrets.certificates import KeyPair
from tidegate_operator.secrets.owned_secrets import OwnedSecrets
from tidegate_operator.spec.workloads import Autoscaling, EdgeSpec, RouterSpec

#: How long a rollout may stand still before it counts as failed.
PROGRESS_DEADLINE_S: Final = 600
_KEPT_REVISIONS: Final = 3


def edge(inputs: Inputs) -> Iterator[Manifest]:
    """Yield what edges need, in the order in which it is needed."""
    settings = inputs.spec.edge
    config = edge_config(inputs.broker)
    grace_s = grace_period_s(settings.drain.deadline_s, settings.shutdown_timeout_s)
    _hold_deadlines(config, inputs, grace_s)
    yield from _configuration(
        inputs, "edge", config, edge_files(inputs.owned_secrets, inputs.collected.edge)
    )
    yield _deployment(inputs, "edge", settings, config, grace_s)


def _hold_deadlines(config: dict[str, Any], inputs: Inputs, grace_s: int) -> None:
    """Keep the end of edges that are there within the grace period that they were made with.

    Pods that have longer take their place; when none of the others is left, all get what is wanted.
    """
    settings, there_s = inputs.spec.edge, inputs.edge_grace_s
    is_overridden = "terminationGracePeriodSeconds" in settings.pod_template.get("spec", {})
    if there_s is None or there_s >= grace_s or is_overridden:
        return
    drain = settings.drain
    room_s = max(2.0, float(there_s - MARGIN_S))
    # Clients that go need their time; what comes after them seldom needs more than is usual.
    usual_s = max(Config().shutdown_timeout_s, room_s - drain.deadline_s)
    shutdown_s = min(settings.shutdown_timeout_s, usual_s, room_s / 2)
    deadline_s = min(drain.deadline_s, room_s - shutdown_s)
    # Who waits to the deadline has no time left to let clients go one after the other.
    delay_s = min(drain.delay_s, deadline_s / 2)
    if shutdown_s < settings.shutdown_timeout_s:
        config["shutdown_timeout_s"] = shutdown_s
    if deadline_s < drain.deadline_s:
        config["drain"]["deadline_s"] = deadline_s
    if delay_s < drain.delay_s:
        config["drain"]["delay_s"] = delay_s


def router(inputs: Inputs) -> Iterator[Manifest]:
    """Yield what routers need, in the order in which it is needed."""
    settings = inputs.spec.router
    config = router_config(inputs.broker)
    # A router lets its edges go first, for no longer than its own timeout.
    drain_s = float(Config().drain.deadline_s)
    leave_s = min(drain_s, settings.shutdown_timeout_s)
    grace_s = grace_period_s(leave_s, settings.shutdown_timeout_s)
    files = dict(inputs.old_router_files)
    files |= router_files(inputs.owned_secrets, inputs.collected.router)
    if inputs.spec.redis.own is not None:
        files[BUNDLED_PASSWORD] = inputs.owned_secrets.redis_password
    yield from _configuration(inputs, "router", config, files)
    yield _deployment(inputs, "router", settings, config, grace_s)


def edge_files(owned_secrets: OwnedSecrets, collected: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that edges read: their Secret's data."""
    found = dict(collected)
    for name, pair in owned_secrets.listener_pairs.items():
        found[f"listener.{name}.crt"] = pair.certificate
        found[f"listener.{name}.key"] = pair.key
    return found | _own_files(owned_secrets, owned_secrets.edge_link)


def router_files(owned_secrets: OwnedSecrets, collected: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that routers read: their Secret's data."""
    return dict(collected) | _own_files(owned_secrets, owned_secrets.router_link)


def _own_files(owned_secrets: OwnedSecrets, pair: KeyPair) -> dict[str, bytes]:
    return {
        "link.crt": pair.certificate,
        "link.key": pair.key,
        "link-ca.crt": owned_secrets.link.bundle,
        "admin-token": owned_secrets.admin_token,
    }


def _configuration(
    inputs: Inputs, component: Component, config: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Manifest]:
    broker = inputs.broker
    metadata = broker.metadata(names.workload(broker.name, component), component)
    yield broker.secret(names.workload(broker.name, component), component, files)
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {names.CONFIG_FILE: as_yaml(config)},
    }


def _deployment(
    inputs: Inputs,
    component: Literal["edge", "router"],
    settings: EdgeSpec | RouterSpec,
    config: dict[str, Any],
    grace_s: int,
) -> Manifest:
    broker = inputs.broker
    container = process_container(inputs, component, settings)
    if component == "router":
        container["ports"].append({"name": "link", "containerPort": LINK_PORT, "protocol": "TCP"})
    spec: Manifest = {
        "replicas": initial_replicas(settings.replicas, settings.autoscaling),
        "revisionHistoryLimit": _KEPT_REVISIONS,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
        "selector": {"matchLabels": names.selector(broker.name, component)},
        # A new pod is ready before an old one is told to go.
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0},
        },
        "template": template(
            inputs,
            component,
            settings,
            container,
            process_volumes(broker, component),
            grace_s,
            {names.RESTART_HASH: restart_hash(config, component)},
        ),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": broker.metadata(names.workload(broker.name, component), component),
        "spec": spec,
    }


def initial_replicas(replicas: int, autoscaling: Autoscaling | None) -> int:
    """Return how many pods there are to begin with (see ``plan.keep_replicas``)."""
    return replicas if autoscaling is None else autoscaling.min_replicas
