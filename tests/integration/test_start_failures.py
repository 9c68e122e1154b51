"""What the command line prints when the broker cannot start: one sentence, and the exit code.

Inputs: stores, ports and files that cannot be used. Observed: standard error of real processes.
Which sentence the store has for what is in test_store_failures.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.store_server import TcpServer, programs
from support.tools import missing

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
