"""``spec.edge``, ``spec.router``, ``spec.redis``: what runs as pods, and where state is."""

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
from tidegate_operator.spec.listeners import FileSource

ResourceName = Annotated[str, Field(max_length=253)]
Amounts = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]

_TEMPLATE_KEYS: Final = frozenset({"metadata", "spec"})


class Resources(SpecSection):
    """What a container may use, and what is set aside for it."""

    requests: Amounts = Field(default_factory=dict)
    """Set aside: cpu, memory, …"""
    limits: Amounts = Field(default_factory=dict)
    """Never more than this."""


class DisruptionBudget(SpecSection):
    """How many pods may go at once when nodes are drained."""

    model_config = rules(
        (
            "has(self.minAvailable) != has(self.maxUnavailable)",
            "exactly one of minAvailable and maxUnavailable is needed",
        ),
    )

    min_available: CountOrPercent | None = None
    """Pods that must stay: a number or a percentage."""
    max_unavailable: CountOrPercent | None = None
    """Pods that may be gone."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.min_available is None) == (self.max_unavailable is None):
            raise ValueError("exactly one of min_available and max_unavailable is needed")
        return self


class PodSettings(SpecSection):
    """What the pods of every component can be given."""

    resources: Resources | None = None
    """Of the main container. Unset: modest requests and a limit of memory (docs/kubernetes.md)."""
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """Labels that nodes must have."""
    affinity: Opaque | None = None
    """As in a pod (spec.affinity)."""
    tolerations: OpaqueList = Field(default_factory=list)
    """As in a pod (spec.tolerations)."""
    topology_spread_constraints: OpaqueList | None = None
    """As in a pod. Unset: spread over nodes and zones as far as that is possible."""
    priority_class_name: ObjectName | None = None
    """As in a pod."""
    service_account_name: ObjectName | None = None
    """An account that is there already. Unset: one of its own, without any right."""
    pod_template: Opaque = Field(default_factory=dict)
    """Laid over the pod template (`metadata` and `spec`): maps are merged, lists whose items have
    names (containers, volumes, env, …) by name, other lists replaced. The main container is called
    tidegate."""

    @field_validator("pod_template")
    @classmethod
    def _only_a_template(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, part in value.items():
            if key not in _TEMPLATE_KEYS:
                raise ValueError(f"has metadata and spec, not {key}")
            if not isinstance(part, dict):
                raise ValueError(f"{key} is a section (keys and values)")  # noqa: TRY004  # pydantic's
        return value


class Autoscaling(SpecSection):
    """Pods come and go with the load, by a HorizontalPodAutoscaler."""

    model_config = rules(
        (
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not be above maxReplicas",
        ),
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 2
    """The fewest pods."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """The most pods."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 70
    """Mean CPU use that is aimed at, as a share of what is requested."""
    scale_down_stabilization_s: Annotated[int, Field(ge=0, le=3600)] = 300
    """How long the load must have been lower before pods go."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self


class EdgeAutoscaling(Autoscaling):
    """Edges come and go with the load, by a HorizontalPodAutoscaler."""

    target_connections: Annotated[int, Field(ge=1)] | None = None
    """Mean number of connections per edge that is aimed at as well; needs an adapter that serves
    the metric tidegate_connections_open as a custom metric of pods."""


class DrainSpec(RuntimeSection, DrainConfig):
    """How an edge lets its clients go when its pod ends."""

    model_config = rules(
        (
            "double(has(self.delaySeconds) ? self.delaySeconds : 5.0)"
            " < double(has(self.deadlineSeconds) ? self.deadlineSeconds : 60.0)",
            "delaySeconds must be below deadlineSeconds",
        ),
    )

    delay_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    """From failing readiness to the first client: time for the load balancer to notice."""


class RebalanceSpec(SpecSection):
    """Whether edges that have many more clients than others let some of them go. Load balancers
    choose an edge when a client connects, so without it a new edge stays almost empty."""

    enabled: bool = False
    """Do it: at `edge.drain.rate`, MQTT 5 clients are told to use another server."""
    excess_percent: Annotated[int, Field(ge=1, le=1000)] = 20
    """How far above the mean of all edges is too much."""
    minimum_excess: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Fewer connections above the mean are never too much."""
    stabilization_s: Annotated[int, Field(ge=0, le=3600)] = 60
    """How long all edges must have been ready, without one coming or going."""
    interval_s: Annotated[int, Field(ge=30, le=3600)] = 60
    """From one round to the next; longer after rounds that have not helped."""


class ScaledPods(PodSettings):
    """Pods of which there are several."""

    model_config = rules(
        (
            "!has(self.autoscaling) || !has(self.resources)"
            " || (has(self.resources.requests) && 'cpu' in self.resources.requests)"
            " || (has(self.resources.limits) && 'cpu' in self.resources.limits)",
            "autoscaling needs resources.requests.cpu",
        ),
    )

    disruption_budget: DisruptionBudget | None = None
    """Unset: one pod may be gone at a time."""

    def check_cpu_request(self, autoscaling: Autoscaling | None) -> None:
        """Raise ValueError if the autoscaler would have nothing to compare the CPU use with."""
        given = self.resources
        if autoscaling is None or given is None:
            return
        if "cpu" not in given.requests and "cpu" not in given.limits:
            raise ValueError("autoscaling needs resources.requests.cpu")


