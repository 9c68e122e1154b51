"""A list of bans, made for being asked about connections: a look into a dictionary for each kind.

Immutable. Bans that have ended stay in it, and ban nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tidegate.bans.ban import Ban, BanKind


class BanList:
    """See the module's docstring."""

    __slots__ = ("_clients", "_networks", "_users", "bans")

    def __init__(self, bans: Iterable[Ban] = ()) -> None:
        self.bans = tuple(bans)
        self._clients: dict[tuple[str, str], Ban] = {}
        self._users: dict[str, Ban] = {}
        #: By version and length of the prefix: the bits of a network.
        self._networks: dict[tuple[int, int], dict[int, Ban]] = {}
        for ban in self.bans:
            if ban.kind is BanKind.CLIENT:
                self._clients[ban.mount_point, ban.value] = ban
            elif ban.kind is BanKind.USER:
                self._users[ban.value] = ban
            else:
                network = ipaddress.ip_network(ban.value)
                same = self._networks.setdefault((network.version, network.prefixlen), {})
                unused = network.max_prefixlen - network.prefixlen
                same[int(network.network_address) >> unused] = ban

    def __bool__(self) -> bool:
        return bool(self.bans)

    def find(
        self, mount_point: str, client_id: str, user: str | None, address: str, now: float
    ) -> Ban | None:
        """Return a ban that is in force for a connection; None: there is none."""
        ban = self._clients.get((mount_point, client_id))
        if ban is not None and not ban.is_over(now):
            return ban
        if user is not None:
            ban = self._users.get(user)
            if ban is not None and not ban.is_over(now):
                return ban
        return self._find_network(address, now) if self._networks else None

    def _find_network(self, text: str, now: float) -> Ban | None:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return None  # a Unix socket
        bits, version, length = int(address), address.version, address.max_prefixlen
        for (of_version, prefix_length), networks in self._networks.items():
            if of_version == version:
                ban = networks.get(bits >> (length - prefix_length))
                if ban is not None and not ban.is_over(now):
                    return ban
        return None
