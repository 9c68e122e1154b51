"""The configuration: one schema for the YAML file, the flags, the reference docs and the CRD.

Every key has a unit in its name, a default, a range and a description. An unknown or wrong key
stops the start and is named. Read once, then passed down; nobody else reads files or environment.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tidegate.runtime.config.store_url import StoreKind, parse_store_url

MAX_PACKET_SIZE_BYTES: Final = 268_435_455  # the largest remaining length (MQTT5 §2.1.4)
#: The name of a listener; it may be empty.
LABEL_PATTERN: Final = r"^[a-z0-9]?([-a-z0-9]*[a-z0-9])?$"


class Section(BaseModel):
    """A part of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def check_networks(value: list[str]) -> list[str]:
    """Return the networks. Raises ValueError for one that is no network in CIDR notation."""
    for network in value:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ValueError(f"{network!r} is not an IP network") from None
    return value


def check_mount_point(value: str) -> str:
    """Return the mount point. Raises ValueError if it has wildcards."""
    if "+" in value or "#" in value:
        raise ValueError("wildcards are not allowed in a mount point")
    return value


class ListenerProtocol(StrEnum):
    """What a listener speaks; ``auto`` finds out from the first bytes."""

    TCP = "tcp"
    TLS = "tls"
    WS = "ws"
    WSS = "wss"
    UNIX = "unix"
    AUTO = "auto"


class CertificateConfig(Section):
    """A certificate with its key; the first one of a listener is the default."""

    certificate: Path
    """PEM file with the certificate and its chain."""
    key: Path
    """PEM file with the private key."""
    server_names: list[str] = []
    """Names (SNI, `*.example.com` allowed) it serves; empty: those in the certificate."""


class TlsConfig(Section):
    """TLS of one listener."""

    certificates: list[CertificateConfig] = Field(default_factory=list, max_length=100)
    """Certificates, chosen by SNI."""
    client_ca: Path | None = None
    """PEM file of the authorities that sign client certificates."""
    client_certificates: Literal["off", "optional", "required"] = "off"
    """Whether clients show a certificate."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """The lowest TLS version accepted."""
    reload_interval_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """How often the files are looked at for changes (a swapped mount included)."""
    handshake_timeout_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    """A TLS handshake that takes longer is dropped."""
    identity_as_username: Literal["off", "cn", "dn"] = "off"
    """Take the user name from the verified client certificate: its common name or its subject."""

    @model_validator(mode="after")
    def _client_certificates_need_a_ca(self) -> Self:
        if self.client_certificates != "off" and self.client_ca is None:
            raise ValueError("client_certificates needs client_ca")
        if self.identity_as_username != "off" and self.client_certificates == "off":
            raise ValueError("identity_as_username needs client_certificates")
        return self


class ListenerConfig(Section):
    """One listening socket."""

    name: str = Field(default="", max_length=63, pattern=LABEL_PATTERN)
    """A name for logs and metrics; default: protocol-port."""
    protocol: ListenerProtocol = ListenerProtocol.TCP
    """tcp, tls, ws, wss, unix, or auto (all of them on one port)."""
    address: str = "127.0.0.1"
    """IPv4 or IPv6 address; `*` is every address of both families; a path for unix."""
    port: Annotated[int, Field(ge=0, le=65535)] = 1883
    """TCP port; 0 lets the system choose (it is printed)."""
    paths: list[str] = ["/mqtt", "/ws", "/"]
    """WebSocket request paths that are accepted (a query string is ignored)."""
    allowed_origins: list[str] = []
    """Origins that browsers may come from (`https://*.example.com` allowed); empty: any."""
    tls: TlsConfig = TlsConfig()
    """Certificates; needed by tls and wss, and by auto if it is to take TLS."""
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    """PROXY protocol v1/v2 from `trusted_proxies`."""
    proxy_protocol_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """How long a PROXY header may take."""
    trusted_proxies: list[str] = []
    """Networks whose PROXY headers and X-Forwarded-For are believed; no others are."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Connections at the same time; 0: no limit."""
    accept_rate: Annotated[float, Field(ge=0)] = 0
    """New connections per second; 0: no limit. More wait in the kernel's queue."""
    accept_burst: Annotated[int, Field(ge=1)] = 1000
    """How many may come at once before `accept_rate` counts."""
    backlog: Annotated[int, Field(ge=1, le=65535)] = 4096
    """Length of the kernel's queue of connections not yet accepted."""
    reuse_port: bool = False
    """Let other processes of this user listen on the same port; the system spreads connections."""
    allow_anonymous: bool | None = None
    """Clients without user name; unset: what `auth.allow_anonymous` says."""
    mount_point: str = ""
    """A prefix put before every topic of this listener's clients, and hidden from them."""
    tcp_keepalive_s: Annotated[int, Field(ge=0, le=7200)] = 60
    """Idle time before TCP keepalive probes; 0: off."""
    websocket_ping_s: Annotated[float, Field(ge=0, le=3600)] = 25.0
    """Interval of server WebSocket pings, which keep load balancers' idle timers quiet; 0: off."""
    write_high_water_bytes: Annotated[int, Field(ge=1024)] = 262_144
    """Unsent bytes of a connection above which it counts as slow."""
    unix_mode: Annotated[int, Field(ge=0, le=0o777)] = 0o660
    """Permissions of a Unix socket."""
    max_qos: Annotated[int, Field(ge=0, le=2)] = 2
    """Highest QoS granted and accepted."""

    _check_networks = field_validator("trusted_proxies")(check_networks)
    _check_mount_point = field_validator("mount_point")(check_mount_point)

    @model_validator(mode="after")
    def _tls_where_needed(self) -> Self:
        needs = self.protocol in {ListenerProtocol.TLS, ListenerProtocol.WSS}
        if needs and not self.tls.certificates:
            raise ValueError(f"protocol {self.protocol.value} needs tls.certificates")
        if self.reuse_port and self.protocol is ListenerProtocol.UNIX:
            raise ValueError("reuse_port is for TCP ports, a Unix socket has one listener")
        return self

    @property
    def label(self) -> str:
        """The name, or one made of protocol and port."""
        return self.name or f"{self.protocol.value}-{self.port}"


