"""Checks that what a configuration listens on can be bound on this machine.

Called by ``tidegate check``, and for the admin server by ``roles.start_checks``. Binds for a
moment, and never listens: no client can connect. For the check a port in use is no problem, because
the process that uses it may be the one that gets this configuration.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.edge.transport.acceptor import bind
from tidegate.runtime.config.addresses import ANY, LOCALHOST, parse_address, unmapped
from tidegate.runtime.config.model import Config, ListenerConfig, ListenerProtocol

#: The longest path of a Unix socket (``sun_path`` without its final NUL).
MAX_PATH_BYTES: Final = 107 if os.uname().sysname == "Linux" else 103
_UNIX: Final = "unix:"


@dataclass(slots=True, frozen=True)
class _Endpoint:
    """What one setting listens on."""

    key: str
    address: str
    port: int
    reuse_port: bool = False

    def conflicts_with(self, other: _Endpoint) -> bool:
        """Whether both cannot be bound at once."""
        if not self.port or self.port != other.port or (self.reuse_port and other.reuse_port):
            return False
        return any(
            mine == theirs or (family == its and ANY in {mine, theirs})
            for family, mine in _places(self.address)
            for its, theirs in _places(other.address)
        )


def problems_of_addresses(config: Config) -> list[str]:
    """Return one line for each address that cannot be bound, beginning with its key."""
    problems: list[str] = []
    endpoints: list[_Endpoint] = []
    for index, listener in enumerate(config.listeners):
        key = f"listeners[{index}]"
        if listener.protocol is ListenerProtocol.UNIX:
            path = Path(listener.address)
            if path.parent.is_dir():  # else `problems_of_files` has said so
                problems += _of_path(f"{key}.address", path)
            continue
        endpoints.append(_Endpoint(key, listener.address, listener.port, listener.reuse_port))
        if error := _bind_error(listener):
            problems.append(f"{key}: {error}")
    admin = config.admin
    if admin.enabled and admin.address.startswith(_UNIX):
        problems += _of_path("admin.address", Path(admin.address.removeprefix(_UNIX)))
    elif admin.enabled:
        endpoints.append(_Endpoint("admin", admin.address, admin.port))
        problems += _of_host("admin", admin.address, admin.port)
    if "listen" in config.link.model_fields_set:
        problems += _of_link(config.link.listen)
    for position, endpoint in enumerate(endpoints):
        problems += [
            f"{endpoint.key}.port: {endpoint.port} is also the port of {earlier.key}"
            for earlier in endpoints[:position]
            if endpoint.conflicts_with(earlier)
        ]
    return problems


def _bind_error(listener: ListenerConfig) -> str:
    try:
        sockets = bind(listener)
    except OSError as error:
        return "" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    for sock in sockets:
        sock.close()
    return ""


def _of_link(listen: str) -> Iterator[str]:
    if listen.startswith(_UNIX):
        yield from _of_path("link.listen", Path(listen.removeprefix(_UNIX)))
    else:
        host, _, port = listen.rpartition(":")
        yield from _of_host("link.listen", unmapped(host.strip("[]")), int(port))


def bind_for_a_moment(key: str, address: str, port: int) -> None:
    """Bind an address or host name, and release it. Raises OSError, which begins with ``key``."""
    host = None if address == ANY else address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"{key}: {address}: {error.strerror or error}") from error
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(where)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:  # servers leave such a family out
                text = f"{key}: cannot listen on {address} port {port}: {error.strerror}"
                raise OSError(error.errno, text) from error


def _of_host(key: str, address: str, port: int) -> Iterator[str]:
    try:
        bind_for_a_moment(key, address, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            yield str(error.strerror)


def _of_path(key: str, path: Path) -> Iterator[str]:
    directory = path.parent
    if not directory.is_dir():
        yield f"{key}: {directory} is not a directory"
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield f"{key}: {directory}: no permission to create a socket"
    elif len(os.fsencode(path)) > MAX_PATH_BYTES:
        yield f"{key}: {path} is longer than {MAX_PATH_BYTES} bytes"
    else:
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                yield f"{key}: {path} is not a socket"
        except FileNotFoundError:
            return


def _places(address: str) -> list[tuple[int, str]]:
    """Return family and address of each socket; ``*`` is every address of its family."""
    if address == ANY:
        return [(4, ANY), (6, ANY)]
    if address == LOCALHOST:
        return [(4, "127.0.0.1"), (6, "::1")]
    try:
        parsed = parse_address(address)
    except ValueError:
        return []  # a host name of the admin server
    return [(parsed.version, ANY if parsed.is_unspecified else str(parsed))]
