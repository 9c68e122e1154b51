"""Quotas of retained messages: how many, and how many bytes, per client and in all.

Made by the router for ``retained``. The store has the sums, for each partition (ADR 0017); here is
how much of them is left, read again when it is old or a message does not fit. So routers that write
at the same time can exceed a quota by what they write within that time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tidegate.runtime.config.model import LimitsConfig
from tidegate.store.api import RetainedCharge, RetainedUse, Store

#: How old sums may be: those of a client that has used less than half, those of others, and those
#: by which a message is refused.
RELAXED_S: Final = 5.0
STRICT_S: Final = 1.0
REFUSING_S: Final = 0.2
#: Clients whose sums are kept.
MAX_OWNERS: Final = 10_000


class _Owner:
    """What a client has retained, and since when that is known."""

    __slots__ = ("bytes", "messages", "read_s", "removals", "under_way", "under_way_bytes")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.read_s = float("-inf")
        #: ``RetainedQuota._removals`` then.
        self.removals = 0
        #: Messages that are being stored, and at most how many bytes they add.
        self.under_way = 0
        self.under_way_bytes = 0


class RetainedQuota:
    """See the module's docstring. ``limits`` may be replaced at any time."""

    def __init__(self, store: Store, limits: LimitsConfig, time_s: Callable[[], float]) -> None:
        self._store = store
        self._time_s = time_s
        self.limits = limits
        self._all = _Owner()
        #: Counts removals here: sums that were read before are too large.
        self._removals = 0
        self._owners: OrderedDict[str, _Owner] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """Whether any of the quotas is set."""
        limits = self.limits
        return bool(
            limits.max_retained_messages
            or limits.max_retained_bytes
            or limits.max_retained_messages_per_client
            or limits.max_retained_bytes_per_client
        )

    async def charge(self, name: str, size_bytes: int) -> RetainedCharge:
        """Return what is left for one more message of a client; ``settle`` must follow."""
        owner = await self._current(name)
        limits, whole = self.limits, self._all
        charge = RetainedCharge(
            name,
            _left(limits.max_retained_messages_per_client, owner.messages + owner.under_way),
            _left(limits.max_retained_bytes_per_client, owner.bytes + owner.under_way_bytes),
            _left(limits.max_retained_messages, whole.messages + whole.under_way),
            _left(limits.max_retained_bytes, whole.bytes + whole.under_way_bytes),
        )
        for one in (owner, whole):
            one.under_way += 1
            one.under_way_bytes += size_bytes
        return charge

    def settle(self, charge: RetainedCharge, size_bytes: int, *, stored: bool) -> None:
        """Take the outcome of a message that has been charged."""
        owner, whole, added = self._owner(charge.owner), self._all, charge.added
        for one in (owner, whole):
            one.under_way = max(0, one.under_way - 1)
            one.under_way_bytes = max(0, one.under_way_bytes - size_bytes)
        if not stored:
            return
        owner.messages += added.messages
        owner.bytes += added.bytes
        whole.messages += added.all_messages
        whole.bytes += added.all_bytes
        previous = self._owners.get(charge.previous_owner)
        if previous is not None:
            previous.messages -= 1
            previous.bytes -= charge.previous_bytes

    async def may_fit(self, charge: RetainedCharge) -> bool:
        """Whether a refused message fits, by what is stored and newly read."""
        owner = self._owner(charge.owner)
        if self._fits(owner, charge.added):
            return True
        is_new = self._time_s() - owner.read_s < REFUSING_S
        if is_new and owner.removals == self._removals:
            return False
        await self._read(charge.owner, owner)
        return self._fits(owner, charge.added)

    def removed(self) -> None:
        """A message was removed."""
        self._removals += 1

    def _fits(self, owner: _Owner, added: RetainedUse) -> bool:
        limits, whole = self.limits, self._all
        return (
            _has_room(limits.max_retained_messages_per_client, owner.messages, added.messages)
            and _has_room(limits.max_retained_bytes_per_client, owner.bytes, added.bytes)
            and _has_room(limits.max_retained_messages, whole.messages, added.all_messages)
            and _has_room(limits.max_retained_bytes, whole.bytes, added.all_bytes)
        )

    def _owner(self, name: str) -> _Owner:
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = _Owner()
            if len(self._owners) > MAX_OWNERS:
                self._owners.popitem(last=False)
        self._owners.move_to_end(name)
        return owner

    async def _current(self, name: str) -> _Owner:
        owner, limits, whole = self._owner(name), self.limits, self._all
        is_relaxed = all(
            not limit or 2 * used < limit
            for limit, used in (
                (limits.max_retained_messages_per_client, owner.messages),
                (limits.max_retained_bytes_per_client, owner.bytes),
                (limits.max_retained_messages, whole.messages),
                (limits.max_retained_bytes, whole.bytes),
            )
        )
        if self._time_s() - owner.read_s > (RELAXED_S if is_relaxed else STRICT_S):
            await self._read(name, owner)
        return owner

    async def _read(self, name: str, owner: _Owner) -> None:
        removals = self._removals
        use = await self._store.retained_use(name)
        owner.messages, owner.bytes = use.messages, use.bytes
        self._all.messages, self._all.bytes = use.all_messages, use.all_bytes
        owner.read_s, owner.removals = self._time_s(), removals


def _left(limit: int, used: int) -> int | None:
    return limit - used if limit else None


def _has_room(limit: int, used: int, added: int) -> bool:
    return not limit or added <= 0 or used + added <= limit
