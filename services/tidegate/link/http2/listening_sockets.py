"""Sockets that listen at an address of the link, as gRPC's do: both families where it is any."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

BACKLOG: Final = 128
#: Each is every address of both families.
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what the configuration may say


def open_sockets(address: str) -> tuple[list[socket.socket], str]:
    """Return the sockets of ADDRESS:PORT or unix:PATH, and the address with its port.

    Raises OSError.
    """
    if address.startswith("unix:"):
        return [_open_unix(Path(address.removeprefix("unix:")))], address
    host, _, text = address.rpartition(":")
    name, port = host.strip("[]"), int(text)
    if name in _ANY and socket.has_dualstack_ipv6():
        listening = [_listen(socket.AF_INET6, ("::", port), dual=True)]
    else:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = dict.fromkeys((family, place) for family, _, _, _, place in found)
        listening = []
        try:
            for family, place in places:
                # All of them have the port that the system has chosen for the first one.
                listening.append(_listen(family, (place[0], port, *place[2:]), dual=False))
                port = listening[0].getsockname()[1]
        except OSError:
            close_sockets(listening)
            raise
    return listening, f"{host}:{listening[0].getsockname()[1]}"


def _listen(family: int, place: tuple[object, ...], *, dual: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        return _begin(made, place)
    except OSError:
        made.close()
        raise


def _open_unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()  # of a process that has ended without removing it
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _begin(made, os.fspath(path))
    except OSError:
        made.close()
        raise


def _begin(made: socket.socket, place: tuple[object, ...] | str) -> socket.socket:
    made.bind(place)
    made.listen(BACKLOG)
    made.setblocking(False)
    return made


def close_sockets(sockets: list[socket.socket]) -> None:
    """Stop listening; a Unix socket's file is removed."""
    for one in sockets:
        if one.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                Path(one.getsockname()).unlink()
        one.close()
