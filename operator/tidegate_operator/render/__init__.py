"""From a spec to manifests: the same inputs give the same manifests, in the same order.

Pure. Used by ``reconcile`` and, for its values, by the layers above. Never reads the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidegate_operator import names
from tidegate_operator.names import Component
from tidegate_operator.render import (
    bundled_store,
    console,
    network,
    routes,
    scaling,
    workloads,
)
from tidegate_operator.render.broker_config import BUNDLED_PASSWORD
from tidegate_operator.render.inputs import Broker, Inputs, Manifest, Owner, Settings
from tidegate_operator.render.workloads import edge_files, router_files
from tidegate_operator.secrets.owned_secrets import LiveSecrets

__all__ = [
    "Broker",
    "Inputs",
    "Manifest",
    "Owner",
    "Settings",
    "prerequisites",
    "render",
    "upkeep",
]


def prerequisites(inputs: Inputs) -> list[Manifest]:
    """Return the objects that are applied first, and do not depend on referenced files."""
    return [*_own_secrets(inputs), *network.certificates(inputs)]


def upkeep(inputs: Inputs, live: LiveSecrets, *, is_created: bool) -> list[Manifest]:
    """Return the Secrets of a broker whose spec is refused: they must not wait until it is valid.

    New content of what the spec refers to, and renewed certificates, are in them; all other files
    that they have are kept, because what runs still uses the previous configuration. Nothing is
    created for a broker that does not run.
    """
    broker, owned_secrets, files = inputs.broker, inputs.owned_secrets, inputs.referenced_files
    name, authorities = broker.name, owned_secrets.authorities_data()
    edge = edge_files(owned_secrets, {**live.edge, **files.edge})
    router = router_files(owned_secrets, {**live.router, **files.router})
    # The store's password is in two Secrets: a deleted one is restored from the other.
    password = live.redis.get("password") or live.router.get(BUNDLED_PASSWORD)
    redis: dict[str, bytes] = {}
    console_files = {**live.console, **files.console, "admin-token": owned_secrets.admin_token}
    if password:
        router[BUNDLED_PASSWORD] = password
        if BUNDLED_PASSWORD in live.console:
            console_files[BUNDLED_PASSWORD] = password
        redis = bundled_store.password_files(password)
    secrets = (
        (names.authorities_secret(name), "authorities", live.authorities, authorities),
        (names.admin_secret(name), "admin", live.admin, {"token": owned_secrets.admin_token}),
        (names.workload(name, "edge"), "edge", live.edge, edge),
        (names.workload(name, "router"), "router", live.router, router),
        (names.workload(name, "redis"), "redis", redis, redis),
    )
    manifests = [
        broker.secret(secret, component, data)
        for secret, component, current, data in secrets
        # A broker with an external store has no Secret of a bundled one.
        if current or (is_created and data)
    ]
    if live.console:
        manifests.append(broker.secret(names.workload(name, "console"), "console", console_files))
    return [*manifests, *(_authorities_map(inputs) if is_created else ())]


def render(inputs: Inputs) -> list[Manifest]:
    """Return all objects of a broker, in the order in which they are applied."""
    return [
        *prerequisites(inputs),
        *_accounts(inputs),
        *network.policies(inputs),
        *network.services(inputs),
        *routes.routes(inputs),
        *bundled_store.redis(inputs),
        *workloads.router(inputs),
        *workloads.edge(inputs),
        *scaling.scaling(inputs),
        *console.console(inputs),
        *network.service_monitor(inputs),
    ]


def _own_secrets(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the Secrets of the operator, and the ConfigMap with the authority for clients."""
    broker, owned_secrets = inputs.broker, inputs.owned_secrets
    name = names.authorities_secret(broker.name)
    yield broker.secret(name, "authorities", owned_secrets.authorities_data())
    yield broker.secret(
        names.admin_secret(broker.name), "admin", {"token": owned_secrets.admin_token}
    )
    yield from _authorities_map(inputs)


def _authorities_map(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the ConfigMap with the authority of self-signed listeners, if there are any."""
    broker, listeners = inputs.broker, inputs.owned_secrets.listeners
    if listeners is not None:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": broker.metadata(names.authorities_map(broker.name), "authorities"),
            "data": {"ca.crt": listeners.bundle.decode("ascii")},
        }


def _accounts(inputs: Inputs) -> Iterator[Manifest]:
    """Yield a ServiceAccount without rights for each component that does not name one."""
    broker, spec = inputs.broker, inputs.spec
    components: list[tuple[Component, str | None]] = [
        ("edge", spec.edge.service_account_name),
        ("router", spec.router.service_account_name),
    ]
    if spec.console.enabled:
        components.append(("console", spec.console.service_account_name))
    if spec.redis.own is not None:
        components.append(("redis", spec.redis.own.service_account_name))
    for component, given in components:
        if given is None:
            yield {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": broker.metadata(names.workload(broker.name, component), component),
                "automountServiceAccountToken": False,
            }
