"""Which routes of the Gateway API a spec asks for. Pure.

Used by ``render`` and for the status.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from tidegate_operator import names
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.gateway import RouteKind, RouteSettings

#: ``WantedRoute.listener`` of the console's.
OF_CONSOLE: Final = ""


@dataclass(slots=True, frozen=True)
class WantedRoute:
    """A route to a Service of the broker."""

    #: The listener that it publishes, or ``OF_CONSOLE``.
    listener: str
    kind: RouteKind
    name: str
    settings: RouteSettings
    service: str
    port: int
    #: The only paths of an HTTPRoute; none: all.
    paths: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What it publishes, in messages."""
        return f"listener {self.listener}" if self.listener != OF_CONSOLE else "the console"


def wanted_routes(broker: str, spec: MqttBrokerSpec) -> list[WantedRoute]:
    """Return the routes of all listeners and of the console."""
    found = [
        WantedRoute(
            listener.name,
            listener.route_kind,
            names.route(broker, listener.name),
            listener.gateway,
            service_name(broker, listener),
            listener.exposed_port,
            tuple(listener.paths) if listener.route_kind == "HTTPRoute" else (),
        )
        for listener in spec.listeners
        if listener.gateway is not None
    ]
    console = spec.console
    if console.enabled and console.gateway is not None:
        service = names.workload(broker, "console")
        found.append(
            WantedRoute(
                OF_CONSOLE,
                console.route_kind,
                service,
                console.gateway,
                service,
                console.exposed_port,
            )
        )
    return found


def console_name_problems(broker: str, spec: MqttBrokerSpec) -> list[str]:
    """Return a sentence for each object of a listener that has the name of one of the console."""
    console, found = spec.console, []
    twice = [
        name
        for (_, name), count in Counter(
            (route.kind, route.name) for route in wanted_routes(broker, spec)
        ).items()
        if count > 1
    ]
    certificate = names.console_certificate(broker)
    has_certificate = console.enabled and console.tls is not None and console.tls.issuer is not None
    for index, listener in enumerate(spec.listeners):
        path = f"spec.listeners[{index}].name: {listener.name}"
        if listener.gateway is not None and names.route(broker, listener.name) in twice:
            found.append(f"{path}: the route of the console has the name of this listener's")
        issuer = None if listener.tls is None else listener.tls.issuer
        name = names.listener_certificate(broker, listener.name)
        if has_certificate and issuer is not None and name == certificate:
            found.append(f"{path}: the certificate of the console has the name of this listener's")
    return found
