"""Where ``tidegate ctl`` finds the console of ``tidegate serve``, and whose token it sends to it.

Inputs: configuration files, files of tokens with their modes, options, environment. The whole way
to a real console is in integration/test_ctl_console.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from support import processes
from tidegate.cli import main
from tidegate.cli.api import this_machine
from tidegate.cli.api.caller import Api, ApiFailure, WrongContext

SERVE = "http://127.0.0.1:18099"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory with the configuration and the first token of a ``tidegate serve``."""
    for name in ("API", "TOKEN", "CONTEXT"):
        monkeypatch.delenv(f"TIDEGATECTL_{name}", raising=False)
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEGATECTL_CONFIG", str(tmp_path / "ctl.yaml"))
    monkeypatch.setattr(this_machine, "PLACES", (Path("tidegate.yaml"),))
    monkeypatch.chdir(tmp_path)
    configure(tmp_path / "tidegate.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/console-tokens").write_text("admin tgc_first\n")
    (tmp_path / "data/console-tokens").chmod(0o600)
    return tmp_path


def configure(file: Path, **console: object) -> None:
    settings = {"store": {"data_dir": "data"}, "console": {"port": 18099, **console}}
    file.write_text(yaml.safe_dump(settings))
    file.chmod(0o644)


def found(**options: str) -> tuple[str, str]:
    config = Path(options["config"]) if "config" in options else None
    api = Api.found(options.get("api"), options.get("context"), None, config)
    return api.url, api.token


def test_the_console_and_its_first_token_are_found(machine: Path) -> None:
    assert found() == (SERVE, "tgc_first")
    (machine / "tidegate.yaml").rename(machine / "other.yaml")
    assert found() == ("http://127.0.0.1:18080", "")
    assert found(config="other.yaml") == (SERVE, "tgc_first")


def test_the_first_token_is_sent_to_no_other_console(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(api="http://h:1") == ("http://h:1", "")
    assert found(api="http://h:1", config="tidegate.yaml") == ("http://h:1", "")
    (machine / "ctl.yaml").write_text("current: a\ncontexts: {a: {api: 'http://h:2'}}\n")
    assert found() == ("http://h:2", "")
    assert found(config="tidegate.yaml") == (SERVE, "tgc_first")
    monkeypatch.setenv("TIDEGATECTL_API", "http://h:3")
    assert found() == ("http://h:3", "")
    monkeypatch.setenv("TIDEGATECTL_TOKEN", "mine")
    assert found(config="tidegate.yaml") == (SERVE, "mine")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_that_others_can_read_or_change_is_not_used(machine: Path, mode: int) -> None:
    (machine / "data/console-tokens").chmod(mode)
    with pytest.raises(ApiFailure, match=rf"open to others than its owner \(mode {mode:04o}\)"):
        found()


def test_a_link_is_not_followed_to_a_token(machine: Path) -> None:
    (machine / "data/console-tokens").rename(machine / "elsewhere")
    (machine / "data/console-tokens").symlink_to(machine / "elsewhere")
    with pytest.raises(ApiFailure, match="Run this as the user of `tidegate serve`"):
        found()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_configuration_that_others_can_write_is_only_used_by_name(
    machine: Path, mode: int
) -> None:
    (machine / "tidegate.yaml").chmod(mode)
    assert found() == ("http://127.0.0.1:18080", "")
    assert found(config="tidegate.yaml") == (SERVE, "tgc_first")


@pytest.mark.parametrize(
    ("console", "url"),
    [
        ({"address": "*"}, SERVE),
        ({"address": "::1"}, "http://[::1]:18099"),
        ({"users_file": "users"}, SERVE),
        ({"tokens_file": "tokens"}, SERVE),
        ({"tls_certificate": "c.pem", "tls_key": "k.pem"}, SERVE.replace("http", "https")),
    ],
)
def test_the_address_is_that_of_the_file(
    machine: Path, console: dict[str, object], url: str
) -> None:
    configure(machine / "tidegate.yaml", **console)
    # Those of which `serve` makes no first token: what is there is of another time.
    has_token = "users_file" not in console and "tokens_file" not in console
    is_local = console.get("address") != "*"
    assert found() == (url, "tgc_first" if has_token and is_local else "")


def ended_pid() -> int:
    """Return the pid of a process that is no more."""
    child = processes.start([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize("said", [None, "", "http://127.0.0.1:18098", "http://127.0.0.1:1 x", "-"])
def test_a_console_that_is_not_there_is_not_found(machine: Path, said: str | None) -> None:
    file = machine / "data/console-address"
    for console in ({"enabled": False}, {"port": 0}):
        if said is not None:
            file.write_text(f"http://127.0.0.1:18098 {ended_pid()}\n" if said == "-" else said)
            file.chmod(0o600)
        configure(machine / "tidegate.yaml", **console)
        assert found() == ("http://127.0.0.1:18080", "")
        with pytest.raises(WrongContext, match="no `tidegate serve` of this file"):
            found(config="tidegate.yaml")


def test_a_port_that_the_system_has_chosen_is_found_while_serve_runs(machine: Path) -> None:
    configure(machine / "tidegate.yaml", port=0)
    file = machine / "data/console-address"
    file.write_text(f"http://127.0.0.1:18098 {os.getpid()}\n")
    file.chmod(0o600)
    assert found() == found(config="tidegate.yaml") == ("http://127.0.0.1:18098", "tgc_first")
    # A token would be sent to wherever others have written.
    file.chmod(0o622)
    with pytest.raises(ApiFailure, match="the address of the console"):
        found()
    with pytest.raises(WrongContext, match="the address of the console"):
        found(config="tidegate.yaml")


def test_beside_an_external_store_there_is_a_first_token_too(machine: Path) -> None:
    settings = {"store": {"url": "redis://127.0.0.1:1"}, "console": {"port": 18099}}
    (machine / "tidegate.yaml").write_text(yaml.safe_dump(settings))
    assert found() == (SERVE, "tgc_first")


def test_a_wrong_configuration_is_named_where_it_was_meant(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine / "tidegate.yaml").write_text("consle: {}\n")
    assert found() == ("http://127.0.0.1:18080", "")
    with pytest.raises(SystemExit) as raised:
        main.main(["ctl", "--config", "tidegate.yaml", "nodes"])
    err = capsys.readouterr().err
    assert (raised.value.code, "consle" in err, err.count("\n")) == (2, True, 1)
