"""Every directive of mosquitto.conf, and what takes its place: one table for code and docs.

Used by ``settings`` and ``listeners``, which convert what has an equivalent, and by
``documentation``, which writes the table of docs/differences-from-mosquitto.md. Pure data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What becomes of a directive."""

    #: It has an equivalent; a handler sets it, and says where it differs.
    CONVERTED = "converted"
    #: Without it everything is as it was, or better: a note.
    NEEDLESS = "needless"
    #: It has none: a remark, with what to do.
    NONE = "none"
    #: Of a bridge; bridges are listed as a whole.
    BRIDGE = "bridge"
    #: It structures the file: listeners, bridges, included files.
    STRUCTURE = "structure"


@dataclass(slots=True, frozen=True)
class Row:
    """Directives with one answer. ``text`` is a cell of the documentation's table, in Markdown."""

    names: tuple[str, ...]
    kind: Kind
    text: str


_C, _L, _N, _B = Kind.CONVERTED, Kind.NEEDLESS, Kind.NONE, Kind.BRIDGE
_S = Kind.STRUCTURE

#: Directives that mosquitto has since 2.1.
SINCE_2_1: Final = frozenset(
    {
        "accept_protocol_versions",
        "disable_client_cert_date_checks",
        "enable_control_api",
        "enable_proxy_protocol",
        "global_max_clients",
        "global_max_connections",
        "global_plugin",
        "listener_allow_anonymous",
        "listener_auto_id_prefix",
        "max_topic_alias_broker",
        "mptcp",
        "packet_buffer_size",
        "proxy_protocol_v2_require_tls",
        "retain_expiry_interval",
    }
)

#: Prefixes that stand for any name: ``auth_opt_*`` in the manual.
PREFIXES: Final = ("auth_opt_", "plugin_opt_")

