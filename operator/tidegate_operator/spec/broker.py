"""``MqttBroker.spec``: one model for the CRD, for validation, and for rendering.

Sections that are the same in the runtime's configuration derive from it. ``problems`` turns
validation errors into sentences, ``crd`` generates the OpenAPI schema. Docstrings of fields are the
descriptions that ``kubectl explain`` shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tidegate.runtime.config.model import (
    AuthConfig,
    Carrier,
    FeaturesConfig,
    FlappingConfig,
    LimitsConfig,
    LinkConfig,
    LogConfig,
    RecordConfig,
    TelemetryConfig,
)
from tidegate_operator.spec.backups import BackupSpec, RestoreFrom
from tidegate_operator.spec.console import ConsoleSpec
from tidegate_operator.spec.fields import (
    LabelMap,
    ObjectName,
    OpaqueList,
    RuntimeSection,
    SpecSection,
    like,
    rules,
)
from tidegate_operator.spec.listeners import DEFAULT_PORTS, ListenerSpec
from tidegate_operator.spec.maintenance import MaintenanceSpec
from tidegate_operator.spec.services import ServiceSpec
from tidegate_operator.spec.sources import AclSpec, PasswordsSource
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


def _service(listener: str) -> str:
    """The CEL expression for what tells a listener's Service from others; -NAME: its own."""
    return (
        f"(!has({listener}.service) ? ''"
        f" : {listener}.service.type != 'None' && has({listener}.service.name)"
        f" ? {listener}.service.name : '-' + {listener}.name)"
    )


#: The CEL expression for listeners that name a Service, and do not agree about its type.
_SAME_SERVICE = (
    "self.listeners.all(one, !has(one.service) || !has(one.service.name)"
    " || self.listeners.all(other, !has(other.service) || !has(other.service.name)"
    " || one.service.name != other.service.name || one.service.type == other.service.type))"
)


def _unique(value: Callable[[str], str]) -> str:
    """The CEL expression for a value that is unique among listeners."""
    return (
        "self.listeners.all(one, self.listeners.exists_one(other, "
        f"{value('one')} == {value('other')}))"
    )


class AuthSpec(SpecSection):
    """Authentication of clients."""

    allow_anonymous: bool = like(AuthConfig, "allow_anonymous")
    passwords: PasswordsSource | None = None
    """Users and password hashes in the format of mosquitto_passwd; reloaded without a restart."""
    denied_subscribe: Literal["refuse", "grant"] = like(AuthConfig, "denied_subscribe")
    session_owner: Literal["user", "any"] = like(AuthConfig, "session_owner")
    reload_interval_s: float = like(AuthConfig, "reload_interval_s")
    password_threads: int = like(AuthConfig, "password_threads")
    max_pending_passwords: int = like(AuthConfig, "max_pending_passwords")
    max_remembered_passwords: int = like(AuthConfig, "max_remembered_passwords")


class FlappingSpec(RuntimeSection, FlappingConfig):
    """Clients that connect and disconnect all the time, and are banned for a while."""


class LimitsSpec(RuntimeSection, LimitsConfig):
    """Limits. What exceeds one is rejected or dropped, and counted by reason."""

    flapping: FlappingSpec = FlappingSpec()
    """Clients that connect and disconnect all the time."""


class FeaturesSpec(RuntimeSection, FeaturesConfig):
    """Protocol features that can be disabled (announced to MQTT 5 clients)."""


class LogSpec(RuntimeSection, LogConfig):
    """Logging."""

    format: Literal["text", "json"] = "json"
    """Plain text, or one JSON object per line."""


class RecordSpec(RuntimeSection, RecordConfig):
    """The record of what has happened to each client: connections, refusals, drops, ends."""


class LinkSpec(SpecSection):
    """The link between edges and routers."""

    model_config = rules(
        (
            "double(has(self.timeoutSeconds) ? self.timeoutSeconds : 5.0)"
            " >= 2.0 * double(has(self.heartbeatSeconds) ? self.heartbeatSeconds : 1.0)",
            "timeoutSeconds must be at least twice heartbeatSeconds",
        ),
    )

    carrier: Carrier = like(LinkConfig, "carrier")
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
    """A ServiceMonitor for the Prometheus operator."""

    enabled: bool = True
    """Create it if the ServiceMonitor CRD is installed."""
    interval_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """Scrape interval."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the ServiceMonitor, for Prometheus' selector."""


