"""Deployments of edges and routers, and their ConfigMaps and Secrets. Pure.

Routers are a Deployment, not a StatefulSet: they have no local state, a rollout starts a new one
before it stops an old one, and no pod name is bound to a lost node (docs/adr/0010).
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

#: progressDeadlineSeconds of Deployments.
PROGRESS_DEADLINE_S: Final = 600
#: revisionHistoryLimit of Deployments.
REVISION_HISTORY: Final = 3


def edge(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the objects of edges, in the order in which they are applied."""
    settings = inputs.spec.edge
    config = edge_config(inputs.broker)
    grace_s = grace_period_s(settings.drain.deadline_s, settings.shutdown_timeout_s)
    _limit_deadlines(config, inputs, grace_s)
    yield from _config_objects(
        inputs, "edge", config, edge_files(inputs.owned_secrets, inputs.referenced_files.edge)
    )
    yield _deployment(inputs, "edge", settings, config, grace_s)


def _limit_deadlines(config: dict[str, Any], inputs: Inputs, grace_s: int) -> None:
    """Limit deadlines to the grace period of live edges, which is immutable.

    A rollout replaces them by pods with a longer one; after it the desired deadlines are used.
    """
    settings, live_s = inputs.spec.edge, inputs.edge_grace_s
    is_overridden = "terminationGracePeriodSeconds" in settings.pod_template.get("spec", {})
    if live_s is None or live_s >= grace_s or is_overridden:
        return
    drain = settings.drain
    room_s = max(2.0, float(live_s - MARGIN_S))
    # Draining clients takes the time; the rest of a shutdown seldom needs more than the default.
    usual_s = max(Config().shutdown_timeout_s, room_s - drain.deadline_s)
    shutdown_s = min(settings.shutdown_timeout_s, usual_s, room_s / 2)
    deadline_s = min(drain.deadline_s, room_s - shutdown_s)
    # A delay as long as the deadline would leave no time to disconnect clients at a rate.
    delay_s = min(drain.delay_s, deadline_s / 2)
    if shutdown_s < settings.shutdown_timeout_s:
        config["shutdown_timeout_s"] = shutdown_s
    if deadline_s < drain.deadline_s:
        config["drain"]["deadline_s"] = deadline_s
    if delay_s < drain.delay_s:
        config["drain"]["delay_s"] = delay_s


def router(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the objects of routers, in the order in which they are applied."""
    settings = inputs.spec.router
    config = router_config(inputs.broker)
    # A router waits for its edges to leave first, no longer than its own timeout.
    drain_s = float(Config().drain.deadline_s)
    leave_s = min(drain_s, settings.shutdown_timeout_s)
    grace_s = grace_period_s(leave_s, settings.shutdown_timeout_s)
    files = dict(inputs.old_router_files)
    files |= router_files(inputs.owned_secrets, inputs.referenced_files.router)
    if inputs.spec.redis.own is not None:
        files[BUNDLED_PASSWORD] = inputs.owned_secrets.redis_password
    yield from _config_objects(inputs, "router", config, files)
    yield _deployment(inputs, "router", settings, config, grace_s)


def edge_files(
    owned_secrets: OwnedSecrets, referenced_files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files that edges read: their Secret's data."""
    files = dict(referenced_files)
    for name, pair in owned_secrets.listener_pairs.items():
        files[f"listener.{name}.crt"] = pair.certificate
        files[f"listener.{name}.key"] = pair.key
    return files | _internal_files(owned_secrets, owned_secrets.edge_link)


def router_files(
    owned_secrets: OwnedSecrets, referenced_files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files that routers read: their Secret's data."""
    return dict(referenced_files) | _internal_files(owned_secrets, owned_secrets.router_link)


def _internal_files(owned_secrets: OwnedSecrets, pair: KeyPair) -> dict[str, bytes]:
    return {
        "link.crt": pair.certificate,
        "link.key": pair.key,
        "link-ca.crt": owned_secrets.link.bundle,
        "admin-token": owned_secrets.admin_token,
    }


def _config_objects(
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
        "revisionHistoryLimit": REVISION_HISTORY,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
        "selector": {"matchLabels": names.selector(broker.name, component)},
        # A new pod is ready before an old one is terminated.
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0},
        },
        "template": template(
            inputs,
            component,
            settings,
            [container],
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
    """Return the initial number of pods (see ``plan.keep_replicas``)."""
    return replicas if autoscaling is None else autoscaling.min_replicas
