"""A fake store of routers: change logs, who is registered, queues that are only written.

In virtual time (``support.virtual_time``). What real servers do is tested on real ones.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence

from tidegate.bans.ban import Ban
from tidegate.core.attempt import ONLY_ATTEMPT, Attempt
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import RecordConfig
from tidegate.store.api import (
    GLOBAL,
    Append,
    AppendOutcome,
    AppendReply,
    AttachReply,
    AttachRequest,
    Change,
    Changes,
    Claim,
    DetachReply,
    DetachRequest,
    DueWork,
    History,
    Holder,
    RetainedAdded,
    RetainedBefore,
    RetainedRemoved,
    RouterRecord,
    SessionSubscribed,
    SessionUnsubscribed,
    StoredSubscriptions,
    StoreUnavailable,
    WriterFenced,
)
from tidegate.store.records import decode_queued

PARTITIONS = 2


class FakeStore:
    """Change logs of two partitions, registered routers, and what was written; see ``Store``."""

    def __init__(self) -> None:
        self.logs: list[list[Change]] = [[] for _ in range(PARTITIONS)]
        #: Registered routers: until when, and the positions they have told.
        self.registered: dict[str, tuple[int, list[int]]] = {}
        #: What was asked, in order.
        self.calls: list[str] = []
        self.fails: set[str] = set()
        #: Cleared: reading the logs waits.
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.lost = False
        self.page = 1000
        self.on_renew: Callable[[], None] | None = None
        self.writer = ""
        self.fenced: set[str] = set()
        #: What was appended: client identifier and payload.
        self.appended: list[tuple[str, bytes]] = []
        #: The same, whole.
        self.appends: list[Append] = []
        #: Identity → the member that has its claim.
        self.claims: dict[str, Holder] = {}
        #: What the next appends become, each one reply; then everything is queued.
        self.append_replies: list[AppendReply | Exception] = []
        #: What the next connections get, each when it is given; then each is a new session.
        self.attach_replies: list[asyncio.Future[AttachReply]] = []
        self.detached: list[DetachRequest] = []
        #: Events: session key, and the event as it is stored.
        self.recorded: list[tuple[str, bytes]] = []
        self.bans: dict[str, Ban] = {}
        self.bans_changed = 0
        self.detach_reply = DetachReply(False)
        #: What the next sweep finds due.
        self.due = DueWork()
        #: Records of retained messages that were set.
        self.records: dict[str, bytes | None] = {}
        #: Identities of those that have one.
        self.retained_identities: set[str] = set()
        #: Wills that were published and are to be forgotten.
        self.published_wills: list[str] = []
        #: Where sessions are connected: (client_id, incarnation) to (edge_id, epoch).
        self.locations: dict[tuple[str, int], tuple[str, int]] = {}
        self.subscriptions: list[StoredSubscriptions] = []
        self.retained: set[str] = set()
        #: Edges, and until when they have a lease.
        self.leases: dict[str, int] = {}
        self.on_replaced: Callable[[], None] = lambda: None
        #: By partition: the first number of its history, and what its readers have written.
        self.histories: dict[int, tuple[int, dict[str, int]]] = {
            partition: (0, {}) for partition in self.all_histories
        }
        self.watched_histories: Sequence[int] = self.all_histories
        #: Which of the connections own their sessions; the others are lost.
        self.owned: set[tuple[str, int]] = set()
        #: Partitions whose history a router has begun.
        self.replaced: set[int] = set()
        self.time_ms = 10_000
        self.is_up = True
        #: By partition: the first epoch that nobody has.
        self.next_epochs: dict[int, int] = {}
        #: Edges with stored connections, and clients with wills to be published.
        self.stored_edges: set[str] = set()
        self.pending_clients: list[str] = []
        self.swept_histories = 0

    def now_ms(self) -> int:
        """Virtual time."""
        return int(asyncio.get_running_loop().time() * 1000)

    def change(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """Somebody changes something; the partition and the position."""
        self.logs[partition].append(RetainedAdded(topic))
        return partition, len(self.logs[partition])

    def note(self, topic: str) -> None:
        """The same, for callbacks."""
        self.change(topic)

    def _asked(self, what: str) -> None:
        self.calls.append(what)
        if what in self.fails:
            raise StoreUnavailable(what)

    async def log_positions(self) -> list[int]:
        self._asked("log_positions")
        return [len(log) for log in self.logs]

    async def changes(self, after: Sequence[int], limit: int) -> Changes:
        self._asked("changes")
        found = Changes(positions=list(after))
        if self.lost:
            self.lost = False
            found.has_gap = True
            return found
        for partition, position in enumerate(after):
            news = self.logs[partition][position : position + self.page]
            found.changes += news
            found.positions[partition] += len(news)
            found.more |= found.positions[partition] < len(self.logs[partition])
        await self.may_read.wait()
        return found

    async def renew_router(
        self, instance: str, now_ms: int, ttl_ms: int, positions: Sequence[int]
    ) -> list[RouterRecord]:
        self._asked("renew_router")
        self.registered[instance] = (now_ms + ttl_ms, list(positions))
        records = self._living(now_ms)
        if self.on_renew is not None:
            self.on_renew()
        return records

    async def routers(self, now_ms: int) -> list[RouterRecord]:
        self._asked("routers")
        return self._living(now_ms)

    async def end_router(self, instance: str) -> None:
        self._asked("end_router")
        self.registered.pop(instance, None)

    def _living(self, now_ms: int) -> list[RouterRecord]:
        return [
            RouterRecord(instance, list(positions))
            for instance, (until_ms, positions) in self.registered.items()
            if until_ms > now_ms
        ]

    # What a whole router asks beside that

    async def stored_subscriptions(self) -> AsyncIterator[list[StoredSubscriptions]]:
        self._asked("stored_subscriptions")
        yield list(self.subscriptions)

    async def retained_topics(self) -> AsyncIterator[list[str]]:
        self._asked("retained_topics")
        yield sorted(self.retained)

    def partition(self, name: str) -> int:
        return len(name) % PARTITIONS

    async def subscribe(
        self,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        generation: str = "",
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        self._asked("subscribe")
        if epoch < 0:
            return 0
        log = self.logs[self.partition(client_id)]
        log.append(SessionSubscribed(client_id, 1, tuple(subscriptions)))
        return len(log)

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> bool:
        self._asked("replayed")
        return True

    async def unsubscribe(
        self,
        client_id: str,
        epoch: int,
        topic_filters: Sequence[str],
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        self._asked("unsubscribe")
        log = self.logs[self.partition(client_id)]
        log.append(SessionUnsubscribed(client_id, 1, tuple(topic_filters)))
        return len(log)

    @property
    def is_reachable(self) -> bool:
        return self.is_up

    async def reserve_epochs(self, partition: int, count: int) -> int:
        self._asked("reserve_epochs")
        first = self.next_epochs.get(partition, 1000)
        self.next_epochs[partition] = first + count
        return first

    async def connected_edges(self) -> tuple[set[str], list[str]]:
        self._asked("connected_edges")
        return set(self.stored_edges), list(self.pending_clients)

    async def attach(self, request: AttachRequest) -> AttachReply:
        self._asked("attach")
        if self.writer in self.fenced:
            raise WriterFenced
        if self.attach_replies:
            return await self.attach_replies.pop(0)
        return AttachReply(1, 1, False)

    async def detach(self, request: DetachRequest) -> DetachReply:
        self._asked("detach")
        self.detached.append(request)
        return self.detach_reply

    async def will_published(self, will_ids: Sequence[str]) -> None:
        self._asked("will_published")
        self.published_wills += will_ids

    async def record(self, events: Sequence[tuple[str, bytes]], config: RecordConfig) -> None:
        self._asked("record")
        self.recorded += events

    async def bans_version(self) -> bytes:
        self._asked("bans_version")
        return b"%d" % self.bans_changed if self.bans_changed else b""

    async def stored_bans(self) -> list[bytes]:
        self._asked("stored_bans")
        return [ban.encode() for ban in self.bans.values()]

    async def add_ban(self, ban: Ban) -> None:
        self._asked("add_ban")
        self.bans[ban.id] = ban
        self.bans_changed += 1

    async def delete_ended_bans(self, now: float) -> None:
        self._asked("delete_ended_bans")

    async def receipt(self, client_id: str, epoch: int, packet_id: int, value: int) -> bool:
        self._asked("receipt")
        return True

    async def append(self, appends: Sequence[Append], now_ms: int = 0) -> AppendReply:
        self._asked("append")
        if self.writer in self.fenced:
            raise WriterFenced
        self.appends += appends
        if self.append_replies:
            reply = self.append_replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply
        outcomes: list[int | AppendOutcome] = []
        for append in appends:
            self.appended.append((append.client_id, decode_queued(append.record).payload))
            outcomes.append(len(self.appended))
        return AppendReply(outcomes, dict(self.locations))

    async def claim(self, claims: Sequence[Claim]) -> list[Holder]:
        self._asked("claim")
        if self.writer in self.fenced:
            raise WriterFenced
        return [self.claims.setdefault(item.identity, item.holder) for item in claims]

    async def set_retained(
        self,
        topic: str,
        record: bytes | None,
        expires_at_ms: int,
        charge: object = None,
        identities: Sequence[str] = (),
    ) -> RetainedBefore | None:
        self._asked("set_retained")
        if self.writer in self.fenced:
            raise WriterFenced
        known = self.retained_identities
        count = len([*itertools.takewhile(known.__contains__, identities)])
        if count:
            return RetainedBefore(count)
        known.update({*identities} - {""})
        self.records[topic] = record
        change = RetainedAdded if record is not None else RetainedRemoved
        self.logs[self.partition(topic)].append(change(topic))
        return None

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        self._asked("get_retained")
        return [
            self.records.get(topic, b"" if topic in self.retained else None) for topic in topics
        ]

    async def leased_edges(self, now_ms: int) -> list[str]:
        self._asked("leased_edges")
        return [edge_id for edge_id, until_ms in self.leases.items() if until_ms > now_ms]

    async def sweep_edges(self, *_: object) -> DueWork:
        return DueWork()

    async def sweep_history(self, *_: object) -> DueWork:
        self.swept_histories += 1
        return DueWork()

    @property
    def all_histories(self) -> list[int]:
        return [GLOBAL, *range(PARTITIONS)]

    async def read_histories(
        self, reader: str, number: int, partitions: Sequence[int]
    ) -> list[History | None]:
        self._asked("read_histories")
        found: list[History | None] = []
        for partition in partitions:
            first, written = self.histories[partition]
            replaces = partition in self.replaced
            found.append(History(first, replaces, written.get(reader), self.time_ms))
            written[reader] = number
        return found

    async def replace_histories(self, items: Sequence[tuple[int, int]], least: int) -> list[int]:
        self._asked("replace_histories")
        for partition, first in items:
            if self.histories[partition][0] == first:
                self.histories[partition] = (least + 1, {})
                self.replaced.add(partition)
        return [self.histories[partition][0] for partition, _ in items]

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        self._asked("verify")
        return [Standing.OWNED if one in self.owned else Standing.LOST for one in connections]

    async def sweep_due(self, now_ms: int, limit: int, publisher: str = "") -> DueWork:
        due, self.due = self.due, DueWork()
        return due

    async def expire_queued(self, now_ms: int, limit: int) -> bool:
        return False

    async def expired_retained(self, now_ms: int, limit: int) -> list[str]:
        return []
