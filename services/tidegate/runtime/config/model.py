"""The configuration: one schema for the YAML file, the flags, the reference docs and the CRD.

Every key has a unit in its name, a default, a range and a description. An unknown or invalid key
is an error that names the key. Passed down from the composition root; no other module reads the
configuration file or the environment.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tidegate.runtime.config.addresses import listener_address, parse_network, process_address
from tidegate.runtime.config.console import ConsoleConfig
from tidegate.runtime.config.section import Section as Section  # noqa: PLC0414 - it is of the model
from tidegate.runtime.config.store_url import StoreKind, parse_store_url

MAX_PACKET_SIZE_BYTES: Final = 268_435_455  # the largest remaining length (MQTT5 §2.1.4)
#: The name of a listener; it may be empty.
LABEL_PATTERN: Final = r"^[a-z0-9]?([-a-z0-9]*[a-z0-9])?$"


def check_networks(value: list[str]) -> list[str]:
    """Return the networks. Raises ValueError for one that is no network in CIDR notation."""
    for network in value:
        try:
            parse_network(network)
        except ValueError:
            raise ValueError(f"{network!r} is not an IP network") from None
    return value


def check_ciphers(value: str) -> str:
    """Return the cipher list. Raises ValueError if OpenSSL would ignore all or some of it."""
    names = value.replace(",", ":").replace(" ", ":").split(":")
    of_tls13 = next((name for name in names if name.startswith("TLS_")), None)
    if of_tls13 is not None:
        raise ValueError(f"{of_tls13} is a suite of TLS 1.3, which cannot be chosen")
    if value:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.set_ciphers(value)
        except ssl.SSLError:
            raise ValueError("OpenSSL has no such cipher suites") from None
    return value


def check_mount_point(value: str) -> str:
    """Return the mount point. Raises ValueError if it has wildcards or U+0000."""
    if "+" in value or "#" in value:
        raise ValueError("wildcards are not allowed in a mount point")
    if "\0" in value:
        raise ValueError("U+0000 is not allowed in a mount point")
    return value


class ListenerProtocol(StrEnum):
    """The protocol of a listener; ``auto`` detects it from the first bytes."""

    TCP = "tcp"
    TLS = "tls"
    WS = "ws"
    WSS = "wss"
    UNIX = "unix"
    AUTO = "auto"


class CertificateConfig(Section):
    """A certificate and its private key; the first one of a listener is the default."""

    certificate: Path
    """PEM file with the certificate and its chain."""
    key: Path
    """PEM file with the private key."""
    server_names: list[str] = []
    """Server names (SNI) that select it, `*.example.com` allowed; empty: the names in the
    certificate."""


class TlsConfig(Section):
    """TLS settings of one listener."""

    certificates: list[CertificateConfig] = Field(default_factory=list, max_length=100)
    """Certificates, selected by SNI."""
    client_ca: Path | None = None
    """PEM file with the CA certificates that client certificates are verified with."""
    client_crl: Path | None = None
    """PEM file with certificate revocation lists (CRLs) of these CAs, several one after another; a
    client is refused if its certificate is listed, or if there is no current list of its CA. Lists
    in `client_ca` count as well."""
    client_certificates: Literal["off", "optional", "required"] = "off"
    """Whether clients are asked for a certificate, and whether they must present one."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version accepted."""
    ciphers: str = Field(default="", max_length=4096)
    """Cipher suites of TLS 1.2, as a list of OpenSSL (`ECDHE+AESGCM:ECDHE+CHACHA20`); empty: those
    in docs/operations.md. The suites of TLS 1.3 cannot be chosen."""
    reload_interval_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """Interval of checks for changed files (replaced volume mounts included)."""
    handshake_timeout_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    """Maximum duration of a TLS handshake; the connection is closed after it."""
    identity_as_username: Literal["off", "cn", "dn"] = "off"
    """Use the common name or the subject of the verified client certificate as user name."""

    _check_ciphers = field_validator("ciphers")(check_ciphers)

    @model_validator(mode="after")
    def _client_certificates_need_a_ca(self) -> Self:
        if self.client_certificates != "off" and self.client_ca is None:
            raise ValueError("client_certificates needs client_ca")
        if self.identity_as_username != "off" and self.client_certificates == "off":
            raise ValueError("identity_as_username needs client_certificates")
        if self.ciphers and self.minimum_version == "1.3":
            raise ValueError("ciphers needs minimum_version 1.2: it is about TLS 1.2")
        if self.client_crl is not None and self.client_certificates == "off":
            raise ValueError("client_crl needs client_certificates")
        return self


