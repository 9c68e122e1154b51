"""Which of the passwords that wait for a thread is verified next: turns, so that a flood waits.

Called by ``PasswordVerifier``. Pure: it neither verifies nor measures. Three orders take turns, and
each has a third of the threads' time: addresses one after the other, user names one after the
other, and the newest first. A flood from one address, or with few user names, has one turn of many
in the first or second order; the third one serves who comes when a flood is over.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

#: What one site or one machine has of IPv6 addresses.
_IPV6_PREFIX: Final = 64


class Waiting(Protocol):
    """What waits. Compared by identity."""

    @property
    def source(self) -> str:
        """Where it comes from (`source_of`)."""

    @property
    def username(self) -> str:
        """Whose password it is said to be."""


W = TypeVar("W", bound=Waiting)


def source_of(address: str) -> str:
    """Return what counts as one address: an IPv6 address without its last 64 bits.

    An IPv4 address in IPv6 form is the IPv4 address. Anything else (a Unix socket) is taken as is.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    host_bits = 128 - _IPV6_PREFIX
    return str(ipaddress.IPv6Address(int(parsed) >> host_bits << host_bits))


class PasswordQueue(Generic[W]):
    """See the module's docstring."""

    __slots__ = ("_all", "_by_source", "_by_username", "_turn")

    def __init__(self) -> None:
        self._all: OrderedDict[W, None] = OrderedDict()
        #: In the order of their turns; what an address or a user name has waiting, oldest first.
        self._by_source: OrderedDict[str, OrderedDict[W, None]] = OrderedDict()
        self._by_username: OrderedDict[str, OrderedDict[W, None]] = OrderedDict()
        self._turn = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._all)

    def add(self, waiting: W) -> None:
        """Let one wait."""
        self._all[waiting] = None
        self._by_source.setdefault(waiting.source, OrderedDict())[waiting] = None
        self._by_username.setdefault(waiting.username, OrderedDict())[waiting] = None

    def remove(self, waiting: W) -> bool:
        """Take one out; return whether it waited."""
        if waiting not in self._all:
            return False
        del self._all[waiting]
        _remove(self._by_source, waiting.source, waiting)
        _remove(self._by_username, waiting.username, waiting)
        return True

    def pop(self) -> W | None:
        """Take out the one that is next; None if none waits."""
        if not self._all:
            return None
        self._turn = (self._turn + 1) % 3
        if self._turn == 0:
            chosen = next(reversed(self._all))
        else:
            turns = self._by_source if self._turn == 1 else self._by_username
            key, group = next(iter(turns.items()))
            chosen = next(iter(group))
            turns.move_to_end(key)
        self.remove(chosen)
        return chosen

    def ahead_of(self, source: str, username: str) -> int:
        """Return how many are served at most before one that comes now, if no other comes."""
        turns = (
            len(group) * (len(group.get(key, ())) + 1)
            for group, key in ((self._by_source, source), (self._by_username, username))
        )
        return min(len(self._all), 3 * min(turns))

    def to_refuse(self, source: str) -> W | None:
        """Return the one to take out when one more from an address is too many; None: that one.

        The newest of the address with the most; where each has one, the oldest of the user name
        with the most, which has the least time left.
        """
        most = max(self._by_source.values(), key=len, default=OrderedDict[W, None]())
        own = len(self._by_source.get(source, ())) + 1
        if len(most) > own:
            return next(reversed(most))
        if own > 1 or not self._all:
            return None
        commonest = max(self._by_username.values(), key=len)
        return next(iter(commonest))


def _remove(groups: OrderedDict[str, OrderedDict[W, None]], key: str, waiting: W) -> None:
    group = groups[key]
    del group[waiting]
    if not group:
        del groups[key]
