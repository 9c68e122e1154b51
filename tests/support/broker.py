"""The broker as its users run it: ``tidegate serve`` in a process of its own, and nothing imported.

Tests ask for the fixtures ``broker`` and ``start_broker`` (tests/conftest.py). ``Server`` is what
every broker under test looks like, so that the same test can be run against mosquitto
(support.mosquitto).
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from support import processes
from support.certificates import Authority, KeyPair
from support.ports import give_ports
from support.waiting import wait_for

READY_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0
READY = "tidegate ready"

Settings = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Address:
    """Where a listener is: host and port, or the path of a Unix socket."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``scheme://host:port`` or ``unix:///path``."""
        scheme, _, rest = url.partition("://")
        if scheme == "unix":
            return cls("unix", "", 0, rest)
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"no address: {url}")
        return cls(scheme, parts.hostname, parts.port, parts.path)


class Server(ABC):
    """A broker process with its addresses, and everything a test may do to it."""

    product = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.addresses: dict[str, Address] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._stdout = directory / "stdout.txt"
        self._stderr = directory / "stderr.txt"
        self._family: set[int] = set()
        #: What it is started with; None: the test's own.
        self.environment: Mapping[str, str] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the process and return when it accepts connections."""

    @property
    def pid(self) -> int:
        """Process identifier of the running broker."""
        assert self.process is not None
        return self.process.pid

    def address(self, name: str = "tcp") -> Address:
        """Return the address of the listener ``name``."""
        return self.addresses[name]

    def has(self, name: str) -> bool:
        """Tell whether there is a listener ``name``."""
        return name in self.addresses

    def stderr(self) -> str:
        """Return what it has written to standard error so far."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def stdout(self) -> str:
        """Return what it has written to standard output since it was started."""
        return self._stdout.read_text(errors="replace") if self._stdout.exists() else ""

    def kill(self) -> None:
        """End the broker's own process with SIGKILL; its children stay as after a crash."""
        process = self._running()
        self._family |= _descendants(process.pid)
        process.kill()
        process.wait(STOP_DEADLINE_S)

    def stop(self) -> int:
        """Ask it to end with SIGTERM and return its exit code."""
        process = self._running()
        self._family |= _descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"SIGTERM did not end it within {STOP_DEADLINE_S:g} s:\n{self.stderr()}"
            ) from None

    def restart(self, *, crash: bool = False) -> None:
        """Stop (``crash``: SIGKILL) and start again on the same data, perhaps on other ports."""
        if self.process is not None and self.process.poll() is None:
            if crash:
                self.kill()
            else:
                self.stop()
        self.start()

    def cleanup(self) -> None:
        """End the process and every child it left, whatever happened before."""
        if self.process is not None:
            self._family |= _descendants(self.process.pid)
            _kill_group(self.process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_DEADLINE_S)
        for pid in self._family | _processes_using(self.directory):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def descendants(self) -> set[int]:
        """Return the processes it started and they started (Linux)."""
        return _descendants(self.pid)

    def memory_bytes(self) -> int:
        """Return the resident memory of the broker's own process (Linux)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel does not tell VmRSS")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        assert self.process.poll() is None, f"it has already ended:\n{self.stderr()}"
        return self.process

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        # Files, not pipes: a child that outlives the broker would keep a pipe open.
        with self._stdout.open("wb") as stdout, self._stderr.open("ab") as stderr:
            self.process = processes.start(
                command,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        return self.process


class Tidegate(Server):
    """``tidegate serve`` with a YAML file made from ``settings`` (the configuration's own keys)."""

    product = "tidegate"

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.environment = environment
        self.settings = copy.deepcopy(settings)
        self.arguments = arguments
        self.ready_line = ""

    def start(self) -> None:
        """Start it and return once it has printed its ready line; it keeps its listeners' ports."""
        give_ports(self.settings.get("listeners", []))
        file = self.directory / "tidegate.yaml"
        file.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        command = [str(Path(sys.executable).with_name("tidegate")), "serve"]
        process = self._spawn([*command, "--config", str(file), *self.arguments])
        wait_for(
            lambda: self._find_ready_line() or process.poll() is not None,
            READY_DEADLINE_S,
            f"a line {READY!r}",
        )
        self.ready_line = self._find_ready_line()
        assert self.ready_line, f"ended with {process.poll()}:\n{self.stdout()}{self.stderr()}"
        words = self.ready_line.removeprefix(READY).split()
        self.addresses = {
            name: Address.parse(url)
            for name, _, url in (word.partition("=") for word in words)
            if "://" in url  # a supervisor counts its processes
        }

    def _find_ready_line(self) -> str:
        whole_lines = self.stdout().splitlines(keepends=True)
        return next((x.strip() for x in whole_lines if x.startswith(READY) and x[-1] == "\n"), "")


class StartBroker(Protocol):
    """Start another broker: ``settings`` replace sections of the default configuration."""

    def __call__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> Tidegate:
        """Return the broker once it is ready."""


def all_listeners(directory: Path, server: KeyPair, authority: Authority) -> list[Settings]:
    """Return one listener of every kind on loopback, each on a port of its own."""
    tls = {"certificates": [{"certificate": str(server.certificate), "key": str(server.key)}]}
    verified = tls | {
        "client_ca": str(authority.certificate),
        "client_certificates": "optional",
    }
    plain = {"address": "127.0.0.1", "port": 0}
    return [
        {"name": "tcp", "protocol": "tcp", **plain},
        {"name": "tls", "protocol": "tls", **plain, "tls": verified},
        {"name": "ws", "protocol": "ws", **plain},
        {"name": "wss", "protocol": "wss", **plain, "tls": tls},
        {"name": "auto", "protocol": "auto", **plain, "tls": tls},
        {"name": "unix", "protocol": "unix", "address": str(directory / "mqtt.sock"), "port": 0},
    ]


def _descendants(pid: int) -> set[int]:
    """Return the identifiers of all processes below ``pid`` (Linux; elsewhere none)."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found |= {int(child)} | _descendants(int(child))
    return found


def _processes_using(directory: Path) -> set[int]:
    """Return the processes that run in ``directory`` or name it: what a killed broker left."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            where = str((process / "cwd").readlink())
            if where.startswith(str(directory)) or str(directory) in command:
                found.add(int(process.name))
    return found - {os.getpid()}


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def wait_until_gone(pid: int, deadline_s: float = STOP_DEADLINE_S) -> None:
    """Return when no process has the identifier ``pid``."""

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(gone, deadline_s, f"process {pid} gone")
