"""Environment variables: names, values, precedence, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidegate.runtime.config.config_file import ConfigError, Flags, parse_with_origins
from tidegate.runtime.config.environment import (
    read_environment,
    variables,
    without_settings,
)
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import ConfigSource

FILE = """\
store:
  url: redis://file:1
  durability: always
limits:
  max_in_flight: 7
listeners:
  - port: 1111
"""


def _load(environment: dict[str, str], **flags: Any) -> Config:
    return ConfigSource(Flags(**flags), "serve", environment).load().config


def _problems(environment: dict[str, str], **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        _load(environment, **flags)
    return raised.value.problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tidegate.yaml"
    path.write_text(FILE)
    return path


def test_flags_override_variables_and_variables_the_file(file: Path) -> None:
    environment = {
        "TIDEGATE_STORE__URL": "redis://environment:2",
        "TIDEGATE_LIMITS__MAX_IN_FLIGHT": "8",
        "TIDEGATE_LOG__LEVEL": "debug",
        "TIDEGATE_NAME": "variable",
    }
    config = _load(environment, config=file, redis="redis://flag:3", name="flag")
    assert (config.store.url, config.store.durability) == ("redis://flag:3", "always")
    assert (config.limits.max_in_flight, config.log.level, config.name) == (8, "debug", "flag")
    assert _load(environment, config=file).store.url == "redis://environment:2"
    assert _load({}, config=file).store.url == "redis://file:1"


def test_without_a_file(tmp_path: Path) -> None:
    config = _load({"TIDEGATE_ADMIN__ENABLED": "false", "TIDEGATE_SHUTDOWN_TIMEOUT_S": "2.5"})
    assert not config.admin.enabled
    assert config.shutdown_timeout_s == 2.5
    assert [each.port for each in config.listeners] == [1883, 8083]


def test_lists_are_json_and_replace_those_of_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listeners = (
        '[{"protocol": "tls", "port": 2, "password_file": "users", "tls": {"certificates":'
        ' [{"certificate": "a.pem", "key": "/k.pem"}]}}, {"protocol": "unix", "address": "m.sock"}]'
    )
    environment = {
        "TIDEGATE_LISTENERS": listeners,
        "TIDEGATE_LINK__ROUTERS": '["router-0:7000", "router-1:7000"]',
    }
    config = _load(environment, config=file)
    tls, unix = config.listeners
    # Paths count from the working directory, not from the directory of the file.
    assert tls.tls.certificates[0].certificate == tmp_path / "a.pem"
    assert tls.tls.certificates[0].key == Path("/k.pem")
    assert tls.password_file == tmp_path / "users"
    assert unix.address == str(tmp_path / "m.sock")
    assert config.link.routers == ["router-0:7000", "router-1:7000"]
    assert _load(environment, listeners=["tcp://127.0.0.1:5"]).listeners[0].port == 5


def test_paths_count_from_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    config = _load({"TIDEGATE_AUTH__PASSWORD_FILE": "users"}, config=file)
    assert config.auth.password_file == tmp_path / "work" / "users"


def test_the_file_needs_not_be_valid_without_the_variables(file: Path) -> None:
    file.write_text("store: {durability: replicated}\n")
    with pytest.raises(ConfigError):
        _load({}, config=file)
    assert _load({"TIDEGATE_STORE__URL": "redis://a"}, config=file).store.url == "redis://a"


def test_every_leaf_has_a_variable() -> None:
    known = variables()
    assert known["TIDEGATE_LINK__TLS__CA"] == ("link", "tls", "ca")
    assert known["TIDEGATE_LISTENERS"] == ("listeners",)
    assert "TIDEGATE_STORE" not in known
    # None reads as another one when the separators are misspelled.
    assert len({name.replace("__", "_") for name in known}) == len(known)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (
            "TIDEGATE_LIMITS__MAX_IN_FLIGHT",
            "many",
            "limits.max_in_flight: expected a whole number, got many (from TIDEGATE_LIMITS__",
        ),
        ("TIDEGATE_LOG__LEVEL", "loud", "(from TIDEGATE_LOG__LEVEL)"),
        (
            "TIDEGATE_LINK__ROUTERS",
            "a:1,b:2",
            "expected a list in JSON (from TIDEGATE_LINK__ROUTERS",
        ),
        (
            "TIDEGATE_LISTENERS",
            '[{"port": -1}]',
            "listeners[0].port: expected a number of at least",
        ),
        ("TIDEGATE_LISTENERS", '[{"prot": 1}]', "(from TIDEGATE_LISTENERS)"),
        ("TIDEGATE_STORE__USERNAME", "me", "store: username needs url (from TIDEGATE_STORE__USERN"),
        ("TIDEGATE_STORE__URI", "a", "TIDEGATE_STORE__URI: there is no such setting; did you mean"),
        ("TIDEGATE_STORE_URL", "a", "did you mean TIDEGATE_STORE__URL?"),
        ("TIDEGATE_ADMIN_PORT", "18084", "did you mean TIDEGATE_ADMIN__PORT?"),
        ("TIDEGATE_NO__SUCH", "a", "TIDEGATE_NO__SUCH: there is no such setting"),
    ],
)
def test_a_problem_names_the_variable(variable: str, value: str, text: str) -> None:
    (problem,) = _problems({variable: value})
    assert text in problem


def test_a_rule_about_a_section_names_line_and_variable(file: Path) -> None:
    (problem,) = _problems({"TIDEGATE_STORE__REPLICAS": "2"}, config=file)
    assert problem == (
        "store: replicas needs durability replicated (line 1; from TIDEGATE_STORE__REPLICAS)"
    )


def test_variables_of_others_do_not_stop_a_process() -> None:
    """Kubernetes sets some for a Service called tidegate; they must not matter."""
    links = {
        "TIDEGATE_SERVICE_HOST": "10.0.0.1",
        "TIDEGATE_SERVICE_PORT": "1883",
        "TIDEGATE_SERVICE_PORT_MQTT": "1883",
        "TIDEGATE_PORT": "tcp://10.0.0.1:1883",
        "TIDEGATE_PORT_1883_TCP_ADDR": "10.0.0.1",
        "TIDEGATE_EDGE_SERVICE_HOST": "10.0.0.2",
        "TIDEGATE_EDGE_PORT_1883_TCP": "tcp://10.0.0.2:1883",
        # A Service tidegate-admin, and one whose name has two hyphens.
        "TIDEGATE_ADMIN_PORT": "tcp://10.0.0.3:18083",
        "TIDEGATE_ADMIN_SERVICE_PORT": "18083",
        "TIDEGATE_A__B_SERVICE_HOST": "10.0.0.4",
        "TIDEGATE_STORE_GROUP": "serve.1234",
        "OTHER_STORE__URL": "x",
    }
    found = read_environment(links)
    assert (found.settings, found.problems, found.warnings) == ([], [], [])
    found = read_environment({"TIDEGATE_VERSION": "1"})
    assert found.problems == []
    assert found.warnings == [
        "TIDEGATE_VERSION: there is no such setting, the variable has no effect"
    ]


def test_an_empty_variable_is_none() -> None:
    assert read_environment({"TIDEGATE_STORE__URL": "", "TIDEGATE_STORE__URI": ""}).settings == []


def test_what_is_from_where(file: Path) -> None:
    environment = {"TIDEGATE_STORE__URL": "redis://a", "TIDEGATE_NAME": "b"}
    said = parse_with_origins(file.read_bytes(), file, read_environment(environment))[1]
    assert said == [
        "name is from TIDEGATE_NAME",
        "store.url is from TIDEGATE_STORE__URL, instead of line 2",
    ]


def test_a_changed_file_is_read_with_the_same_variables(file: Path) -> None:
    source = ConfigSource(Flags(config=file), "serve", {"TIDEGATE_LIMITS__MAX_IN_FLIGHT": "8"})
    file.write_text(FILE.replace("max_in_flight: 7", "max_in_flight: 9"))
    assert source.load_again().config.limits.max_in_flight == 8


def test_a_child_has_its_settings_from_its_file() -> None:
    """Of the supervisor's variables: its file has them, with what differs from child to child."""
    environment = {"TIDEGATE_ADMIN__PORT": "1", "TIDEGATE_STORE_GROUP": "g", "PATH": "/bin"}
    assert without_settings(environment) == {"TIDEGATE_STORE_GROUP": "g", "PATH": "/bin"}


def test_a_section_that_is_none_in_the_file_stays_an_error(file: Path) -> None:
    file.write_text("store: 5\n")
    problems = _problems({"TIDEGATE_STORE__URL": "redis://a"}, config=file)
    assert problems[0].startswith("store: expected a section")
