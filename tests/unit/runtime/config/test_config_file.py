"""Configuration files and flags: what is read, and how every problem is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.config.config_file import ConfigError, Flags, from_flags, load, warnings_of
from tidegate.runtime.config.model import Config, ListenerProtocol


def _write(directory: Path, text: str) -> Path:
    file = directory / "tidegate.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(_write(directory, text))
    return raised.value.problems


def test_an_empty_file_is_the_default_configuration(tmp_path: Path) -> None:
    assert load(_write(tmp_path, "")) == Config()


@pytest.mark.parametrize("text", ["name: " + "[" * 5_000, "{a: " * 5_000])
def test_a_file_nested_too_deeply_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (problem,) = _problems(tmp_path, text)
    assert problem == f"{tmp_path / 'tidegate.yaml'}: lists and mappings are nested too deeply"


def test_keys_of_the_file_are_taken(tmp_path: Path) -> None:
    config = load(
        _write(tmp_path, "listeners:\n- protocol: ws\n  port: 0\nlimits:\n  max_in_flight: 7\n")
    )
    assert config.listeners[0].protocol is ListenerProtocol.WS
    assert config.limits.max_in_flight == 7


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lisseners: []", "lisseners: unknown key; did you mean listeners? (line 1)"),
        (
            "listeners: [{protocol: unix, address: s, reuse_port: true}]",
            "listeners[0]: reuse_port is not supported for Unix sockets (line 1)",
        ),
        ("zzz: 1", "zzz: unknown key (line 1)"),
        (
            "listeners:\n- port: abc",
            "listeners[0].port: expected a whole number, got abc (line 2)",
        ),
        (
            "listeners:\n- port: 70000",
            "listeners[0].port: expected a number of at most 65535, got 70000 (line 2)",
        ),
        (
            "listeners:\n- protocol: quic",
            "listeners[0].protocol: expected one of tcp, tls, ws, wss, unix, auto, got quic "
            "(line 2)",
        ),
        (
            "listeners:\n- tls:\n    certficates: []",
            "listeners[0].tls.certficates: unknown key; did you mean certificates? (line 3)",
        ),
        (
            "listeners:\n- tls:\n    certificates:\n    - certificate: a.pem",
            "listeners[0].tls.certificates[0].key: is missing",
        ),
        (
            "listeners:\n- protocol: tls",
            "listeners[0]: protocol tls needs tls.certificates (line 2)",
        ),
        ("auth:\n  allow_anonymous: maybe", "auth.allow_anonymous: expected true or false, "),
        ("auth: 3", "auth: expected a section (keys and values), got 3 (line 1)"),
        ("listeners: 3", "listeners: expected a list, got 3 (line 1)"),
        ("store:\n  durability: never", "store.durability: expected one of everysec, always, "),
        (
            "limits:\n  connect_timeout_s: 0",
            "limits.connect_timeout_s: expected a number above",
        ),
        (
            "limits:\n  connect_timeout_s: no",
            "limits.connect_timeout_s: expected a number above",
        ),
        ("listeners:\n- name: A_B", "listeners[0].name: expected lower-case letters"),
        ("listeners:\n- trusted_proxies: [nowhere]", "listeners[0].trusted_proxies: 'nowhere'"),
        ("log: {level: }", "log.level: expected one of debug, info, warning, error, got nothing"),
        ("store: {data_dir: [1]}", "store.data_dir: expected a path, got a list (line 1)"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_expected(
    tmp_path: Path, text: str, problem: str
) -> None:
    problems = _problems(tmp_path, text)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    assert len(_problems(tmp_path, "a: 1\nb: 2\nlimits:\n  max_in_flight: 0\n")) == 3


def test_many_problems_are_cut(tmp_path: Path) -> None:
    problems = _problems(tmp_path, "".join(f"k{n}: 1\n" for n in range(60)))
    assert len(problems) == 51
    assert problems[-1] == "and 10 more problems"


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    assert _problems(tmp_path, "limits:\n  max_in_flight: 1\n  max_in_flight: 2\n") == [
        "limits.max_in_flight: duplicate key (lines 2 and 3)"
    ]


def test_a_node_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    assert "listeners[0]: refers to itself" in _problems(tmp_path, "listeners: &x\n- *x\n")


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system {}", "a: 1\n\tb: 2", "\0"])
def test_what_is_not_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (problem,) = _problems(tmp_path, text)
    assert "not valid YAML" in problem
    assert "\n" not in problem


def test_a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    assert _problems(tmp_path, "- 1") == [
        f"{tmp_path}/tidegate.yaml: expected a mapping at the top level"
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(file)


def test_relative_paths_of_the_file_are_those_beside_it(tmp_path: Path) -> None:
    config = load(
        _write(
            tmp_path,
            """
