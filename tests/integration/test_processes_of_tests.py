"""A test process that a signal ends leaves no process behind: no broker, no store, no proxy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import processes
from support.tools import require
from support.waiting import wait_for

TESTS = Path(__file__).parents[1]
DEADLINE_S = 60.0
#: SIGTERM lets fixtures end what they have started; a busy machine takes its time.
ENDED_S = 90.0

#: Field of proc(5) behind the name: when a process was started.
_SINCE = 19

pytestmark = pytest.mark.timeout(180)

_HANGS = '''
"""Starts one of each, says which, and never comes to its end."""
import json, os, threading
from pathlib import Path
from support import processes, store_server

def test_hangs(start_broker, tmp_path):
    tcp = {"protocol": "tcp", "address": "127.0.0.1", "port": 0}
    broker = start_broker(cluster={"edges": 2, "routers": 1}, listeners=[tcp])
    store = store_server.StoreServer(store_server.programs()["valkey"], tmp_path)
    store.start()
    other = processes.start(["sleep", "1000"], start_new_session=True)
    started = {os.getpid(), broker.pid, store._process.pid, other.pid, *broker.descendants()}
    file = Path(os.environ["STARTED"])
    file.with_suffix(".part").write_text(json.dumps(sorted(started)))
    file.with_suffix(".part").rename(file)
    threading.Event().wait()
'''


@contextlib.contextmanager
def _hanging(tmp_path: Path, *more: str) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Yield a run of pytest that hangs in a test: itself, and all that it has started."""
    require("setpriv")
    started = tmp_path / "started.json"
    (tmp_path / "test_hangs.py").write_text(_HANGS)
    options = ["-p", "conftest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, *options, *more]
    with (tmp_path / "output").open("wb") as output:
        pytest_run = processes.start(
            [*command, "-o", "asyncio_mode=auto", str(tmp_path / "test_hangs.py")],
            cwd=tmp_path,
            env=os.environ | {"STARTED": str(started), "PYTHONPATH": str(TESTS)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: started.exists() or pytest_run.poll() is not None, DEADLINE_S, "all started"
        )
        assert started.exists(), (tmp_path / "output").read_text()
        yield pytest_run.pid, [(pid, _stat(pid)[_SINCE]) for pid in json.loads(started.read_text())]
    finally:
        pytest_run.kill()
        pytest_run.wait()


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) behind the name; raises OSError without such a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _is_there(started: tuple[int, str]) -> bool:
    """Whether a process, by its number and its start, is there; numbers are used again."""
    pid, since = started
    try:
        stat = _stat(pid)
    except OSError:
        return False
    # "Z": ended, and whoever should take notice of it has not yet.
    return stat[0] != "Z" and stat[_SINCE] == since


@pytest.mark.parametrize(
    ("send", "number", "options"),
    [
        (os.kill, signal.SIGKILL, ()),
        (os.kill, signal.SIGTERM, ()),
        (os.kill, signal.SIGKILL, ("-n1",)),
    ],
    ids=["killed", "told to end", "killed above its worker"],
)
def test_a_run_that_a_signal_ends_leaves_no_process(
    tmp_path: Path,
    send: Callable[[int, int], None],
    number: signal.Signals,
    options: tuple[str, ...],
) -> None:
    with _hanging(tmp_path, *options) as (pid, started):
        assert len(started) >= 8  # itself, three that it has started, and four of the broker's
        assert all(map(_is_there, started))
        send(pid, number)
        wait_for(lambda: not any(map(_is_there, started)), ENDED_S, f"nothing of {started} is left")