class EdgeSpec(ScaledPods):
    """Edges: they hold the clients' connections, and nothing that lasts."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 2
    """How many, unless `autoscaling` is given; `kubectl scale mqb/NAME --replicas=N` sets it."""
    autoscaling: EdgeAutoscaling | None = None
    """Let the number follow the load."""
    drain: DrainSpec = DrainSpec()
    """Leaving without a jolt."""
    rebalance: RebalanceSpec = RebalanceSpec()
    """Evening out the number of connections."""
    shutdown_timeout_s: float = like(Config, "shutdown_timeout_s")

    @model_validator(mode="after")
    def _autoscaling_is_possible(self) -> Self:
        self.check_cpu_request(self.autoscaling)
        if self.drain.delay_s >= self.drain.deadline_s:
            raise ValueError("drain.delay_s must be below drain.deadline_s")
        return self


class RouterSpec(ScaledPods):
    """Routers: they decide where messages go, and write to the store."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """How many, unless `autoscaling` is given."""
    autoscaling: Autoscaling | None = None
    """Let the number follow the load."""
    shutdown_timeout_s: float = like(Config, "shutdown_timeout_s")

    @model_validator(mode="after")
    def _autoscaling_is_possible(self) -> Self:
        self.check_cpu_request(self.autoscaling)
        return self


class Storage(SpecSection):
    """The volume of the bundled store."""

    model_config = rules(
        (
            "self.size == oldSelf.size"
            " && has(self.storageClassName) == has(oldSelf.storageClassName)"
            " && (!has(self.storageClassName)"
            " || self.storageClassName == oldSelf.storageClassName)",
            "the size and the class of a volume cannot be changed here (docs/kubernetes.md)",
        ),
    )

    size: Quantity = "8Gi"
    """How large."""
    storage_class_name: ObjectName | None = None
    """Its storage class; unset: the cluster's default."""
    on_delete: Literal["retain", "delete"] = "retain"
    """What becomes of the volume when the MqttBroker is deleted."""


class BundledRedis(PodSettings):
    """A Valkey server of the broker's own: one pod with a volume and an append-only file."""

    image: Annotated[str, Field(max_length=500)] | None = None
    """Unset: the broker's own image, which carries valkey-server."""
    storage: Storage = Storage()
    """Its volume; cannot be changed later, except `onDelete`."""


class SecretKey(SpecSection):
    """One key of a Secret in the broker's namespace."""

    name: ObjectName
    """The Secret."""
    key: DataKey = "password"
    """The key in it."""


class RedisTls(SpecSection):
    """TLS to an external server (a url that begins with rediss)."""

    ca: FileSource | None = None
    """The authorities that sign the servers' certificates; unset: the system's."""
    certificate_secret_name: ObjectName | None = None
    """A Secret of type kubernetes.io/tls with our certificate, for servers that ask for one."""


class ExternalRedis(SpecSection):
    """A Redis (7.0 or newer) or Valkey that is there already."""

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
    """The sentinels' password; unset: they ask for none."""
    tls: RedisTls | None = None
    """Certificates."""

    @field_validator("url")
    @classmethod
    def _url_is_understood(cls, value: str) -> str:
        url = parse_store_url(value)
        if url.unix:
            raise ValueError("pods share no Unix sockets: expected redis:// or rediss://")
        if url.password:
            raise ValueError("the password belongs into a Secret (password_secret)")
        return value

    @property
    def parsed(self) -> StoreUrl:
        """The URL in its parts."""
        return parse_store_url(self.url)

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.username is not None and self.password_secret is None:
            raise ValueError("username needs password_secret")
        if self.sentinel_username is not None and self.sentinel_password_secret is None:
            raise ValueError("sentinel_username needs sentinel_password_secret")
        if self.tls is not None and not self.parsed.tls:
            raise ValueError("tls needs a url that begins with rediss")
        is_sentinel = self.parsed.kind is StoreKind.SENTINEL
        if self.sentinel_password_secret is not None and not is_sentinel:
            raise ValueError("sentinel_password_secret needs a url with +sentinel")
        return self


class RedisSpec(SpecSection):
    """Where state lives: a bundled Valkey (also if neither is given), or an external server."""

    model_config = rules(
        ("!(has(self.bundled) && has(self.external))", "bundled and external exclude each other"),
        (
            "!has(self.durability) || self.durability != 'replicated' || has(self.external)",
            "durability replicated needs external: the bundled server has no replicas",
        ),
        (
            "(!has(self.replicas) && !has(self.replicationTimeoutSeconds))"
            " || (has(self.durability) && self.durability == 'replicated')",
            "replicas and replicationTimeoutSeconds need durability replicated",
        ),
        (
            "(has(self.partitions) ? self.partitions : 64)"
            " == (has(oldSelf.partitions) ? oldSelf.partitions : 64)",
            "partitions cannot be changed on existing data",
        ),
    )

    bundled: BundledRedis | None = None
    """A Valkey of the broker's own."""
    external: ExternalRedis | None = None
    """A server that is there already."""
    durability: Literal["everysec", "always", "replicated"] = like(StoreConfig, "durability")
    replicas: int = like(StoreConfig, "replicas")
    replication_timeout_s: float = like(StoreConfig, "replication_timeout_s")
    partitions: int = like(StoreConfig, "partitions")
    edge_lease_s: float = like(StoreConfig, "edge_lease_s")
    operation_timeout_s: float = like(StoreConfig, "operation_timeout_s")

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.bundled is not None and self.external is not None:
            raise ValueError("bundled and external exclude each other")
        if self.durability == "replicated" and self.external is None:
            raise ValueError(
                "durability replicated needs external: the bundled server has no replicas"
            )
        for key in ("replicas", "replication_timeout_s"):
            if key in self.model_fields_set and self.durability != "replicated":
                raise ValueError(f"{key} needs durability replicated")
        return self

    @property
    def own(self) -> BundledRedis | None:
        """The bundled server, if that is what is used."""
        return None if self.external is not None else self.bundled or BundledRedis()
