"""Routes of the Gateway API to the listeners that ask for one, and to the console. Pure.

A kind that the cluster does not have makes no route; ``status`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tidegate_operator.render.inputs import Inputs, Manifest
from tidegate_operator.spec.routes import OF_CONSOLE, WantedRoute, wanted_routes

#: Versions of the Gateway API before 1.3 allow no more matches in a rule.
_MAX_MATCHES: Final = 8


def routes(inputs: Inputs) -> Iterator[Manifest]:
    """Yield each route that the spec asks for, and whose kind is installed."""
    broker = inputs.broker
    for route in wanted_routes(broker.name, inputs.spec):
        version = inputs.settings.optional_kinds.get(route.kind)
        if version is None:
            continue
        spec: Manifest = {
            "parentRefs": [
                one.model_dump(by_alias=True, exclude_none=True)
                for one in route.settings.parent_refs
            ],
            "rules": _rules(route),
        }
        if route.settings.hostnames:
            spec["hostnames"] = list(route.settings.hostnames)
        component = "console" if route.listener == OF_CONSOLE else "edge"
        yield {
            "apiVersion": version,
            "kind": route.kind,
            "metadata": broker.metadata(route.name, component),
            "spec": spec,
        }


def _rules(route: WantedRoute) -> list[dict[str, Any]]:
    backends = [{"name": route.service, "port": route.port}]
    if route.kind != "HTTPRoute":
        return [{"backendRefs": backends}]
    # A WebSocket is a request that lasts as long as the connection; so is a live sample.
    rule: Manifest = {"backendRefs": backends, "timeouts": {"request": "0s"}}
    matches = [{"path": {"type": "Exact", "value": path}} for path in route.paths]
    return [
        {"matches": matches[first : first + _MAX_MATCHES], **rule}
        for first in range(0, len(matches), _MAX_MATCHES)
    ] or [rule]