class TelemetrySpec(RuntimeSection, TelemetryConfig):
    """Metrics and traces."""

    service_monitor: ServiceMonitorSpec = ServiceMonitorSpec()
    """The ServiceMonitor for Prometheus."""


class NetworkPolicySpec(SpecSection):
    """Who may connect to the pods, if the cluster's network plugin enforces NetworkPolicies."""

    enabled: bool = True
    """Create them: clients to edges, edges to routers, routers to the bundled store."""
    clients: OpaqueList = Field(default_factory=list)
    """Peers (as in a NetworkPolicy) that may connect as clients, to listeners without
    `networkPolicyPeers`; empty: all."""
    metrics: OpaqueList = Field(default_factory=list)
    """Peers that may reach health, metrics and the admin API besides the operator and the kubelet,
    for example Prometheus; empty: those of the operator (the chart's `networkPolicy.metrics`),
    nobody by default. `[{namespaceSelector: {}}]` is all pods of the cluster. A collector on the
    network of a node needs an `ipBlock` with the nodes' addresses."""


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
    """Validity of a certificate."""
    renew_before_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long before expiry it is renewed."""
    authority_validity_days: Annotated[int, Field(ge=2, le=36500)] = 3650
    """Validity of the broker's own certificate authority; its successor is trusted for a while
    before it signs certificates."""

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
    """Desired state of the broker."""

    model_config = rules(
        (_unique(_pod_port), "two listeners have the same port"),
        (
            "self.listeners.all(one, self.listeners.exists_one(other, "
            f"{_service_port('one')} == {_service_port('other')}"
            f" && {_service('one')} == {_service('other')}))",
            "two listeners have the same servicePort",
        ),
        (
            "has(self.restoreFrom) == has(oldSelf.restoreFrom)"
            " && (!has(self.restoreFrom) || self.restoreFrom == oldSelf.restoreFrom)",
            "restoreFrom is immutable: a broker is restored when it is made; make another "
            "MqttBroker to restore a backup",
        ),
        (_SAME_SERVICE, "two listeners have the same service.name and different service.type"),
    )

    listeners: list[ListenerSpec] = Field(
        min_length=1,
        max_length=32,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """Ports for clients."""
    edge: EdgeSpec = EdgeSpec()
    """Pods that hold client connections."""
    router: RouterSpec = RouterSpec()
    """Pods that route messages and access the store."""
    redis: RedisSpec = RedisSpec()
    """Store of sessions, queues and retained messages."""
    auth: AuthSpec = AuthSpec()
    """Authentication of clients."""
    acl: AclSpec | None = None
    """Authorization of clients; unset: everything is allowed."""
    limits: LimitsSpec = LimitsSpec()
    """Limits."""
    features: FeaturesSpec = FeaturesSpec()
    """Protocol features."""
    link: LinkSpec = LinkSpec()
    """The link between edges and routers."""
    telemetry: TelemetrySpec = TelemetrySpec()
    """Metrics and traces."""
    log: LogSpec = LogSpec()
    """Logging."""
    record: RecordSpec = RecordSpec()
    """The record of what has happened to each client."""
    service: ServiceSpec = ServiceSpec()
    """The Service that clients connect to: of all listeners without a `service` of their own."""
    network_policy: NetworkPolicySpec = NetworkPolicySpec()
    """NetworkPolicies of the pods."""
    certificates: CertificatesSpec = CertificatesSpec()
    """Certificates that the operator issues."""
    maintenance: MaintenanceSpec = MaintenanceSpec()
    """When the operator may replace pods by itself."""
    backup: BackupSpec = BackupSpec()
    """Backups of the store."""
    restore_from: RestoreFrom | None = None
    """The backup that this broker begins with; only when it is made. Edges and routers are created
    when it has been restored."""
    console: ConsoleSpec = ConsoleSpec()
    """The console: a page and an HTTP API about the broker."""
    image: Annotated[str, Field(max_length=500)] | None = None
    """Image of edges, routers and the console, and of the bundled Valkey unless
    `redis.bundled.image` is set; unset: the operator's own."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; unset: the cluster's default."""
    image_pull_secrets: list[ImagePullSecret] = Field(default_factory=list, max_length=16)
    """Registry credentials for the image."""
    paused: bool = False
    """Suspend reconciliation: the operator changes nothing, and keeps the status up to date."""

    @model_validator(mode="after")
    def _listeners_are_distinct(self) -> Self:
        for what, values in (
            ("are called", [listener.name for listener in self.listeners]),
            ("have the port", [listener.pod_port for listener in self.listeners]),
        ):
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"two listeners {what} {value}")
        return self
