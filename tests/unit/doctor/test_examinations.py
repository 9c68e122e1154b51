"""``tidegate doctor`` without a store: files, certificates, ports, names, limits, and the output.

Input: configurations, files and sockets of the test. The store, and a broker that runs, are in
tests/integration/test_doctor.py.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority, Certificates
from support.ports import free_port
from support.store_groups import ACL_RULES
from tidegate.cli.main import main
from tidegate.doctor import certificates as about_certificates
from tidegate.doctor import limits as about_limits
from tidegate.doctor import ports as about_ports
from tidegate.doctor.certificates import examine_certificates
from tidegate.doctor.clocks import examine_clocks
from tidegate.doctor.configuration import examine_configuration
from tidegate.doctor.examination import examine, role_of
from tidegate.doctor.files import examine_files
from tidegate.doctor.findings import Finding, Level, size_text
from tidegate.doctor.limits import examine_limits
from tidegate.doctor.names import examine_names
from tidegate.doctor.ports import examine_ports, owner_of
from tidegate.doctor.store import _of_server
from tidegate.runtime.config.model import Config
from tidegate.store.store_inspection import PROBES, StoreFacts


def _bad(findings: Iterable[Finding]) -> list[tuple[Level, str]]:
    return [(each.level, each.text) for each in findings if each.level is not Level.OK]


def _config(**sections: Any) -> Config:
    off = {"enabled": False}
    return Config.model_validate({"admin": off, "console": off} | sections)


def _tls(certificates: Certificates, **more: Any) -> dict[str, Any]:
    pair = certificates.server
    named = {"certificate": str(pair.certificate), "key": str(pair.key)}
    return {"protocol": "tls", "port": 0, "tls": {"certificates": [named], **more}}


# Files


def test_who_may_read_secrets_and_change_files(tmp_path: Path) -> None:
    users, rules = tmp_path / "users", tmp_path / "acl"
    users.write_text("")
    rules.write_text("")
    users.chmod(0o644)
    rules.chmod(0o646)
    config = _config(
        auth={"password_file": str(users), "acl_file": str(rules)},
        store={"data_dir": str(tmp_path / "data")},
    )
    found = [each for each in examine_files(config, "serve") if each.level is not Level.OK]
    told = {(each.level, each.change) for each in found if "free for" not in each.text}
    assert told == {
        (Level.ADVICE, f"chmod o-r {users}"),
        (Level.PROBLEM, f"chmod o-w {rules}"),
    }
    users.chmod(0o600)
    rules.chmod(0o644)
    texts = [text for _, text in _bad(examine_files(config, "serve")) if "free for" not in text]
    assert texts == []


def test_a_configuration_with_a_password_is_secret(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("")
    file.chmod(0o644)
    for url, expected in (("redis://h", []), ("redis://u:secret@h", [f"chmod o-r {file}"])):
        config = _config(store={"url": url})
        found = [each.change for each in examine_files(config, "router", file) if each.change]
        assert found == expected
    file.chmod(0o602)
    (changed,) = [each for each in examine_files(_config(), "edge", file) if each.change]
    assert changed.level is Level.PROBLEM


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = _config(auth={"acl_file": str(tmp_path / "none")})
    ((level, text),) = _bad(examine_files(config, "edge"))
    assert (level, text) == (Level.PROBLEM, f"{tmp_path}/none: No such file or directory")


def test_a_data_directory_that_others_may_change(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    found = _bad(examine_files(_config(store={"data_dir": str(data)}), "serve"))
    assert (Level.PROBLEM, f"{data}: other users may change the store's data") in found


# Certificates


def test_certificates_that_expire(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the tests are valid for two days."""
    config = _config(listeners=[_tls(certificates)])
    ((level, text),) = _bad(examine_certificates(config))
    assert level is Level.ADVICE
    assert "expires in 1 day" in text
    assert "1 days" not in text
    monkeypatch.setattr(about_certificates, "SOON_DAYS", 0)
    assert _bad(examine_certificates(config)) == []
    expired = Authority(tmp_path / "old", expired=True)
    config = _config(
        listeners=[
            _tls(certificates, client_ca=str(expired.certificate), client_certificates="required")
        ]
    )
    ((level, text),) = _bad(examine_certificates(config))
    assert level is Level.PROBLEM
    assert "expired at" in text


def test_a_key_of_another_certificate_stops_the_start(
    certificates: Certificates, tmp_path: Path
) -> None:
    listener = _tls(certificates)
    listener["tls"]["certificates"][0]["key"] = str(certificates.client.key)
    findings = examine_configuration(_config(listeners=[listener]), "serve", [])
    problems = [text for level, text in _bad(findings) if level is Level.PROBLEM]
    assert len(problems) == 1
    assert "key values mismatch" in problems[0]


# Ports


