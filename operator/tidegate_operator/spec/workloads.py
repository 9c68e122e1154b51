"""``spec.edge``, ``spec.router``, ``spec.redis``: settings of pods, and of the store."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.runtime.config.model import Config, DrainConfig, StoreConfig
from tidegate.runtime.config.store_url import StoreKind, StoreUrl, parse_store_url
from tidegate_operator.spec.fields import (
    CountOrPercent,
    DataKey,
    ObjectName,
    Opaque,
    OpaqueList,
    Quantity,
    RuntimeSection,
    SpecSection,
    like,
    rules,
)
from tidegate_operator.spec.sources import FileSource

ResourceName = Annotated[str, Field(max_length=253)]
Amounts = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]

_TEMPLATE_KEYS: Final = frozenset({"metadata", "spec"})


class Resources(SpecSection):
    """Resource requests and limits of a container."""

    requests: Amounts = Field(default_factory=dict)
    """Requests: cpu, memory, …"""
    limits: Amounts = Field(default_factory=dict)
    """Limits: cpu, memory, …"""


class DisruptionBudget(SpecSection):
    """How many pods may be evicted at once when nodes are drained."""

    model_config = rules(
        (
            "has(self.minAvailable) != has(self.maxUnavailable)",
            "exactly one of minAvailable and maxUnavailable is required",
        ),
    )

    min_available: CountOrPercent | None = None
    """Pods that must stay available: a number or a percentage."""
    max_unavailable: CountOrPercent | None = None
    """Pods that may be unavailable: a number or a percentage."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.min_available is None) == (self.max_unavailable is None):
            raise ValueError("exactly one of min_available and max_unavailable is required")
        return self


