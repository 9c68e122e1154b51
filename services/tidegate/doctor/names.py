"""Examines host names: whether they resolve here, how fast, and whether routers answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from tidegate.doctor.findings import Finding, advice, ok, problem
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.store_url import parse_store_url

_AREA: Final = "names"
_SLOW_S: Final = 1.0
_CONNECT_TIMEOUT_S: Final = 3.0
_UNIX: Final = "unix:"


def examine_names(config: Config, role: Role) -> Iterator[Finding]:
    """Yield what the names of the configuration stand for."""
    if role == "edge":
        for router in config.link.routers:
            yield from _process("link.routers", router)
    if role == "console":
        for edge in config.console.edges:
            yield from _process("console.edges", edge)
        for router in config.console.routers:
            yield from _process("console.routers", router)
    if role != "edge" and config.store.url is not None:
        url = parse_store_url(config.store.url)
        for host, _ in () if url.unix else url.addresses:
            yield from _name("store.url", host)[0]
    endpoint = config.telemetry.otlp_endpoint
    if endpoint is not None:
        yield from _name("telemetry.otlp_endpoint", urlsplit(endpoint).hostname or "")[0]


def _name(key: str, host: str) -> tuple[list[Finding], list[str]]:
    """Return what there is to say about a name, and its addresses."""
    started = time.monotonic()
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"{key}: {host} does not resolve: {error.strerror or error}"
        change = "correct the name, or the DNS of this machine or pod (/etc/resolv.conf)"
        return [problem(_AREA, text, change)], []
    seconds = time.monotonic() - started
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if seconds > _SLOW_S:
        text = f"{key}: {host} took {seconds:.1f} s to resolve"
        return [advice(_AREA, text, "look at the DNS servers in /etc/resolv.conf")], addresses
    if addresses == [host]:
        return [], addresses
    return [ok(_AREA, f"{key}: {host} is {', '.join(addresses)}")], addresses


def _process(key: str, setting: str) -> Iterator[Finding]:
    """Yield whether the processes that a setting stands for accept connections."""
    if setting.startswith(_UNIX):
        yield from _connects(key, setting, socket.AF_UNIX, setting.removeprefix(_UNIX))
        return
    host, _, port = setting.rpartition(":")
    said, addresses = _name(key, host.strip("[]"))
    yield from said
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        yield from _connects(key, setting, family, (address, int(port)))


def _connects(
    key: str, setting: str, family: socket.AddressFamily, where: str | tuple[str, int]
) -> Iterator[Finding]:
    shown = where if isinstance(where, str) else f"{where[0]} port {where[1]}"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(where)
    except OSError as error:
        text = f"{key}: {setting}: no connection to {shown}: {error.strerror or error}"
        yield problem(_AREA, text, _CHANGES[key])
    else:
        yield ok(_AREA, f"{key}: {setting}: {shown} accepts connections")


_FROM_HERE: Final = "let a firewall or NetworkPolicy pass"
#: What to do about processes that a setting names and that accept no connection.
_CHANGES: Final = {
    "link.routers": f"start the router, or {_FROM_HERE}; without a router clients wait",
    "console.edges": f"start the edge, or {_FROM_HERE} to its admin server; the console leaves out "
    "what only it has",
    "console.routers": f"start the router, or {_FROM_HERE} to its admin server; the console leaves "
    "out what only it has",
}
