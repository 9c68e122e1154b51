"""How ``tidegate ctl`` prints answers of the console: parts that are missing, drains, payloads.

Input: arguments, and answers as the console gives them. The commands against a real console are in
integration/test_ctl_console.py.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from support import processes
from tidegate.cli import main
from tidegate.cli.api.caller import Api, read_token
from tidegate.cli.api.output import payload, size

Answers = dict[str, list[Any]]


class Console(http.server.BaseHTTPRequestHandler):
    """Answers a request with the next of what is given for it; the last one again and again."""

    answers: ClassVar[Answers] = {}

    def do_GET(self) -> None:  # the name that http.server wants
        """Answer."""
        waiting = self.answers[f"{self.command} {self.path.removeprefix('/api/v1')}"]
        body = json.dumps(waiting.pop(0) if len(waiting) > 1 else waiting[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # the name that http.server wants

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """What a console answers, by method and path."""
    Console.answers = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Console) as server:
        monkeypatch.setenv("TIDEGATECTL_API", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("TIDEGATECTL_CONFIG", "/nonexistent")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Console.answers
        server.shutdown()
        thread.join()


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main.main(["ctl", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(raised.value.code, int)
    return raised.value.code, out, err


def test_what_is_missing_is_named_and_has_an_exit_code(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers["GET /nodes"] = [{"items": [], "next": None, "missing": ["edge-1: timeout"]}]
    code, out, err = call(capsys, "nodes")
    assert (code, out) == (3, "No node answers.\n")
    assert err == "not all answered: edge-1: timeout\n"
    code, out, err = call(capsys, "nodes", "--json")
    assert (code, json.loads(out)["missing"], err) == (3, ["edge-1: timeout"], "")


def test_pages_are_read_until_there_are_enough(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(name: str, after: str | None) -> Any:
        group = {"name": name, "members": 1, "connected": 1}
        return {"items": [group], "next": after, "missing": []}

    answers["GET /shared-groups?limit=2"] = [page("g/a", "g/a")]
    answers["GET /shared-groups?limit=1&after=g%2Fa"] = [page("g/b", "g/b")]
    code, out, _ = call(capsys, "shared", "--limit", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["GROUP", "g/a", "g/b", "There"]


def listed(name: str, mount_point: str = "") -> Any:
    """Return a connected client, as the console lists it."""
    connection = {
        "edge": "edge-2",
        "address": "10.0.0.1:5",
        "listener": "tcp",
        "version": "5.0",
        "since": "",
        "in_flight": 3,
    }
    return {
        "client_id": name,
        "mount_point": mount_point,
        "user": "ann",
        "durable": True,
        "subscriptions": 4,
        "connection": connection,
    }


def test_clients_are_those_of_the_whole_broker_where_a_console_is_configured(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    page = {"items": [listed("a")], "next": "xyz", "missing": ["edge-1: timeout"]}
    answers["GET /clients?state=connected&limit=1"] = [page]
    code, out, err = call(capsys, "clients", "--limit", "1")
    assert (code, err) == (3, "not all answered: edge-1: timeout\n")
    head, row, more = out.splitlines()
    assert " ".join(head.split()) == (
        "CLIENT USER MQTT ADDRESS LISTENER EDGE FOR SESSION SUBS IN FLIGHT"
    )
    assert " ".join(row.split()) == "a ann 5.0 10.0.0.1:5 tcp edge-2 - durable 4 3"
    assert more == "More clients: --after xyz"
    code, out, _ = call(capsys, "clients", "--limit", "1", "--json")
    assert (code, json.loads(out)) == (3, page)
    rest = {"items": [listed("b", "m/")], "next": None, "missing": []}
    answers["GET /clients?state=connected&limit=1000&after=xyz"] = [rest]
    code, out, err = call(capsys, "clients", "--limit", "0", "--after", "xyz")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [["CLIENT", "MOUNT"], ["b", "m/"]]


@pytest.mark.parametrize("way", ["option", "context", "environment", "current"])
def test_clients_are_of_the_console_that_anything_names(
    answers: Answers,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    way: str,
) -> None:
    answers["GET /clients?state=connected&limit=100"] = [{"items": [], "next": None, "missing": []}]
    url = os.environ["TIDEGATECTL_API"]
    monkeypatch.delenv("TIDEGATECTL_API")
    current = "current: one\n" if way == "current" else ""
    (tmp_path / "ctl.yaml").write_text(f"{current}contexts: {{one: {{api: '{url}'}}}}\n")
    monkeypatch.setenv("TIDEGATECTL_CONFIG", str(tmp_path / "ctl.yaml"))
    if way == "environment":
        monkeypatch.setenv("TIDEGATECTL_CONTEXT", "one")
    options = {"option": ["--api", url], "context": ["--context", "one"]}.get(way, [])
    assert call(capsys, *options, "clients")[:2] == (0, "No clients.\n")


def test_clients_are_of_one_process_where_an_option_names_its_admin_api(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    address = os.environ["TIDEGATECTL_API"]
    # The admin API is not under /api/v1.
    answers["GET /clients?limit=100&after="] = [{"clients": [], "next": None}]
    assert call(capsys, "--admin", address, "clients") == (0, "No clients.\n", "")
    code, _, err = call(capsys, "--admin", address, "clients", "--watch", "1")
    assert (code, "needs the console" in err) == (2, True)


def test_no_console_is_configured_where_nothing_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("API", "CONTEXT"):
        monkeypatch.delenv(f"TIDEGATECTL_{name}", raising=False)
    monkeypatch.setenv("TIDEGATECTL_CONFIG", str(tmp_path / "ctl.yaml"))
    assert not Api.is_configured(None, None)
    (tmp_path / "ctl.yaml").write_text("contexts: {one: {api: 'http://h'}, two: {token: x}}\n")
    assert not Api.is_configured(None, None)
    assert not Api.is_configured(None, "two")
    assert Api.is_configured(None, "one")


CLEARED: Final = "\x1b[H\x1b[2J"
COLOUR: Final = "\x1b[1m"


def on_a_terminal(*arguments: str, until: Callable[[str], bool]) -> str:
    """Run a command whose output is a terminal until that has been written; return it."""
    terminal, output = pty.openpty()
    command = [sys.executable, "-m", "tidegate", "ctl", *arguments]
    with processes.start(command, stdin=subprocess.DEVNULL, stdout=output) as process:
        os.close(output)
        written = ""
        try:
            while not until(written):
                part = os.read(terminal, 4096)
                assert part, written
                written += part.decode()
        finally:
            process.send_signal(signal.SIGINT)
            os.close(terminal)
    return written


def test_watching_asks_again_and_clears_the_terminal(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    groups = [{"name": name, "members": 1, "connected": 1} for name in ("first/a", "second/b")]
    answers["GET /shared-groups?limit=100"] = [
        {"items": [group], "next": None, "missing": []} for group in groups
    ]
    written = on_a_terminal("shared", "--watch", "0.2", until=lambda text: "second/b" in text)
    before, shown, again = written.split(CLEARED)[:3]
    assert before == ""
    assert "first/a" in shown
    assert "second/b" in again
    assert COLOUR in shown


@pytest.mark.parametrize("refusal", ["NO_COLOR", "TERM"])
def test_colours_are_for_terminals_that_want_them(
    refusal: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    group = {"name": "g/a", "members": 1, "connected": 1}
    answers["GET /shared-groups?limit=100"] = [{"items": [group], "next": None, "missing": []}]

    def written() -> str:
        return on_a_terminal("shared", until=lambda text: "g/a" in text)

    assert COLOUR in written()
    monkeypatch.setenv(refusal, "dumb")
    assert "\x1b" not in written()


def test_what_is_no_terminal_gets_no_colours(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    group = {"name": "g/a", "members": 1, "connected": 1}
    answers["GET /shared-groups?limit=100"] = [{"items": [group], "next": None, "missing": []}]
    assert "\x1b" not in call(capsys, "shared")[1]


def test_a_drain_of_a_node_is_waited_for(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = {"draining": True, "done": False, "clients_at_start": 2, "clients_left": 2}
    answers["POST /nodes/edge-1/drain"] = [begun]
    answers["GET /nodes/edge-1"] = [
        {"drain": {**begun, "clients_left": 1}},
        {"drain": {**begun, "done": True, "clients_left": 0}},
    ]
    code, out, _ = call(capsys, "drain", "edge-1", "--wait")
    assert (code, out) == (0, "Drained: all 2 clients disconnected.\n")


def test_an_answer_of_something_else_is_not_taken_for_the_consoles(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers["GET /nodes"] = [[]]
    code, _, err = call(capsys, "nodes")
    assert (code, "is not from Tidegate's console" in err) == (1, True)


@pytest.mark.parametrize(
    ("content", "whole", "shown"),
    [
        (b"21.5", 4, "21.5"),
        (b"\x00\xff", 2, "00 ff"),
        ("ä".encode()[:1] + b"", 2, "…"),
        (b"a\nb", 3, "a\\nb"),
        (b"x" * 80, 80, "x" * 59 + "…"),
        (b"x" * 10, 4000, "x" * 10 + "…"),
    ],
)
def test_payloads_are_shown_in_a_line(content: bytes, whole: int, shown: str) -> None:
    assert payload(base64.b64encode(content).decode(), whole) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (15 << 20, "15 MiB")],
)
def test_sizes_are_readable(count: int | None, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("text", "token"),
    [("abc\n", "abc"), ("# made by\nadmin abc\nviewer x\n", "abc"), ("", "")],
)
def test_a_token_is_read_from_both_kinds_of_files(text: str, token: str) -> None:
    assert read_token(text) == token


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["why"], ["retained", "list"]])
def test_help_has_a_short_option(
    capsys: pytest.CaptureFixture[str], command: list[str], option: str
) -> None:
    code, out, _ = call(capsys, *command, option)
    assert code == 0
    assert out.startswith(f"Usage: {' '.join(['tidegate', 'ctl', *command])} ")
    assert "-h, --help" in out
