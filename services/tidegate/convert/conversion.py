"""From a mosquitto.conf to the data of a configuration file of Tidegate.

Called by the command line. The result does for clients what mosquitto did for them: where
Tidegate's defaults differ in what clients notice, mosquitto's are written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tidegate.convert import directives, listeners, settings, users, values
from tidegate.convert.conf_file import Conf, ConfError, Section, read_conf
from tidegate.convert.directives import BRIDGE_ADVICE, Kind
from tidegate.convert.files import check_files
from tidegate.convert.findings import Findings
from tidegate.convert.listeners import Given, convert_listener
from tidegate.convert.settings import NEVER_S, Draft
from tidegate.runtime.config.config_file import describe
from tidegate.runtime.config.model import MAX_PACKET_SIZE_BYTES, Config

#: Values that ask for nothing, so that nothing is lost without an equivalent.
_NEUTRAL: Final = {
    "enable_control_api": {"false", "0"},
    "disable_client_cert_date_checks": {"false", "0"},
    "global_max_clients": {"-1"},
    "max_inflight_bytes": {"0"},
    "message_size_limit": {"0"},
    "mptcp": {"false", "0"},
    "proxy_protocol_v2_require_tls": {"false", "0"},
    "tls_keyform": {"pem"},
    "auto_id_prefix": {"auto-"},
    "listener_auto_id_prefix": {"auto-"},
    "set_tcp_nodelay": {"true", "1"},
    "log_timestamp": {"true", "1"},
}
#: Settings before the first listener that make mosquitto open its default listener.
_OPENS_DEFAULT: Final = frozenset(
    {
        *("bind_interface", "cafile", "capath", "certfile", "keyfile", "tls_engine", "tls_keyform"),
        *("tls_engine_kpass_sha1", "ciphers", "ciphers_tls1.3", "dhparamfile", "psk_hint"),
        *("require_certificate", "crlfile", "use_identity_as_username", "bind_address", "port"),
        *("use_subject_as_username", "use_username_as_clientid", "max_connections", "max_qos"),
        *("maximum_qos", "protocol", "socket_domain"),
    }
)
#: With ``per_listener_settings`` these do, too.
_OPENS_DEFAULT_FOR_USERS: Final = frozenset(
    {"password_file", "psk_file", "auth_plugin", "plugin", "allow_zero_length_clientid"}
)
_MAX_IN_FLIGHT: Final = 20
_OF_LISTENERS: Final = frozenset(name for row in directives.LISTENERS for name in row.names)


@dataclass(slots=True)
class Conversion:
    """The data of a configuration file, why some keys are in it, and what there is to say."""

    config: dict[str, Any]
    #: Keys that mosquitto sets by default, with the reason to keep them.
    kept: dict[str, str]
    findings: Findings


def convert(path: Path) -> Conversion:
    """Convert a mosquitto.conf. Raises ConfError if mosquitto could not use it either."""
    conf = read_conf(path, frozenset(_names_of(Kind.BRIDGE)))
    findings = Findings()
    draft = Draft(findings)
    per_listener = any(
        line.name == "per_listener_settings" and values.flag(line) for line in conf.lines
    )
    _without_equivalent(conf, findings)
    for line in conf.lines:
        handler = settings.HANDLERS.get(line.name)
        if handler is not None:
            handler(draft, line)
    _bridges(conf.bridges, findings)
    found = _listeners(conf, draft, per_listener=per_listener)
    _whole_broker(conf, draft, per_listener=per_listener)
    _defaults_of_mosquitto(draft, found)
    config = {"listeners": found, **draft.sections}
    try:
        Config.model_validate(config)
    except ValidationError as error:
        problems = "; ".join(describe(error, Config, {}))
        raise ConfError(f"{path}: what it says cannot be carried over: {problems}") from None
    if not found:
        findings.remark_on_file(
            path,
            0,
            "no listener is carried over: without one `tidegate serve` listens on loopback, and "
            "an MqttBroker is refused. Add one to the result",
        )
    check_files(config, findings)
    return Conversion(config, draft.kept, findings)


def _names_of(kind: Kind) -> list[str]:
    return [name for row in directives.ROWS if row.kind is kind for name in row.names]


def _without_equivalent(conf: Conf, findings: Findings) -> None:
    for line in conf.lines:
        row = directives.row_of(line.name)
        if row is None:
            findings.remark(
                line, "not carried over: mosquitto 2.0 and 2.1 have no such directive; delete it"
            )
        elif line.first in _NEUTRAL.get(line.name, ()):
            continue
        elif row.kind is Kind.NONE:
            findings.remark(line, f"not carried over: {_sentence(row.text)}")
        elif row.kind is Kind.NEEDLESS:
            findings.note(line, f"not needed: {_sentence(row.text)}")


def _sentence(text: str) -> str:
    for prefix in ("none: ", "none; ", "none, "):
        text = text.removeprefix(prefix)
    return text


def _bridges(bridges: Sequence[Section], findings: Findings) -> None:
    for bridge in bridges:
        assert bridge.start is not None
        lines = [bridge.start, *bridge.lines]
        last = max(line.number for line in lines)
        addresses = [line.value for line in lines if line.name in {"address", "addresses"}]
        where = f" to {addresses[-1]}" if addresses else ""
        findings.remark(
            bridge.start,
            f"the bridge {bridge.start.first}{where} (lines {bridge.start.number} to {last}) is "
            f"not carried over: {BRIDGE_ADVICE}: run one beside Tidegate for this bridge",
        )


def _listeners(conf: Conf, draft: Draft, *, per_listener: bool) -> list[dict[str, Any]]:
    sections = [section for section in (conf.default, *conf.listeners) if section.start is not None]
    is_local_only = not sections and not any(
        line.name in {"port", "bind_address"} for line in conf.default.lines
    )
    opening = _OPENS_DEFAULT | (_OPENS_DEFAULT_FOR_USERS if per_listener else frozenset())
    if not is_local_only and any(line.name in opening for line in conf.default.lines):
        sections.insert(0, conf.default)
    else:
        _without_listener(conf.default, draft.findings, per_listener=per_listener)
    found = []
    for section in sections:
        given = Given(section, draft.findings)
        listener = convert_listener(given)
        if listener is None:
            continue
        if per_listener:
            mine = [line for line in section.lines if users.is_about_users(line.name)]
            listener |= users.convert_users(mine, draft.findings)
        override = given.line("listener_allow_anonymous")
        if override is not None:
            listener["allow_anonymous"] = values.flag(override)
        found.append(listener)
    if is_local_only:
        found.append(
            {"protocol": "tcp", "address": "localhost", "port": 1883, "allow_anonymous": True}
        )
    _topic_aliases(sections, draft)
    _user_names_as_client_ids(sections, draft)
    return _named(found)


def _without_listener(section: Section, findings: Findings, *, per_listener: bool) -> None:
    for line in section.lines:
        of_listener = line.name in _OF_LISTENERS and line.name != "websockets_log_level"
        if of_listener or (per_listener and users.is_about_users(line.name)):
            findings.note(
                line,
                "without effect, as in mosquitto: it stands before the first `listener` line of "
                "its file, so it belongs to no listener",
            )


def _named(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name listeners that would have the same name."""
    seen: dict[str, int] = {}
    for listener in found:
        label = f"{listener['protocol']}-{listener['port']}"
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            listener["name"] = f"{label}-{seen[label]}"
    return found