class ListenerConfig(Section):
    """An address on which clients are accepted."""

    name: str = Field(default="", max_length=63, pattern=LABEL_PATTERN)
    """Name in logs and metrics; default: protocol-port."""
    protocol: ListenerProtocol = ListenerProtocol.TCP
    """Protocol; `auto` accepts all of them on one port."""
    address: str = "127.0.0.1"
    """IPv4 or IPv6 address, `localhost` for the loopback addresses of both families, `*` for all
    addresses of both families, or a Unix socket's path."""
    port: Annotated[int, Field(ge=0, le=65535)] = 1883
    """TCP port; 0: chosen by the system and printed at the start."""
    paths: list[str] = ["/mqtt", "/ws", "/"]
    """Request paths accepted for WebSocket; query strings are ignored."""
    allowed_origins: list[str] = []
    """Allowed values of the Origin header (`https://*.example.com` allowed); empty: any."""
    tls: TlsConfig = TlsConfig()
    """TLS; required with tls and wss, and with auto to accept TLS."""
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    """PROXY protocol v1 or v2 from `trusted_proxies`."""
    proxy_protocol_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """Maximum time to receive the PROXY header."""
    trusted_proxies: list[str] = []
    """Networks from which PROXY headers and X-Forwarded-For are accepted."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Maximum number of connections of this listener; 0: no limit."""
    accept_rate: Annotated[float, Field(ge=0)] = 0
    """Maximum rate of new connections per second; 0: no limit. Others wait in the backlog."""
    accept_burst: Annotated[int, Field(ge=1)] = 1000
    """Connections accepted at once before `accept_rate` applies."""
    backlog: Annotated[int, Field(ge=1, le=65535)] = 4096
    """Length of the listen backlog."""
    reuse_port: bool = False
    """Set SO_REUSEPORT: several processes share the port, the kernel distributes connections."""
    allow_anonymous: bool | None = None
    """Accept clients without a user name; unset: as `auth.allow_anonymous`."""
    password_file: Path | None = None
    """Password file of this listener's clients; unset: `auth.password_file`."""
    acl_file: Path | None = None
    """Access control list (ACL) of this listener's clients; unset: `auth.acl_file`."""
    mount_point: str = ""
    """Prefix added to every topic of this listener's clients; they do not see it. Client
    identifiers are per mount point."""
    tcp_keepalive_s: Annotated[int, Field(ge=0, le=7200)] = 60
    """Idle time before TCP keepalive probes are sent; 0: off."""
    websocket_ping_s: Annotated[float, Field(ge=0, le=3600)] = 25.0
    """Interval of WebSocket pings sent to clients, which keep idle connections open in load
    balancers; 0: off."""
    write_high_water_bytes: Annotated[int, Field(ge=1024)] = 262_144
    """Unsent bytes above which a connection counts as slow."""
    unix_mode: Annotated[int, Field(ge=0, le=0o777)] = 0o660
    """File mode of a Unix socket."""
    max_qos: Annotated[int, Field(ge=0, le=2)] = 2
    """Highest QoS that is granted and accepted."""

    _check_networks = field_validator("trusted_proxies")(check_networks)
    _check_mount_point = field_validator("mount_point")(check_mount_point)

    @field_validator("address")
    @classmethod
    def _address_can_be_bound(cls, value: str, info: ValidationInfo) -> str:
        # Without a protocol that one was invalid, and is the problem to be reported.
        is_path = info.data.get("protocol") in {ListenerProtocol.UNIX, None}
        return value if is_path else listener_address(value)

    @model_validator(mode="after")
    def _tls_where_needed(self) -> Self:
        needs = self.protocol in {ListenerProtocol.TLS, ListenerProtocol.WSS}
        if needs and not self.tls.certificates:
            raise ValueError(f"protocol {self.protocol.value} needs tls.certificates")
        if self.reuse_port and self.protocol is ListenerProtocol.UNIX:
            raise ValueError("reuse_port is not supported for Unix sockets")
        return self

    @property
    def label(self) -> str:
        """The name, or one made of protocol and port."""
        return self.name or f"{self.protocol.value}-{self.port}"


