"""A mosquitto.conf in, the data of a configuration and remarks out.

Input: files. Observed: what ``convert`` returns. That clients are served alike is shown with a real
mosquitto in tests/integration/test_converted.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.certificates import Certificates
from tidegate.convert.conf_file import ConfError
from tidegate.convert.conversion import Conversion, convert
from tidegate.convert.settings import NEVER_S
from tidegate.edge.auth.password_file import set_user


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(*lines: str) -> Path:
        file = tmp_path / "mosquitto.conf"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    return make


def _remarks(found: Conversion) -> list[str]:
    return [f"{each.number} {each.subject}" for each in found.findings.remarks()]


def test_without_a_listener_it_listens_on_loopback_and_lets_everybody_in(write: Any) -> None:
    found = convert(write("# nothing"))
    assert found.config["listeners"] == [
        {"protocol": "tcp", "address": "localhost", "port": 1883, "allow_anonymous": True}
    ]
    assert found.config["auth"]["allow_anonymous"] is False
    assert found.findings.remarks() == []


def test_port_makes_the_default_listener_beside_others(write: Any) -> None:
    found = convert(
        write("port 1884", "bind_address 127.0.0.1", "listener 1885 ::1", "listener 1886")
    )
    places = [(each["address"], each["port"]) for each in found.config["listeners"]]
    assert places == [("127.0.0.1", 1884), ("::1", 1885), ("*", 1886)]


def test_what_stands_before_the_first_listener_belongs_to_none(write: Any) -> None:
    found = convert(
        write(
            "per_listener_settings true",
            "allow_anonymous true",
            "max_topic_alias 3",
            "listener 1883",
        )
    )
    (listener,) = found.config["listeners"]
    assert listener["allow_anonymous"] is False
    assert "max_topic_alias" not in found.config["limits"]
    assert [each.number for each in found.findings.notes()] == [2, 3]


def test_included_files_are_read_in_mosquittos_order(write: Any, tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    for name, port in (("b.conf", 4), ("A.conf", 2), ("a.conf", 3), ("00.conf", 1), ("c.txt", 9)):
        (directory / name).write_text(f"listener {port}\n")
    main = write("listener 10", f"include_dir {directory}", "max_qos 1")
    found = convert(main)
    assert [each["port"] for each in found.config["listeners"]] == [10, 1, 2, 3, 4]
    # The main file goes on with its own listener, an included file begins without one.
    assert found.config["listeners"][0]["max_qos"] == 1


def test_an_included_file_says_nothing_about_the_listener_before_it(
    write: Any, tmp_path: Path
) -> None:
    """Nor does it in mosquitto 2.0.11, where nobody gets in without a user name then."""
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "a.conf").write_text("allow_anonymous true\n")
    found = convert(write("per_listener_settings true", "listener 1", f"include_dir {directory}"))
    assert found.config["listeners"][0]["allow_anonymous"] is False
    (note,) = found.findings.notes()
    assert (note.path, note.subject) == (directory / "a.conf", "allow_anonymous")


def test_an_included_file_does_not_include(write: Any, tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "a.conf").write_text("include_dir /nowhere\nlistener 1\n")
    assert len(convert(write(f"include_dir {directory}")).config["listeners"]) == 1


def test_a_listener_with_everything_in_it(
    write: Any, tmp_path: Path, certificates: Certificates
) -> None:
    server, authority = certificates.server, certificates.authority
    crl = authority.revocation_list()
    users, rules = tmp_path / "users", tmp_path / "acl"
    set_user(users, "ann", "secret", "sha512-pbkdf2", create=True)
    rules.write_text("topic a\n")
    found = convert(
        write(
            *("per_listener_settings true", "listener 8084 0.0.0.0", "protocol websockets"),
            *(f"certfile {server.certificate}", f"keyfile {server.key}"),
            *(f"cafile {authority.certificate}", f"crlfile {crl}", "require_certificate true"),
            *("use_subject_as_username true", "tls_version tlsv1.2", "ciphers ECDHE+AESGCM"),
            *(f"password_file {users}", f"acl_file {rules}", "allow_anonymous true"),
            *("mount_point factory/", "max_connections 7", "max_qos 1"),
            *("websockets_origin https://a.example", "websockets_origin https://b.example"),
        )
    )
    assert found.findings.remarks() == []
    assert found.config["listeners"] == [
        {
            "protocol": "wss",
            "address": "0.0.0.0",
            "port": 8084,
            "tls": {
                "certificates": [{"certificate": str(server.certificate), "key": str(server.key)}],
                "minimum_version": "1.2",
                "ciphers": "ECDHE+AESGCM",
                "client_ca": str(authority.certificate),
                "client_certificates": "required",
                "client_crl": str(crl),
                "identity_as_username": "dn",
            },
            "max_connections": 7,
            "max_qos": 1,
            "mount_point": "factory/",
            "allowed_origins": ["https://a.example", "https://b.example"],
            "allow_anonymous": True,
            "password_file": str(users),
            "acl_file": str(rules),
        }
    ]


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        (["allow_zero_length_clientid false"], "features.allow_empty_client_id", False),
        (["connection_messages false"], "log.connections", False),
        (["global_max_connections 50"], "limits.max_connections", 50),
        (["log_type error", "log_type warning"], "log.level", "warning"),
        (["log_type all"], "log.level", "debug"),
        (["max_inflight_messages 5"], "limits.max_in_flight", 5),
        (["max_inflight_messages 0"], "limits.max_in_flight", 65_535),
        ([], "limits.max_in_flight", 20),
        (["max_keepalive 60"], "limits.max_keep_alive_s", 60),
        (["max_keepalive 65535"], "limits.max_keep_alive_s", None),
        (["max_packet_size 4096"], "limits.max_packet_size_bytes", 4096),
        (["max_packet_size 20"], "limits.max_packet_size_bytes", 128),
        ([], "limits.max_packet_size_bytes", 268_435_455),
        (["max_queued_bytes 100"], "limits.max_durable_queue_bytes", 100),
        (["max_queued_bytes 100"], "limits.max_queued_bytes", 1024),
        (["max_queued_messages 7"], "limits.max_queued_messages", 7),
        (["memory_limit 1000000"], "store.max_memory_bytes", 1_000_000),
        (
            ["persistence_location /var/lib/mosquitto/"],
            "store.data_dir",
            "/var/lib/mosquitto/tidegate",
        ),
        (["persistent_client_expiration 2w"], "limits.max_session_expiry_s", 1_209_600),
        (["persistent_client_expiration 1m"], "limits.legacy_session_expiry_s", 2_592_000),
        ([], "limits.legacy_session_expiry_s", NEVER_S),
        (["queue_qos0_messages true"], "features.queue_qos0", True),
        (["retain_available false"], "features.retain", False),
        (["sys_interval 0"], "features.sys_interval_s", 0),
        (["listener 1", "max_topic_alias 5"], "limits.max_topic_alias", 5),
        (["listener 1", "max_topic_alias_broker 0"], "limits.max_topic_alias_outgoing", 0),
        (["allow_anonymous true", "listener 1"], "auth.allow_anonymous", True),
        (["listener 1", "use_username_as_clientid true"], "auth.session_owner", "user"),
        ([], "auth.session_owner", "any"),
    ],
)
def test_a_setting(write: Any, lines: list[str], key: str, value: object) -> None:
    section, _, name = key.partition(".")
    assert convert(write(*lines)).config.get(section, {}).get(name) == value


@pytest.mark.parametrize(
    "line",
    [
        *("psk_file /etc/psk", "clientid_prefixes dev-", "pid_file /run/m.pid", "user mosquitto"),
        *("log_dest syslog", "log_dest file /var/log/m.log", "log_dest none", "log_dest topic"),
        *("max_inflight_bytes 10", "message_size_limit 10", "max_queued_messages 0"),
        *("upgrade_outgoing_qos true", "check_retain_source true", "auto_id_prefix x-"),
        *("auth_plugin /usr/lib/p.so", "no_such_directive 1", "enable_control_api true"),
        *("http_dir /srv", "bind_interface eth0", "tls_version tlsv1.1", "ciphers no-such"),
    ],
)
def test_nothing_is_lost_in_silence(write: Any, line: str, certificates: Certificates) -> None:
    """Whatever has no equivalent is named, with its line."""
    pair = certificates.server
    found = convert(
        write("listener 1883", f"certfile {pair.certificate}", f"keyfile {pair.key}", line)
    )
    name = line.partition(" ")[0]
    assert f"4 {name}" in _remarks(found)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "set_tcp_nodelay true",
            "message_size_limit 0",
            "max_inflight_bytes 0",
            "log_dest stderr",
        ),
        *("upgrade_outgoing_qos false", "check_retain_source false", "auto_id_prefix auto-"),
        *("autosave_interval 5", "persistence true", "retry_interval 20", "log_timestamp true"),
        *("allow_duplicate_messages false", "websockets_headers_size 4096"),
    ],
)
def test_what_asks_for_nothing_is_no_remark(write: Any, line: str) -> None:
    assert convert(write(line)).findings.remarks() == []


def test_a_listener_is_left_out_rather_than_opened(write: Any, tmp_path: Path) -> None:
    """Without TLS-PSK, or without its CA certificates, anybody could connect."""
    found = convert(
        write(
            *("allow_anonymous true", "listener 8883", "psk_hint hub", "listener 8884"),
            *("certfile a", "keyfile b", "require_certificate true"),
        )
    )
    assert found.config["listeners"] == []
    assert {"2 listener", "4 listener"} <= set(_remarks(found))


def test_a_directory_of_ca_certificates_becomes_a_file_that_has_to_be_made(
    write: Any, tmp_path: Path, certificates: Certificates
) -> None:
    pair = certificates.server
    found = convert(
        write(
            *("listener 8883", f"certfile {pair.certificate}", f"keyfile {pair.key}"),
            *("require_certificate true", f"capath {tmp_path}/ca"),
        )
    )
    tls = found.config["listeners"][0]["tls"]
    assert tls["client_ca"] == f"{tmp_path}/ca-bundle.pem"
    assert tls["client_certificates"] == "required"
    texts = [str(each) for each in found.findings.remarks()]
    assert any(f"cat {tmp_path}/ca/*.pem > {tmp_path}/ca-bundle.pem" in text for text in texts)


def test_a_plugin_closes_what_it_guarded(write: Any) -> None:
    found = convert(write("allow_anonymous true", "listener 1883", "plugin /usr/lib/dynsec.so"))
    assert found.config["auth"]["allow_anonymous"] is False
    assert _remarks(found) == ["3 plugin", "3 plugin"]


def test_bridges_are_listed_as_a_whole(write: Any) -> None:
    found = convert(
        write(
            *("listener 1883", "connection hub", "address hub.example:8883", "topic # out 1"),
            *("remote_username ann", "remote_password hush", "bridge_cafile /etc/ca.pem"),
        )
    )
    (remark,) = found.findings.remarks()
    assert (remark.number, remark.subject) == (2, "connection")
    assert "the bridge hub to hub.example:8883 (lines 2 to 7) is not carried over" in remark.text
    assert "hush" not in str(remark)


def test_lines_of_files_that_are_not_taken_are_named(write: Any, tmp_path: Path) -> None:
    users, rules = tmp_path / "users", tmp_path / "acl"
    set_user(users, "ann", "secret", "sha512", create=True)
    users.write_text(users.read_text() + "bob:plain\nnobody\n")
    rules.write_text("user ann\ntopic a/#/b\ntpic c\n")
    main = write("listener 1883", f"password_file {users}", f"acl_file {rules}")
    found = [(each.path, each.number) for each in convert(main).findings.remarks()]
    assert found == [(users, 2), (users, 3), (rules, 2), (rules, 3)]


def test_a_user_that_is_there_twice(write: Any, tmp_path: Path) -> None:
    """The later line counts, as in mosquitto 2.0.11."""
    users = tmp_path / "users"
    set_user(users, "ann", "one", "sha512", create=True)
    users.write_text(users.read_text() * 2)
    (remark,) = convert(write(f"password_file {users}")).findings.remarks()
    assert str(remark) == (
        f"{users}:2: duplicate user 'ann', this line is used: as in mosquitto; delete the earlier "
        "one, `tidegate check` fails with both"
    )


def test_listeners_on_one_port_have_names_of_their_own(write: Any) -> None:
    found = convert(write("listener 1883 127.0.0.1", "listener 1883 ::1"))
    assert [each.get("name", "") for each in found.config["listeners"]] == ["", "tcp-1883-2"]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["persistence maybe"], "mosquitto.conf:1: persistence: expected true or false, got maybe"),
        (["max_keepalive ten"], "expected a whole number, got ten"),
        (["listener"], "expected a port from 0 to 65535"),
        (["listener 0"], "port 0 needs the path of a Unix socket"),
        (["listener 1", "certfile a"], "mosquitto.conf:2: certfile: needs keyfile, too"),
        (["listener 1", "protocol sn"], "expected mqtt or websockets, got sn"),
        (["listener 1", "mount_point a/#"], "wildcards are not allowed"),
        (["topic # out"], "belongs to a bridge"),
        (["persistent_client_expiration 14"], "expected a number followed by h, d, w, m or y"),
        (["include_dir /nowhere/at/all"], "cannot be read: No such file"),
        (["log_type loud"], "unknown type loud"),
        (["listener 1", "tls_version tlsv9", "certfile a", "keyfile b"], "expected tlsv1.2 or"),
        (["password_file"], "the value is missing"),
    ],
)
def test_what_mosquitto_would_refuse_is_an_error(write: Any, lines: list[str], text: str) -> None:
    with pytest.raises(ConfError) as raised:
        convert(write(*lines))
    assert text in str(raised.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfError, match="cannot be read"):
        convert(tmp_path / "none.conf")
    (tmp_path / "latin.conf").write_bytes(b"listener 1883\nuser m\xfcller\n")
    with pytest.raises(ConfError, match=r"latin\.conf:2: not UTF-8"):
        convert(tmp_path / "latin.conf")
