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
            yield from _router(router)
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


def _router(router: str) -> Iterator[Finding]:
    if router.startswith(_UNIX):
        yield from _connects(router, socket.AF_UNIX, router.removeprefix(_UNIX))
        return
    host, _, port = router.rpartition(":")
    said, addresses = _name("link.routers", host.strip("[]"))
    yield from said
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        yield from _connects(router, family, (address, int(port)))


def _connects(
    router: str, family: socket.AddressFamily, where: str | tuple[str, int]
) -> Iterator[Finding]:
    shown = where if isinstance(where, str) else f"{where[0]} port {where[1]}"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(where)
    except OSError as error:
        yield problem(
            _AREA,
            f"link.routers: {router}: no connection to {shown}: {error.strerror or error}",
            "start the router, or let a firewall or NetworkPolicy pass; without a router clients "
            "wait",
        )
    else:
        yield ok(_AREA, f"link.routers: {router}: {shown} accepts connections")
