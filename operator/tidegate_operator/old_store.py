"""The store that routers have used so far, while another one takes its place. Pure.

Old routers serve until the new ones reach the other store, which they never do if its URL is wrong.
Meanwhile they need the store and what opens it, and its data if somebody takes the change back.
Asked by ``reconcile``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidegate_operator import live_state, names
from tidegate_operator.plan import ObjectRef, Plan
from tidegate_operator.render import Broker, Manifest
from tidegate_operator.render.broker_config import BUNDLED_PASSWORD, router_config
from tidegate_operator.render.restart_hash import restart_hash
from tidegate_operator.secrets.owned_secrets import Existing
from tidegate_operator.spec.broker import MqttBrokerSpec


def in_use(
    broker: str,
    found: Plan,
    manifests: Iterable[Manifest],
    there: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> frozenset[ObjectRef]:
    """Return what must not be deleted yet: the bundled store, until no router may use it."""
    if _stateful_set(broker) not in found.delete:
        return frozenset()
    wanted = {ObjectRef.of(one): one for one in manifests}.get(_routers(broker))
    if _have_moved(broker, live_state.template_hash(wanted), there, pods):
        return frozenset()
    return frozenset(
        ref
        for ref in found.delete
        if there[ref]["metadata"]["labels"].get(names.COMPONENT_LABEL) == "redis"
    )


def is_kept(spec: MqttBrokerSpec, redis: Manifest | None) -> bool:
    """Whether there is a bundled store (``redis``) although another one is wanted."""
    is_there = redis is not None and "deletionTimestamp" not in redis["metadata"]
    return is_there and spec.redis.own is None


def router_files(
    broker: Broker,
    existing: Existing,
    there: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> dict[str, bytes]:
    """Return the files that routers may still need to connect anew to the store of before."""
    if _have_moved(broker.name, restart_hash(router_config(broker), "router"), there, pods):
        return {}
    found = dict(existing.router)
    password = existing.redis.get("password")
    if password and _stateful_set(broker.name) in there:
        found.setdefault(BUNDLED_PASSWORD, password)
    return found


def _have_moved(
    broker: str,
    standard: str,
    there: Mapping[ObjectRef, Manifest],
    pods: Iterable[live_state.Pod],
) -> bool:
    """Whether all routers were started for what is wanted, and are ready."""
    routers = there.get(_routers(broker))
    hashes = {pod.restart_hash for pod in pods if pod.component == "router"}
    return (
        live_state.template_hash(routers) == standard
        and hashes <= {standard}
        and live_state.workload(routers).is_complete
    )


def _routers(broker: str) -> ObjectRef:
    return ObjectRef("apps/v1", "Deployment", names.workload(broker, "router"))


def _stateful_set(broker: str) -> ObjectRef:
    return ObjectRef("apps/v1", "StatefulSet", names.workload(broker, "redis"))