class LimitsConfig(Section):
    """Bounds. What is above one is refused or dropped with a counted reason, never silently."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """From accept to CONNECT."""
    max_packet_size_bytes: Annotated[int, Field(ge=128, le=MAX_PACKET_SIZE_BYTES)] = 1_048_576
    """Largest packet accepted (announced to MQTT 5 clients)."""
    max_client_id_bytes: Annotated[int, Field(ge=23, le=65535)] = 65_535
    """Longest client identifier."""
    max_topic_levels: Annotated[int, Field(ge=1, le=65535)] = 128
    """Levels of a topic name or filter."""
    max_topic_bytes: Annotated[int, Field(ge=1, le=65535)] = 65_535
    """Length of a topic name or filter."""
    max_subscriptions: Annotated[int, Field(ge=0)] = 0
    """Subscriptions of one session; 0: no limit."""
    max_in_flight: Annotated[int, Field(ge=1, le=65535)] = 32
    """QoS 1 and 2 messages under way to one client (its Receive Maximum may lower it)."""
    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 100
    """QoS 1 and 2 messages under way from one client (announced to MQTT 5 clients)."""
    max_queued_messages: Annotated[int, Field(ge=1)] = 1000
    """Messages waiting for one session; for a durable one those under way count too."""
    queue_full_policy: Literal["drop_newest", "drop_oldest"] = "drop_newest"
    """Which message goes when a queue is full."""
    max_queued_bytes: Annotated[int, Field(ge=1024)] = 8_388_608
    """Bytes waiting in memory for one connected client that takes them too slowly."""
    max_topic_alias: Annotated[int, Field(ge=0, le=65535)] = 10
    """Topic aliases a client may use."""
    max_topic_alias_outgoing: Annotated[int, Field(ge=0, le=65535)] = 10
    """Topic aliases used towards a client that allows them."""
    max_session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 604_800
    """Longest session expiry interval granted; 4294967295: sessions may stay for ever."""
    legacy_session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 604_800
    """Expiry of sessions of MQTT 3.1 and 3.1.1 clients with clean session 0."""
    max_message_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """Expiry put on messages that have a longer one or none; 0: none."""
    max_keep_alive_s: Annotated[int, Field(ge=0, le=65535)] = 0
    """Longest keep alive; a longer one (or off) is replaced (MQTT 5) or enforced; 0: any."""
    max_publish_rate: Annotated[float, Field(ge=0)] = 0
    """Messages per second from one client; above it reading pauses; 0: no limit."""
    max_publish_bytes_rate: Annotated[float, Field(ge=0)] = 0
    """Bytes per second from one client; above it reading pauses; 0: no limit."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Connections of the whole process; 0: no limit."""
    max_retained_payload_bytes: Annotated[int, Field(ge=0)] = 1_048_576
    """Largest payload that is retained; a larger one is delivered, not kept, and counted."""


