"""Shapes of nodes, listeners, settings and the store."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tidegate.console.models.common import Model, Page, Partial


class Drain(Model):
    """How far a drain is."""

    draining: bool
    done: bool
    reason: str | None = None
    since: str | None = None
    """RFC 3339, UTC."""
    clients_at_start: int = 0
    clients_left: int = 0


class Node(Model):
    """One edge or router, or a `tidegate serve` that is both."""

    name: str
    role: str
    """edge, router or serve."""
    address: str
    """Of its admin server."""
    version: str
    build: str = ""
    """interpreted or compiled; empty: an older one, which does not say."""
    ready: bool
    reason: str
    """Why it is not ready, else what is remarkable."""
    uptime_s: float
    clients: int | None = None
    """Connected clients; null: a router."""
    drain: Drain | None = None
    """null: a router."""
    shedding: int = 0
    """Clients that are still to be disconnected of a shed."""
    restart_needed: list[str] = []
    """Changed settings that wait for a restart."""
    configuration_problem: str = ""
    """Why a changed configuration is not in force."""
    clock_offset_s: float = 0.0
    clock_problem: str = ""
    load: dict[str, float] = {}
    """cpu_percent (of one core), memory_bytes, event_loop_lag_ms; of the last ten seconds."""
    status: dict[str, Any] = {}
    """Everything that its admin server says at /status."""


class NodePage(Page[Node]):
    """The nodes that answer."""


class ShedRequest(Model):
    """How many clients are to be disconnected, so that they connect elsewhere."""

    connections: Annotated[int, Field(ge=0, le=100_000_000)]
    """0 cancels what is still to be done."""


class Shed(Model):
    """A shed that has begun."""

    shedding: int
    """Clients that will be disconnected."""


class Certificate(Model):
    """A certificate, a CA certificate or a revocation list of a listener. Times since 1970."""

    path: str
    what: str
    names: list[str] = []
    """Server names; empty for those of its chain."""
    not_before: float
    not_after: float
    problem: str = ""
    """Why it is not valid now."""


class ListenerTls(Model):
    """TLS of a listener."""

    minimum_version: str
    client_certificates: str
    certificates: list[Certificate]
    client_ca: list[Certificate]
    client_crl: list[Certificate]


class Listener(Model):
    """A listener of one node."""

    node: str
    listener: str
    protocol: str
    addresses: list[str]
    paths: list[str]
    mount_point: str
    max_connections: int
    """0: no limit."""
    max_qos: int
    proxy_protocol: str
    allow_anonymous: bool
    connections: int
    accepted: int
    refused: dict[str, int]
    """Sockets closed before the MQTT connection, by reason, since the start."""
    tls: ListenerTls | None = None


class ListenerPage(Page[Listener]):
    """The listeners of all nodes that answer."""


class Setting(Model):
    """One setting in force."""

    key: str
    value: Any = None
    """Of the nodes that have no other in `differs`."""
    default: Any = None
    is_default: bool
    description: str = ""
    differs: dict[str, Any] = {}
    """By node, where not all have the same value."""


class Settings(Partial):
    """The configuration in force."""

    items: list[Setting]
    restart_needed: dict[str, list[str]] = {}
    """By node, changed settings that wait for a restart."""
    problems: dict[str, str] = {}
    """By node, why a changed configuration is not in force."""


class StoreServer(Model):
    """One server of the store that the broker writes to."""

    version: str
    role: str
    uptime_s: int
    clients: int
    memory_bytes: int
    memory_limit_bytes: int
    """0: no limit."""
    append_only: bool
    append_only_ok: bool
    fsync_pending: int = 0
    """Calls of fsync that wait."""
    replicas: int
    replica_lag_s: int | None = None
    """Of the slowest replica; null: there is none."""
    operations_per_s: int
    keys: int | None = None
    partitions: int
    """Partitions of the broker that it has."""


class StoreState(Model):
    """The store."""

    reachable: bool
    problem: str = ""
    url: str
    """Without password."""
    durability: str
    partitions: int
    latency_ms: list[float] = []
    """Round trips just now, the shortest first."""
    history: dict[str, Any] | None = None
    """Whether the store went back to an older state, as the routers found it."""
    servers: list[StoreServer] = []
