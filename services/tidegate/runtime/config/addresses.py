"""IP addresses as the configuration, sockets and proxies write them. Pure; nothing is resolved.

An IPv4-mapped IPv6 address (``::ffff:1.2.3.4``) is the IPv4 address in it, wherever it comes from:
it is shown as that, and networks of IPv4 addresses match it.
"""

from __future__ import annotations

import ipaddress
from typing import Final

#: Every address of both families.
ANY: Final = "*"
#: The loopback addresses of both families.
LOCALHOST: Final = "localhost"

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def unmapped(address: str) -> str:
    """Return an address in canonical form; an IPv4-mapped one as IPv4."""
    if not address.startswith("::ffff:"):
        return address
    return str(parse_address(address))


def parse_address(text: str) -> IpAddress:
    """Read an address; an IPv4-mapped one as IPv4. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> IpNetwork:
    """Read a network in CIDR notation, host bits ignored; a part of ``::ffff:0:0/96`` as IPv4.

    Raises ValueError.
    """
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        assert address is not None
        return ipaddress.IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))
    return network


def listener_address(text: str) -> str:
    """Return the address of a listener in canonical form, ``*`` or ``localhost``.

    Raises ValueError for anything else: a host name may stand for any number of addresses, at the
    start others than at the check.
    """
    if text in {ANY, LOCALHOST}:
        return text
    if text.lower() == LOCALHOST:
        return LOCALHOST
    try:
        return str(parse_address(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IP address; expected one, `localhost`, or `*` for all"
        ) from None


def process_address(text: str) -> str:
    """Return the address of a process: HOST:PORT (IPv6 in brackets) or unix:PATH.

    Raises ValueError for anything else.
    """
    if text.startswith("unix:"):
        if not text.removeprefix("unix:"):
            raise ValueError("expected unix:PATH")
        return text
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535) or (
        ":" in host and not (host.startswith("[") and host.endswith("]"))
    ):
        raise ValueError(f"expected HOST:PORT or unix:PATH, got {text}")
    return text
