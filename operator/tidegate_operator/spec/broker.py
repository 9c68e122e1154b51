"""``MqttBroker.spec``: one schema for the CRD, its validation here, and what is rendered.

Sections that are the same in the runtime's configuration derive from it. ``problems`` turns what
is wrong into sentences, ``crd`` makes the OpenAPI schema.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.runtime.config.model import (
    AuthConfig,
    FeaturesConfig,
    LimitsConfig,
    LinkConfig,
    LogConfig,
    TelemetryConfig,
)
from tidegate_operator.spec.fields import (
    DataKey,
    LabelMap,
    ObjectName,
    OpaqueList,
    RuntimeSection,
    SpecSection,
    like,
    rules,
)
from tidegate_operator.spec.listeners import DEFAULT_PORTS, FileSource, ListenerSpec
from tidegate_operator.spec.workloads import EdgeSpec, RedisSpec, RouterSpec

_PORTS = "{" + ", ".join(f"'{name}': {port}" for name, port in DEFAULT_PORTS.items()) + "}"


def _pod_port(listener: str) -> str:
    """The CEL expression for the port of the pods."""
    return f"(has({listener}.port) ? {listener}.port : {_PORTS}[{listener}.protocol])"


def _service_port(listener: str) -> str:
    """The CEL expression for the port of the Service."""
    return (
        f"(has({listener}.servicePort) ? {listener}.servicePort"
        f" : {listener}.protocol == 'auto' ? 443 : {_pod_port(listener)})"
    )


def _unique(value: Callable[[str], str]) -> str:
    """The CEL expression that says that no two listeners have the same value."""
    return (
        "self.listeners.all(one, self.listeners.exists_one(other, "
        f"{value('one')} == {value('other')}))"
    )


class PasswordsSource(SpecSection):
    """A password file, as `tidegate passwd` writes it, in a Secret."""

    secret_name: ObjectName
    """The Secret."""
    key: DataKey = "passwords"
    """The key in it."""


class AuthSpec(SpecSection):
    """Who may connect."""

    allow_anonymous: bool = like(AuthConfig, "allow_anonymous")
    passwords: PasswordsSource | None = None
    """Users and hashes in mosquitto's format; changes are taken up without a restart."""
    reload_interval_s: float = like(AuthConfig, "reload_interval_s")
    password_threads: int = like(AuthConfig, "password_threads")
    max_pending_passwords: int = like(AuthConfig, "max_pending_passwords")
    max_remembered_passwords: int = like(AuthConfig, "max_remembered_passwords")


class AclSpec(SpecSection):
    """What clients may do, in the format of mosquitto's acl_file; taken up without a restart."""

    model_config = rules(
        ("has(self.rules) != has(self.source)", "exactly one of rules and source is needed"),
    )

    rules: Annotated[str, Field(max_length=262_144)] | None = None
    """The rules themselves."""
    source: FileSource | None = None
    """A Secret or ConfigMap with the rules."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.rules is None) == (self.source is None):
            raise ValueError("exactly one of rules and source is needed")
        return self


class LimitsSpec(RuntimeSection, LimitsConfig):
    """Bounds. What is above one is refused or dropped with a counted reason, never silently."""


class FeaturesSpec(RuntimeSection, FeaturesConfig):
    """Parts of the protocol that can be switched off (announced to MQTT 5 clients)."""


class LogSpec(RuntimeSection, LogConfig):
    """Logging."""

    format: Literal["text", "json"] = "json"
    """Lines for people, or JSON for collectors."""


class LinkSpec(SpecSection):
    """Between edges and routers."""

    model_config = rules(
        (
            "double(has(self.timeoutSeconds) ? self.timeoutSeconds : 5.0)"
            " >= 2.0 * double(has(self.heartbeatSeconds) ? self.heartbeatSeconds : 1.0)",
            "timeoutSeconds must be at least twice heartbeatSeconds",
        ),
    )

    discovery_interval_s: float = like(LinkConfig, "discovery_interval_s")
    heartbeat_s: float = like(LinkConfig, "heartbeat_s")
    timeout_s: float = like(LinkConfig, "timeout_s")
    credit_bytes: int = like(LinkConfig, "credit_bytes")
    mailbox_bytes: int = like(LinkConfig, "mailbox_bytes")
    stall_s: float = like(LinkConfig, "stall_s")

    @model_validator(mode="after")
    def _silence_is_longer_than_a_beat(self) -> Self:
        if self.timeout_s < 2 * self.heartbeat_s:
            raise ValueError("timeout_s must be at least twice heartbeat_s")
        return self


class ServiceMonitorSpec(SpecSection):
    """A ServiceMonitor, where the Prometheus operator is installed."""

    enabled: bool = True
    """Make one if its CRD is there."""
    interval_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """How often Prometheus asks."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels by which a Prometheus selects it."""


class TelemetrySpec(RuntimeSection, TelemetryConfig):
    """Metrics and traces."""

    service_monitor: ServiceMonitorSpec = ServiceMonitorSpec()
    """For Prometheus."""


