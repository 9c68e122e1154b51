"""Routes of the Gateway API to the listeners that ask for one. Pure.

A kind that the cluster does not have makes no route; ``status`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.render.inputs import Inputs, Manifest
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.listeners import ListenerSpec

#: Versions of the Gateway API before 1.3 allow no more matches in a rule.
_MAX_MATCHES: Final = 8


def routes(inputs: Inputs) -> Iterator[Manifest]:
    """Yield a route for each listener with ``gateway`` whose kind is installed."""
    broker = inputs.broker
    for listener in inputs.spec.listeners:
        version = inputs.settings.optional_kinds.get(listener.route_kind)
        if listener.gateway is None or version is None:
            continue
        spec: Manifest = {
            "parentRefs": [
                one.model_dump(by_alias=True, exclude_none=True)
                for one in listener.gateway.parent_refs
            ],
            "rules": _rules(listener, service_name(broker.name, listener)),
        }
        if listener.gateway.hostnames:
            spec["hostnames"] = list(listener.gateway.hostnames)
        yield {
            "apiVersion": version,
            "kind": listener.route_kind,
            "metadata": broker.metadata(names.route(broker.name, listener.name), "edge"),
            "spec": spec,
        }


def _rules(listener: ListenerSpec, service: str) -> list[dict[str, Any]]:
    backends = [{"name": service, "port": listener.exposed_port}]
    if listener.route_kind != "HTTPRoute":
        return [{"backendRefs": backends}]
    matches = [{"path": {"type": "Exact", "value": path}} for path in listener.paths]
    return [
        {
            "matches": matches[first : first + _MAX_MATCHES],
            "backendRefs": backends,
            # A WebSocket is a request that lasts as long as the connection.
            "timeouts": {"request": "0s"},
        }
        for first in range(0, len(matches), _MAX_MATCHES)
    ]