GENERAL: Final = (
    Row(("acl_file",), _C, "`auth.acl_file`, `listeners[].acl_file`, the same format"),
    Row(
        ("allow_anonymous",),
        _C,
        "`auth.allow_anonymous`, `listeners[].allow_anonymous`; off without listeners too",
    ),
    Row(
        ("allow_duplicate_messages",),
        _C,
        "none: overlapping subscriptions get one copy, see above",
    ),
    Row(("allow_zero_length_clientid",), _C, "`features.allow_empty_client_id`, for all listeners"),
    Row(
        ("auth_plugin", "auth_opt_*", "plugin", "plugin_opt_*", "global_plugin"),
        _N,
        "none: no plugins, no dynamic security; write the users into a password file "
        "(`tidegate passwd`) and their rights into an ACL file. Changes of these files are applied "
        "at once",
    ),
    Row(
        ("auth_plugin_deny_special_chars",),
        _L,
        "always: patterns of the ACL grant nothing to a client with `+` or `#` in its client "
        "identifier or user name",
    ),
    Row(
        ("auto_id_prefix", "listener_auto_id_prefix"),
        _N,
        "none: assigned client identifiers begin with `auto-`; change what looks for another "
        "prefix in them",
    ),
    Row(
        ("autosave_interval", "autosave_on_changes"),
        _L,
        "`store.durability`; what is acknowledged is in the store",
    ),
    Row(
        ("check_retain_source",),
        _C,
        "none, see above; delete retained messages of users who lost their rights with an empty "
        "retained message",
    ),
    Row(
        ("clientid_prefixes",),
        _N,
        "none: every client identifier is accepted; use user names and an ACL file, where `%c` is "
        "the client identifier",
    ),
    Row(
        ("connection_messages",),
        _C,
        "`log.connections` ([the lines](operations.md#connections-in-the-log)), on by default; "
        "bounded by `log.connections_rate` and `log.connections_rate_per_address`",
    ),
    Row(("enable_control_api",), _N, "none; the admin server has `/status` and `/clients`"),
    Row(
        ("global_max_clients",),
        _N,
        "none for all clients together: `limits.max_sessions_per_user`, for the durable sessions "
        "of each user; `limits.max_session_expiry_s` ends abandoned ones",
    ),
    Row(("global_max_connections",), _C, "`limits.max_connections`, for each process"),
    Row(("include_dir",), _S, "none: one file, without includes"),
    Row(("log_dest",), _C, "standard error; a file or syslog is the service manager's task"),
    Row(
        ("log_facility", "log_timestamp", "log_timestamp_format"),
        _L,
        "none: lines have a UTC timestamp; `log.format: json` for other tools",
    ),
    Row(("log_type",), _C, "`log.level`"),
    Row(
        ("max_inflight_bytes",),
        _N,
        "none: `limits.max_in_flight` counts messages; lower it where large messages are sent to "
        "slow clients",
    ),
    Row(
        ("max_inflight_messages",),
        _C,
        "`limits.max_in_flight` (32; 0 is not allowed); what a client may have in flight: "
        "`limits.receive_maximum`",
    ),
    Row(
        ("max_keepalive",),
        _C,
        "`limits.max_keep_alive_s`; MQTT 3 clients with a longer one are not refused, the limit is "
        "enforced",
    ),
    Row(("max_packet_size",), _C, "`limits.max_packet_size_bytes` (1 MiB)"),
    Row(
        ("max_queued_bytes",),
        _C,
        "`limits.max_durable_queue_bytes` for durable sessions; `limits.max_queued_bytes` for what "
        "is in the memory of a slow connected client",
    ),
    Row(
        ("max_queued_messages",),
        _C,
        "`limits.max_queued_messages` (1000; 0 is not allowed); for a durable session messages in "
        "flight count too. What is dropped: `limits.queue_full_policy`",
    ),
    Row(
        ("memory_limit",),
        _C,
        "`store.max_memory_bytes` for the embedded server, with `store.memory_reserve_percent`; "
        "for the processes the limit of the container or service",
    ),
    Row(
        ("message_size_limit",),
        _N,
        "none: `limits.max_packet_size_bytes` counts the whole packet, and a larger one ends the "
        "connection (0x95); set it if that is wanted",
    ),
    Row(
        ("password_file",),
        _C,
        "`auth.password_file`, `listeners[].password_file`, the same format, and argon2id hashes. "
        "A user that leaves the file is disconnected",
    ),
    Row(
        ("per_listener_settings",),
        _S,
        "none: `listeners[].password_file`, `listeners[].acl_file` and "
        "`listeners[].allow_anonymous` count where they are set, see above",
    ),
    Row(("persistence", "retained_persistence"), _C, "none: always on, for every connection"),
    Row(
        ("persistence_file", "persistence_location"),
        _C,
        "`store.data_dir`, or `store.url` for a server of your own. There is no import of "
        "`mosquitto.db`",
    ),
    Row(
        ("persistent_client_expiration",),
        _C,
        "`limits.max_session_expiry_s`, for MQTT 3 `limits.legacy_session_expiry_s`: 7 days, in "
        "mosquitto never",
    ),
    Row(("pid_file",), _N, "none: service managers and containers need none"),
    Row(
        ("psk_file", "psk_hint"),
        _N,
        "none: no TLS-PSK; give clients user names and passwords over TLS, or certificates",
    ),
    Row(("queue_qos0_messages",), _C, "`features.queue_qos0`"),
    Row(("retain_available",), _C, "`features.retain`"),
    Row(
        ("retain_expiry_interval",),
        _L,
        "none: expired retained messages are always deleted in time",
    ),
    Row(
        ("retry_interval",),
        _L,
        "none, as in mosquitto since 1.5: messages are sent again when a client reconnects",
    ),
    Row(("set_tcp_nodelay",), _L, "none: always on, for every connection"),
    Row(("sys_interval",), _C, "`features.sys_interval_s`"),
    Row(
        ("upgrade_outgoing_qos",),
        _C,
        "none: a message has the lower QoS of publisher and subscription; publish with the QoS "
        "that subscribers are to get",
    ),
    Row(("user",), _N, "none: start it as the user that it is to run as"),
)