class FlappingConfig(Section):
    """Clients that connect and disconnect all the time, and are banned for a while."""

    enabled: bool = False
    """Ban clients whose connections end too often; two devices with one client identifier count as
    one client."""
    max_disconnects: Annotated[int, Field(ge=2, le=100_000)] = 15
    """Number of ends of connections of one client identifier at an edge, within the window, that
    bans it."""
    window_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """The window, from the first of them."""
    ban_s: Annotated[float, Field(gt=0, le=31_536_000)] = 300.0
    """Length of the ban. It counts at every edge."""


class LimitsConfig(Section):
    """Limits. What exceeds one is refused or dropped, and counted with its reason."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Maximum time from accepting a connection to its whole CONNECT, with PROXY header, TLS and
    WebSocket handshakes; and again from there to CONNACK, with enhanced authentication."""
    max_unfinished_bytes: Annotated[int, Field(ge=65_536)] = 67_108_864
    """Maximum bytes that a listener holds of connections without CONNACK, in sum: incomplete
    handshakes and packets, and CONNECTs to be answered. Above it those that hold most are
    closed."""
    max_packet_size_bytes: Annotated[int, Field(ge=128, le=MAX_PACKET_SIZE_BYTES)] = 1_048_576
    """Maximum Packet Size accepted (announced to MQTT 5 clients)."""
    max_client_id_bytes: Annotated[int, Field(ge=23, le=65535)] = 65_535
    """Maximum length of a client identifier."""
    max_topic_levels: Annotated[int, Field(ge=1, le=65535)] = 128
    """Maximum number of levels of a topic name or topic filter."""
    max_topic_bytes: Annotated[int, Field(ge=1, le=65535)] = 65_535
    """Maximum length of a topic name or topic filter."""
    max_subscriptions: Annotated[int, Field(ge=0)] = 0
    """Maximum number of subscriptions of one session; 0: no limit."""
    max_in_flight: Annotated[int, Field(ge=1, le=65535)] = 32
    """Maximum number of QoS 1 and 2 messages in flight to one client (its Receive Maximum may
    lower it)."""
    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 100
    """Receive Maximum: QoS 1 and 2 messages in flight from one client (announced to MQTT 5
    clients)."""
    max_queued_messages: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of queued messages of one session; for a durable session, messages in flight
    count too."""
    queue_full_policy: Literal["drop_newest", "drop_oldest"] = "drop_newest"
    """Which message is dropped when a queue is full."""
    max_queued_bytes: Annotated[int, Field(ge=1024)] = 8_388_608
    """Maximum bytes queued in memory for one slow client."""
    max_durable_queue_bytes: Annotated[int, Field(ge=0)] = 0
    """Maximum bytes of the queue of one durable session (records over 1 KiB are compared with it);
    what exceeds it is dropped as `queue_full_policy` says. 0: no limit."""
    max_sessions_per_user: Annotated[int, Field(ge=0)] = 0
    """Maximum number of durable sessions of one user (anonymous clients are one); a client that
    would make one more is refused (0x97; MQTT 3.1.1: 3). 0: no limit."""
    max_retained_messages: Annotated[int, Field(ge=0)] = 0
    """Maximum number of retained messages of all clients; more are refused (0x97). Counted for this
    and the next three: what is retained while one of them is set; 0: no limit."""
    max_retained_bytes: Annotated[int, Field(ge=0)] = 0
    """Maximum bytes of topics and retained messages of all clients; 0: no limit."""
    max_retained_messages_per_client: Annotated[int, Field(ge=0)] = 0
    """Maximum number of retained messages that one client was the last to publish; 0: no limit."""
    max_retained_bytes_per_client: Annotated[int, Field(ge=0)] = 0
    """Maximum bytes of topics and retained messages that one client was the last to publish; 0: no
    limit."""
    max_cached_topics: Annotated[int, Field(ge=1000, le=10_000_000)] = 100_000
    """Number of topics for which a process keeps what it has looked up: recipients, routers,
    permissions. Those that have not been used for long make room for others; messages of topics
    that are not among them cost more CPU."""
    max_topic_alias: Annotated[int, Field(ge=0, le=65535)] = 10
    """Topic Alias Maximum: topic aliases that a client may use."""
    max_topic_alias_outgoing: Annotated[int, Field(ge=0, le=65535)] = 10
    """Maximum number of topic aliases used in messages to one client."""
    max_session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 604_800
    """Maximum session expiry interval; 4294967295: sessions may never expire."""
    legacy_session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 604_800
    """Session expiry interval of MQTT 3.1 and 3.1.1 clients with Clean Session 0."""
    max_message_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """Maximum message expiry interval, also set on messages without one; 0: no limit."""
    max_keep_alive_s: Annotated[int, Field(ge=0, le=65535)] = 0
    """Maximum keep alive. A longer one, or 0, is replaced by it: announced as Server Keep Alive to
    MQTT 5 clients, enforced for others. 0: no limit."""
    max_publish_rate: Annotated[float, Field(ge=0)] = 0
    """Maximum rate of messages per second from one client, enforced by pausing reads; 0: no
    limit."""
    max_publish_bytes_rate: Annotated[float, Field(ge=0)] = 0
    """Maximum rate of bytes per second from one client, enforced by pausing reads; 0: no limit."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Maximum number of connections of the process; 0: no limit."""
    max_connections_per_address: Annotated[int, Field(ge=0)] = 0
    """Maximum number of connections of one client address to the process, whatever their state; 0:
    no limit. Behind `trusted_proxies` the address is the client's, from PROXY header or
    X-Forwarded-For; those of a proxy itself are not limited."""
    ipv6_prefix_length: Annotated[int, Field(ge=1, le=128)] = 64
    """IPv6 addresses with a common prefix of this many bits count as one address for
    `max_connections_per_address`."""
    max_retained_payload_bytes: Annotated[int, Field(ge=0)] = 1_048_576
    """Maximum payload of a retained message; a larger message is delivered but not retained."""
    flapping: FlappingConfig = FlappingConfig()
    """Clients that connect and disconnect all the time."""


