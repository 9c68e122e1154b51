"""``gateway`` of a listener and of the console: the route of the Gateway API that publishes it.

``routes`` says which there are; ``listeners`` and ``console`` say which kind theirs is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidegate_operator.spec.fields import ObjectName, SpecSection

#: Kinds of routes.
RouteKind = Literal["TLSRoute", "TCPRoute", "HTTPRoute"]

Hostname = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]


class ParentRef(SpecSection):
    """A Gateway that the route is attached to."""

    name: ObjectName
    """The Gateway."""
    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Its namespace; unset: the broker's. The Gateway's `allowedRoutes` must admit the broker's."""
    section_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The listener of the Gateway; unset: all that fit."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port of the Gateway; unset: all that fit."""
    group: Annotated[str, Field(max_length=253)] | None = None
    """API group of the parent; unset: gateway.networking.k8s.io."""
    kind: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Kind of the parent; unset: Gateway."""


class RouteSettings(SpecSection):
    """A route of the Gateway API."""

    parent_refs: list[ParentRef] = Field(min_length=1, max_length=16)
    """The Gateways."""
    hostnames: list[Hostname] = Field(default_factory=list, max_length=16)
    """Names that the route is for."""
    kind: RouteKind | None = None
    """Kind of the route."""

    def check_hostnames(self, kind: RouteKind) -> None:
        """Raise ValueError if a route of this kind cannot have these host names, or needs some."""
        if kind == "TLSRoute" and not self.hostnames:
            raise ValueError("a TLSRoute requires gateway.hostnames")
        if kind == "TCPRoute" and self.hostnames:
            raise ValueError("a TCPRoute has no hostnames: it cannot tell them apart")


class ListenerGateway(RouteSettings):
    """A route of the Gateway API, named BROKER-LISTENER, to the Service of the listener."""

    hostnames: list[Hostname] = Field(default_factory=list, max_length=16)
    """Names that clients connect to: of TLS (SNI), or of HTTP for WebSocket."""
    kind: RouteKind | None = None
    """Kind of the route; unset: HTTPRoute for ws, otherwise TLSRoute with hostnames, and TCPRoute
    without any."""


class ConsoleGateway(RouteSettings):
    """A route of the Gateway API, named BROKER-console, to the Service of the console."""

    hostnames: list[Hostname] = Field(default_factory=list, max_length=16)
    """Names that browsers ask for, of HTTP or of TLS (SNI); allowed as those in `allowedHosts`."""
    kind: RouteKind | None = None
    """Kind of the route; unset: HTTPRoute without `tls`, otherwise TLSRoute with hostnames, and
    TCPRoute without any."""