class ServiceSpec(SpecSection):
    """The Service that clients connect to."""

    model_config = rules(
        (
            "!has(self.class) || (has(self.type) && self.type == 'LoadBalancer')",
            "class needs type LoadBalancer",
        ),
        (
            "!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0"
            " || (has(self.type) && self.type == 'LoadBalancer')",
            "loadBalancerSourceRanges needs type LoadBalancer",
        ),
        (
            "!has(self.externalTrafficPolicy) || (has(self.type) && self.type != 'ClusterIP')",
            "externalTrafficPolicy needs type LoadBalancer or NodePort",
        ),
    )

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """LoadBalancer asks the cloud for an address that the world can reach."""
    load_balancer_class: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, alias="class"
    )
    """Which implementation of load balancers (spec.loadBalancerClass)."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the Service; those that others put there are left alone."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the Service."""
    load_balancer_source_ranges: list[Annotated[str, Field(max_length=49)]] = Field(
        default_factory=list, max_length=256
    )
    """Networks that may connect; empty: all."""
    external_traffic_policy: Literal["Cluster", "Local"] | None = None
    """Local keeps the clients' addresses, and sends them only to nodes that have edges."""
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    """IPv4, IPv6 or both; unset: what the Service has (at first the cluster's default)."""

    @field_validator("load_balancer_source_ranges")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ipaddress.ip_network(network, strict=False)
        return value

    @model_validator(mode="after")
    def _type_fits(self) -> Self:
        if self.type != "LoadBalancer":
            if self.load_balancer_class is not None:
                raise ValueError("class needs type LoadBalancer")
            if self.load_balancer_source_ranges:
                raise ValueError("load_balancer_source_ranges needs type LoadBalancer")
        if self.type == "ClusterIP" and self.external_traffic_policy is not None:
            raise ValueError("external_traffic_policy needs type LoadBalancer or NodePort")
        return self


class NetworkPolicySpec(SpecSection):
    """Who may reach the pods, where the cluster's network enforces NetworkPolicies."""

    enabled: bool = True
    """Make them: clients to edges, edges to routers, routers to the bundled store."""
    clients: OpaqueList = Field(default_factory=list)
    """Where clients may come from (peers as in a NetworkPolicy); empty: anywhere."""
    metrics: OpaqueList = Field(default_factory=list)
    """Who may reach health, metrics and the admin API besides the operator; empty: anyone in the
    cluster (the admin API needs its token all the same)."""


class CertificatesSpec(SpecSection):
    """Certificates that the operator issues itself: of self-signed listeners and of the link."""

    model_config = rules(
        (
            "(has(self.renewBeforeDays) ? self.renewBeforeDays : 30)"
            " < (has(self.validityDays) ? self.validityDays : 90)",
            "renewBeforeDays must be below validityDays",
        ),
        (
            "(has(self.validityDays) ? self.validityDays : 90)"
            " < (has(self.authorityValidityDays) ? self.authorityValidityDays : 3650)",
            "validityDays must be below authorityValidityDays",
        ),
    )

    validity_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """How long a certificate is valid."""
    renew_before_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long before its end it is replaced."""
    authority_validity_days: Annotated[int, Field(ge=2, le=36500)] = 3650
    """How long the broker's own authority is valid; its successor is trusted beside it before it
    signs anything."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.renew_before_days >= self.validity_days:
            raise ValueError("renew_before_days must be below validity_days")
        if self.validity_days >= self.authority_validity_days:
            raise ValueError("validity_days must be below authority_validity_days")
        return self


class ImagePullSecret(SpecSection):
    """A Secret with a registry's credentials."""

    name: ObjectName
    """The Secret."""


class MqttBrokerSpec(SpecSection):
    """What is wanted."""

    model_config = rules(
        (_unique(_pod_port), "two listeners have the same port"),
        (_unique(_service_port), "two listeners have the same servicePort"),
    )

    listeners: list[ListenerSpec] = Field(
        min_length=1,
        max_length=32,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """Where clients come in."""
    edge: EdgeSpec = EdgeSpec()
    """The pods that hold the clients' connections."""
    router: RouterSpec = RouterSpec()
    """The pods that decide where messages go."""
    redis: RedisSpec = RedisSpec()
    """Where sessions, queues and retained messages are."""
    auth: AuthSpec = AuthSpec()
    """Who may connect."""
    acl: AclSpec | None = None
    """What clients may do; unset: everything."""
    limits: LimitsSpec = LimitsSpec()
    """Bounds."""
    features: FeaturesSpec = FeaturesSpec()
    """Protocol switches."""
    link: LinkSpec = LinkSpec()
    """Between edges and routers."""
    telemetry: TelemetrySpec = TelemetrySpec()
    """Metrics and traces."""
    log: LogSpec = LogSpec()
    """Logging."""
    service: ServiceSpec = ServiceSpec()
    """The Service that clients connect to."""
    network_policy: NetworkPolicySpec = NetworkPolicySpec()
    """Who may reach the pods."""
    certificates: CertificatesSpec = CertificatesSpec()
    """Certificates that the operator issues."""
    image: Annotated[str, Field(max_length=500)] | None = None
    """Image of edges, routers and the bundled Valkey; unset: the operator's own."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When it is pulled; unset: the cluster's default."""
    image_pull_secrets: list[ImagePullSecret] = Field(default_factory=list, max_length=16)
    """Credentials for it."""
    paused: bool = False
    """The operator changes nothing until this is false again; the status is kept."""

    @model_validator(mode="after")
    def _listeners_are_apart(self) -> Self:
        for what, values in (
            ("are called", [listener.name for listener in self.listeners]),
            ("have the port", [listener.pod_port for listener in self.listeners]),
            ("have the service_port", [listener.exposed_port for listener in self.listeners]),
        ):
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"two listeners {what} {value}")
        return self
