"""``tidegate ctl`` against a real admin server, whose control the test plays.

Input: arguments. Output: exit code, what is printed, what the control was asked.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tidegate.cli import ctl, main
from tidegate.runtime.admin.control import Control
from tidegate.runtime.admin.server import AdminServer

Output = tuple[int, str, str]


class Process:
    """A broker as its admin API shows it."""

    def __init__(self, *names: str) -> None:
        self.names = sorted(names)
        self.token_file: Path | None = None
        self.progress: list[dict[str, Any]] = [{"draining": False}]
        self.facts: dict[str, Any] = {}
        self.ready = (True, "ready")
        self.pages = 0
        self.port = 0
        self._stop: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None

    def control(self) -> Control:
        """What the admin server is given."""
        return Control(
            lambda: self.facts,
            lambda reason: self._next_progress(),
            self._next_progress,
            self._page,
            lambda name, mount_point: None,
            self._disconnect,
            lambda count: min(count, len(self.names)),
            lambda: 0,
        )

    def _next_progress(self) -> dict[str, Any]:
        return self.progress.pop(0) if len(self.progress) > 1 else self.progress[0]

    def _page(self, count: int, after: str) -> list[dict[str, Any]]:
        self.pages += 1
        row = {"username": None, "version": "5.0", "durable": True, "queued": 7}
        names = [name for name in self.names if name > after][:count]
        return [{"client_id": name, "mount_point": "", **row} for name in names]

    def _disconnect(self, name: str, mount_point: str | None) -> bool:
        there = name in self.names
        if there:
            self.names.remove(name)
        return there

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve from a thread."""
        started = threading.Event()

        async def serve() -> None:
            server = AdminServer(
                "127.0.0.1",
                0,
                ready=lambda: self.ready,
                metrics=lambda: b"tidegate_x 1\n",
                control=self.control(),
                token_file=self.token_file,
            )
            await server.start()
            self.port = server.port
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            started.set()
            await stop.wait()
            await server.stop()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()
        assert started.wait(10)
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Serve no longer."""
        if self._stop is not None and self._thread is not None:
            self._stop()
            self._thread.join(10)
            self._stop = None


@pytest.fixture
def process() -> Process:
    return Process("a", "b/ü", "c")


@pytest.fixture
def run(process: Process, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``tidegate ctl`` against the process; return (exit code, output, errors)."""

    def call(*arguments: str) -> Output:
        return run_ctl(capsys, "--admin", f"http://127.0.0.1:{process.port}", *arguments)

    return call


def run_ctl(capsys: pytest.CaptureFixture[str], *arguments: str) -> Output:
    with pytest.raises(SystemExit) as raised:
        main.main(["ctl", *arguments])
    out, err = capsys.readouterr()
    code = raised.value.code
    assert isinstance(code, int)
    return code, out, err


# Commands


def test_the_status_is_printed_for_people(run: Any, process: Process) -> None:
    process.facts = {
        "name": "box",
        "role": "edge",
        "version": "9",
        "uptime_s": 3700.5,
        "clients": 3,
        "listeners": {"tcp": ["127.0.0.1:1883", "[::1]:1883"], "none": []},
        "link": {"reachable": True, "since": None},
        "drain": {"draining": False},
    }
    with process.serving():
        assert run("status") == (
            0,
            "Tidegate 9, edge box, up for 1 h 1 min\n"
            "ready\n"
            "clients         3\n"
            "listeners tcp   127.0.0.1:1883, [::1]:1883\n"
            "listeners none  none\n"
            "link reachable  yes\n"
            "link since      -\n",
            "",
        )


def test_the_status_says_what_is_in_use_of_the_configuration() -> None:
    configuration = {
        "digest": "0123456789abcdef",
        "problem": "limits.x: unknown key (line 1)",
        "restart_needed": ["name", "store.url"],
        "files": {
            "/etc/my_users": {"digest": "1123456789abcdef", "problem": ""},
            "/etc/acl": {"digest": "", "problem": "/etc/acl is missing"},
        },
    }
    lines = list(ctl.status_lines({"name": "x", "configuration": configuration}))[2:]
    assert [" ".join(line.split()) for line in lines] == [
        "configuration 0123456789abcdef, CHANGE NOT APPLIED: limits.x: unknown key (line 1)",
        "restart needed name, store.url",
        "file /etc/my_users 1123456789abcdef",
        "file /etc/acl -, CHANGE NOT APPLIED: /etc/acl is missing",
    ]


def test_the_status_of_a_process_that_is_not_ready_says_why(run: Any, process: Process) -> None:
    process.ready = (False, "store not reachable")
    process.facts = {"drain": {"draining": True, "clients_left": 2, "clients_at_start": 9}}
    with process.serving():
        code, out, _ = run("status")
    assert code == 0
    assert "NOT READY: store not reachable\n" in out
    assert out.endswith("Draining: 2 of 9 clients still connected.\n")


@pytest.mark.parametrize("position", ["before", "after"])
def test_json_is_printed_where_it_is_asked_for(run: Any, process: Process, position: str) -> None:
    process.facts = {"version": "9"}
    words = ["--json", "status"] if position == "before" else ["status", "--json"]
    with process.serving():
        code, out, _ = run(*words)
    assert code == 0
    assert json.loads(out) == {"version": "9", "ready": True, "reason": "ready"}


