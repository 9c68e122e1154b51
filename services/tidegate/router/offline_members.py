"""Offline members of shared subscriptions: their queued messages are redelivered to connected ones.

Called by the sweeper for members that it has claimed: a moment after their connection ended, or
when a message may wait for one of them while others are connected. Entries that may be redelivered
become an abandoned queue, in a step that fails when the client has reconnected, and are redelivered
by ``abandoned_queues``. Any router may do this, or repeat it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from tidegate.core.session_key import log_fields
from tidegate.mqtt.topics import parse_shared
from tidegate.router.abandoned_queues import (
    MAX_CONCURRENT,
    PAGE,
    PAGE_BYTES,
    AbandonedQueues,
    acquire_turn,
)
from tidegate.router.table import RoutingTable
from tidegate.store.api import AbandonedQueue, OfflineMember, Store, StoreUnavailable
from tidegate.store.records import RecordError, decode_queued, queued_group

log = logging.getLogger(__name__)

#: When a queue is checked again in which messages stay. A check is scheduled at once when a member
#: connects to this router; this is for changes that a router does not see.
RECHECK_MS: Final = 30_000
#: Members whose check is scheduled in one call.
REPORT_BATCH: Final = 500


class OfflineMembers:
    """Redelivers messages queued for offline members; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        table: RoutingTable,
        abandoned_queues: AbandonedQueues,
        clients_to_check: set[str],
        now_ms: Callable[[], int],
    ) -> None:
        """``clients_to_check``: clients whose queues are to be checked; ``groups`` adds them."""
        self._store = store
        self._table = table
        self._abandoned_queues = abandoned_queues
        self._clients_to_check = clients_to_check
        self._now_ms = now_ms
        self._in_progress: set[str] = set()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    async def schedule_checks(self) -> None:
        """Schedule checks of members that a message may wait for. Raises StoreUnavailable."""
        shared = self._table.shared
        clients_to_check = self._clients_to_check
        for group in shared.take_reconnected():
            clients_to_check.update(shared.offline(*group))
        if clients_to_check:
            chosen = list(islice(clients_to_check, REPORT_BATCH))
            await self._store.schedule_checks(chosen, self._now_ms())
            clients_to_check.difference_update(chosen)

    async def redispatch(self, member: OfflineMember) -> None:
        """Redeliver what may be redelivered; when that fails, the claim on the member ends."""
        if member.client_id in self._in_progress:
            return
        self._in_progress.add(member.client_id)
        try:
            if await acquire_turn(self._turns):
                try:
                    await self._redispatch_queue(member)
                finally:
                    self._turns.release()
        except StoreUnavailable as error:
            log.warning(
                "redelivery of an offline member's messages failed, retrying at its next claim",
                extra={**log_fields(member.client_id), "reason": str(error)},
            )
        finally:
            self._in_progress.discard(member.client_id)

    async def _redispatch_queue(self, member: OfflineMember) -> None:
        """Read the queue once from its beginning to its end."""
        session = self._table.sessions.get(member.client_id)
        if session is not None and session.incarnation == member.incarnation:
            if session.epoch > member.epoch:
                return  # it has reconnected
            if session.edge is not None:  # the store's state is newer
                self._table.set_connected(session, None, member.epoch)
        if not self._others_are_connected(member):
            await self._recheck(member)
            return
        after_seq = 0
        some_stay = False
        while True:
            found = await self._store.fetch(
                member.client_id, member.incarnation, after_seq, PAGE, PAGE_BYTES
            )
            if not found:
                break
            after_seq = found[-1][0]
            seqs, some_stay_here = self._choose(member, found)
            some_stay |= some_stay_here
            if seqs and await self._dispatch(member, seqs):
                await self._recheck(member)
                return
        if some_stay:
            await self._recheck(member)
        else:
            await self._store.abandon_entries(member, [], self._now_ms(), 0)

    async def _dispatch(self, member: OfflineMember, seqs: list[int]) -> bool:
        """Move entries to an abandoned queue and redeliver them; True to stop with this queue."""
        now_ms = self._now_ms()
        incarnation = await self._store.abandon_entries(member, seqs, now_ms, now_ms + RECHECK_MS)
        if incarnation is None:
            return True
        if not incarnation:
            return False
        queue = AbandonedQueue(
            member.client_id, incarnation, member.sent_seq, member.sent_uncertain
        )
        return await self._abandoned_queues.redispatch(queue)

    async def _recheck(self, member: OfflineMember) -> None:
        now_ms = self._now_ms()
        await self._store.abandon_entries(member, [], now_ms, now_ms + RECHECK_MS)

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
        """The entries to redeliver now, and whether others stay until a member connects."""
        seqs = []
        some_stay = False
        for seq, record in found:
            try:
                group = queued_group(record)
                if not group:
                    continue
                message = decode_queued(record)
            except RecordError:  # of a newer version: left to routers that can read it
                some_stay = True
                continue
            if message.expires_at_ms and message.expires_at_ms <= self._now_ms():
                continue
            if message.qos == 2 and (member.sent_uncertain or seq <= member.sent_seq):
                continue  # [MQTT-4.8.2-4]
            share_name, _, topic_filter = group.partition("/")
            if self._table.shared.has_connected(share_name, topic_filter):
                seqs.append(seq)
            else:
                some_stay = True
        return seqs, some_stay
