"""``tidegate backup`` and ``restore`` as commands: data directories, lines, exit codes, signals.

Input: the command line, as processes where signals matter. Observed: output, exit codes, files.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import processes
from support.store_groups import Watched
from support.store_server import StoreServer, programs
from support.tools import missing
from tidegate.cli.main import main
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import AttachRequest
from tidegate.store.embedded import EmbeddedValkey
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000


class Run:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, errors = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, errors

    def last(self, *words: str | Path) -> tuple[int, dict[str, Any]]:
        """The exit code, and the last line with ``--json``."""
        code, out, _ = self(*words, "--json")
        return code, json.loads(out.splitlines()[-1])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def scratch() -> Iterator[Path]:
    # pytest's own directories can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        yield Path(name)


async def attach(url: str, client: str) -> bool:
    store = await RedisStore.connect(url=url, limits=LimitsConfig(), store=StoreConfig())
    try:
        return (await store.attach(AttachRequest(client, "e", False, 10**6, NOW))).session_present
    finally:
        await store.close()


async def test_a_data_directory_is_backed_up_with_its_server_running_or_not(
    scratch: Path,
) -> None:
    """In processes of their own: the server of the test's loop must go on."""

    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return processes.run([sys.executable, "-m", "tidegate", *words], 100, stdout=-1, stderr=-1)

    data, target = scratch / "data", scratch / "backups"
    server = EmbeddedValkey(data)
    await server.start()
    try:
        await attach(server.url, "c")
        running = command("backup", target, "--data-dir", data, "--name", "running")
        assert (running.returncode, running.stderr) == (0, "")
        assert "running, 1 sessions" in running.stdout
        refused = command("restore", target, "--data-dir", data, "--json")
        assert refused.returncode == 1
        assert json.loads(refused.stdout.splitlines()[-1])["reason"] == "store_in_use"
    finally:
        await server.stop()
    stopped = command("backup", target, "--data-dir", data, "--name", "stopped")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    other = scratch / "other"
    restored = command("restore", target, "--data-dir", other)
    assert "Restored from" in restored.stdout
    assert "stopped, 1 sessions" in restored.stdout
    server = EmbeddedValkey(other)
    await server.start()
    try:
        assert await attach(server.url, "c")
    finally:
        await server.stop()


def test_wrong_usage_has_exit_code_2_and_a_sentence(run: Run, tmp_path: Path) -> None:
    for words, text in (
        (("backup", tmp_path, "--name", "a/b"), "letters, digits"),
        (("backup", tmp_path, "--keep", "0"), "--keep"),
        (("backup", "ftp://x/y"), "expected a directory or s3://"),
        (("restore", "s3://"), "expected s3://BUCKET"),
        (("restore", tmp_path, "--redis", "nonsense"), "expected redis://"),
    ):
        code, out, errors = run(*words)
        assert (code, out) == (2, ""), words
        assert text in errors, words


def test_failures_have_exit_code_1_and_a_reason(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = tmp_path / "nothing"
    code, line = run.last("backup", tmp_path, "--data-dir", nothing)
    assert (code, line["phase"], line["reason"]) == (1, "failed", "store_refused")
    assert not nothing.exists()
    code, line = run.last("restore", tmp_path, "--data-dir", nothing)
    assert (code, line["reason"]) == (1, "not_found")
    unreachable = f"unix://{tmp_path}/none"
    code, line = run.last("backup", tmp_path, "--redis", unreachable)
    assert (code, line["reason"]) == (1, "store_unavailable")
    assert list(tmp_path.iterdir()) == []
    assert run("restore", tmp_path, "--list") == (0, f"No backups in {tmp_path}\n", "")
    for name in [name for name in sys.modules if name.partition(".")[0] in {"boto3", "botocore"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tidegate.backup.s3", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    code, line = run.last("backup", "s3://bucket/x", "--redis", unreachable)
    assert (code, line["reason"]) == (1, "missing_package")
    assert "'.[backup]'" in line["message"]


def test_a_store_whose_replicas_are_away_can_be_backed_up(run: Run, scratch: Path) -> None:
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    server = StoreServer(program, scratch)
    server.start()
    try:
        asyncio.run(attach(server.url, "c"))
        file = scratch / "tidegate.yaml"
        file.write_text(f"store: {{url: '{server.url}', durability: replicated, replicas: 2}}")
        code, line = run.last("backup", scratch / "backups", "--config", file)
        assert (code, line["sessions"]) == (0, 1)
    finally:
        server.stop()


def test_a_master_that_sentinels_watch_is_backed_up_and_restored(run: Run, scratch: Path) -> None:
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    servers = Watched(program, scratch, replicas=1)
    servers.start()
    try:
        asyncio.run(attach(servers.url, "c"))
        target = scratch / "backups"
        code, line = run.last("backup", target, "--redis", servers.url)
        assert (code, line["sessions"]) == (0, 1)
        servers.master.command("FLUSHALL")
        code, line = run.last("restore", target, "--redis", servers.url)
        assert (code, line["sessions"]) == (0, 1)
        assert asyncio.run(attach(servers.url, "c"))
    finally:
        servers.stop()


def test_an_error_of_our_own_is_said_to_programs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("tidegate.backup.listing.backups_in", fails)
    with pytest.raises(KeyError):
        main(["restore", str(tmp_path), "--list", "--json"])
    assert json.loads(capsys.readouterr().out)["reason"] == "internal"


def test_a_store_that_is_not_available_yet_is_waited_for(scratch: Path, run: Run) -> None:
    """As when its pod has just become ready, and its name is not resolved yet."""
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    target = scratch / "backups"

    def while_it_starts(command: str, server: StoreServer) -> dict[str, Any]:
        words: list[str | Path] = [command, target, "--redis", server.url, "--wait", "60", "--json"]
        with processes.start(
            [sys.executable, "-m", "tidegate", *words], stdout=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stdout is not None
            for line in waiting.stdout:
                if json.loads(line)["phase"] == "waiting":
                    break
            server.start()
            last = json.loads(waiting.stdout.read().splitlines()[-1])
        assert waiting.returncode == 0, last
        return dict(last)

    servers = []
    for name in ("a", "b"):
        (scratch / name).mkdir()
        servers.append(StoreServer(program, scratch / name))
    source, other = servers
    try:
        source.start()
        asyncio.run(attach(source.url, "c"))
        source.kill()
        code, last = run.last("backup", target, "--redis", source.url)
        assert (code, last["reason"]) == (1, "store_unavailable")
        assert while_it_starts("backup", source)["sessions"] == 1
        assert while_it_starts("restore", other)["sessions"] == 1
        assert asyncio.run(attach(other.url, "c"))
    finally:
        for server in servers:
            server.stop()


def test_a_signal_leaves_no_backup(scratch: Path) -> None:
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    server, target = StoreServer(program, scratch), scratch / "backups"
    server.start()
    try:
        server.command("SET", "tg:{g}:format", "2:64")
        # The server answers nothing from here on, so the backup waits.
        server.pause()
        with processes.start(
            [sys.executable, "-m", "tidegate", "backup", target, "--redis", server.url, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as command:
            assert command.stdout is not None
            assert json.loads(command.stdout.readline())["phase"] == "reading"
            command.send_signal(signal.SIGTERM)
            last = json.loads(command.stdout.read().splitlines()[-1])
        assert (command.returncode, last["reason"]) == (1, "interrupted")
        assert list(target.iterdir()) == []
    finally:
        server.stop()
