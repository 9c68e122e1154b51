"""What waits to be stored for the topic of a retained message that may have been stored before.

Pure: ``retained`` owns the objects and makes the calls. A publish with an identity (QoS 2, a will)
may come again by another router; then it changes nothing, and what waits behind it is written.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tidegate.mqtt.packets import Publish

#: Identities that a call of the store has: as many as a partition keeps.
MAX_IDENTITIES: Final = 4_096


@dataclass(slots=True, frozen=True)
class RetainedChange:
    """What a publish makes of its topic."""

    #: None: the topic retains nothing.
    message: Publish | None
    #: The client that it counts for, "" for none.
    owner: str = ""
    #: "": it takes effect as often as it comes.
    identity: str = ""
    #: Whether it may have been stored before, so that it is not known what the topic retains.
    may_repeat: bool = False


class WaitingChanges:
    """The changes of one topic that wait together, of which one has an identity at least.

    Only the newest is written; those before it have taken effect then, too. The store refuses it
    if it knows its identity, and the next older one is to be written: so their messages are kept,
    back to the newest without an identity, and of what that one replaces the identities.
    """

    __slots__ = ("_base", "_base_name", "_changes", "_replaced")

    def __init__(self, base: RetainedChange | None = None) -> None:
        #: The newest change without an identity.
        self._base = base
        #: Stands for it once something has been added behind it: when a call has an unknown outcome
        #: and is repeated, it must not be written over what came behind it.
        self._base_name = ""
        #: Those behind it, the oldest first; each has an identity.
        self._changes: list[RetainedChange] = []
        #: Identities of what it has replaced, the oldest first.
        self._replaced: list[str] = []

    @property
    def newest(self) -> RetainedChange:
        """What is written first."""
        if self._changes:
            return self._changes[-1]
        assert self._base is not None
        return self._base

    @property
    def is_certain(self) -> bool:
        """Whether one of them takes effect in any case."""
        return self._base is not None or not all(one.may_repeat for one in self._changes)

    def add(self, change: RetainedChange) -> None:
        """Add a change behind the others."""
        if change.identity:
            if self._base is not None and not self._base_name:
                self._base_name = secrets.token_hex(8)
            self._changes.append(change)
            return
        self._replaced += [one.identity for one in self._changes]
        del self._replaced[:-MAX_IDENTITIES]
        self._base, self._base_name, self._changes = change, "", []

    def add_before(self, older: WaitingChanges) -> None:
        """Add changes that came before these."""
        if self._base is not None:
            names = [one.identity for one in older._changes]
            self._replaced = [*older._replaced, *names, *self._replaced][-MAX_IDENTITIES:]
            return
        self._base, self._base_name = older._base, older._base_name
        self._replaced = older._replaced
        if self._base is not None and not self._base_name:
            self._base_name = secrets.token_hex(8)
        self._changes = [*older._changes, *self._changes]

    def identities(self) -> Sequence[str]:
        """All of them, the newest first; "" of a change without one."""
        found = [one.identity for one in reversed(self._changes)]
        if self._base is not None:
            found.append(self._base_name)
        found += reversed(self._replaced)
        return found[:MAX_IDENTITIES]

    def drop_repeated(self, count: int) -> bool:
        """Leave out the newest changes, which have been stored before; False: nothing is left."""
        if count > len(self._changes):
            return False
        del self._changes[len(self._changes) - count :]
        return bool(self._changes) or self._base is not None
