"""From a spec to manifests: the same inputs give the same manifests, in the same order.

Pure. Used by ``reconcile`` and, for its values, by the layers above. Never reads the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidegate_operator import names
from tidegate_operator.names import Component
from tidegate_operator.render import bundled_store, network, scaling, workloads
from tidegate_operator.render.inputs import Broker, Inputs, Manifest, Owner, Settings
from tidegate_operator.render.workloads import edge_files, router_files
from tidegate_operator.secrets.owned_secrets import LiveSecrets, OwnedSecrets

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


def upkeep(owner: Owner, owned_secrets: OwnedSecrets, live: LiveSecrets) -> list[Manifest]:
    """Return the live Secrets with renewed certificates, which must not wait for a valid spec.

    Secrets that do not exist are left out; other data in them is kept.
    """
    authorities = owned_secrets.authorities_data()
    name = owner.name
    secrets = (
        (names.authorities_secret(name), "authorities", live.authorities, authorities),
        (
            names.workload(name, "edge"),
            "edge",
            live.edge,
            edge_files(owned_secrets, live.edge),
        ),
        (
            names.workload(name, "router"),
            "router",
            live.router,
            router_files(owned_secrets, live.router),
        ),
    )
    return [
        owner.secret(secret, component, data)
        for secret, component, current, data in secrets
        if current
    ]


def render(inputs: Inputs) -> list[Manifest]:
    """Return all objects of a broker, in the order in which they are applied."""
    return [
        *prerequisites(inputs),
        *_accounts(inputs),
        *network.policies(inputs),
        *network.services(inputs),
        *bundled_store.redis(inputs),
        *workloads.router(inputs),
        *workloads.edge(inputs),
        *scaling.scaling(inputs),
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
    if owned_secrets.listeners is not None:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": broker.metadata(names.authorities_map(broker.name), "authorities"),
            "data": {"ca.crt": owned_secrets.listeners.bundle.decode("ascii")},
        }


def _accounts(inputs: Inputs) -> Iterator[Manifest]:
    """Yield a ServiceAccount without rights for each component that does not name one."""
    broker, spec = inputs.broker, inputs.spec
    components: list[tuple[Component, str | None]] = [
        ("edge", spec.edge.service_account_name),
        ("router", spec.router.service_account_name),
    ]
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