class FeaturesConfig(Section):
    """Parts of the protocol that can be switched off (announced to MQTT 5 clients)."""

    retain: bool = True
    """Retained messages."""
    wildcard_subscriptions: bool = True
    """Topic filters with + and #."""
    shared_subscriptions: bool = True
    """$share/…"""
    queue_qos0: bool = False
    """Queue QoS 0 messages too for sessions that are not connected."""
    response_information: str = ""
    """Prefix for response topics given to clients that ask ({client_id} is replaced)."""
    sys_interval_s: Annotated[float, Field(ge=0, le=86400)] = 10.0
    """Interval of $SYS topics; 0: off."""
    allow_empty_client_id: bool = True
    """Assign client identifiers to clients without one."""


class AuthConfig(Section):
    """Who may connect, and what they may do."""

    allow_anonymous: bool = False
    """Clients without user name may connect."""
    password_file: Path | None = None
    """mosquitto's format: user:hash, with $6$, $7$ or argon2id hashes."""
    acl_file: Path | None = None
    """mosquitto's format and rules."""
    reload_interval_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """How often both files are looked at for changes (SIGHUP: at once)."""
    password_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that compute costly password hashes."""
    max_pending_passwords: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Passwords that wait for such a thread; above it clients are told that the server is busy."""
    max_remembered_passwords: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Accepted passwords that are not hashed again when the client reconnects; 0: none."""


_STORE_USERS: Final = (
    ("username", "password_file"),
    ("sentinel_username", "sentinel_password_file"),
)
_STORE_TLS: Final = ("tls_ca", "tls_certificate", "tls_key")
_STORE_CREDENTIALS: Final = (*_STORE_TLS, *(key for pair in _STORE_USERS for key in pair))


class StoreConfig(Section):
    """Where state lives."""

    url: str | None = Field(default=None, repr=False)
    """redis://HOST:PORT[/DB], unix:///PATH, redis+sentinel://HOST:PORT,…/MASTER or
    redis+cluster://HOST:PORT,…; with rediss for TLS; unset: an embedded Valkey in `data_dir`."""
    username: str | None = None
    """The ACL user; unset: the server's default user."""
    password_file: Path | None = None
    """File with the password, read again for every connection; better than one in the URL."""
    tls_ca: Path | None = None
    """PEM file of the authorities that sign the servers' certificates; unset: the system's."""
    tls_certificate: Path | None = None
    """PEM file with our certificate, for servers that ask for one."""
    tls_key: Path | None = None
    """PEM file with its private key."""
    sentinel_username: str | None = None
    """The ACL user of the sentinels; unset: their default user."""
    sentinel_password_file: Path | None = None
    """File with the sentinels' password; unset: they ask for none."""
    data_dir: Path = Path("./data")
    """Directory of the embedded server's append-only file."""
    durability: Literal["everysec", "always", "replicated"] = "everysec"
    """What must have happened before anything is acknowledged: the server has it, its append-only
    file is on the disk, or `replicas` other servers have it too (docs/storage.md)."""
    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """How many replicas must confirm (durability replicated)."""
    replication_timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Replicas that take longer are waited for again, logged and counted."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 64
    """Hash tags that sessions are spread over; never change it on existing data."""
    edge_lease_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    """An edge that has not been heard of for this long is dead: its sessions end, wills fire."""
    operation_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """A call that takes longer has failed."""

    @field_validator("url")
    @classmethod
    def _url_is_understood(cls, value: str | None) -> str | None:
        if value is not None:
            parse_store_url(value)
        return value

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        url = None if self.url is None else parse_store_url(self.url)
        for key in _STORE_CREDENTIALS:
            if url is None and getattr(self, key) is not None:
                raise ValueError(f"{key} needs url")
        if url is None and self.durability == "replicated":
            raise ValueError("durability replicated needs url: the embedded server has no replicas")
        for name, file in _STORE_USERS:
            if getattr(self, name) is not None and getattr(self, file) is None:
                raise ValueError(f"{name} needs {file}")
        if url is not None and url.password and self.password_file is not None:
            raise ValueError("password_file and a password in url exclude each other")
        for key in _STORE_TLS:
            if url is not None and not url.tls and getattr(self, key) is not None:
                raise ValueError(f"{key} needs a url that begins with rediss")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        is_sentinel = url is not None and url.kind is StoreKind.SENTINEL
        if self.sentinel_password_file is not None and not is_sentinel:
            raise ValueError("sentinel_password_file needs a url with +sentinel")
        for key in ("replicas", "replication_timeout_s"):
            if key in self.model_fields_set and self.durability != "replicated":
                raise ValueError(f"{key} needs durability replicated")
        return self