auth: {password_file: users, acl_file: /etc/acl}
store: {data_dir: state}
listeners:
- protocol: tls
  tls: {certificates: [{certificate: tls/a.pem, key: tls/a.key}]}
- {protocol: unix, address: run/mqtt.sock, name: local}
""",
        )
    )
    assert config.auth.password_file == tmp_path / "users"
    assert config.auth.acl_file == Path("/etc/acl")
    assert config.store.data_dir == tmp_path / "state"
    assert config.listeners[0].tls.certificates[0].key == tmp_path / "tls/a.key"
    assert config.listeners[1].address == str(tmp_path / "run/mqtt.sock")


def test_defaults_are_not_moved_beside_the_file(tmp_path: Path) -> None:
    assert load(_write(tmp_path, "store: {partitions: 8}")).store.data_dir == Path("./data")


def test_without_anything_two_loopback_listeners_serve() -> None:
    config = from_flags(Flags())
    assert [listener.label for listener in config.listeners] == ["tcp-1883", "ws-8083"]
    assert all(listener.address == "127.0.0.1" for listener in config.listeners)


def test_flags_are_laid_over_the_file(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        "listeners: [{port: 1999}]\nauth: {allow_anonymous: true}\nlimits: {max_in_flight: 3}\n"
        "store: {partitions: 8}\n",
    )
    config = from_flags(
        Flags(
            config=file,
            listeners=["tcp://[::1]:0"],
            allow_anonymous=False,
            data_dir=Path("here"),
            redis="redis://localhost",
            log_level="debug",
            log_format="json",
            password_file=Path("users"),
            acl_file=Path("acl"),
            admin="[::1]:9",
        )
    )
    (listener,) = config.listeners
    assert (listener.address, listener.port) == ("::1", 0)
    assert not config.auth.allow_anonymous
    assert config.auth.password_file == Path("users")
    assert config.auth.acl_file == Path("acl")
    assert config.limits.max_in_flight == 3
    assert config.store.url == "redis://localhost"
    assert config.store.partitions == 8
    assert config.store.data_dir == Path("here")
    assert (config.admin.enabled, config.admin.address, config.admin.port) == (True, "::1", 9)
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_the_listeners_of_the_file_stay_without_flags(tmp_path: Path) -> None:
    assert (
        from_flags(Flags(config=_write(tmp_path, "listeners: [{port: 9}]"))).listeners[0].port == 9
    )


def test_admin_can_be_switched_off() -> None:
    assert not from_flags(Flags(admin="off")).admin.enabled


def test_tls_flags_serve_every_listener_that_takes_tls() -> None:
    config = from_flags(
        Flags(
            listeners=["tls://127.0.0.1:1", "auto://127.0.0.1:2", "tcp://127.0.0.1:3"],
            tls_cert=Path("cert"),
            tls_ca=Path("ca"),
        )
    )
    tls, auto, tcp = config.listeners
    assert tls.tls.certificates[0].key == Path("cert")
    assert tls.tls.client_certificates == auto.tls.client_certificates == "required"
    assert not tcp.tls.certificates


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (Flags(listeners=["tls://:1"]), "--listener tls://:1: requires --tls-cert (and --tls-key)"),
        (
            Flags(tls_cert=Path("x")),
            "--tls-cert, --tls-key and --tls-ca require a tls, wss or auto",
        ),
        (Flags(listeners=["quic://:1"]), "--listener quic://:1: expected SCHEME://ADDRESS:PORT"),
        (Flags(admin="here"), "--admin here: expected ADDRESS:PORT or off"),
        (Flags(admin="::1"), "--admin ::1: IPv6 addresses must be in brackets"),
        (Flags(log_level="loud"), "log.level: expected one of debug, info, warning, error"),
        (
            Flags(listeners=["tcp://:1", "tcp://:1"]),
            "the file: duplicate listener name 'tcp-1'",
        ),
    ],
)
def test_a_wrong_flag_is_named(flags: Flags, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_flags(flags)
    assert raised.value.problems[0].startswith(problem)


def test_tls_flags_do_not_change_listeners_of_a_file(tmp_path: Path) -> None:
    file = _write(tmp_path, "listeners: [{port: 9}]")
    with pytest.raises(ConfigError, match="tls-ca require --listener"):
        from_flags(Flags(config=file, tls_cert=Path("x")))


def test_a_listener_that_nobody_can_use_is_a_concern() -> None:
    (first, _second) = warnings_of(from_flags(Flags()))
    assert "listener tcp-1883: no client can connect" in first
    assert warnings_of(from_flags(Flags(password_file=Path("users")))) == []


def test_a_store_that_may_fail_over_without_confirmation_is_a_concern() -> None:
    users = Path("users")
    (text,) = warnings_of(from_flags(Flags(password_file=users, redis="redis+cluster://a,b")))
    assert "durability everysec" in text
    assert warnings_of(from_flags(Flags(password_file=users, redis="redis://a"))) == []


def test_a_password_in_the_url_of_the_store_is_a_concern() -> None:
    flags = Flags(password_file=Path("users"), redis="redis://user:hush@a")
    (text,) = warnings_of(from_flags(flags))
    assert "password_file" in text
    assert "hush" not in text


def test_anonymous_access_from_elsewhere_is_a_concern() -> None:
    (text,) = warnings_of(
        from_flags(
            Flags(
                listeners=["tcp://*:1", "tcp://127.0.0.1:2", "unix:///run/x"], allow_anonymous=True
            )
        )
    )
    assert text.startswith("listener tcp-1: anyone who can reach *")


@pytest.mark.parametrize(
    "place", ["7000", "routers", "routers:", ":7000", "::1:7000", "h:70000", "h:7x", "unix:"]
)
def test_a_place_of_the_link_that_is_none_is_named(place: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_flags(Flags(routers=[place]), "edge")
    (problem,) = raised.value.problems
    assert problem.startswith("link.routers: expected ")


@pytest.mark.parametrize("place", ["routers:7000", "10.0.0.1:0", "[::1]:7000", "unix:/run/link"])
def test_places_of_the_link(place: str) -> None:
    assert from_flags(Flags(routers=[place]), "edge").link.routers == [place]


def test_an_edge_needs_routers_and_a_router_a_store() -> None:
    with pytest.raises(ConfigError, match=r"link\.routers: an edge requires"):
        from_flags(Flags(), "edge")
    with pytest.raises(ConfigError, match=r"store\.url: a router requires"):
        from_flags(Flags(), "router")


def test_several_edges_cannot_share_a_unix_socket() -> None:
    flags = Flags(listeners=["tcp://127.0.0.1:0", "unix:///run/mqtt"], edge_count=2)
    with pytest.raises(ConfigError, match=r"listeners\[1\]: 2 edges cannot share a Unix socket"):
        from_flags(flags)
    assert from_flags(Flags(listeners=flags.listeners, edge_count=1)).listeners


@pytest.mark.parametrize(
    ("edges", "routers", "is_split"),
    [(None, None, False), (1, 1, False), (2, None, True), (0, 2, True), (2, 2, True)],
)
def test_more_than_one_of_a_kind_makes_a_cluster(
    edges: int | None, routers: int | None, is_split: bool
) -> None:
    config = from_flags(Flags(edge_count=edges, router_count=routers))
    assert config.cluster.is_split is is_split
