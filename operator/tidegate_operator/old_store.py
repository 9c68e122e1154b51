"""The previous store, while the broker is being changed to another one. Pure.

Old routers serve until new ones reach the new store, which never happens if its URL is wrong. Until
then they need the previous store and its credentials, and the change can be reverted without loss.
Called by ``reconcile``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidegate_operator import live_state, names
from tidegate_operator.plan import ObjectRef, Plan
from tidegate_operator.render import Broker, Manifest
from tidegate_operator.render.broker_config import BUNDLED_PASSWORD, router_config
from tidegate_operator.render.restart_hash import restart_hash
from tidegate_operator.secrets.owned_secrets import LiveSecrets
from tidegate_operator.spec.broker import MqttBrokerSpec


def in_use(
    broker: str,
    plan: Plan,
    manifests: Iterable[Manifest],
    live: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> frozenset[ObjectRef]:
    """Return the objects of the bundled store that routers may still use: not to be deleted yet."""
    if _stateful_set(broker) not in plan.delete:
        return frozenset()
    desired_routers = {ObjectRef.of(manifest): manifest for manifest in manifests}.get(
        _routers(broker)
    )
    if _routers_have_switched(broker, live_state.template_hash(desired_routers), live, pods):
        return frozenset()
    return frozenset(
        ref
        for ref in plan.delete
        if live[ref]["metadata"]["labels"].get(names.COMPONENT_LABEL) == "redis"
    )


def is_kept(spec: MqttBrokerSpec, redis: Manifest | None) -> bool:
    """Whether the bundled store (``redis``) still exists although the spec names another one."""
    is_there = redis is not None and "deletionTimestamp" not in redis["metadata"]
    return is_there and spec.redis.own is None


def router_files(
    broker: Broker,
    secrets: LiveSecrets,
    live: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> dict[str, bytes]:
    """Return the files that old routers need to reconnect to the previous store."""
    if _routers_have_switched(
        broker.name, restart_hash(router_config(broker), "router"), live, pods
    ):
        return {}
    files = dict(secrets.router)
    password = secrets.redis.get("password")
    if password and _stateful_set(broker.name) in live:
        files.setdefault(BUNDLED_PASSWORD, password)
    return files


def _routers_have_switched(
    broker: str,
    desired_hash: str,
    live: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> bool:
    """Whether all routers have been started with the desired configuration, and are ready."""
    routers = live.get(_routers(broker))
    hashes = {pod.restart_hash for pod in pods if pod.component == "router"}
    return (
        live_state.template_hash(routers) == desired_hash
        and hashes <= {desired_hash}
        and live_state.workload(routers).is_complete
    )


def _routers(broker: str) -> ObjectRef:
    return ObjectRef("apps/v1", "Deployment", names.workload(broker, "router"))


def _stateful_set(broker: str) -> ObjectRef:
    return ObjectRef("apps/v1", "StatefulSet", names.workload(broker, "redis"))
