"""Examines the addresses that are listened on: free, used by this broker, or used by another.

Who uses a port is read from /proc, where the user may (root: always); elsewhere it is unknown.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tidegate.doctor.findings import Finding, Level, advice, ok, problem
from tidegate.edge.address_checks import bind_for_a_moment, problems_of_addresses
from tidegate.edge.transport.acceptor import bind
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config, ListenerConfig, ListenerProtocol

_AREA: Final = "ports"
_LISTENING: Final = "0A"
_PROC: Final = Path("/proc")
_UNIX: Final = "unix:"
_SOCKET: Final = "socket:["
_PROGRAM: Final = "tidegate"
_MAX_SHOWN: Final = 200


def examine_ports(config: Config, role: Role) -> Iterator[Finding]:
    """Yield for each address whether it can be had, and who has it."""
    for text in problems_of_addresses(config):
        yield problem(_AREA, text, "choose an address and a port of this machine that can be bound")
    for listener in config.listeners if role not in {"router", "console"} else []:
        yield from _listener(listener)
    admin = config.admin
    if role != "console" and admin.enabled and admin.port and not admin.address.startswith(_UNIX):
        yield from _place("admin", admin.address, admin.port)
    console = config.console
    if role == "console" or (role == "serve" and console.enabled and console.port):
        for found in _place("console", console.address, console.port):
            if role == "serve" and found.level is Level.PROBLEM:
                change = "choose another `console.port`: the broker runs without its console"
                yield advice(_AREA, found.text, change)
            else:
                yield found
    host, _, port = config.link.listen.rpartition(":")
    if role == "router" and not config.link.listen.startswith(_UNIX) and int(port):
        yield from _place("link.listen", host.strip("[]"), int(port))


def _listener(listener: ListenerConfig) -> Iterator[Finding]:
    name = f"listener {listener.label}"
    if listener.protocol is ListenerProtocol.UNIX:
        yield from _socket_file(name, Path(listener.address))
        return
    if not listener.port:
        return
    try:
        for sock in bind(listener):
            sock.close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield _used(name, listener.port)
        return  # what else is wrong has been said
    yield ok(_AREA, f"{name}: port {listener.port} is free")


def _place(name: str, address: str, port: int) -> Iterator[Finding]:
    try:
        bind_for_a_moment(name, address, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield _used(name, port)
    else:
        yield ok(_AREA, f"{name}: port {port} is free")


def _socket_file(name: str, path: Path) -> Iterator[Finding]:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return  # what is wrong has been said
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            sock.connect(str(path))
    except FileNotFoundError:
        yield ok(_AREA, f"{name}: {path} is free")
    except OSError:
        yield ok(_AREA, f"{name}: {path} is left from a process that has ended, and is replaced")
    else:
        yield ok(_AREA, f"{name}: a process accepts connections at {path}")


def _used(name: str, port: int) -> Finding:
    owner = owner_of(port)
    if owner is None:
        return advice(
            _AREA,
            f"{name}: port {port} is used by a process of another user",
            "if it is not this broker, stop it or choose another port (run as root to see it)",
        )
    pid, words = owner
    # The program, or what Python runs: `tidegate serve`, `python -m tidegate serve`.
    if any(Path(word).name == _PROGRAM for word in words[:3]):
        return ok(_AREA, f"{name}: port {port} is used by a running broker (process {pid})")
    return problem(
        _AREA,
        f"{name}: port {port} is used by process {pid}: {' '.join(words)[:_MAX_SHOWN]}",
        "stop that process, or choose another port: the broker does not start",
    )


def owner_of(port: int) -> tuple[int, list[str]] | None:
    """Return number and words of the process that listens on a TCP port; None if it is not seen."""
    inodes = {f"{_SOCKET}{inode}]" for inode in _listening_inodes(port)}
    for directory in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (directory / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in inodes:
                        command = (directory / "cmdline").read_bytes().decode(errors="replace")
                        return int(directory.name), command.rstrip("\0").split("\0")
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]
