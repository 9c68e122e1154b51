"""Durable members of shared subscriptions that have no connection: others get what waits for them.

Called by the router for members that a sweep has claimed, a moment after their connection ended or
whenever a message may wait for one of them while others are connected. Entries that may go to
others are set aside in the store, in a step that fails when the client is back, and go the way of
lost queues. Nothing happens here that another router could not do as well, or again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from tidegate.mqtt.topics import parse_shared
from tidegate.router.abandoned_queues import AT_ONCE, PAGE, PAGE_BYTES, AbandonedQueues, take_turn
from tidegate.router.table import RoutingTable
from tidegate.store.api import AbandonedQueue, OfflineMember, Store, StoreUnavailable
from tidegate.store.records import RecordError, decode_queued, queued_group

log = logging.getLogger(__name__)

#: When a queue is looked at again that holds what nobody could be given. A member that comes is
#: noticed at once; this is for what a router cannot know.
LOOK_AGAIN_MS: Final = 30_000
#: Members that are reported to the store at a time.
REPORTED_AT_ONCE: Final = 500


class OfflineMembers:
    """Gives away what waits for members that have gone; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        table: RoutingTable,
        abandoned_queues: AbandonedQueues,
        misplaced: set[str],
        now_ms: Callable[[], int],
    ) -> None:
        """``misplaced``: clients to look at soon; whoever finds one adds it."""
        self._store = store
        self._table = table
        self._abandoned_queues = abandoned_queues
        self._misplaced = misplaced
        self._now_ms = now_ms
        self._under_way: set[str] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def look_soon(self) -> None:
        """Report members that a message may wait for. Raises StoreUnavailable."""
        shared = self._table.shared
        misplaced = self._misplaced
        for group in shared.take_revived():
            misplaced.update(shared.offline(*group))
        if misplaced:
            chosen = list(islice(misplaced, REPORTED_AT_ONCE))
            await self._store.schedule_checks(chosen, self._now_ms())
            misplaced.difference_update(chosen)

    async def redispatch(self, member: OfflineMember) -> None:
        """Give away what may go to others; when that fails, the claim on the member runs out."""
        if member.client_id in self._under_way:
            return
        self._under_way.add(member.client_id)
        try:
            if await take_turn(self._turns):
                try:
                    await self._empty(member)
                finally:
                    self._turns.release()
        except StoreUnavailable as error:
            log.warning(
                "cannot give a member's messages to others, will retry",
                extra={"client_id": member.client_id, "reason": str(error)},
            )
        finally:
            self._under_way.discard(member.client_id)

    async def _empty(self, member: OfflineMember) -> None:
        """Read the queue once from its beginning to its end."""
        session = self._table.sessions.get(member.client_id)
        if session is not None and session.incarnation == member.incarnation:
            if session.epoch > member.epoch:
                return  # it is back
            if session.edge is not None:  # the store knows better
                self._table.set_connected(session, None, member.epoch)
        if not self._others_are_connected(member):
            await self._look_again(member)
            return
        after_seq = 0
        something_waits = False
        while True:
            found = await self._store.fetch(
                member.client_id, member.incarnation, after_seq, PAGE, PAGE_BYTES
            )
            if not found:
                break
            after_seq = found[-1][0]
            seqs, some_wait = self._choose(member, found)
            something_waits |= some_wait
            if seqs and await self._give(member, seqs):
                await self._look_again(member)
                return
        if something_waits:
            await self._look_again(member)
        else:
            await self._store.abandon_entries(member, [], self._now_ms(), 0)

    async def _give(self, member: OfflineMember, seqs: list[int]) -> bool:
        """Set entries aside and have them given away; True if that is to be the end of it."""
        now_ms = self._now_ms()
        again_ms = now_ms + LOOK_AGAIN_MS
        number = await self._store.abandon_entries(member, seqs, now_ms, again_ms)
        if number is None:
            return True
        if not number:
            return False
        lost = AbandonedQueue(member.client_id, number, member.sent_seq, member.sent_uncertain)
        return await self._abandoned_queues.redispatch(lost)

    async def _look_again(self, member: OfflineMember) -> None:
        now_ms = self._now_ms()
        await self._store.abandon_entries(member, [], now_ms, now_ms + LOOK_AGAIN_MS)

    def _others_are_connected(self, member: OfflineMember) -> bool:
        session = self._table.sessions.get(member.client_id)
        if session is None:
            return False
        shares = map(parse_shared, session.subscriptions)
        return any(
            share is not None and self._table.shared.has_connected(*share) for share in shares
        )

    def _choose(
        self, member: OfflineMember, found: list[tuple[int, bytes]]
    ) -> tuple[list[int], bool]:
        """The entries that go to others now, and whether there are some that wait for others."""
        seqs = []
        something_waits = False
        for seq, record in found:
            try:
                group = queued_group(record)
                if not group:
                    continue
                message = decode_queued(record)
            except RecordError:  # of a newer version: routers of that version can read it
                something_waits = True
                continue
            if message.expires_at_ms and message.expires_at_ms <= self._now_ms():
                continue
            if message.qos == 2 and (member.sent_uncertain or seq <= member.sent_seq):
                continue  # [MQTT-4.8.2-4]
            share_name, _, topic_filter = group.partition("/")
            if self._table.shared.has_connected(share_name, topic_filter):
                seqs.append(seq)
            else:
                something_waits = True
        return seqs, something_waits
