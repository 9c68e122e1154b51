"""How many connections each client address has, of all listeners of a process together.

Owned by `Listeners`; called when the address of a connection is known: at accept, or after a PROXY
header or X-Forwarded-For. Costs a comparison with 0 while it is off.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable

from tidegate.edge.transport.accepted_connection import AcceptedConnection
from tidegate.edge.transport.forwarded import TrustedNetworks


class AddressLimit:
    """See the module's docstring. Addresses are canonical, IPv4-mapped ones as IPv4."""

    __slots__ = ("_keys", "_open", "_prefix_length", "limit")

    def __init__(self) -> None:
        #: Connections that an address may have; 0: no limit, and nothing is counted.
        self.limit = 0
        self._prefix_length = 64
        #: What a connection counts as; those that count as nothing are not in it.
        self._keys: dict[AcceptedConnection, str] = {}
        self._open: Counter[str] = Counter()

    def set(
        self,
        limit: int,
        ipv6_prefix_length: int,
        connections: Iterable[tuple[AcceptedConnection, str, TrustedNetworks]],
    ) -> None:
        """Take other settings, and count what is open: connection, address, its proxies."""
        if (limit, ipv6_prefix_length) == (self.limit, self._prefix_length):
            return
        self.limit, self._prefix_length = limit, ipv6_prefix_length
        self._keys.clear()
        self._open.clear()
        if limit:
            for connection, address, trusted in connections:
                if key := self.key_of(address, trusted):
                    self._keys[connection] = key
                    self._open[key] += 1

    def admit(self, connection: AcceptedConnection, address: str, trusted: TrustedNetworks) -> bool:
        """Count a connection as one of ``address``; False if that has too many already.

        Those of trusted proxies count as nothing: their clients have other addresses.
        """
        self.remove(connection)
        key = self.key_of(address, trusted)
        if not key:
            return True
        if self._open[key] >= self.limit:
            return False
        self._keys[connection] = key
        self._open[key] += 1
        return True

    def replace(self, connection: AcceptedConnection, successor: AcceptedConnection) -> None:
        """Count ``successor`` in the place of ``connection``."""
        key = self._keys.pop(connection, None)
        if key is not None:
            self._keys[successor] = key

    def remove(self, connection: AcceptedConnection) -> None:
        """Count it no more (idempotent)."""
        key = self._keys.pop(connection, None)
        if key is None:
            return
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]

    def key_of(self, address: str, trusted: TrustedNetworks) -> str:
        """Return what the address counts as; "" for nothing: a Unix socket, a trusted proxy."""
        if not address or address in trusted:
            return ""
        if ":" not in address:
            return address
        value = int(ipaddress.IPv6Address(address))
        return f"{value >> 128 - self._prefix_length:x}/{self._prefix_length}"