class PodSettings(SpecSection):
    """Settings of pods, for every component."""

    resources: Resources | None = None
    """Resources of the main container. Unset: small requests and a memory limit
    (docs/kubernetes.md)."""
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """As in a pod (spec.nodeSelector)."""
    affinity: Opaque | None = None
    """As in a pod (spec.affinity). Unset, and without `topologySpreadConstraints`: edges and
    routers prefer nodes without another one of their kind."""
    tolerations: OpaqueList = Field(default_factory=list)
    """As in a pod (spec.tolerations)."""
    topology_spread_constraints: OpaqueList | None = None
    """As in a pod. Unset: spread over nodes and zones (ScheduleAnyway)."""
    priority_class_name: ObjectName | None = None
    """As in a pod (spec.priorityClassName)."""
    service_account_name: ObjectName | None = None
    """An existing ServiceAccount. Unset: a dedicated one without any rights."""
    pod_template: Opaque = Field(default_factory=dict)
    """Merged into the pod template (`metadata` and `spec`): maps are merged, lists whose items have
    names (containers, volumes, env, …) are merged by name, other lists are replaced. The main
    container is named tidegate."""

    @field_validator("pod_template")
    @classmethod
    def _only_a_template(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, part in value.items():
            if key not in _TEMPLATE_KEYS:
                raise ValueError(f"expected metadata and spec, not {key}")
            if not isinstance(part, dict):
                raise ValueError(f"{key} must be a section (keys and values)")  # noqa: TRY004  # pydantic's
        return value


class Autoscaling(SpecSection):
    """Autoscaling by a HorizontalPodAutoscaler."""

    model_config = rules(
        (
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not be above maxReplicas",
        ),
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 2
    """Minimum number of pods."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Maximum number of pods."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 70
    """Target mean CPU utilization, in percent of the requests."""
    scale_down_stabilization_s: Annotated[int, Field(ge=0, le=3600)] = 300
    """How long the load must have been lower before pods are removed."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self


class EdgeAutoscaling(Autoscaling):
    """Autoscaling of edges by a HorizontalPodAutoscaler."""

    target_connections: Annotated[int, Field(ge=1)] | None = None
    """Target mean number of connections per edge; requires an adapter that serves
    tidegate_connections_open as a custom metric of pods."""


class DrainSpec(RuntimeSection, DrainConfig):
    """How an edge disconnects its clients when its pod is terminated."""

    model_config = rules(
        (
            "double(has(self.delaySeconds) ? self.delaySeconds : 5.0)"
            " < double(has(self.deadlineSeconds) ? self.deadlineSeconds : 60.0)",
            "delaySeconds must be below deadlineSeconds",
        ),
    )

    delay_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    """Delay between failing readiness and the first disconnect, so that the load balancer stops
    sending new connections first."""


class RebalanceSpec(SpecSection):
    """Rebalancing of connections: edges with many more clients than others disconnect some of them.
    Load balancers choose an edge when a client connects, so without rebalancing a new edge stays
    almost empty."""

    enabled: bool = False
    """Rebalance, at `edge.drain.rate`; MQTT 5 clients get DISCONNECT 0x9C (Use another server)."""
    excess_percent: Annotated[int, Field(ge=1, le=1000)] = 20
    """An edge is overloaded above the mean of all edges plus this percentage."""
    minimum_excess: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """An edge is overloaded only with at least this many connections above the mean."""
    stabilization_s: Annotated[int, Field(ge=0, le=3600)] = 60
    """How long all edges must have been ready, with none added or removed."""
    interval_s: Annotated[int, Field(ge=30, le=3600)] = 60
    """Interval between rounds; increased while rounds have no effect."""


class ScaledPods(PodSettings):
    """Settings of pods with several replicas."""

    model_config = rules(
        (
            "!has(self.autoscaling) || !has(self.resources)"
            " || (has(self.resources.requests) && 'cpu' in self.resources.requests)"
            " || (has(self.resources.limits) && 'cpu' in self.resources.limits)",
            "autoscaling requires resources.requests.cpu",
        ),
    )

    disruption_budget: DisruptionBudget | None = None
    """PodDisruptionBudget. Unset: one pod may be unavailable at a time."""

    def check_cpu_request(self, autoscaling: Autoscaling | None) -> None:
        """Raise ValueError if there is no CPU request to compute a utilization from."""
        given = self.resources
        if autoscaling is None or given is None:
            return
        if "cpu" not in given.requests and "cpu" not in given.limits:
            raise ValueError("autoscaling requires resources.requests.cpu")


class EdgeSpec(ScaledPods):
    """Edges: they hold client connections, and no persistent state."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 2
    """Number of edges, unless `autoscaling` is set; `kubectl scale mqb/NAME --replicas=N` sets
    it."""
    autoscaling: EdgeAutoscaling | None = None
    """Scale with the load."""
    drain: DrainSpec = DrainSpec()
    """Graceful shutdown of edges."""
    rebalance: RebalanceSpec = RebalanceSpec()
    """Rebalancing of connections."""
    shutdown_timeout_s: float = like(Config, "shutdown_timeout_s")

    @model_validator(mode="after")
    def _autoscaling_is_possible(self) -> Self:
        self.check_cpu_request(self.autoscaling)
        if self.drain.delay_s >= self.drain.deadline_s:
            raise ValueError("drain.delay_s must be below drain.deadline_s")
        return self


class RouterSpec(ScaledPods):
    """Routers: they route messages, and access the store."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of routers, unless `autoscaling` is set."""
    autoscaling: Autoscaling | None = None
    """Scale with the load."""
    shutdown_timeout_s: float = like(Config, "shutdown_timeout_s")

    @model_validator(mode="after")
    def _autoscaling_is_possible(self) -> Self:
        self.check_cpu_request(self.autoscaling)
        return self


class Storage(SpecSection):
    """The volume of the bundled store."""

    size: Quantity = "8Gi"
    """Requested size. It can grow, if the storage class allows that (allowVolumeExpansion)."""
    storage_class_name: ObjectName | None = None
    """Storage class; unset: the cluster's default. Immutable."""
    on_delete: Literal["retain", "delete"] = "retain"
    """What happens to the volume when the MqttBroker is deleted."""


class BundledRedis(PodSettings):
    """Valkey for this broker: one server, or three of which one survives the loss of its node. Each
    is a pod with a volume and an append-only file."""

    replicas: Literal[1, 3] = 1
    """Servers: 1, or 3 (a primary and two replicas, with Sentinel, on different nodes if there are
    enough). With 3, `durability` is `replicated` unless set."""
    image: Annotated[str, Field(max_length=500)] | None = None
    """Image with valkey-server. Unset: the broker's image, which contains it. A new image is used
    once edges and routers serve with theirs."""
    storage: Storage = Storage()
    """Its volume; it can grow."""


class SecretKey(SpecSection):
    """One key of a Secret in the broker's namespace."""

    name: ObjectName
    """The Secret."""
    key: DataKey = "password"
    """The key in it."""


class RedisTls(SpecSection):
    """TLS to an external server (a url with scheme rediss)."""

    ca: FileSource | None = None
    """CA certificates that the server is verified against; unset: those of the system."""
    certificate_secret_name: ObjectName | None = None
    """A Secret of type kubernetes.io/tls with the client certificate."""


class ExternalRedis(SpecSection):
    """An existing Redis (7.0 or newer) or Valkey."""

    url: Annotated[str, Field(max_length=2000)]
    """redis://HOST:PORT[/DB], redis+sentinel://HOST:PORT,…/MASTER or redis+cluster://HOST:PORT,…;
    with rediss for TLS; without a password (`passwordSecret`)."""
    username: Annotated[str, Field(max_length=253)] | None = None
    """The ACL user; unset: the server's default user."""
    password_secret: SecretKey | None = None
    """The password."""
    sentinel_username: Annotated[str, Field(max_length=253)] | None = None
    """The ACL user of the sentinels; unset: their default user."""
    sentinel_password_secret: SecretKey | None = None
    """The sentinels' password; unset: none."""
    tls: RedisTls | None = None
    """TLS certificates."""

    @field_validator("url")
    @classmethod
    def _url_is_understood(cls, value: str) -> str:
        url = parse_store_url(value)
        if url.unix:
            raise ValueError(
                "Unix sockets are not supported in Kubernetes: expected redis:// or rediss://"
            )
        if url.password:
            raise ValueError("a password is not allowed in the url: use password_secret")
        return value

    @property
    def parsed(self) -> StoreUrl:
        """The URL in its parts."""
        return parse_store_url(self.url)

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.username is not None and self.password_secret is None:
            raise ValueError("username requires password_secret")
        if self.sentinel_username is not None and self.sentinel_password_secret is None:
            raise ValueError("sentinel_username requires sentinel_password_secret")
        if self.tls is not None and not self.parsed.tls:
            raise ValueError("tls requires a url with scheme rediss")
        is_sentinel = self.parsed.kind is StoreKind.SENTINEL
        if self.sentinel_password_secret is not None and not is_sentinel:
            raise ValueError("sentinel_password_secret requires a url with +sentinel")
        return self


def _class(redis: str) -> str:
    """The CEL expression for the storage class of the bundled store, '' for the default."""
    storage = f"{redis}.bundled.storage"
    return (
        f"(has({redis}.bundled) && has({storage}) && has({storage}.storageClassName)"
        f" ? {storage}.storageClassName : '')"
    )


#: CEL: the bundled store has replicas.
_HAS_THREE: Final = (
    "(has(self.bundled) && has(self.bundled.replicas) && self.bundled.replicas == 3)"
)
_NEEDS_REPLICAS: Final = "durability replicated requires external, or bundled.replicas 3"
_TWO_AT_MOST: Final = "replicas must not be above 2: the bundled store has two replicas"


class RedisSpec(SpecSection):
    """Store of the broker: a bundled Valkey (the default), or an external server."""

    model_config = rules(
        (
            "!(has(self.bundled) && has(self.external))",
            "bundled and external are mutually exclusive",
        ),
        (
            "!has(self.durability) || self.durability != 'replicated' || has(self.external)"
            f" || {_HAS_THREE}",
            _NEEDS_REPLICAS,
        ),
        (
            "(!has(self.replicas) && !has(self.replicasConfirm)"
            " && !has(self.replicationTimeoutSeconds))"
            f" || (has(self.durability) ? self.durability == 'replicated' : {_HAS_THREE})",
            "replicas, replicasConfirm and replicationTimeoutSeconds require durability replicated",
        ),
        (
            f"!has(self.replicas) || self.replicas <= 2 || !({_HAS_THREE})",
            _TWO_AT_MOST,
        ),
        (
            "(has(self.partitions) ? self.partitions : 64)"
            " == (has(oldSelf.partitions) ? oldSelf.partitions : 64)",
            "partitions is immutable",
        ),
        (
            "has(self.external) || has(oldSelf.external)"
            f" || {_class('self')} == {_class('oldSelf')}",
            "bundled.storage.storageClassName is immutable (docs/kubernetes.md)",
        ),
    )

    bundled: BundledRedis | None = None
    """A Valkey server for this broker."""
    external: ExternalRedis | None = None
    """An existing server."""
    durability: Literal["everysec", "always", "replicated"] = like(StoreConfig, "durability")
    replicas: int = like(StoreConfig, "replicas")
    replicas_confirm: Literal["in_sync", "minimum"] = like(StoreConfig, "replicas_confirm")
    replication_timeout_s: float = like(StoreConfig, "replication_timeout_s")
    partitions: int = like(StoreConfig, "partitions")
    edge_lease_s: float = like(StoreConfig, "edge_lease_s")
    operation_timeout_s: float = like(StoreConfig, "operation_timeout_s")
    memory_reserve_percent: int = like(StoreConfig, "memory_reserve_percent")

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.bundled is not None and self.external is not None:
            raise ValueError("bundled and external are mutually exclusive")
        if self.durability == "replicated" and self.external is None and not self.is_replicated:
            raise ValueError(_NEEDS_REPLICAS)
        for key in ("replicas", "replicas_confirm", "replication_timeout_s"):
            if key in self.model_fields_set and self.promised_durability != "replicated":
                raise ValueError(f"{key} requires durability replicated")
        if self.is_replicated and self.replicas > 2:
            raise ValueError(_TWO_AT_MOST)
        return self

    @property
    def is_replicated(self) -> bool:
        """Whether the bundled server has replicas."""
        return self.bundled is not None and self.bundled.replicas > 1

    @property
    def promised_durability(self) -> Literal["everysec", "always", "replicated"]:
        """When a write is acknowledged: with replicas of our own, when they have it."""
        is_default = "durability" not in self.model_fields_set
        return "replicated" if is_default and self.is_replicated else self.durability

    @property
    def own(self) -> BundledRedis | None:
        """The bundled server; None with an external one."""
        return None if self.external is not None else self.bundled or BundledRedis()