LISTENERS: Final = (
    Row(
        ("accept_protocol_versions",),
        _N,
        "none: all versions are accepted on every listener",
    ),
    Row(
        ("bind_address", "port", "listener"),
        _S,
        "`listeners[].address`, `listeners[].port`; `localhost` is the only host name; a Unix "
        "socket: `listeners[].protocol: unix`. Every listener has a `listeners[].protocol`",
    ),
    Row(("bind_interface",), _C, "none: use an address"),
    Row(
        ("socket_domain",),
        _C,
        "`listeners[].address`: `0.0.0.0`, `::` (IPv6 only), `*` for both",
    ),
    Row(
        ("enable_proxy_protocol",),
        _C,
        "`listeners[].proxy_protocol`, versions 1 and 2; only from `listeners[].trusted_proxies`",
    ),
    Row(
        ("proxy_protocol_v2_require_tls",),
        _N,
        "none; user names come from no certificate that a proxy reports. Let the proxy refuse "
        "connections without TLS",
    ),
    Row(("http_dir",), _N, "none: no files are served; serve them with a web server"),
    Row(("listener_allow_anonymous",), _C, "`listeners[].allow_anonymous`"),
    Row(("max_connections",), _C, "`listeners[].max_connections` (0: no limit)"),
    Row(("max_qos", "maximum_qos"), _C, "`listeners[].max_qos`"),
    Row(
        ("max_topic_alias",),
        _C,
        "`limits.max_topic_alias` (10, as in mosquitto), for all listeners",
    ),
    Row(
        ("max_topic_alias_broker",),
        _C,
        "`limits.max_topic_alias_outgoing` (10), for all listeners",
    ),
    Row(("mount_point",), _C, "`listeners[].mount_point`; client identifiers are per mount point"),
    Row(("mptcp",), _N, "none: clients connect with plain TCP"),
    Row(
        ("protocol",),
        _C,
        "`listeners[].protocol`: `tcp`, `tls`, `ws`, `wss`, `unix`, `auto`. mosquitto's `mqtt` is "
        "`tcp` or `tls`, `websockets` is `ws` or `wss`, `http_api` has no equivalent",
    ),
    Row(
        ("use_username_as_clientid",),
        _C,
        "none: `auth.session_owner: user` keeps other users off a session",
    ),
    Row(
        ("packet_buffer_size", "websockets_headers_size"),
        _L,
        "none: buffers grow as needed, within `limits.max_unfinished_bytes`",
    ),
    Row(("websockets_log_level",), _L, "none: the level of everything is `log.level`"),
    Row(("websockets_origin",), _C, "`listeners[].allowed_origins`, with wildcards"),
    Row(("cafile",), _C, "`listeners[].tls.client_ca`"),
    Row(("capath",), _C, "none: one file with all CA certificates, `listeners[].tls.client_ca`"),
    Row(
        ("certfile", "keyfile"),
        _C,
        "`listeners[].tls.certificates`, several, chosen by SNI; replaced files are read without a "
        "signal",
    ),
    Row(
        ("ciphers",),
        _C,
        "`listeners[].tls.ciphers`, for TLS 1.2; empty: Python's default suites, with forward "
        "secrecy",
    ),
    Row(
        ("ciphers_tls1.3", "dhparamfile"),
        _L,
        "none: the suites of TLS 1.3 are OpenSSL's, and keys are exchanged with elliptic curves",
    ),
    Row(("crlfile",), _C, "`listeners[].tls.client_crl`"),
    Row(
        ("disable_client_cert_date_checks",),
        _N,
        "none: expired client certificates are refused; renew them",
    ),
    Row(
        ("require_certificate",),
        _C,
        "`listeners[].tls.client_certificates: required`; with `optional` one is asked for",
    ),
    Row(
        ("tls_engine", "tls_engine_kpass_sha1", "tls_keyform"),
        _N,
        "none: unencrypted PEM keys; make a key and a certificate for it, in files",
    ),
    Row(("tls_version",), _C, "`listeners[].tls.minimum_version`: 1.2 or 1.3"),
    Row(
        ("use_identity_as_username", "use_subject_as_username"),
        _C,
        "`listeners[].tls.identity_as_username`: `cn` or `dn`",
    ),
)

_BRIDGE_NAMES: Final = (
    *("connection", "address", "addresses", "topic", "cleansession", "local_cleansession"),
    *("clientid", "remote_clientid", "local_clientid", "username", "remote_username"),
    *("local_username", "password", "remote_password", "local_password", "keepalive_interval"),
    *("idle_timeout", "notifications", "notifications_local_only", "notification_topic"),
    *("restart_timeout", "round_robin", "start_type", "threshold", "try_private"),
    *("bridge_alpn", "bridge_attempt_unsubscribe", "bridge_bind_address", "bridge_cafile"),
    *("bridge_capath", "bridge_certfile", "bridge_ciphers", "bridge_ciphers_tls1.3"),
    *("bridge_identity", "bridge_insecure", "bridge_keyfile", "bridge_max_packet_size"),
    *("bridge_max_topic_alias", "bridge_outgoing_retain", "bridge_protocol_version", "bridge_psk"),
    *("bridge_receive_maximum", "bridge_reload_type", "bridge_require_ocsp"),
    *("bridge_session_expiry_interval", "bridge_tcp_keepalive", "bridge_tcp_user_timeout"),
    *("bridge_tls_use_os_certs", "bridge_tls_version"),
)

#: What to do about a bridge.
BRIDGE_ADVICE: Final = (
    "Tidegate opens no bridges. A mosquitto can connect to it as a bridge, with "
    "`notifications_local_only true` or a `notification_topic` outside `$SYS`"
)

BRIDGES: Final = (Row(_BRIDGE_NAMES, _B, f"none: {BRIDGE_ADVICE}"),)

ROWS: Final = (*GENERAL, *LISTENERS, *BRIDGES)


def _named() -> Iterator[tuple[str, Row]]:
    for row in ROWS:
        for name in row.names:
            yield name, row


_BY_NAME: Final = dict(_named())


def names() -> list[str]:
    """Return every directive, as the manual names it, in the table's order."""
    return list(_BY_NAME)


def row_of(name: str) -> Row | None:
    """Return the row of a directive as a file has it; None if mosquitto has no such directive."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _BY_NAME[f"{prefix}*"]
    return None if name.endswith("*") else _BY_NAME.get(name)
