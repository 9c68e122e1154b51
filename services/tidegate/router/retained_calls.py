"""Calls of the store that write retained messages, within the quotas.

Made and called by ``retained``. Owns whom messages count for that are not yet written, and what a
quota has refused in the batch that is being written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import TypeAlias

from tidegate.mqtt.packets import Publish
from tidegate.router.retained_changes import RetainedChange, WaitingChanges
from tidegate.router.retained_quota import RetainedQuota
from tidegate.store.api import RetainedBefore, RetainedCharge, RetainRefusal, Store
from tidegate.store.records import encode_retained

#: None: it is stored.
Result: TypeAlias = RetainRefusal | RetainedBefore | None
Chains: TypeAlias = Mapping[str, WaitingChanges]


class RetainedCalls:
    """See the module's docstring."""

    __slots__ = ("_now_ms", "_owners", "_quota", "_refused", "_store")

    def __init__(
        self, store: Store, quota: RetainedQuota | None, now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._quota = quota
        self._now_ms = now_ms
        #: Whom messages without an identity count for: topic -> client.
        self._owners: dict[str, str] = {}
        self._refused: dict[str, RetainedCharge] = {}

    @property
    def has_quota(self) -> bool:
        """Whether messages count for clients."""
        return self._quota is not None and self._quota.is_on

    def charge_to(self, topic: str, owner: str) -> None:
        """A message without an identity waits, and counts for a client."""
        self._owners[topic] = owner

    def plain_change(self, topic: str, message: Publish | None) -> RetainedChange:
        """Return the change of a topic that has no identity."""
        return RetainedChange(message, self._owners.get(topic, ""))

    async def write_all(
        self, writing: Mapping[str, Publish | None], chains: Chains, dirty: Container[str]
    ) -> list[Result]:
        """Write a batch; of what is in ``chains`` the newest change. ``dirty``: what follows.

        Raises StoreUnavailable, WriterFenced.
        """
        results = await asyncio.gather(
            *(self._write(*item, chains.get(item[0])) for item in writing.items())
        )
        if self._quota is None or not (self._owners or self._refused):
            return results
        for place, (topic, message) in enumerate(writing.items()):
            charge = self._refused.pop(topic, None)
            if results[place] is not RetainRefusal.RETAINED_QUOTA or charge is None:
                continue
            if await self._quota.may_fit(charge):
                # What was under way with it left too little, or what is left was not known well.
                results[place] = await self._write(topic, message, chains.get(topic))
                self._refused.clear()
        for topic in writing:
            if topic not in dirty:
                self._owners.pop(topic, None)
        return results

    async def _write(
        self, topic: str, message: Publish | None, chain: WaitingChanges | None
    ) -> Result:
        record = encode_retained(message, self._now_ms()) if message is not None else None
        expires_at_ms = message.expires_at_ms if message is not None else 0
        owner = chain.newest.owner if chain is not None else self._owners.get(topic, "")
        identities = chain.identities() if chain is not None else ()
        store, quota = self._store, self._quota
        if quota is None or not owner or record is None:
            result = await store.set_retained(topic, record, expires_at_ms, None, identities)
            if owner and quota is not None and result is None:
                quota.removed()
            return result
        size_bytes = len(topic.encode()) + len(record)
        charge = await quota.charge(owner, size_bytes)
        stored = False
        try:
            result = await store.set_retained(topic, record, expires_at_ms, charge, identities)
            stored = result is None
        finally:
            quota.settle(charge, size_bytes, stored=stored)
        if result is RetainRefusal.RETAINED_QUOTA:
            self._refused[topic] = charge
        return result
