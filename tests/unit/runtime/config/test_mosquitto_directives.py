"""The table of mosquitto.conf's directives in docs/differences-from-mosquitto.md.

Observed: that each directive of mosquitto 2.0 and 2.1 has a row, and that the keys which the rows
name are keys of the configuration.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

from tidegate.runtime.config.model import Config, Section

DOCUMENT = Path(__file__).parents[4] / "docs" / "differences-from-mosquitto.md"
#: Of mosquitto.conf(5), without those of bridges.
DIRECTIVES: Final = """
    accept_protocol_versions acl_file allow_anonymous allow_duplicate_messages
    allow_zero_length_clientid auth_plugin auth_plugin_deny_special_chars auto_id_prefix
    autosave_interval autosave_on_changes bind_address bind_interface cafile capath certfile
    check_retain_source ciphers ciphers_tls1.3 clientid_prefixes connection_messages crlfile
    dhparamfile disable_client_cert_date_checks enable_control_api enable_proxy_protocol
    global_max_clients global_max_connections global_plugin http_dir include_dir keyfile listener
    listener_allow_anonymous listener_auto_id_prefix log_dest log_facility log_timestamp
    log_timestamp_format log_type max_connections max_inflight_bytes max_inflight_messages
    max_keepalive max_packet_size max_qos max_queued_bytes max_queued_messages max_topic_alias
    max_topic_alias_broker memory_limit message_size_limit mount_point mptcp packet_buffer_size
    password_file per_listener_settings persistence persistence_file persistence_location
    persistent_client_expiration pid_file plugin plugin_opt_* port protocol
    proxy_protocol_v2_require_tls psk_file psk_hint queue_qos0_messages require_certificate
    retain_available retain_expiry_interval set_tcp_nodelay socket_domain sys_interval tls_engine
    tls_engine_kpass_sha1 tls_keyform tls_version upgrade_outgoing_qos use_identity_as_username
    use_subject_as_username use_username_as_clientid user websockets_headers_size
    websockets_log_level websockets_origin
"""
CODE: Final = re.compile(r"`([^`]+)`")


def _rows() -> list[tuple[str, str]]:
    text = DOCUMENT.read_text(encoding="utf-8").partition("\n## mosquitto.conf\n")[2]
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [(directives, " | ".join(rest)) for directives, *rest in cells]


def _has_key(key: str) -> bool:
    section: type[Section] = Config
    *parents, last = key.split(".")
    for name in parents:
        annotation = section.model_fields[name.removesuffix("[]")].annotation
        section = get_args(annotation)[0] if name.endswith("[]") else annotation  # type: ignore[assignment]  # a Section
    return last in section.model_fields


def test_every_directive_has_one_row() -> None:
    named = [name for directives, _ in _rows() for name in CODE.findall(directives)]
    assert len(named) == len(set(named))
    assert not set(DIRECTIVES.split()) - set(named)


def test_the_keys_that_are_named_exist() -> None:
    sections = "|".join(Config.model_fields)
    keys = {
        code.partition(":")[0]
        for _, text in _rows()
        for code in CODE.findall(text)
        if re.match(rf"({sections})(\[\])?\.\w", code)
    }
    assert len(keys) > 30
    assert not {key for key in keys if not _has_key(key)}
