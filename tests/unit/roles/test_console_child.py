"""What the child of ``tidegate serve`` gets: its configuration, and the first token."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.roles.console_child import Broker, ConsoleChild, is_wanted
from tidegate.runtime.config.model import Config


def _child(directory: Path, **settings: Any) -> ConsoleChild:
    config = Config.model_validate({"store": {"data_dir": str(directory)}} | settings)
    broker = Broker(config, "unix:///store.sock", ["unix:/edge"], ["unix:/router"])
    return ConsoleChild(broker, directory, lambda _: None)


def test_without_the_packages_no_console_is_started_and_the_log_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_wanted(Config())
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert not is_wanted(Config())
    assert "pip install '.[console]'" in caplog.records[-1].__dict__["reason"]
    caplog.clear()
    assert not is_wanted(Config.model_validate({"console": {"enabled": False}}))
    assert not caplog.records


def test_the_child_asks_at_the_given_sockets_and_has_no_secret_of_other_sections(
    tmp_path: Path,
) -> None:
    child = _child(
        tmp_path,
        name="broker",
        admin={"token_file": "admin-token"},
        console={"token_file": "nodes-token", "users_file": "users", "port": 0},
    )
    child._prepare_token()
    found = yaml.safe_load(child._write(4711).read_text())
    assert found["console"] == {
        "users_file": str(Path.cwd() / "users"),
        "port": 4711,
        "edges": ["unix:/edge"],
        "routers": ["unix:/router"],
    }
    assert found["store"] == {"url": "unix:///store.sock"}
    assert found["name"] == "broker-console"
    assert "admin" not in found
    assert stat.S_IMODE((tmp_path / "console.yaml").stat().st_mode) == 0o600
    assert Config.model_validate(found).console.port == 4711


def test_a_first_token_is_made_once_where_nobody_else_could_log_in(tmp_path: Path) -> None:
    first, second = _child(tmp_path), _child(tmp_path)
    first._prepare_token()
    second._prepare_token()
    file = tmp_path / "console-tokens"
    assert file.read_text() == f"admin {first._token}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert second._token == ""
    assert second._settings()["console"]["tokens_file"] == str(file)


def test_beside_an_external_store_it_stays_in_the_data_directory_if_that_can_be_used(
    tmp_path: Path,
) -> None:
    external = {"url": "redis://127.0.0.1:1", "data_dir": str(tmp_path / "data")}
    run = tmp_path / "run"
    run.mkdir()
    first, second = (_child(run, store=external) for _ in range(2))
    first._prepare_token()
    second._prepare_token()
    file = tmp_path / "data/console-tokens"
    assert file.read_text() == f"admin {first._token}\n"
    assert (second._token, second._tokens_file) == ("", file)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    (tmp_path / "full").touch()
    third = _child(run, store=external | {"data_dir": str(tmp_path / "full")})
    third._prepare_token()
    assert third._tokens_file == run / "console-tokens"
    assert third._token
    # An embedded one cannot run without that directory at all.
    with pytest.raises(OSError, match="full"):
        _child(run, store={"data_dir": str(tmp_path / "full")})._prepare_token()


async def test_a_port_that_the_system_has_chosen_is_written_down_until_the_end(
    tmp_path: Path,
) -> None:
    child, file = _child(tmp_path), tmp_path / "console-address"
    child._note_address("http://127.0.0.1:4711")
    assert file.read_text() == f"http://127.0.0.1:4711 {os.getpid()}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await child.stop()
    assert list(tmp_path.iterdir()) == []
    # Another one has the directory by now.
    file.write_text("http://127.0.0.1:4712 1\n")
    await child.stop()
    assert file.exists()


@pytest.mark.parametrize(
    "console", [{"users_file": "u"}, {"tokens_file": "t"}, {"address": "0.0.0.0"}, {"address": "*"}]
)
def test_no_token_is_made_where_there_are_users_or_the_network_reaches_it(
    tmp_path: Path, console: dict[str, str]
) -> None:
    child = _child(tmp_path, console=console)
    child._prepare_token()
    assert not (tmp_path / "console-tokens").exists()