class FeaturesConfig(Section):
    """Optional features of the protocol (announced to MQTT 5 clients)."""

    retain: bool = True
    """Retained messages."""
    wildcard_subscriptions: bool = True
    """Wildcard subscriptions (topic filters with + and #)."""
    shared_subscriptions: bool = True
    """Shared subscriptions (`$share/…`)."""
    queue_qos0: bool = False
    """Queue QoS 0 messages for offline sessions too."""
    response_information: str = ""
    """Response Information sent to clients that request it; {client_id} is replaced."""
    sys_interval_s: Annotated[float, Field(ge=0, le=86400)] = 10.0
    """Interval at which $SYS topics are published; 0: off."""
    allow_empty_client_id: bool = True
    """Accept clients without a client identifier, and assign one."""


class AuthConfig(Section):
    """Authentication and authorization."""

    allow_anonymous: bool = False
    """Accept clients without a user name."""
    password_file: Path | None = None
    """Password file in mosquitto's format: user:hash, with $6$, $7$ or argon2id hashes."""
    acl_file: Path | None = None
    """Access control list (ACL) in mosquitto's format."""
    denied_subscribe: Literal["refuse", "grant"] = "refuse"
    """A subscription of which the ACL lets the client read no topic, or a shared one of which it
    may not read all topics: `refuse` it (0x87; MQTT 3.1.1: 0x80), or `grant` it without messages,
    as mosquitto does."""
    session_owner: Literal["user", "any"] = "user"
    """Who may resume, end or take over a session: `user`, only clients with the user name of the
    client that made it (anonymous clients are one user); others are refused (0x87; MQTT 3.1.1: 5).
    `any`: every client with its client identifier, for fleets whose user names change."""
    reload_interval_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """Interval of checks for changes of password and ACL files; SIGHUP: at once."""
    password_threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of threads that compute password hashes; 0: one on one or two processors, else two.
    With as many threads as processors, clients that are connected wait for them. An argon2id hash
    of `tidegate passwd` takes 64 MiB of memory while it is computed."""
    max_pending_passwords: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Maximum number of passwords waiting for such a thread. Above it, and when the wait would
    exceed `limits.connect_timeout_s`, clients are refused with Server busy."""
    max_remembered_passwords: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Number of verified passwords cached (as keyed digests), so that reconnects need no hash, and
    of pairs of user name and address that go first when hashes wait; 0: none."""


_STORE_USERS: Final = (
    ("username", "password_file"),
    ("sentinel_username", "sentinel_password_file"),
)
_STORE_TLS: Final = ("tls_ca", "tls_certificate", "tls_key")
_STORE_CREDENTIALS: Final = (*_STORE_TLS, *(key for pair in _STORE_USERS for key in pair))


class StoreConfig(Section):
    """The Redis or Valkey store."""

    url: str | None = Field(default=None, repr=False)
    """redis://HOST:PORT[/DB], unix:///PATH, redis+sentinel://HOST:PORT,…/MASTER or
    redis+cluster://HOST:PORT,…; with rediss for TLS; unset: an embedded Valkey in `data_dir`."""
    username: str | None = None
    """ACL user; unset: the default user."""
    password_file: Path | None = None
    """File with the password, read for every connection; preferable to a password in the URL."""
    tls_ca: Path | None = None
    """PEM file with the CA certificates of the servers; unset: those of the system."""
    tls_certificate: Path | None = None
    """PEM file with the client certificate."""
    tls_key: Path | None = None
    """PEM file with the private key of the client certificate."""
    sentinel_username: str | None = None
    """ACL user of the sentinels; unset: the default user."""
    sentinel_password_file: Path | None = None
    """File with the password of the sentinels; unset: none."""
    data_dir: Path = Path("./data")
    """Data directory of the embedded Valkey server."""
    durability: Literal["everysec", "always", "replicated"] = "everysec"
    """When a write counts as done and is acknowledged: `everysec` when the server has it, `always`
    when its append-only file is synced to disk, `replicated` when its replicas have it too
    (docs/storage.md)."""
    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """Minimum number of replicas that must confirm a write (durability replicated)."""
    replicas_confirm: Literal["in_sync", "minimum"] = "in_sync"
    """Which replicas confirm a write (durability replicated): `in_sync`, all that keep up, at least
    `replicas` (one that has not confirmed for 5 s is left out until it keeps up); `minimum`, any
    `replicas` of them, for servers of which some are far away."""
    replication_timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Time to wait for replicas before the wait is logged, counted and repeated."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 64
    """Number of hash tags over which sessions are distributed; must not change on existing data."""
    edge_lease_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    """Lease of an edge: without a heartbeat for this long it counts as failed, its connections
    count as closed and their wills are published."""
    operation_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """Timeout of a store operation."""
    max_memory_bytes: Annotated[int | None, Field(ge=0)] = None
    """Maximum memory (`maxmemory`) of the embedded server; unset: half of the memory of the machine
    or container; 0: no limit."""
    memory_reserve_percent: Annotated[int, Field(ge=0, le=50)] = 10
    """Share of a server's `maxmemory` that is kept for connections, acknowledgements and deletions:
    when less is free, messages to be queued or retained are refused (0x97; MQTT 3.1.1: the
    connection is closed). 0: none."""

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
        if url is not None and self.max_memory_bytes is not None:
            raise ValueError("max_memory_bytes needs no url: it is of the embedded server")
        for name, file in _STORE_USERS:
            if getattr(self, name) is not None and getattr(self, file) is None:
                raise ValueError(f"{name} needs {file}")
        if url is not None and url.password and self.password_file is not None:
            raise ValueError("password_file and a password in url are mutually exclusive")
        for key in _STORE_TLS:
            if url is not None and not url.tls and getattr(self, key) is not None:
                raise ValueError(f"{key} needs a url that begins with rediss")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be set together")
        is_sentinel = url is not None and url.kind is StoreKind.SENTINEL
        if self.sentinel_password_file is not None and not is_sentinel:
            raise ValueError("sentinel_password_file needs a url with +sentinel")
        for key in ("replicas", "replicas_confirm", "replication_timeout_s"):
            if key in self.model_fields_set and self.durability != "replicated":
                raise ValueError(f"{key} needs durability replicated")
        return self