class AdminConfig(Section):
    """The admin HTTP server: health, metrics, draining, clients."""

    enabled: bool = True
    """Serve it at all."""
    address: str = "127.0.0.1"
    """Address, or unix:PATH (then there is no port)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 18083
    """Port; 0 lets the system choose (it is printed)."""
    token_file: Path | None = None
    """File with the token that draining, and seeing or disconnecting clients, needs. Without one,
    that is there on loopback addresses only. Health and metrics never need it."""


class LinkTlsConfig(Section):
    """Mutual TLS between edges and routers; all three files, or none (plain, for development)."""

    certificate: Path | None = None
    """PEM file with this process' certificate and its chain."""
    key: Path | None = None
    """PEM file with the private key."""
    ca: Path | None = None
    """PEM file of the authority that signs the certificates of edges and routers."""
    server_name: str = "tidegate-router"
    """The name that a router's certificate must have, whatever its address is."""

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Self:
        if len({path is None for path in (self.certificate, self.key, self.ca)}) > 1:
            raise ValueError("certificate, key and ca belong together")
        return self


class LinkConfig(Section):
    """Between edges and routers: gRPC, one stream for each pair."""

    listen: str = "127.0.0.1:7000"
    """Where a router accepts edges: ADDRESS:PORT (port 0: the system chooses) or unix:PATH."""
    routers: list[str] = []
    """Where an edge finds routers: HOST:PORT (every address that the name has), or unix:PATH."""
    discovery_interval_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How often the names of routers are looked up again; every second while none is reached."""
    tls: LinkTlsConfig = LinkTlsConfig()
    """Certificates of this process."""
    heartbeat_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often both sides say that they live."""
    gather_s: Annotated[float, Field(ge=0, le=0.1)] = 0.003
    """How long a busy stream waits for more before it sends; an idle one sends at once. More saves
    CPU, less saves time."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """A peer that has not been heard of for this long is lost: its work goes to others."""
    credit_bytes: Annotated[int, Field(ge=65_536)] = 4_194_304
    """Bytes of publishes that an edge may have unconfirmed at one router."""
    mailbox_bytes: Annotated[int, Field(ge=65_536)] = 8_388_608
    """Bytes waiting for one edge above which its publishers' credit is held back."""
    stall_s: Annotated[float, Field(gt=0, le=600)] = 1.0
    """An edge that has taken nothing for this long is not waited for: copies for it are dropped,
    counted, and durable sessions fetch what they missed."""

    @field_validator("listen")
    @classmethod
    def _listen_is_a_place(cls, value: str) -> str:
        return _place(value)

    @field_validator("routers")
    @classmethod
    def _routers_are_places(cls, value: list[str]) -> list[str]:
        return [_place(one) for one in value]

    @model_validator(mode="after")
    def _silence_is_longer_than_a_beat(self) -> Self:
        if self.timeout_s < 2 * self.heartbeat_s:
            raise ValueError("timeout_s must be at least twice heartbeat_s")
        return self


