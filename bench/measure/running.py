"""A broker under load: its processes, its ports and its end. Brokers and peers make these."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_S: Final = 30.0
STOP_S: Final = 20.0
#: An MQTT 3.1.1 CONNECT of the client "ready", and what a broker answers that accepts it.
_CONNECT: Final = bytes.fromhex("101100044d5154540402003c0005") + b"ready"
_ACCEPTED: Final = bytes.fromhex("20020000")


class StartError(Exception):
    """A broker does not start; the message has the end of what it printed."""


@dataclass(slots=True)
class Running:
    """Started processes, and where clients connect."""

    directory: Path
    #: By the kind of listener: tcp, ws, tls.
    ports: dict[str, int] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """What mqload counts, with the children of each."""
        return [process.pid for process in self.processes]

    def spawn(
        self, command: Sequence[str | Path], name: str, environment: Mapping[str, str] | None = None
    ) -> Path:
        """Start a process; return the file that gets what it prints."""
        printed = self.directory / f"{name}.out"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                cwd=self.directory, env=os.environ | dict(environment or {}),
            )  # fmt: skip
        self.processes.append(process)
        return printed

    def wait_for_line(self, printed: Path, part: str, start_s: float = START_S) -> str:
        """Return the first whole line with ``part``, once the last process has printed it."""
        deadline = time.monotonic() + start_s
        while time.monotonic() < deadline:
            ended = self.processes[-1].poll() is not None
            for line in printed.read_text(errors="replace").splitlines(keepends=True):
                if part in line and line.endswith("\n"):
                    return line.strip()
            if ended:
                break
            time.sleep(0.02)
        raise StartError(f"no line {part!r}: …{printed.read_text(errors='replace')[-600:]}")

    def last_lines(self) -> list[str]:
        """Return the end of what each process has printed, with its name."""
        printed = {
            file.stem: file.read_text(errors="replace") for file in self.directory.glob("*.out")
        }
        return [f"{name}: …{text[-600:].strip()}" for name, text in sorted(printed.items()) if text]

    def wait_for_clients(self, port: int, times: int = 1) -> None:
        """Return once as many clients one after another have got their CONNACK."""
        deadline = time.monotonic() + START_S
        accepted = 0
        while accepted < times:
            if time.monotonic() > deadline or self.processes[-1].poll() is not None:
                raise StartError(f"no CONNACK at port {port}")
            accepted = accepted + 1 if _accepts(port) else 0
            if not accepted:
                time.sleep(0.05)

    def stop(self) -> None:
        """End the processes, the last one started first."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(_CONNECT)
            answer = connection.recv(4)
            connection.sendall(b"\xe0\x00")
            return answer == _ACCEPTED
    except OSError:
        return False