class AdminConfig(Section):
    """The admin HTTP server: health, metrics and the admin API."""

    enabled: bool = True
    """Whether the admin server runs."""
    address: str = "127.0.0.1"
    """IP address, or unix:PATH (the port is then ignored)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 18083
    """TCP port; 0: chosen by the system and printed at the start."""
    token_file: Path | None = None
    """File with the bearer token of the admin API. Without it the admin API is served on loopback
    addresses only. Health and metrics need no token."""


class LinkTlsConfig(Section):
    """Mutual TLS between edges and routers: all three files, or none (plain text)."""

    certificate: Path | None = None
    """PEM file with the certificate of this process and its chain."""
    key: Path | None = None
    """PEM file with the private key."""
    ca: Path | None = None
    """PEM file with the CA certificate of edges and routers."""
    server_name: str = "tidegate-router"
    """Name that certificates of routers must contain, whatever their address."""

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Self:
        if len({path is None for path in (self.certificate, self.key, self.ca)}) > 1:
            raise ValueError("certificate, key and ca must be set together")
        return self


class Carrier(StrEnum):
    """What carries the link."""

    ASYNCIO = "asyncio"
    GRPC = "grpc"


class LinkConfig(Section):
    """The link between edges and routers: one gRPC stream for each pair."""

    listen: str = "127.0.0.1:7000"
    """Address on which a router accepts edges: ADDRESS:PORT (port 0: chosen by the system) or
    unix:PATH."""
    routers: list[str] = []
    """Addresses of the routers: HOST:PORT (all addresses of a host name are used) or unix:PATH."""
    carrier: Carrier = Carrier.ASYNCIO
    """Implementation of gRPC: `asyncio`, on the event loop of the process, or `grpc`, the library
    grpcio, which costs two to three times as much CPU. Both speak the same protocol."""
    discovery_interval_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Interval of DNS lookups of the routers; one second while none is connected."""
    tls: LinkTlsConfig = LinkTlsConfig()
    """Mutual TLS."""
    heartbeat_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Interval of heartbeats in both directions."""
    gather_s: Annotated[float, Field(ge=0, le=0.1)] = 0.003
    """Longest time for which a stream collects operations before it sends a frame. Only a busy
    stream waits, one on which they follow each other within a third of this time; 0: none does.
    Longer: less CPU; shorter: less latency."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """Time without a frame after which a peer counts as lost."""
    credit_bytes: Annotated[int, Field(ge=65_536)] = 4_194_304
    """Bytes of unconfirmed publishes that an edge may have at one router."""
    mailbox_bytes: Annotated[int, Field(ge=65_536)] = 8_388_608
    """Bytes queued for one edge above which credit is withheld from publishers."""
    stall_s: Annotated[float, Field(gt=0, le=600)] = 1.0
    """Time without progress after which an edge counts as stalled: messages for it are dropped and
    counted, and its durable sessions fetch from the store what they missed."""

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        return process_address(value)

    @field_validator("routers")
    @classmethod
    def _routers_are_addresses(cls, value: list[str]) -> list[str]:
        return [process_address(address) for address in value]

    @model_validator(mode="after")
    def _silence_is_longer_than_a_beat(self) -> Self:
        if self.timeout_s < 2 * self.heartbeat_s:
            raise ValueError("timeout_s must be at least twice heartbeat_s")
        return self


class ClusterConfig(Section):
    """`tidegate serve` as several processes on this machine, started by a supervisor."""

    edges: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of edge processes; they share the ports of all listeners. 0 or 1, with at most one
    router: a single process."""
    routers: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of router processes."""

    @property
    def is_split(self) -> bool:
        """Whether there is more than one process."""
        return self.edges > 1 or self.routers > 1


class DrainConfig(Section):
    """Graceful shutdown of an edge: at SIGTERM, or by the admin API."""

    rate: Annotated[float, Field(gt=0)] = 500.0
    """Clients disconnected per second."""
    delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Time from failing readiness to the first disconnect, for load balancers to react."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Maximum duration; clients that are then still connected are disconnected at once."""
    reason: Literal["server_shutting_down", "use_another_server"] = "server_shutting_down"
    """Reason code of the DISCONNECT for MQTT 5 clients: 0x8B or 0x9C."""


