"""``spec.console``: the pods of ``tidegate console``, and how they are reached."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from tidegate_operator.spec.fields import (
    DataKey,
    DnsName,
    IpAddress,
    ObjectName,
    OpaqueList,
    SpecSection,
    rules,
)
from tidegate_operator.spec.gateway import ConsoleGateway, RouteKind
from tidegate_operator.spec.listeners import Issuer
from tidegate_operator.spec.services import ServiceSettings
from tidegate_operator.spec.workloads import PodSettings


class ConsoleUsers(SpecSection):
    """Users of the console, in a Secret: lines `USER:HASH:ROLE` as `tidegate passwd --role` writes
    them; roles are viewer, operator and admin."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "users"
    """The key in it."""


class ConsoleTokens(SpecSection):
    """Tokens of the console, in a Secret: lines `ROLE TOKEN`."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "tokens"
    """The key in it."""


class ConsoleTls(SpecSection):
    """TLS of the console: a certificate from one of two sources, reloaded without a restart."""

    model_config = rules(
        (
            "has(self.secretName) != has(self.issuer)",
            "exactly one of secretName and issuer is required",
        ),
        (
            "!has(self.issuer) || (has(self.dnsNames) && self.dnsNames.size() > 0)"
            " || (has(self.ipAddresses) && self.ipAddresses.size() > 0)",
            "issuer requires dnsNames or ipAddresses",
        ),
    )

    secret_name: ObjectName | None = None
    """A Secret of type kubernetes.io/tls with the certificate and its private key."""
    issuer: Issuer | None = None
    """cert-manager issues the certificate for `dnsNames` and `ipAddresses`, and renews it."""
    dns_names: list[DnsName] = Field(default_factory=list, max_length=32)
    """DNS names of the certificate (`issuer`)."""
    ip_addresses: list[IpAddress] = Field(default_factory=list, max_length=32)
    """IP addresses of the certificate (`issuer`)."""

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        if (self.secret_name is None) == (self.issuer is None):
            raise ValueError("exactly one of secret_name and issuer is required")
        if self.issuer is not None and not (self.dns_names or self.ip_addresses):
            raise ValueError("issuer requires dns_names or ip_addresses")
        return self


class ConsoleServiceSpec(ServiceSettings):
    """The Service of the console."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service. LoadBalancer requests an external address from the cloud provider."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the Service; unset: 80, with `tls` 443."""


_HOSTNAMES: Final = "(has(self.gateway.hostnames) && self.gateway.hostnames.size() > 0)"
#: The CEL expression for ``ConsoleSpec.route_kind``.
_ROUTE_KIND: Final = (
    "(has(self.gateway.kind) ? self.gateway.kind : !has(self.tls) ? 'HTTPRoute'"
    f" : {_HOSTNAMES} ? 'TLSRoute' : 'TCPRoute')"
)


class ConsoleSpec(PodSettings):
    """The console: a page and an HTTP API about the whole broker, in pods of its own."""

    model_config = rules(
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'HTTPRoute' || !has(self.tls)",
            "an HTTPRoute to the console requires that it has no tls",
        ),
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'TLSRoute' || {_HOSTNAMES}",
            "a TLSRoute requires gateway.hostnames",
        ),
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'TCPRoute' || !{_HOSTNAMES}",
            "a TCPRoute has no hostnames: it cannot tell them apart",
        ),
    )

    enabled: bool = False
    """Run it."""
    replicas: Annotated[int, Field(ge=1, le=10)] = 1
    """Number of pods."""
    users: ConsoleUsers | None = None
    """Who may log in with a password; reloaded without a restart."""
    tokens: ConsoleTokens | None = None
    """Tokens for programs and for a first login; reloaded without a restart. Without `users` and
    `tokens`, the operator makes a first token with the role admin (Secret NAME-console-token)."""
    allowed_hosts: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default_factory=list, max_length=32
    )
    """Host names under which it is reached (`*.example.com` allowed), such as that of an Ingress.
    Requests for others are refused, but for those of the Service and of `gateway`, IP addresses and
    `localhost`."""
    session_lifetime_s: Annotated[int, Field(ge=60, le=2_592_000)] = 43_200
    """Time after which a user has to log in again."""
    service: ConsoleServiceSpec = ConsoleServiceSpec()
    """The Service of the console."""
    tls: ConsoleTls | None = None
    """HTTPS with this certificate; unset: plain HTTP, so put an Ingress or a Gateway with TLS
    before it when others than `kubectl port-forward` use it."""
    gateway: ConsoleGateway | None = None
    """A route of the Gateway API to the console's Service; unset: none."""
    network_policy_peers: OpaqueList = Field(default_factory=list)
    """Peers (as in a NetworkPolicy) that may connect to the console; empty: all. The node of the
    pod, and so `kubectl port-forward`, always may."""

    @property
    def has_own_token(self) -> bool:
        """Whether the operator makes the first token."""
        return self.enabled and self.users is None and self.tokens is None

    @property
    def scheme(self) -> str:
        """What it speaks; the name of its port, too."""
        return "http" if self.tls is None else "https"

    @property
    def exposed_port(self) -> int:
        """The port of the Service."""
        if self.service.port is not None:
            return self.service.port
        return 80 if self.tls is None else 443

    @model_validator(mode="after")
    def _route_fits(self) -> Self:
        gateway = self.gateway
        if gateway is None:
            return self
        if self.route_kind == "HTTPRoute" and self.tls is not None:
            raise ValueError("an HTTPRoute to the console requires that it has no tls")
        gateway.check_hostnames(self.route_kind)
        return self

    @property
    def route_kind(self) -> RouteKind:
        """The kind of its route, if it has one."""
        if self.gateway is not None and self.gateway.kind is not None:
            return self.gateway.kind
        if self.tls is None:
            return "HTTPRoute"
        return "TLSRoute" if self.gateway is not None and self.gateway.hostnames else "TCPRoute"