def _place(text: str) -> str:
    """Check HOST:PORT (IPv6 in brackets) or unix:PATH."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:"):
            raise ValueError("expected unix:PATH")
        return text
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535) or (
        ":" in host and not (host.startswith("[") and host.endswith("]"))
    ):
        raise ValueError(f"expected HOST:PORT or unix:PATH, got {text}")
    return text


class ClusterConfig(Section):
    """`tidegate serve` as several processes on this machine, looked after by one more."""

    edges: Annotated[int, Field(ge=0, le=256)] = 0
    """Edges; they share the ports of all listeners. 0 or 1, with at most one router: everything is
    one process."""
    routers: Annotated[int, Field(ge=0, le=64)] = 0
    """Routers."""

    @property
    def is_split(self) -> bool:
        """Whether there is more than one process."""
        return self.edges > 1 or self.routers > 1


class DrainConfig(Section):
    """How an edge lets its clients go at SIGTERM, or when the admin API says so."""

    rate: Annotated[float, Field(gt=0)] = 500.0
    """Clients asked to leave, per second."""
    delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """From failing readiness to the first client: time for the load balancer to notice."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """From the beginning to the end, whatever is left."""
    reason: Literal["server_shutting_down", "use_another_server"] = "server_shutting_down"
    """What MQTT 5 clients are told: 0x8B, or 0x9C."""


class TelemetryConfig(Section):
    """OpenTelemetry, beside /metrics."""

    otlp_endpoint: str | None = None
    """URL of an OTLP receiver, such as http://collector:4318; unset: nothing is sent."""
    otlp_protocol: Literal["http", "grpc"] = "http"
    """How it is spoken to."""
    otlp_interval_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How often metrics are sent."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of publishes that are traced through edge, router, store and edge; 0: none."""
    service_name: str = "tidegate"
    """service.name of what is sent; the role and the process' name are added."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("must be like http://host:4318 or https://host:4318")
        return value

    @model_validator(mode="after")
    def _traces_need_a_receiver(self) -> Self:
        if self.trace_ratio and self.otlp_endpoint is None:
            raise ValueError("trace_ratio needs otlp_endpoint")
        return self


class LogConfig(Section):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level written."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or JSON for collectors."""


class Config(Section):
    """All of it."""

    listeners: list[ListenerConfig] = Field(default_factory=list, max_length=64)
    """Where clients come in."""
    auth: AuthConfig = AuthConfig()
    """Identity and permission."""
    limits: LimitsConfig = LimitsConfig()
    """Bounds."""
    features: FeaturesConfig = FeaturesConfig()
    """Protocol switches."""
    store: StoreConfig = StoreConfig()
    """Redis or Valkey."""
    admin: AdminConfig = AdminConfig()
    """Health, metrics, and what operators do."""
    link: LinkConfig = LinkConfig()
    """Edges and routers as processes of their own."""
    cluster: ClusterConfig = ClusterConfig()
    """Several edges and routers on this machine."""
    drain: DrainConfig = DrainConfig()
    """Leaving without a jolt."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """OpenTelemetry."""
    log: LogConfig = LogConfig()
    """Logging."""
    name: str = Field(default="", max_length=253)
    """This process' name in logs and among its peers; default: the host's name and a number. Who
    starts under a name is taken for the next life of who had it: give none twice."""
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """From the last client's goodbye (see `drain`) to the end."""

    @model_validator(mode="after")
    def _names_and_ports_are_unique(self) -> Self:
        labels = [listener.label for listener in self.listeners]
        for label in labels:
            if labels.count(label) > 1 and not label.endswith("-0"):
                raise ValueError(f"two listeners are called {label!r}")
        return self