class TelemetryConfig(Section):
    """OpenTelemetry export, in addition to /metrics."""

    otlp_endpoint: str | None = None
    """URL of the OTLP receiver, such as http://collector:4318; unset: off."""
    otlp_protocol: Literal["http", "grpc"] = "http"
    """OTLP over HTTP or gRPC."""
    otlp_interval_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Interval at which metrics are sent."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Ratio of publishes that are traced; 0: none."""
    service_name: str = "tidegate"
    """Resource attribute service.name; role and process name are attributes of their own."""

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
    """Lowest level that is logged."""
    format: Literal["text", "json"] = "text"
    """Plain text, or one JSON object per line."""
    connections: bool = True
    """Log each connection and its end, refused connections, and denied publishes and subscriptions
    (level info)."""
    connections_rate_per_address: Annotated[float, Field(ge=0)] = 10
    """Maximum rate of such lines per second about one client address (IPv6: one /64 network); ten
    seconds of it may come at once. Lines above it are counted, and the count is logged. 0: no
    limit."""
    connections_rate: Annotated[float, Field(ge=0)] = 500
    """Maximum rate of such lines per second about all addresses together, for each edge, in the
    same way; 0: no limit."""


class RecordConfig(Section):
    """The record of what has happened to each client: connections, refusals, drops, ends."""

    enabled: bool = True
    """Keep the record in the store."""
    max_events_per_client: Annotated[int, Field(ge=1, le=1000)] = 50
    """Number of events that are kept of each client identifier, the newest ones."""
    max_events: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Number of events that are kept of all clients together, the newest ones."""
    ttl_s: Annotated[int, Field(ge=60, le=31_536_000)] = 604_800
    """Time after the last event of a client after which its events are deleted."""
    max_events_per_s: Annotated[float, Field(gt=0, le=100_000)] = 200
    """Maximum rate of events that an edge sends to the store. Up to 10,000 wait; more are dropped,
    and counted."""


class Config(Section):
    """The whole configuration."""

    listeners: list[ListenerConfig] = Field(default_factory=list, max_length=64)
    """Addresses on which clients are accepted."""
    auth: AuthConfig = AuthConfig()
    """Authentication and authorization."""
    limits: LimitsConfig = LimitsConfig()
    """Limits."""
    features: FeaturesConfig = FeaturesConfig()
    """Optional features of the protocol."""
    store: StoreConfig = StoreConfig()
    """The Redis or Valkey store."""
    admin: AdminConfig = AdminConfig()
    """Health, metrics and the admin API."""
    console: ConsoleConfig = ConsoleConfig()
    """The console: the API of the whole broker, and its page."""
    link: LinkConfig = LinkConfig()
    """The link between edges and routers."""
    cluster: ClusterConfig = ClusterConfig()
    """Several edge and router processes on this machine."""
    drain: DrainConfig = DrainConfig()
    """Graceful shutdown."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """OpenTelemetry export."""
    log: LogConfig = LogConfig()
    """Logging."""
    record: RecordConfig = RecordConfig()
    """The record of what has happened to each client."""
    name: str = Field(default="", max_length=253)
    """Name of this process in logs and for its peers; default: the host name and four hexadecimal
    digits. Must be unique: a process that starts under a name replaces the previous one."""
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Maximum time from the end of draining (see `drain`) to the exit of the process."""

    @model_validator(mode="after")
    def _names_and_ports_are_unique(self) -> Self:
        labels = [listener.label for listener in self.listeners]
        for label, listener in zip(labels, self.listeners, strict=True):
            has_files = listener.password_file is not None or listener.acl_file is not None
            if labels.count(label) > 1 and (has_files or not label.endswith("-0")):
                raise ValueError(f"duplicate listener name {label!r}")
        return self