def test_a_port_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        config = _config(listeners=[{"port": port}])
        ((level, text),) = _bad(examine_ports(config, "serve"))
        assert level is Level.PROBLEM
        assert f"port {port} is used by process" in text
        owner = owner_of(port)
        assert owner is not None
        for words in (["/usr/bin/tidegate", "serve"], ["python", "-m", "tidegate", "serve"]):
            monkeypatch.setattr(about_ports, "owner_of", lambda _, words=words: (7, words))
            assert _bad(examine_ports(config, "serve")) == []
        monkeypatch.setattr(about_ports, "owner_of", lambda _: (7, ["x", "-c", "/tidegate/y"]))
        assert _bad(examine_ports(config, "serve")) != []
        monkeypatch.setattr(about_ports, "owner_of", lambda _: None)
        ((level, _),) = _bad(examine_ports(config, "serve"))
        assert level is Level.ADVICE
    assert _bad(examine_ports(config, "serve")) == []


def test_the_ports_of_a_role(tmp_path: Path) -> None:
    """A router does not open the listeners, an edge not the link."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        config = _config(listeners=[{"port": port}])
        assert _bad(examine_ports(config, "router")) == []
        linked = _config(link={"listen": f"127.0.0.1:{port}"})
        assert _bad(examine_ports(linked, "edge")) == []
        assert len(_bad(examine_ports(linked, "router"))) == 1


def test_the_consoles_port_is_looked_at_where_it_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = _config(console={"port": other.getsockname()[1]})
        ((level, _),) = _bad(examine_ports(config, "serve"))
        assert level is Level.ADVICE
        ((level, _),) = _bad(examine_ports(config, "console"))
        assert level is Level.PROBLEM
        assert _bad(examine_ports(config, "edge")) == []


def test_sockets_in_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    config = _config(listeners=[{"protocol": "unix", "address": str(path), "port": 0}])
    texts = [each.text for each in examine_ports(config, "serve")]
    assert texts == [f"listener unix-0: {path} is free"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        (left,) = examine_ports(config, "serve")
        assert "is replaced" in left.text
        server.listen()
        (used,) = examine_ports(config, "serve")
        assert "a process accepts connections" in used.text


# Names


def test_a_console_is_looked_at_from_where_it_runs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as edge, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (edge, closed)]
        config = Config.model_validate(
            {"console": {"edges": addresses[:1], "routers": addresses[1:]}}
        )
        assert role_of(config) == "console"
        found = list(examine_names(config, "console"))
    assert [(each.level, each.text.partition(":")[0]) for each in found] == [
        (Level.OK, "console.edges"),
        (Level.PROBLEM, "console.routers"),
    ]
    assert "admin server" in found[1].change


def test_routers_of_an_edge() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        config = _config(link={"routers": [f"127.0.0.1:{port}"]})
        assert _bad(examine_names(config, "edge")) == []
        assert _bad(examine_names(config, "serve")) == []
    ((level, text),) = _bad(examine_names(config, "edge"))
    assert level is Level.PROBLEM
    assert f"no connection to 127.0.0.1 port {port}" in text


def test_a_name_that_does_not_resolve() -> None:
    config = _config(store={"url": "redis://no-such-host.invalid:1"})
    ((level, text),) = _bad(examine_names(config, "router"))
    assert level is Level.PROBLEM
    assert text.startswith("store.url: no-such-host.invalid does not resolve")


# Limits and clocks


@pytest.mark.parametrize(
    ("hard", "connections", "level"),
    [
        (1_000_000, 0, Level.OK),
        (20_000, 0, Level.ADVICE),
        (20_000, 30_000, Level.PROBLEM),
        (512, 0, Level.PROBLEM),
        (-1, 30_000, Level.OK),
    ],
)
def test_open_files(
    monkeypatch: pytest.MonkeyPatch, hard: int, connections: int, level: Level
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    config = _config(limits={"max_connections": connections})
    (found,) = [each for each in examine_limits(config, "edge") if "open files" in each.text]
    assert found.level is level


def test_a_short_backlog_and_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("net/core/somaxconn", "128"), ("vm/overcommit_memory", "0")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(about_limits, "_KERNEL", tmp_path)
    monkeypatch.setattr(about_limits, "available_memory", lambda: 128 << 20)
    config = _config(listeners=[{"backlog": 4096}], cluster={"edges": 256})
    texts = "\n".join(text for _, text in _bad(examine_limits(config, "serve")))
    assert "net.core.somaxconn" in texts
    assert "128 MiB of memory" in texts
    assert "vm.overcommit_memory is 0" in texts
    assert "256 processes" in texts
    monkeypatch.setattr(about_limits, "available_memory", lambda: 1 << 30)
    config = _config(store={"max_memory_bytes": 1 << 30})
    levels = {level for level, text in _bad(examine_limits(config, "serve")) if "memory (" in text}
    assert levels == {Level.PROBLEM}


def test_a_store_with_another_time() -> None:
    far = [each for each in examine_clocks(-90.0) if "store" in each.text]
    assert [(each.level, each.text) for each in far] == [
        (Level.ADVICE, "the store's clock is 90.00 s behind")
    ]
    assert not [each for each in examine_clocks(None) if "store" in each.text]
    near = [each for each in examine_clocks(0.01) if "store" in each.text]
    assert [each.level for each in near] == [Level.OK]


# The store's answers


def _facts(**info: str) -> StoreFacts:
    good = {"maxmemory": "1000", "used_memory": "10", "aof_enabled": "1"}
    return StoreFacts("h:1", "Valkey 9", (0.001,) * 5, 0.0, good | info, ())


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        (_facts(maxmemory="0"), Level.ADVICE, "no limit of memory"),
        (_facts(used_memory="850"), Level.ADVICE, "850 B of 1000 B (maxmemory) are used, 85 %"),
        (_facts(used_memory="950"), Level.PROBLEM, "are used, 95 %"),
        (_facts(aof_enabled="0"), Level.PROBLEM, "no append-only file"),
        (_facts(aof_last_write_status="err"), Level.PROBLEM, "could not write"),
        (_facts(rdb_last_bgsave_status="err"), Level.ADVICE, "last snapshot failed"),
        (
            StoreFacts("h:1", "Redis 7.2", (0.05,) * 5, 0.0, _facts().info, ()),
            Level.ADVICE,
            "a round trip takes 50.0 ms",
        ),
        (
            StoreFacts("h:1", "Redis 7.2", (0.0,), 0.0, _facts().info, ("xadd",)),
            Level.PROBLEM,
            "may not run xadd",
        ),
    ],
)
def test_what_the_server_says(facts: StoreFacts, level: Level, text: str) -> None:
    ((found, said),) = _bad(_of_server(_config(), facts))
    assert found is level
    assert text in said


def test_missing_replicas() -> None:
    config = _config(store={"url": "redis://h", "durability": "replicated", "replicas": 2})
    ((level, text),) = _bad(_of_server(config, _facts(connected_slaves="1")))
    assert level is Level.PROBLEM
    assert "1 replicas are connected, durability replicated needs 2" in text


def test_only_rights_that_are_documented_are_tried() -> None:
    assert {f"+{name}" for name in PROBES} <= set(ACL_RULES.split())


# The command


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main(["doctor", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert isinstance(raised.value.code, int)
    return raised.value.code, out, err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tidegate.yaml"
    path.write_text(
        f"listeners: [{{port: 0}}]\nauth: {{allow_anonymous: true}}\nadmin: {{enabled: false}}\n"
        f"store: {{data_dir: {tmp_path}/data}}\n"
    )
    return path


def test_the_output_and_the_exit_codes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, file)
    assert code == 0
    assert "store\n  the embedded server can be started; it does not run now\n" in out
    assert out.splitlines()[-1].startswith("serve: 0 problems, ")
    file.write_text(file.read_text() + f"link: {{tls: {{certificate: {file}, key: a, ca: b}}}}\n")
    code, out, _ = _run(capsys, file)
    assert code == 1
    assert "  problem: " in out
    assert "    change: " in out


def test_json(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_LOG__LEVEL", "debug")
    code, out, _ = _run(capsys, file, "--json")
    data = json.loads(out)
    assert (code, data["role"], data["problems"]) == (0, "serve", 0)
    assert set(data["findings"][0]) == {"area", "level", "text", "change"}
    texts = [each["text"] for each in data["findings"]]
    assert "log.level is from TIDEGATE_LOG__LEVEL" in texts


def test_wrong_usage(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        ([tmp_path / "none.yaml"], "cannot be read"),
        ([file, "--role", "edge"], "requires the address of a router"),
        ([file, "--role", "nurse"], "--role"),
    ):
        code, out, err = _run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert text in err


def test_the_role_that_a_configuration_is_for() -> None:
    assert role_of(_config()) == "serve"
    assert role_of(_config(link={"routers": ["a:1"]}, listeners=[{}])) == "edge"
    external = {"url": "redis://a"}
    assert role_of(_config(link={"listen": "0.0.0.0:7000"}, store=external)) == "router"
    assert role_of(_config(store=external)) == "serve"


def test_sizes() -> None:
    assert [size_text(size) for size in (10, 2048, 5 << 30, 1536)] == [
        "10 B",
        "2.0 KiB",
        "5.0 GiB",
        "1.5 KiB",
    ]


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router may be installed without what edges need, and the other way round."""
    monkeypatch.delitem(sys.modules, "tidegate.doctor.store", raising=False)
    monkeypatch.setitem(sys.modules, "tidegate.store.store_check", None)
    config = _config(store={"data_dir": str(tmp_path / "data")}, listeners=[{"port": 0}])
    (found,) = [each for each in examine(config, "serve", []) if each.area == "store"]
    assert found.level is Level.ADVICE
    assert found.text.startswith("not looked at: ")
    assert "store" not in {each.area for each in examine(config, "edge", [])}
