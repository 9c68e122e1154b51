"""What was deleted, and has to be made again although the newest spec is refused. Pure.

Called by ``reconciler``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tidegate_operator.plan import ObjectRef
from tidegate_operator.render.inputs import Manifest
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import client_services
from tidegate_operator.status import listener_status

#: Kinds of objects without which running pods are not found, or cannot be replaced.
_BASIC_KINDS: Final = frozenset({"Service", "ServiceAccount"})


def missing_basics(
    name: str,
    spec: MqttBrokerSpec,
    status: Mapping[str, Any] | None,
    manifests: Sequence[Manifest],
    live: Mapping[ObjectRef, Manifest],
) -> list[Manifest]:
    """Return the missing ones of a broker's Services and ServiceAccounts.

    Not Services that publish listeners and are new: these ports run as the spec before says.
    """
    published = {service.name for service in client_services(name, spec)}
    new = published - listener_status.services(name, status)
    return [
        manifest
        for manifest in manifests
        if manifest["kind"] in _BASIC_KINDS
        and ObjectRef.of(manifest) not in live
        and not (manifest["kind"] == "Service" and manifest["metadata"]["name"] in new)
    ]
