"""The part of a status about listeners: their Services, addresses and certificates. Pure.

Called by ``conditions``, ``blocking`` and ``reconcile``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidegate_operator import names
from tidegate_operator.live_state import Addresses
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.routes import wanted_routes
from tidegate_operator.spec.status import MAX_ADDRESSES, ListenerStatus, Reason
from tidegate_operator.status.broker_state import BrokerState, some, time_text


def listeners(state: BrokerState, before: Mapping[str, Any] | None) -> list[Any]:
    """Return addresses and certificates of all listeners."""
    if state.spec is None:
        # The listeners that run are those of the previous spec.
        return list((before or {}).get("listeners") or [])
    published = {name: (one, port) for one in state.addresses for name, port in one.ports}
    result = []
    for listener in state.spec.listeners:
        certificates = state.certificates.get(listener.name, ())
        expiry = min((certificate.not_after for certificate in certificates), default=None)
        is_published = bool(service_name(state.name, listener))
        found, port = published.get(
            listener.name, (Addresses(), listener.exposed_port if is_published else 0)
        )
        result.append(
            ListenerStatus.model_validate(
                {
                    "name": listener.name,
                    "protocol": listener.protocol,
                    "service": found.service,
                    "port": port,
                    "addresses": list(found.hosts[:MAX_ADDRESSES]),
                    "route": state.routes.get(listener.name),
                    "certificateNotAfter": None if expiry is None else time_text(expiry),
                }
            )
        )
    return result


def address(state: BrokerState, before: Mapping[str, Any] | None) -> str:
    """Return the address of the first listener that has a Service; that of the previous spec if the
    newest one is invalid."""
    if state.spec is None:
        return str((before or {}).get("address", ""))
    return state.addresses[0].first() if state.addresses else ""


def services(name: str, status: Mapping[str, Any] | None) -> dict[str, set[tuple[str, int]]]:
    """Return the Services for clients that a broker had by its status, with the listeners and ports
    of each."""
    shared = names.client_service(name)
    found: dict[str, set[tuple[str, int]]] = {}
    for one in (status or {}).get("listeners") or []:
        # Earlier versions had one Service for all listeners, and did not say so.
        listener = (one["name"], one.get("port", 0))
        found.setdefault(one.get("service", shared), set()).add(listener)
    return found


def refused_routes(state: BrokerState) -> tuple[Reason, str] | None:
    """Return which routes of the Gateway API are not in effect, and what to do; None if all are,
    or may be soon."""
    spec = state.spec
    if spec is None:
        return None
    missing, refused = [], []
    for wanted in wanted_routes(state.name, spec):
        route, subject = state.routes.get(wanted.listener), wanted.subject
        if route is None:
            continue
        if wanted.kind in state.missing_kinds:
            missing.append(f"{subject[0].upper()}{subject[1:]} has no route: {route.message}")
        elif "False" in {route.accepted, route.resolved_refs, route.programmed}:
            refused.append(f"{route.kind} {route.name} of {subject}: {route.message}")
    rest = "The Service is there, and everything else of the spec is applied."
    if missing:
        return Reason.GATEWAY_API_MISSING, f"{some(missing)}. {rest}"
    if refused:
        return (
            Reason.ROUTE_NOT_ACCEPTED,
            f"{some(refused)}. Nobody gets through this Gateway: correct `gateway` in the spec, "
            f"or the Gateway. {rest}",
        )
    return None
