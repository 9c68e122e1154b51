"""What the command line prints when the broker cannot start: one sentence, and the exit code.

Inputs: stores, ports and files that cannot be used. Observed: standard error of real processes.
Which sentence the store has for what is in test_store_failures.py.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_groups import ACL_RULES
from support.store_server import TcpServer, programs
from support.tools import missing
from tidegate.store.keys import FORMAT_KEY

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
CANNOT_START = "tidegate: cannot start: "
LISTENER = ("--listener", "tcp://127.0.0.1:0", "--admin", "off")


def _start(*arguments: str) -> list[str]:
    """Start; return the reasons, without the program's name."""
    done = subprocess.run(
        [TIDEGATE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(CANNOT_START)
    return [x.removeprefix(CANNOT_START) for x in lines if x.startswith(CANNOT_START)]


@pytest.mark.parametrize("command", ["serve", "supervised", "router"])
def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path, command: str) -> None:
    program = programs()["redis"] or programs()["valkey"]
    if program is None:
        missing("redis-server")
    server = TcpServer(program, tmp_path / "s")
    server.start()
    try:
        store = ("--redis", f"{server.url}/99")
        sentence = f"store.url: {server.address} has no database 99"
        if command == "router":
            assert _start("router", *store, "--link", "127.0.0.1:0", "--admin", "off") == [sentence]
        elif command == "serve":
            assert _start("serve", *store, *LISTENER) == [sentence]
        else:
            assert sentence in _start("serve", *store, *LISTENER, "--edges", "1", "--routers", "2")
    finally:
        server.stop()


@pytest.mark.parametrize("problem", ["none", "database", "tls", "right", "layout"])
def test_check_tells_what_the_start_would(tmp_path: Path, problem: str) -> None:
    program = programs()["redis"] or programs()["valkey"]
    if program is None:
        missing("redis-server")
    server = TcpServer(program, tmp_path / "s")
    server.start()
    try:
        url, sentence = server.url, ""
        if problem == "database":
            url, sentence = f"{url}/99", f"store.url: {server.address} has no database 99"
        elif problem == "tls":
            url = url.replace("redis:", "rediss:")
            sentence = f"store.url: {server.address} speaks no TLS"
        elif problem == "right":
            server.command("ACL", "SETUSER", "ann", "on", ">x", *ACL_RULES.split(), "-evalsha")
            url = url.replace("://", "://ann:x@")
            sentence = f"store.url: {server.address} gives user ann no permission to run evalsha"
        elif problem == "layout":
            server.command("SET", FORMAT_KEY, "2:32")
            sentence = "store.partitions: the store holds format version 2 with 32 partitions"
        file = tmp_path / "tidegate.yaml"
        file.write_text(f"store: {{url: '{url}'}}")
        done = subprocess.run(
            [TIDEGATE, "check", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (1 if sentence else 0, "")
        assert done.stdout.startswith(sentence or "OK: ")
        assert "was not checked" not in done.stdout
        if not sentence:
            # It has written nothing.
            assert not server.command("DBSIZE")
    finally:
        server.stop()


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("split", [(), ("--edges", "2", "--routers", "1")])
@pytest.mark.parametrize("problem", ["listener", "admin", "acl", "password"])
def test_what_cannot_listen_starts_no_store(
    tmp_path: Path, used_port: int, split: tuple[str, ...], problem: str
) -> None:
    """The embedded server may take minutes to load; its directory was left behind."""
    data_dir, none = tmp_path / "data", tmp_path / "none"
    arguments, sentence = {
        "listener": (
            ["--listener", f"tcp://127.0.0.1:{used_port}", "--admin", "off"],
            f"cannot listen on 127.0.0.1 port {used_port}: Address already in use",
        ),
        "admin": (
            ["--listener", "tcp://127.0.0.1:0", "--admin", f"127.0.0.1:{used_port}"],
            f"admin: cannot listen on 127.0.0.1 port {used_port}: Address already in use",
        ),
        "acl": (
            [*LISTENER, "--acl-file", str(none)],
            f"auth.acl_file: {none}: cannot be read: No such file or directory",
        ),
        "password": (
            [*LISTENER, "--password-file", str(none)],
            f"auth.password_file: {none}: cannot be read: No such file or directory",
        ),
    }[problem]
    (reason,) = _start("serve", "--data-dir", str(data_dir), *arguments, *split)
    assert reason.removeprefix(f"listener tcp-{used_port}: ") == sentence
    assert not data_dir.exists()


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    (reason,) = _start("serve", "--data-dir", str(tmp_path / "data"), *LISTENER)
    assert reason == f"store.data_dir: {tmp_path}/data cannot be used: File exists"


def test_a_file_of_a_listener_that_cannot_be_read_starts_no_store(tmp_path: Path) -> None:
    file, none = tmp_path / "tidegate.yaml", tmp_path / "none"
    file.write_text(
        f"listeners: [{{port: 0, acl_file: {none}}}]\n"
        f"store: {{data_dir: {tmp_path}/data}}\nadmin: {{enabled: false}}\n"
    )
    (reason,) = _start("serve", "--config", str(file))
    assert reason == f"listeners[0].acl_file: {none}: cannot be read: No such file or directory"
    assert not (tmp_path / "data").exists()
