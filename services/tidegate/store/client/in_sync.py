"""Which replicas confirm a write: all that keep up with the master, and a minimum of them.

Called by ``Lane`` with replies of ROLE. Pure: it sends nothing and reads no clock. Any one of the
replicas may be the next master, so what only some of them have may be lost with these. A replica
that is away or hangs must not stop writes for ever either: it is left out, until it keeps up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

#: Host and port, as the replica has announced them.
Replica: TypeAlias = tuple[bytes, bytes]

#: How long writes wait for a replica that does not confirm them, in seconds. As long as a primary
#: of the bundled store accepts writes without any (``min-replicas-max-lag``).
MAX_LAG_S: Final = 5.0
#: Seconds between two looks while nothing falls short.
LOOK_S: Final = 1.0

_MASTER: Final = b"master"


class InSync:
    """The replicas of one master that confirm writes.

    ``minimum`` is how many have to. A replica counts from the first look at a master, or from the
    look at which it has what the master had at the look before; until it is disconnected, or
    ``leave_out`` is called.
    """

    __slots__ = ("_confirmed", "_minimum", "_position", "_reference")

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        #: What each replica that counts has confirmed: a position in the master's stream, in bytes.
        self._confirmed: dict[Replica, int] = {}
        #: The master's position at the last look; None before the first.
        self._position: int | None = None
        #: Its position at the first look since ``fell_short``.
        self._reference: int | None = None

    @property
    def wanted(self) -> int:
        """How many replicas have to confirm a write."""
        return max(self._minimum, len(self._confirmed))

    def forget(self) -> None:
        """Another connection was made: it may be another master."""
        self._confirmed.clear()
        self._position = self._reference = None

    def fell_short(self) -> None:
        """A write has not been confirmed by all in time."""
        self._reference = None

    def looked(self, role: Sequence[Any]) -> bool:
        """Take a reply of ROLE; return whether other replicas count than before.

        That of a replica is ignored: WAIT fails there.
        """
        if role[0] != _MASTER:
            return False
        position = int(role[1])
        online = {(host, port): int(offset) for host, port, offset in role[2]}
        before, since = set(self._confirmed), self._position
        self._confirmed = {
            replica: offset
            for replica, offset in online.items()
            if replica in before or since is None or offset >= since
        }
        self._position = position
        if self._reference is None:
            self._reference = position
        return self._confirmed.keys() != before

    def leave_out(self) -> list[Replica]:
        """Leave out, and return, those that lack what was written before writes fell short."""
        if self._reference is None:
            return []
        behind = [one for one, offset in self._confirmed.items() if offset < self._reference]
        for replica in behind:
            del self._confirmed[replica]
        return behind

    def names(self) -> list[str]:
        """Return the addresses of those that count, for logs."""
        return [name(replica) for replica in self._confirmed]


def name(replica: Replica) -> str:
    """Return an address as text."""
    host, port = replica
    return f"{host.decode()}:{port.decode()}"
