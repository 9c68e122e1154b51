"""``tidegate convert --to mqttbroker``: what it writes is what the API server and operator take."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from support.api_schema import api_server_refuses
from support.certificates import Certificates
from tidegate.cli.main import main
from tidegate.convert import directives
from tidegate.convert.conf_file import ConfError, Line
from tidegate.convert.conversion import convert
from tidegate.convert.resource import make_resource
from tidegate.edge.auth.password_file import set_user
from tidegate.runtime.config.model import Config
from tidegate_operator.spec.problems import parse

Documents = list[dict[str, Any]]


def _convert(conf: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as raised:
        main(["convert", str(conf), "--to", "mqttbroker", "--output", str(output)])
    assert isinstance(raised.value.code, int)
    return raised.value.code, capsys.readouterr().err


def _read(file: Path) -> Documents:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    users, rules = tmp_path / "users", tmp_path / "acl"
    set_user(users, "ann", "secret", "sha512", create=True)
    rules.write_text("pattern readwrite devices/%u/#\n")
    return users, rules


def test_the_resource_and_its_secrets(
    tmp_path: Path,
    certificates: Certificates,
    files: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, authority = certificates.server, certificates.authority
    crl = authority.revocation_list()
    tls = [f"certfile {server.certificate}", f"keyfile {server.key}"]
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(
        "\n".join(
            [
                *(f"password_file {files[0]}", f"acl_file {files[1]}", "max_keepalive 600"),
                *("log_type warning", "queue_qos0_messages true", "listener 1883"),
                *("max_qos 1", "mount_point a/", "listener 9001", "protocol websockets"),
                *("websockets_origin https://a.example", "listener 443", *tls),
                *(f"cafile {authority.certificate}", f"crlfile {crl}", "require_certificate true"),
                *("use_identity_as_username true", "listener 8084", "protocol websockets", *tls),
            ]
        )
    )
    code, err = _convert(conf, tmp_path / "out", capsys)
    assert code == 0, err
    (broker,) = _read(tmp_path / "out" / "mqttbroker.yaml")
    assert not api_server_refuses(broker["spec"])
    spec = parse(broker["metadata"]["name"], broker["spec"])
    assert [(each.name, each.pod_port, each.exposed_port) for each in spec.listeners] == [
        ("tcp-1883", 1883, 1883),
        ("ws-9001", 9001, 9001),
        ("tls-443", 8443, 443),
        ("wss-8084", 8084, 8084),
    ]
    assert spec.listeners[0].mount_point == "a/"
    assert spec.auth.denied_subscribe == "grant"
    assert spec.limits.max_keep_alive_s == 600
    assert spec.features.queue_qos0
    assert spec.log.level == "warning"

    secrets = _read(tmp_path / "out" / "secrets.yaml")
    assert (tmp_path / "out" / "secrets.yaml").stat().st_mode & 0o777 == 0o600
    content = {
        (each["metadata"]["name"], key): base64.b64decode(value)
        for each in secrets
        for key, value in each["data"].items()
    }
    # Both TLS listeners have one certificate, so there is one Secret.
    assert content == {
        ("mqtt-tls-443-tls", "tls.crt"): server.certificate.read_bytes(),
        ("mqtt-tls-443-tls", "tls.key"): server.key.read_bytes(),
        ("mqtt-tls-443-client-ca", "ca.crt"): authority.certificate.read_bytes(),
        ("mqtt-tls-443-client-crl", "ca.crl"): crl.read_bytes(),
        ("mqtt-passwords", "passwords"): files[0].read_bytes(),
        ("mqtt-acl", "acl"): files[1].read_bytes(),
    }
    types = {each["metadata"]["name"]: each["type"] for each in secrets}
    assert types["mqtt-tls-443-tls"] == "kubernetes.io/tls"
    named = {
        spec.auth.passwords and spec.auth.passwords.secret_name,
        spec.acl and spec.acl.source and spec.acl.source.secret_name,
        *(each.tls.secret_name for each in spec.listeners if each.tls),
    }
    assert named <= {name for name, _ in content}


def test_files_of_listeners(
    tmp_path: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(
        "per_listener_settings true\nlistener 1883\nallow_anonymous true\nlistener 1884\n"
        f"password_file {files[0]}\nacl_file {files[1]}\n"
    )
    code, err = _convert(conf, tmp_path, capsys)
    assert code == 0, err
    (broker,) = _read(tmp_path / "mqttbroker.yaml")
    assert not api_server_refuses(broker["spec"])
    open_one, guarded = broker["spec"]["listeners"]
    assert open_one["allowAnonymous"] is True
    assert "passwords" not in open_one
    assert guarded["allowAnonymous"] is False
    assert guarded["passwords"] == {"secretName": "mqtt-tcp-1884-passwords", "key": "passwords"}
    assert guarded["acl"] == {"source": {"secretName": "mqtt-tcp-1884-acl", "key": "acl"}}


def test_what_pods_cannot_have_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A listener for this machine alone is not published to the cluster."""
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(
        "memory_limit 1000000\nlistener 1883 127.0.0.1\nlistener 1883 ::1\n"
        f"listener 0 {tmp_path}/mqtt.sock\nlistener 18083\npassword_file {tmp_path}/none\n"
    )
    code, err = _convert(conf, tmp_path, capsys)
    assert code == 3
    (broker,) = _read(tmp_path / "mqttbroker.yaml")
    assert not api_server_refuses(broker["spec"])
    local, other = broker["spec"]["listeners"]
    assert local["service"] == {"type": "None"}
    assert (other["port"], other["servicePort"]) == (26083, 18083)
    for text in (
        "no Service publishes it",
        "a second listener on port 1883 (::1) is not carried over",
        "the Unix socket",
        "`redis.bundled.resources`",
        f"kubectl create secret generic mqtt-passwords --from-file=passwords={tmp_path}/none",
    ):
        assert text in err
    assert not (tmp_path / "secrets.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "mosquitto.conf"
    conf.write_text("listener 1883\n")
    (tmp_path / "mqttbroker.yaml").write_text("mine")
    code, err = _convert(conf, tmp_path, capsys)
    assert code == 2
    assert "mqttbroker.yaml exists" in err
    assert (tmp_path / "mqttbroker.yaml").read_text() == "mine"


#: Values of all kinds; most are wrong for most directives.
VALUES = st.sampled_from(
    [
        *("true", "false", "0", "1", "2", "-1", "65535", "", "x", "tlsv1.2", "websockets", "mqtt"),
        *("/nonexistent", "a/b", "ipv4", "14d", "ECDHE+AESGCM", "error", "none", "*", "ä"),
    ]
)
LISTENERS = st.sampled_from(
    [
        "listener 1883",
        "listener 443",
        "listener 1883 ::1",
        "listener 18083",
        "listener 9001 127.0.0.1",
    ]
)
LINES = st.lists(
    st.one_of(
        LISTENERS,
        st.builds("{} {}".format, st.sampled_from(directives.names()), VALUES),
        st.sampled_from(["certfile /a", "keyfile /b", "cafile /c", "require_certificate true"]),
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(LINES)
def test_whatever_mosquitto_takes_becomes_something_valid_or_an_error(lines: list[str]) -> None:
    """Nothing else is raised; a result is valid, and so is the resource made of it."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "mosquitto.conf"
        file.write_text("\n".join(lines), encoding="utf-8")
        try:
            found = convert(file)
        except ConfError:
            return
        Config.model_validate(found.config)
        broker, _ = make_resource(found.config, "mqtt", Line(file, 0, "", ""), found.findings)
        if broker["spec"]["listeners"]:
            parse("mqtt", broker["spec"])
        else:
            assert found.findings.remarks()
