"""``spec.listeners``: ports for clients, and their certificates.

Fields that the runtime's configuration has too are copied from it (``like``).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.runtime.config.model import (
    ListenerConfig,
    TlsConfig,
    check_ciphers,
    check_mount_point,
    check_networks,
)
from tidegate_operator.names import ADMIN_PORT
from tidegate_operator.spec.fields import (
    DnsName,
    IpAddress,
    ObjectName,
    OpaqueList,
    SpecSection,
    like,
    rules,
)
from tidegate_operator.spec.gateway import ListenerGateway, RouteKind
from tidegate_operator.spec.services import ListenerServiceSpec
from tidegate_operator.spec.sources import (
    AclSpec,
    FileSource,
    PasswordsSource,
    RevocationListSource,
)

Protocol = Literal["tcp", "tls", "ws", "wss", "auto"]

#: The default port of a listener.
DEFAULT_PORTS: Final[dict[str, int]] = {
    "tcp": 1883,
    "tls": 8883,
    "ws": 8083,
    "wss": 8084,
    "auto": 8443,
}
#: The default port of the Service for a listener with protocol auto.
AUTO_SERVICE_PORT: Final = 443


class Issuer(SpecSection):
    """A cert-manager issuer."""

    name: ObjectName
    """Its name."""
    kind: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z]+$")] = "Issuer"
    """Issuer (in this namespace), ClusterIssuer, or the kind of an external issuer."""
    group: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9.-]+$")] = "cert-manager.io"
    """Its API group."""


class AdditionalCertificate(SpecSection):
    """An additional certificate of a listener, for other names."""

    secret_name: ObjectName
    """A Secret of type kubernetes.io/tls."""
    server_names: list[DnsName] = Field(default_factory=list, max_length=32)
    """SNI names (`*.example.com` allowed) it is used for; empty: the names in the certificate."""


class ListenerTls(SpecSection):
    """TLS of a listener: a certificate from one of three sources, reloaded without a restart."""

    model_config = rules(
        (
            "[has(self.secretName), has(self.issuer), has(self.selfSigned) && self.selfSigned]"
            ".filter(given, given).size() == 1",
            "exactly one of secretName, issuer and selfSigned is required",
        ),
        (
            "!has(self.issuer) || (has(self.dnsNames) && self.dnsNames.size() > 0)"
            " || (has(self.ipAddresses) && self.ipAddresses.size() > 0)",
            "issuer requires dnsNames or ipAddresses",
        ),
        (
            "!has(self.clientCertificates) || self.clientCertificates == 'off'"
            " || has(self.clientCa)",
            "clientCertificates requires clientCa",
        ),
        (
            "!has(self.identityAsUsername) || self.identityAsUsername == 'off'"
            " || (has(self.clientCertificates) && self.clientCertificates != 'off')",
            "identityAsUsername requires clientCertificates",
        ),
        (
            "!has(self.clientCrl)"
            " || (has(self.clientCertificates) && self.clientCertificates != 'off')",
            "clientCrl requires clientCertificates",
        ),
        (
            "!has(self.ciphers) || self.ciphers == ''"
            " || !has(self.minimumVersion) || self.minimumVersion != '1.3'",
            "ciphers requires minimumVersion 1.2",
        ),
    )

    secret_name: ObjectName | None = None
    """A Secret of type kubernetes.io/tls with the certificate and its private key."""
    issuer: Issuer | None = None
    """cert-manager issues the certificate for `dnsNames` and `ipAddresses`, and renews it."""
    self_signed: bool = False
    """The operator issues the certificate from a certificate authority of this broker, and renews
    it. The CA certificate for clients is in the ConfigMap NAME-ca, key ca.crt."""
    dns_names: list[DnsName] = Field(default_factory=list, max_length=32)
    """DNS names of the certificate (`issuer`, `selfSigned`); the latter adds those of the
    Service that publishes the listener, and of its load balancer."""
    ip_addresses: list[IpAddress] = Field(default_factory=list, max_length=32)
    """IP addresses of the certificate; `selfSigned` adds those of the load balancer."""
    additional_certificates: list[AdditionalCertificate] = Field(
        default_factory=list, max_length=32
    )
    """Additional certificates, selected by SNI."""
    client_ca: FileSource | None = None
    """The CA certificates that client certificates are verified against."""
    client_crl: RevocationListSource | None = None
    """Certificate revocation lists (CRLs) of these CAs, PEM; a client is refused if its certificate
    is listed, or if there is no current list of its CA. Lists in `clientCa` count as well."""
    client_certificates: Literal["off", "optional", "required"] = like(
        TlsConfig, "client_certificates"
    )
    minimum_version: Literal["1.2", "1.3"] = like(TlsConfig, "minimum_version")
    ciphers: str = like(TlsConfig, "ciphers")
    handshake_timeout_s: float = like(TlsConfig, "handshake_timeout_s")
    identity_as_username: Literal["off", "cn", "dn"] = like(TlsConfig, "identity_as_username")

    _check_ciphers = field_validator("ciphers")(check_ciphers)

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        given = (self.secret_name is not None, self.issuer is not None, self.self_signed)
        if sum(given) != 1:
            raise ValueError("exactly one of secret_name, issuer and self_signed is required")
        if self.issuer is not None and not (self.dns_names or self.ip_addresses):
            raise ValueError("issuer requires dns_names or ip_addresses")
        if self.client_certificates != "off" and self.client_ca is None:
            raise ValueError("client_certificates requires client_ca")
        if self.identity_as_username != "off" and self.client_certificates == "off":
            raise ValueError("identity_as_username requires client_certificates")
        if self.ciphers and self.minimum_version == "1.3":
            raise ValueError("ciphers requires minimum_version 1.2")
        if self.client_crl is not None and self.client_certificates == "off":
            raise ValueError("client_crl requires client_certificates")
        return self


_HOSTNAMES: Final = "(has(self.gateway.hostnames) && self.gateway.hostnames.size() > 0)"
#: The CEL expression for ``ListenerSpec.route_kind``.
_ROUTE_KIND: Final = (
    "(has(self.gateway.kind) ? self.gateway.kind : self.protocol == 'ws' ? 'HTTPRoute'"
    f" : {_HOSTNAMES} ? 'TLSRoute' : 'TCPRoute')"
)


class ListenerSpec(SpecSection):
    """A port for clients, on the edges and on a Service."""

    model_config = rules(
        (
            "!has(self.gateway) || !has(self.service) || self.service.type != 'None'",
            "gateway requires a Service: service.type must not be None",
        ),
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'HTTPRoute' || self.protocol == 'ws'"
            " || (self.protocol == 'auto' && !has(self.tls))",
            "an HTTPRoute requires protocol ws, or auto without tls",
        ),
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'TLSRoute' || {_HOSTNAMES}",
            "a TLSRoute requires gateway.hostnames",
        ),
        (
            f"!has(self.gateway) || {_ROUTE_KIND} != 'TCPRoute' || !{_HOSTNAMES}",
            "a TCPRoute has no hostnames: it cannot tell them apart",
        ),
        (
            "!(self.protocol in ['tls', 'wss']) || has(self.tls)",
            "protocols tls and wss require tls",
        ),
        (
            "!has(self.tls) || self.protocol in ['tls', 'wss', 'auto']",
            "tls requires protocol tls, wss or auto",
        ),
        (
            "!has(self.proxyProtocol) || self.proxyProtocol == 'off'"
            " || (has(self.trustedProxies) && self.trustedProxies.size() > 0)",
            "proxyProtocol requires trustedProxies",
        ),
        (
            f"!has(self.port) || self.port != {ADMIN_PORT}",
            f"{ADMIN_PORT} is reserved for health, metrics and the admin API",
        ),
    )

    name: Annotated[str, Field(max_length=15, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    """Unique name of the listener, used in logs, metrics and as port name of the Service."""
    protocol: Protocol = "tcp"
    """tcp, tls, ws, wss, or auto: all of them on one port (those with TLS if `tls` is set)."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Port of the pods. Unset: 1883 for tcp, 8883 tls, 8083 ws, 8084 wss, 8443 auto."""
    service_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the Service. Unset: 443 for auto, otherwise the port of the pods."""
    node_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Node port, for Services of type NodePort and LoadBalancer; unset: assigned by Kubernetes."""
    service: ListenerServiceSpec | None = None
    """A Service of its own, or none at all; unset: the broker's (`spec.service`)."""
    gateway: ListenerGateway | None = None
    """A route of the Gateway API to the listener's Service; unset: none."""
    network_policy_peers: OpaqueList = Field(default_factory=list)
    """Peers (as in a NetworkPolicy) that may connect to this listener; empty: those of
    `networkPolicy.clients`."""
    tls: ListenerTls | None = None
    """TLS settings and certificates."""
    paths: Annotated[
        list[Annotated[str, Field(max_length=253, pattern=r"^/[^\s?#]*$")]],
        Field(min_length=1, max_length=32),
    ] = like(ListenerConfig, "paths")
    allowed_origins: Annotated[
        list[Annotated[str, Field(max_length=253)]], Field(max_length=64)
    ] = like(ListenerConfig, "allowed_origins")
    proxy_protocol: Literal["off", "optional", "required"] = like(ListenerConfig, "proxy_protocol")
    proxy_protocol_timeout_s: float = like(ListenerConfig, "proxy_protocol_timeout_s")
    trusted_proxies: Annotated[list[Annotated[str, Field(max_length=49)]], Field(max_length=64)] = (
        like(ListenerConfig, "trusted_proxies")
    )
    max_connections: int = like(ListenerConfig, "max_connections")
    accept_rate: float = like(ListenerConfig, "accept_rate")
    accept_burst: int = like(ListenerConfig, "accept_burst")
    backlog: int = like(ListenerConfig, "backlog")
    allow_anonymous: bool | None = like(ListenerConfig, "allow_anonymous")
    passwords: PasswordsSource | None = None
    """Users and password hashes of this listener's clients; unset: `auth.passwords`."""
    acl: AclSpec | None = None
    """Rules of this listener's clients; unset: those of the broker (`spec.acl`)."""
    mount_point: str = like(ListenerConfig, "mount_point")
    tcp_keepalive_s: int = like(ListenerConfig, "tcp_keepalive_s")
    websocket_ping_s: float = like(ListenerConfig, "websocket_ping_s")
    write_high_water_bytes: int = like(ListenerConfig, "write_high_water_bytes")
    max_qos: int = like(ListenerConfig, "max_qos")

    @field_validator("port")
    @classmethod
    def _not_the_admin_port(cls, value: int | None) -> int | None:
        if value == ADMIN_PORT:
            raise ValueError(f"{ADMIN_PORT} is reserved for health, metrics and the admin API")
        return value

    _check_networks = field_validator("trusted_proxies")(check_networks)
    _check_mount_point = field_validator("mount_point")(check_mount_point)

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.protocol in {"tls", "wss"} and self.tls is None:
            raise ValueError(f"protocol {self.protocol} requires tls")
        if self.tls is not None and self.protocol in {"tcp", "ws"}:
            raise ValueError(f"tls requires protocol tls, wss or auto, not {self.protocol}")
        if self.proxy_protocol != "off" and not self.trusted_proxies:
            raise ValueError("proxy_protocol requires trusted_proxies")
        return self

    @property
    def pod_port(self) -> int:
        """The port that edges listen on."""
        return DEFAULT_PORTS[self.protocol] if self.port is None else self.port

    @model_validator(mode="after")
    def _route_fits(self) -> Self:
        gateway = self.gateway
        if gateway is None:
            return self
        if self.service is not None and self.service.type == "None":
            raise ValueError("gateway requires a Service: service.type must not be None")
        is_http = self.protocol == "ws" or (self.protocol == "auto" and self.tls is None)
        if self.route_kind == "HTTPRoute" and not is_http:
            raise ValueError("an HTTPRoute requires protocol ws, or auto without tls")
        gateway.check_hostnames(self.route_kind)
        return self

    @property
    def route_kind(self) -> RouteKind:
        """The kind of its route, if it has one."""
        gateway = self.gateway or ListenerGateway.model_construct(hostnames=[], kind=None)
        if gateway.kind is not None:
            return gateway.kind
        if self.protocol == "ws":
            return "HTTPRoute"
        return "TLSRoute" if gateway.hostnames else "TCPRoute"

    @property
    def exposed_port(self) -> int:
        """The port of the Service."""
        if self.service_port is not None:
            return self.service_port
        return AUTO_SERVICE_PORT if self.protocol == "auto" else self.pod_port
