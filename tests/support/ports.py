"""Ports of the loopback interface for programs that cannot take port 0, or are started again.

A port that the system chose for a moment may go to another process before its program listens, or
while the program is away: to one that asks for any port, or to the near end of a connection. The
ports here are none that the system chooses, and each is given to one test of all that run at a
time.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

_SYSTEM_CHOOSES: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: Where it is not known: Linux's own default.
_SYSTEM_CHOOSES_FROM: Final = 32768
# Below are ports that programs have by default, above those of Kubernetes' NodePorts.
_FIRST: Final = 20000
_LAST: Final = 29999
_FEWEST: Final = 1000


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody else is given soon."""
    last = min(_LAST, _chosen_from() - 1)
    if last - _FIRST < _FEWEST:
        return _any_port()
    file = Path(tempfile.gettempdir()) / f"tidegate-tests-{os.getuid()}.port"
    with file.open("a+") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.seek(0)
        port = int(counter.read() or _FIRST)
        for _ in range(_FIRST, last + 1):
            port = port + 1 if _FIRST <= port < last else _FIRST
            if _is_free(port):
                counter.truncate(0)
                counter.write(str(port))
                return port
    raise AssertionError("no port is free")


def give_ports(listeners: Iterable[dict[str, Any]]) -> None:
    """Give a port to each listener of a configuration that has port 0 and needs one."""
    for listener in listeners:
        if listener.get("port") == 0 and listener.get("protocol") != "unix":
            listener["port"] = free_port()


def _chosen_from() -> int:
    try:
        return int(_SYSTEM_CHOOSES.read_text().split()[0])
    except OSError:
        return _SYSTEM_CHOOSES_FROM


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that have ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
