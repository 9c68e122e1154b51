"""The client address behind proxies: trusted networks, and X-Forwarded-For from its right end.

Called by `ConnectionHandshake`. Never trusts a header by itself: an entry counts only if the hop
that added it is in the listener's ``trusted_proxies``. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from tidegate.runtime.config.addresses import parse_address, parse_network

#: How many entries are read; the rest of a longer list is not from trusted proxies.
MAX_ENTRIES = 32


class TrustedNetworks:
    """The networks of a listener's ``trusted_proxies``."""

    __slots__ = ("_any", "_v4", "_v6")

    def __init__(self, networks: Iterable[str]) -> None:
        parsed = [parse_network(network) for network in networks]
        self._v4 = [n for n in parsed if isinstance(n, ipaddress.IPv4Network)]
        self._v6 = [n for n in parsed if isinstance(n, ipaddress.IPv6Network)]
        self._any = bool(parsed)

    def __contains__(self, address: str) -> bool:
        """Whether an address is in one of them. A Unix socket's peer ("") counts as 127.0.0.1."""
        if not self._any:
            return False
        try:
            parsed = parse_address(address or "127.0.0.1")
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address):
            return any(parsed in network for network in self._v6)
        return any(parsed in network for network in self._v4)


def parse_entry(entry: str) -> tuple[str, int] | None:
    """Read ``1.2.3.4``, ``1.2.3.4:5678``, ``2001:db8::1`` or ``[2001:db8::1]:5678``.

    Returns the address in its canonical form (an IPv4-mapped one as IPv4) and the port (0 if none),
    or None if it is neither.
    """
    text = entry.strip().strip('"')
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    try:
        parsed = parse_address(host.partition("%")[0])
    except ValueError:
        return None
    return str(parsed), int(port) if port else 0


def client_address(
    values: Sequence[str], peer: tuple[str, int], trusted: TrustedNetworks
) -> tuple[str, int]:
    """Walk X-Forwarded-For from the right to the first address that is not a trusted proxy's.

    ``values`` are the header's values in order, ``peer`` is the address of the socket (or of the
    PROXY header). An entry that is no address ends the walk at the hop before it. If every entry is
    trusted, the left-most one is the client.
    """
    if peer[0] not in trusted:
        return peer
    entries = [entry for value in values for entry in value.split(",") if entry.strip()]
    client = peer
    for entry in reversed(entries[-MAX_ENTRIES:]):
        parsed = parse_entry(entry)
        if parsed is None:
            break
        client = parsed
        if parsed[0] not in trusted:
            break
    return client