def _topic_aliases(sections: Sequence[Section], draft: Draft) -> None:
    for name, key in (
        ("max_topic_alias", "limits.max_topic_alias"),
        ("max_topic_alias_broker", "limits.max_topic_alias_outgoing"),
    ):
        lines = [line for section in sections for line in section.lines if line.name == name]
        if not lines:
            continue
        limits = {values.number(line) for line in lines}
        draft.set(key, max(limits))
        if len(sections) > 1:
            draft.findings.note(lines[0], f"`{key}: {max(limits)}` holds for all listeners")


def _user_names_as_client_ids(sections: Sequence[Section], draft: Draft) -> None:
    for line in (line for section in sections for line in section.lines):
        if line.name == "use_username_as_clientid" and values.flag(line):
            draft.set("auth.session_owner", "user")
            draft.findings.remark(
                line,
                "not carried over: clients keep their client identifiers. Nobody takes the session "
                "of another user's client (`auth.session_owner: user`); clients without a user "
                "name are not refused for it",
            )


def _whole_broker(conf: Conf, draft: Draft, *, per_listener: bool) -> None:
    about_users = [line for line in conf.lines if users.is_about_users(line.name)]
    if not per_listener:
        for key, value in users.convert_users(about_users, draft.findings).items():
            draft.set(f"auth.{key}", value)
    else:
        draft.set("auth.allow_anonymous", False)
    empty = users.empty_client_ids(about_users)
    if empty is not None:
        draft.set("features.allow_empty_client_id", empty)
        if per_listener and len(conf.listeners) > 1:
            line = next(each for each in about_users if each.name == "allow_zero_length_clientid")
            draft.findings.note(
                line, f"`features.allow_empty_client_id: {str(empty).lower()}` holds for all"
            )


def _defaults_of_mosquitto(draft: Draft, found: Sequence[dict[str, Any]]) -> None:
    """Write out what mosquitto does without being told and clients would miss."""
    draft.keep("limits.max_in_flight", _MAX_IN_FLIGHT, "messages in flight to a client; 32")
    draft.keep("limits.max_packet_size_bytes", MAX_PACKET_SIZE_BYTES, "no limit; 1 MiB")
    draft.keep("limits.max_retained_payload_bytes", 0, "no limit; 1 MiB")
    for key in ("limits.max_session_expiry_s", "limits.legacy_session_expiry_s"):
        draft.keep(key, NEVER_S, "sessions never expire by themselves; 7 days")
    draft.keep(
        "auth.session_owner", "any", "every user may have a client identifier's session; user"
    )
    files = [draft.get("auth.acl_file"), *(listener.get("acl_file") for listener in found)]
    if any(files):
        draft.keep("auth.denied_subscribe", "grant", "subscriptions are never refused; refuse")


#: For the tests: what is read as a setting of a listener, or of its users.
HANDLED: Final = frozenset({*settings.HANDLERS, *listeners.NAMES, *users.READ})
