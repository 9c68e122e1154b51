"""``tidegate ctl`` on the API of a real console: what each command prints, and how it ends.

Inputs: arguments, environment, a file of contexts; one broker with clients and messages. Observed:
exit codes, what is printed, what happens to the clients.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from support.broker import StartBroker, Tidegate
from support.console import Api, console_line, with_console
from support.paho_client import V5, PahoClient
from support.ports import free_port
from support.store_groups import AnyStore
from support.waiting import wait_for
from tidegate.cli import main

DEADLINE_S = 20.0
Output: TypeAlias = tuple[int, str, str]
Ctl: TypeAlias = Callable[..., Output]


@pytest.fixture(scope="module")
def broker() -> Iterator[Tidegate]:
    """One process with a console."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        (directory / "tokens").write_text("# for programs\nadmin first\nviewer looks\n")
        settings: dict[str, Any] = {
            "listeners": [{"name": "tcp", "port": 0}],
            "auth": {"allow_anonymous": True},
            "store": {"data_dir": "data"},
            "admin": {"port": 0},
            "console": {"port": 0, "tokens_file": "tokens"},
        }
        found = Tidegate(directory, settings, [], with_console())
        try:
            found.start()
            yield found
        finally:
            found.cleanup()


@pytest.fixture(scope="module")
def url(broker: Tidegate) -> str:
    url = console_line(broker).split()[2]
    api = Api(url, "first")
    wait_for(lambda: api.get("/retained").status == 200, DEADLINE_S, "the store")
    return url


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Output:
    with pytest.raises(SystemExit) as raised:
        main.main(["ctl", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(raised.value.code, int)
    return raised.value.code, out, err


@pytest.fixture
def ctl(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Ctl:
    """Run a command against the console; return exit code, output and errors."""
    monkeypatch.setenv("TIDEGATECTL_API", url)
    monkeypatch.setenv("TIDEGATECTL_TOKEN", "first")
    monkeypatch.setenv("TIDEGATECTL_CONFIG", str(tmp_path / "ctl.yaml"))
    return lambda *arguments: call(capsys, *arguments)


def good(output: Output) -> str:
    code, out, err = output
    assert (code, err) == (0, ""), output
    return out


def test_clients_are_shown_from_a_list_to_one_and_disconnected(broker: Tidegate, ctl: Ctl) -> None:
    with (
        PahoClient(broker, "thermo-1", protocol=V5, session_expiry_s=600) as client,
        PahoClient(broker, "pub") as publisher,
    ):
        client.subscribe("temp/+", 1)
        lines = good(ctl("sessions", "--prefix", "thermo")).splitlines()
        assert lines[0].split()[:3] == ["CLIENT", "STATE", "USER"]
        assert lines[1].split()[:2] == ["thermo-1", "connected"]
        assert [line.split()[0] for line in good(ctl("clients")).splitlines()] == [
            "CLIENT",
            "pub",
            "thermo-1",
        ]
        assert "receive_maximum" in good(ctl("client", "thermo-1", "--json"))
        shown = good(ctl("client", "thermo-1"))
        assert "subscriptions  1" in shown
        assert "expiry 600 s" in shown
        assert "temp/+" in good(ctl("subs", "--client", "thermo-1"))
        assert "thermo-1" in good(ctl("subs", "temp/+"))
        assert "allowed" in good(ctl("topic", "temp/x"))
        assert "thermo-1" in good(ctl("kick", "thermo-1"))
        wait_for(lambda: client.disconnected is not None, DEADLINE_S, "it is disconnected")
        publisher.publish("temp/x", b"21.5", 1)
        head, line = good(ctl("queue", "thermo-1")).splitlines()
        assert "21.5" in line
        assert re.search(r"no +\d+ s +- +21.5", line), f"{head}\n{line}"
        assert ", the oldest for " in good(ctl("client", "thermo-1"))
    assert "thermo-1" in good(ctl("sessions", "--state", "offline"))
    assert "disconnect client" in good(ctl("audit"))
    code, _, err = ctl("kick", "thermo-1")
    assert (code, err) == (1, "tidegate: thermo-1 is not connected\n")
    assert "has ended" in good(ctl("kick", "--session", "thermo-1", "--json"))


def test_messages_are_published_listened_to_and_deleted(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"\xff\x00")
    published = good(ctl("publish", "shelf/text", "hello", "--qos", "1", "--retain"))
    assert "no matching subscribers" in published
    good(ctl("publish", "shelf/bytes", "--file", str(tmp_path / "payload"), "--retain"))
    listed = good(ctl("retained", "list", "shelf/#"))
    assert "hello" in listed
    assert "ff 00" in listed
    assert "shelf" in good(ctl("retained", "tree"))
    assert good(ctl("retained", "get", "shelf/text")).endswith("hello\n")
    code, out, _ = ctl("retained", "delete", "shelf/#", "--yes")
    assert (code, out) == (0, "2 deleted: done\n")
    assert good(ctl("retained", "list", "shelf/#")) == "No messages.\n"
    assert ctl("retained", "get", "shelf/text")[0] == 1
    code, _, err = ctl("publish", "a/+", "x")
    assert code == 1
    assert "wildcards" in err


def test_listening_shows_messages_until_there_are_enough(broker: Tidegate, ctl: Ctl) -> None:
    stop = threading.Event()

    def publish() -> None:
        with PahoClient(broker, "listened") as client:
            while not stop.wait(0.05):
                client.publish("heard/1", b"ping", 0)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        lines = good(ctl("listen", "heard/#", "-n", "2", "--json")).splitlines()
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert [json.loads(line)["topic"] for line in lines] == ["heard/1", "heard/1"]


def test_the_broker_is_shown_as_a_whole(broker: Tidegate, ctl: Ctl) -> None:
    assert "serve" in good(ctl("nodes"))
    shown = good(ctl("top", "--once"))
    assert shown.split()[0] in {"OK", "DEGRADED"}
    assert json.loads(good(ctl("--json", "top", "--once")))["nodes"]
    assert good(ctl("shared")) == "No groups.\n"
    with PahoClient(broker, "recorded"):
        wait_for(
            lambda: "recorded" in good(ctl("events", "--client", "recorded")),
            DEADLINE_S,
            "it is in the record",
        )


def test_times_are_those_of_the_log_whatever_the_zone(
    broker: Tidegate, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PahoClient(broker, "timed"):
        said: Callable[[], str] = lambda: good(ctl("why", "timed"))  # noqa: E731
        wait_for(lambda: "connected at" in said(), DEADLINE_S, "it is in the record")
    monkeypatch.setenv("TZ", "Pacific/Apia")
    time.tzset()
    try:
        listed = good(ctl("events", "--client", "timed")).splitlines()[1].split()[0]
        told = next(line for line in said().splitlines() if " connected at " in line).split()[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert listed[-1] == told[-1] == "Z"
    for shown in (listed, told):
        age_s = time.time() - datetime.fromisoformat(shown).timestamp()
        assert -1 <= age_s < 2 * DEADLINE_S


def test_why_says_what_is_wrong_and_a_ban_keeps_a_client_away(broker: Tidegate, ctl: Ctl) -> None:
    with PahoClient(broker, "lost-1") as client:
        client.subscribe("plnat/#", 1)
        said = good(ctl("why", "lost-1", "--topic", "plant/1"))
        assert "plant/1" in said
        banned = good(ctl("ban", "--client", "lost-1", "--for", "1h", "--reason", "it floods"))
        wait_for(lambda: client.disconnected is not None, DEADLINE_S, "it is disconnected")
    listed = good(ctl("bans"))
    assert "it floods" in listed
    assert " min" in listed
    assert "is banned until" in good(ctl("why", "lost-1"))
    assert "has ended" in good(ctl("unban", banned.split("unban ")[1].split("`")[0]))
    assert good(ctl("bans")) == "No bans.\n"


def test_where_the_console_is_comes_from_options_environment_or_a_context(
    url: str, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("viewer looks\n")
    assert "serve" in good(ctl("--api", url, "--api-token-file", str(tmp_path / "token"), "nodes"))
    code, _, err = ctl("--api-token-file", str(tmp_path / "token"), "publish", "t", "x")
    assert code == 1
    assert "needs the role operator" in err
    monkeypatch.delenv("TIDEGATECTL_TOKEN")
    code, _, err = ctl("nodes")
    assert code == 1
    assert "TIDEGATECTL_TOKEN" in err
    monkeypatch.delenv("TIDEGATECTL_API")
    contexts = {"home": {"api": url, "token_file": str(tmp_path / "token")}}
    file = tmp_path / "ctl.yaml"
    file.write_text(json.dumps({"current": "home", "contexts": contexts}))
    assert "serve" in good(ctl("nodes"))
    assert "serve" in good(ctl("--context", "home", "nodes"))
    code, _, err = ctl("--context", "other", "nodes")
    assert code == 2
    assert "has no context other" in err
    file.write_text("[1]")
    assert ctl("nodes")[0] == 2


def without_contexts(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Have `tidegate ctl` know no console by itself."""
    for name in ("API", "TOKEN", "CONTEXT"):
        monkeypatch.delenv(f"TIDEGATECTL_{name}", raising=False)
    monkeypatch.setenv("TIDEGATECTL_CONFIG", str(directory / "none.yaml"))


def test_on_the_machine_of_serve_nothing_need_be_given(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start_broker: StartBroker,
) -> None:
    without_contexts(monkeypatch, tmp_path)
    broker = start_broker(
        environment=with_console(),
        console={"port": free_port()},
        listeners=[{"name": "tcp", "port": 0}],
    )
    console_line(broker)
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    file = broker.directory / "tidegate.yaml"
    file.chmod(0o644)
    assert "serve" in good(call(capsys, "--config", str(file), "nodes"))
    monkeypatch.chdir(broker.directory)
    assert "serve" in good(call(capsys, "nodes"))
    (broker.directory / "data/console-tokens").chmod(0o644)
    code, _, err = call(capsys, "nodes")
    assert (code, "open to others" in err) == (1, True)


def test_a_port_that_the_system_has_chosen_is_found_also_beside_an_external_store(
    server: AnyStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start_broker: StartBroker,
) -> None:
    without_contexts(monkeypatch, tmp_path)
    broker = start_broker(
        environment=with_console(),
        console={"port": 0},
        store={"url": server.url, "data_dir": "data"},
        listeners=[{"name": "tcp", "port": 0}],
    )
    console_line(broker)
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    file = str(broker.directory / "tidegate.yaml")
    monkeypatch.chdir(broker.directory)
    assert "serve" in good(call(capsys, "--config", file, "nodes"))
    broker.stop()
    code, _, err = call(capsys, "--config", file, "nodes")
    assert (code, "no `tidegate serve` of this file runs" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["subs"], "give a FILTER, or --client ID"),
        (["ban"], "give one of --client, --user and --address"),
        (["ban", "--user", "x", "--for", "1w"], "expected 90s, 15m, 2h or 7d"),
        (["--api", "ftp://x", "nodes"], "expected http://HOST:PORT"),
        (["publish", "t", "x", "--file", "y"], "give PAYLOAD or --file"),
        (["completion", "csh"], "expected bash, zsh or fish"),
    ],
)
def test_wrong_usage_is_said_in_a_line(ctl: Ctl, arguments: list[str], words: str) -> None:
    code, _, err = ctl(*arguments)
    assert (code, words in err) == (2, True), err


def test_a_console_that_does_not_answer_is_named(ctl: Ctl) -> None:
    code, _, err = ctl("--api", "127.0.0.1:9", "nodes")
    assert code == 1
    assert "no answer from http://127.0.0.1:9" in err
    assert "--api URL" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion(ctl: Ctl, shell: str) -> None:
    assert "_TIDEGATE_COMPLETE" in good(ctl("completion", shell))


def test_a_node_that_is_not_there_is_not_drained(ctl: Ctl) -> None:
    code, _, err = ctl("drain", "no-such-node")
    assert (code, "no-such-node" in err) == (1, True)