def test_clients_are_a_table(run: Any, process: Process) -> None:
    with process.serving():
        code, out, err = run("clients", "--limit", "2")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert " ".join(lines[0].split()) == (
        "CLIENT USER MQTT ADDRESS LISTENER SINCE SESSION SUBSCRIPTIONS IN FLIGHT QUEUED"
    )
    assert lines[1].split() == ["a", "-", "5.0", "-", "-", "-", "durable", "-", "-", "7"]
    assert lines[3] == "More clients: --after b/ü"
    assert len(lines) == 4


def test_all_clients_are_asked_for_page_by_page(
    run: Any, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl, "PAGE", 2)
    with process.serving():
        found = json.loads(run("clients", "--limit", "0", "--json")[1])
        assert [row["client_id"] for row in found["clients"]] == ["a", "b/ü", "c"]
        assert found["next"] is None
        assert process.pages == 2
        found = json.loads(run("clients", "--after", "a", "--limit", "1", "--json")[1])
        assert [row["client_id"] for row in found["clients"]] == ["b/ü"]
        process.names.clear()
        assert run("clients") == (0, "No clients.\n", "")


def test_a_client_identifier_cannot_control_the_terminal(run: Any, process: Process) -> None:
    process.names = ["\x1b[2J\u202eevil\n"]
    with process.serving():
        out = run("clients")[1]
    assert "\\x1b[2J\\u202eevil\\n" in out
    assert "\x1b" not in out


def test_a_client_is_disconnected_by_its_identifier(run: Any, process: Process) -> None:
    with process.serving():
        assert run("disconnect", "b/ü") == (0, "Disconnected b/ü.\n", "")
        assert process.names == ["a", "c"]
        code, out, err = run("disconnect", "b/ü")
    assert (code, out) == (1, "")
    assert err == "tidegate: No client with this client identifier is connected here.\n"


def test_metrics_are_printed_as_they_are(run: Any, process: Process) -> None:
    with process.serving():
        assert run("metrics") == (0, "tidegate_x 1\n", "")


# Draining


def _progress(left: int, *, done: bool = False) -> dict[str, Any]:
    return {"draining": True, "done": done, "clients_left": left, "clients_at_start": 9}


def test_draining_is_begun_and_not_waited_for(run: Any, process: Process) -> None:
    process.progress = [_progress(9)]
    with process.serving():
        assert run("drain") == (0, "Draining: 9 of 9 clients still connected.\n", "")


def test_draining_can_be_waited_for(
    run: Any, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl, "POLL_S", 0)
    process.progress = [_progress(9), _progress(9), _progress(2), _progress(0, done=True)]
    with process.serving():
        code, out, _ = run("drain", "--wait")
    assert code == 0
    assert out.splitlines() == [
        "Draining: 9 of 9 clients still connected.",
        "Draining: 2 of 9 clients still connected.",
        "Drained: all 9 clients disconnected.",
    ]


def test_a_process_that_ends_while_it_is_waited_for_has_drained(
    run: Any, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.progress = [_progress(1)]
    with process.serving():
        monkeypatch.setattr("tidegate.cli.ctl.time.sleep", lambda _: process.end())
        code, out, _ = run("drain", "--wait", "--json")
    assert code == 0
    assert json.loads(out)["done"] is True


def test_some_clients_are_let_go(run: Any, process: Process) -> None:
    process.names = ["a", "b"]
    with process.serving():
        assert run("shed", "1") == (0, "1 client will be disconnected.\n", "")
        assert run("shed", "9") == (0, "2 clients will be disconnected.\n", "")
        assert run("shed", "2", "--json") == (0, '{"shedding": 2}\n', "")


# Failures


@pytest.mark.parametrize("given", [None, "wrong", "secret"])
def test_the_token_is_read_from_its_file(
    run: Any, process: Process, tmp_path: Path, given: str | None
) -> None:
    process.token_file = tmp_path / "token"
    process.token_file.write_text("secret")
    mine = tmp_path / "mine"
    mine.write_text(f"{given}\n")
    options = [] if given is None else ["--token-file", str(mine)]
    with process.serving():
        code, _, err = run(*options, "status")
    assert code == (0 if given == "secret" else 1)
    assert ("admin.token_file" in err) == (given != "secret")


def test_nobody_there_is_one_sentence(run: Any, process: Process) -> None:
    with process.serving():
        pass
    for command in (["status"], ["metrics"], ["drain", "--wait"]):
        code, out, err = run(*command)
        assert (code, out) == (1, "")
        assert err == f"tidegate: no response from 127.0.0.1:{process.port}: Connection refused\n"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
def test_somebody_else_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Be silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        code, _, err = run_ctl(capsys, "--admin", f"127.0.0.1:{server.server_port}", "clients")
        thread.join(10)
    assert code == 1
    assert err == "tidegate: the response is not from Tidegate's admin API\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--admin", "https://host", "status"],
        ["--admin", "http://host/path", "status"],
        ["--admin", "host:port", "status"],
        ["--token-file", "/nonexistent/file", "status"],
        ["clients", "--limit", "-1"],
        ["disconnect"],
        ["shed"],
        ["shed", "-1"],
        ["undrain"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run_ctl(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tidegate: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h"), (86_400 * 3, "3 d")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert ctl.duration(seconds) == text
