"""The store on a Redis or Valkey server: ``tidegate.store.api.Store`` in full.

Sessions, queues, subscriptions and retained messages; what is about no single session is in
``coordination``, whose methods it hands out as its own. Translates calls into the operations of the
script (``scripts``) and its results back. Every write is atomic and fenced there; batching and
connections are ``client``'s. Routers call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Self, TypeAlias

from tidegate.core.attempt import ONLY_ATTEMPT, Attempt
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.process.futures import then
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store import operations as op
from tidegate.store import scripts
from tidegate.store.api import (
    Append,
    AppendReply,
    AttachReply,
    AttachRequest,
    Claim,
    DetachReply,
    DetachRequest,
    Holder,
    OfflineMember,
    RetainedBefore,
    RetainedCharge,
    RetainedUse,
    RetainRefusal,
    StoredSubscriptions,
    WriterFenced,
)
from tidegate.store.ban_store import BanStore
from tidegate.store.client.failures import StoreRefused, check_layout
from tidegate.store.client.lanes import LaneSettings, StoreFault, start_failure
from tidegate.store.client.servers import Word
from tidegate.store.client.topology import make_topology
from tidegate.store.coordination import Coordination
from tidegate.store.keys import FORMAT_KEY, GLOBAL_PREFIX, PING_KEY, Keyspace
from tidegate.store.partitions import REPLY_BYTES, Partitions, Words
from tidegate.store.record_store import RecordStore
from tidegate.store.records import encode_options
from tidegate.store.replies import (
    Queues,
    attach_reply,
    detach_reply,
    join_appends,
    position_of,
    read_appends,
    stored_sessions,
)

__all__ = ["RedisStore", "StoreRefused"]

#: Topics, names or sessions read at a time.
_PAGE = 100
#: Appends that travel as one operation; longer lists are cut, so that no call lasts long.
_APPENDS_PER_OPERATION = 128

#: What ``set_retained`` returns when the server is full, and when a quota is exceeded.
_STORE_FULL = 2
_OVER_QUOTA = 3
#: In place of whom a retained message counts for, and how much is left.
_NO_CHARGE = (b"",) * 5

#: Operations of one append in flight, with the queues that each names.
_Started: TypeAlias = list[tuple[Queues, asyncio.Future[Any]]]


class RedisStore:
    """All state of the broker, on one server or many. Make it with ``connect``."""

    def __init__(
        self,
        url: str,
        limits: LimitsConfig,
        store: StoreConfig,
        counters: Counters,
    ) -> None:
        self._keys = Keyspace(store.partitions)
        self._counters = counters
        #: The setting that names the server.
        self._setting = "store.data_dir" if store.url is None else "store.url"
        self._header: list[Word] = []
        self.set_limits(limits)
        settings = LaneSettings(
            script=scripts.load(),
            prefixes=(GLOBAL_PREFIX, *self._keys.prefixes),
            header=self._header,
            on_dropped=self._count_dropped,
            timeout_s=store.operation_timeout_s,
            counters=counters,
            on_replaced=self._server_replaced,
            processes=set(),
        )
        #: Called when a server is another one, or has been restarted: it may have lost something.
        self.on_replaced: Callable[[], None] = _nothing
        self._partitions = partitions = Partitions(self._keys, make_topology(url, store, settings))
        self._hot = partitions.hot
        self._bulk = partitions.bulk
        self._names_only: tuple[str, ...] = ("NOVALUES",)
        #: The router instance that appends and retains; see ``fence_writer``.
        self.writer = ""
        #: Queue entries that the policy drop_oldest has removed since the start.
        self.evicted_count = 0
        self._coordination = coordination = Coordination(partitions)
        self.share_time = coordination.time.share
        self.hold = coordination.hold
        self.partition = coordination.partition
        self.log_positions = coordination.log_positions
        self.changes = coordination.changes
        self.renew_lease = coordination.renew_lease
        self.end_lease = coordination.end_lease
        self.leased_edges = coordination.leased_edges
        self.end_all_leases = coordination.end_all_leases
        self.verify = coordination.verify
        self.read_histories = coordination.read_histories
        self.sweep_history = coordination.sweep_history
        self.renew_router = coordination.renew_router
        self.end_router = coordination.end_router
        self.routers = coordination.routers
        self.fence_writer = coordination.fence_writer
        self.sweep_edges = coordination.sweep_edges
        self.sweep_due = coordination.sweep_due
        self.expired_retained = coordination.expired_retained
        self.expire_queued = coordination.expire_queued
        self.schedule_checks = coordination.schedule_checks
        self.will_published = coordination.will_published
        self.verify_wills = coordination.verify_wills
        self.record = RecordStore(partitions).add
        bans = BanStore(partitions)
        self.bans_version = bans.version
        self.stored_bans = bans.stored
        self.add_ban = bans.add
        self.delete_ended_bans = bans.delete_ended

    @classmethod
    async def connect(
        cls,
        *,
        url: str,
        limits: LimitsConfig,
        store: StoreConfig,
        counters: Counters | None = None,
    ) -> Self:
        """Connect, and check that servers and contents can be used.

        Raises StoreUnavailable when a server does not answer, StoreRefused when one is too old, of
        another kind than the URL says, or holds another layout, and ValueError for an unusable URL.
        """
        self = cls(url, limits, store, counters or Counters())
        try:
            await self._partitions.open()
            await self._check()
        except BaseException as error:
            await self.close()
            failure = start_failure(error, self._setting)
            if failure is error:
                raise
            raise failure from error
        return self

    @property
    def watched_histories(self) -> Sequence[int]:
        """The partitions whose histories tell of all others, too."""
        return self._coordination.watched_histories

    @property
    def all_histories(self) -> Sequence[int]:
        """Every partition that has a history."""
        return self._coordination.all_histories

    async def replace_histories(self, items: Sequence[tuple[int, int]], least: int) -> list[int]:
        """Begin new histories, with numbers above ``least``; the first numbers now."""
        # What describes the layout is gone from a server that has been emptied.
        await self._partitions.command(b"SET", FORMAT_KEY, self._keys.format, b"NX")
        return await self._coordination.replace_histories(items, least)

    def use_for(self, group: str) -> None:
        """Name the group of processes that it is used by from now on."""
        self._coordination.group = group

    def set_limits(self, limits: LimitsConfig) -> None:
        """Bound queues by these limits from now on; a longer queue keeps its messages."""
        self._header[:] = script_header(limits)

    def _server_replaced(self) -> None:
        self.on_replaced()

    def _count_dropped(
        self, evicted: int, queued_at_end: int, unsent_at_end: int, expired: int
    ) -> None:
        self.evicted_count += evicted
        counters = self._counters
        counters.queued -= evicted + queued_at_end + expired
        counters.dropped["expired"] += expired
        counters.dropped["queue_full"] += evicted
        counters.dropped["session_ended"] += unsent_at_end

    async def _check(self) -> None:
        ours = self._keys.format
        await self._partitions.command(b"SET", FORMAT_KEY, ours, b"NX")
        found = (await self._partitions.command(b"GET", FORMAT_KEY)).decode()
        check_layout(self._setting, found, ours)

    # Connections

    def attach(self, request: AttachRequest) -> asyncio.Future[AttachReply]:
        """Raise the epoch of the client identifier, discard or resume its session (G3)."""
        client = request.client_id.encode()
        prefix = self._keys.prefix(client)
        will = request.will or b""
        words: Words = [
            op.ATTACH,
            15,
            prefix,
            client,
            request.edge_id,
            1 if request.clean_start else 0,
            request.session_expiry_s,
            request.now_ms,
            will,
            request.will_delay_s,
            b"" if request.supersedes is None else request.supersedes,
            self.writer,
            request.number or b"",
            request.user,
            1 if request.checks_user else 0,
            b"" if request.sessions_left is None else request.sessions_left,
            request.tries,
        ]
        return then(self._hot.submit(prefix, words, 200 + len(will)), attach_reply)

    @property
    def is_reachable(self) -> bool:
        """Whether calls do not fail at once."""
        return not self._hot.is_down

    async def reserve_epochs(self, partition: int, count: int) -> int:
        """Return the first of so many epochs that no connection has or gets."""
        prefix = self._keys.prefixes[partition]
        first: int = await self._hot.submit(prefix, [op.RESERVE_EPOCHS, 2, prefix, count], 100)
        return first

    async def connected_edges(self) -> tuple[set[str], list[str]]:
        """Edges that may have stored connections; clients with wills to be published."""
        found = {}
        for key in (b"edges", b"pending"):
            asked = []
            for prefix in self._keys.prefixes:
                words: Words = [op.COMMAND, 2, b"HGETALL", prefix + key]
                asked.append(self._bulk.submit(prefix, words, 10_000))
            pages = await asyncio.gather(*asked)
            found[key] = [name.decode() for page in pages for name in page[::2]]
        return set(found[b"edges"]), found[b"pending"]

    async def withdraw_connects(
        self, edge_id: str, connects: Sequence[tuple[str, Attempt]], now_ms: int
    ) -> None:
        """End what CONNECTs without an outcome have begun, and refuse earlier attempts."""
        calls = []
        for client_id, (number, tries) in connects:
            client = client_id.encode()
            prefix = self._keys.prefix(client)
            words: Words = [
                op.WITHDRAW_CONNECT,
                6,
                prefix,
                client,
                edge_id,
                number,
                tries,
                now_ms,
            ]
            calls.append(self._hot.submit(prefix, words, 200))
        await asyncio.gather(*calls)

    async def user_sessions(self, user: str) -> int:
        """How many durable sessions a user has."""
        return sum(await self._partitions.each(self._hot, op.USER_SESSIONS, user))

    def detach(self, request: DetachRequest) -> asyncio.Future[DetachReply]:
        """End a connection: keep or discard the session, keep, arm or discard its will."""
        client = request.client_id.encode()
        prefix = self._keys.prefix(client)
        expiry = request.session_expiry_s
        words: Words = [
            op.DETACH,
            7,
            prefix,
            client,
            request.epoch,
            request.now_ms,
            1 if request.publish_will else 0,
            b"" if expiry is None else expiry,
            request.sent_seq,
        ]
        return then(self._hot.submit(prefix, words, 200), partial(detach_reply, request.client_id))

    async def set_expiry(self, client_id: str, epoch: int, session_expiry_s: int) -> bool:
        """Change the session expiry of a live connection's session; False when fenced."""
        return await self._fenced(op.SET_EXPIRY, client_id, epoch, [session_expiry_s], 100)

    # Subscriptions

    async def subscribe(
        self,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        generation: str = "",
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        """Store subscriptions of a durable session; return a position in its change log."""
        words: Words = [attempt.number or b"", attempt.tries, generation]
        for topic_filter, options in subscriptions:
            words += (topic_filter, encode_options(options))
        size = sum(100 + len(topic_filter) for topic_filter, _ in subscriptions)
        return position_of(await self._owned(op.SUBSCRIBE, client_id, epoch, words, size))

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> bool:
        """Store up to which topic retained messages have been sent; False: fenced."""
        words = [word for item in items for word in item]
        return bool(await self._owned(op.REPLAYED, client_id, epoch, words, 100 * len(items)))

    async def unsubscribe(
        self,
        client_id: str,
        epoch: int,
        topic_filters: Sequence[str],
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        """Remove subscriptions of a durable session; return a position in its change log."""
        words: Words = [attempt.number or b"", attempt.tries, *topic_filters]
        size = 100 * len(topic_filters)
        return position_of(await self._owned(op.UNSUBSCRIBE, client_id, epoch, words, size))

    # The queue

    async def append(self, appends: Sequence[Append], now_ms: int = 0) -> AppendReply:
        """Queue messages; the outcome of each, and where their sessions are connected."""
        if not self._partitions.sharded:
            return await _appended(self._start_append(GLOBAL_PREFIX, appends, now_ms))
        places: dict[bytes, list[int]] = {}
        for place, item in enumerate(appends):
            places.setdefault(self._keys.prefix(item.client_id.encode()), []).append(place)
        if len(places) == 1:
            return await _appended(self._start_append(next(iter(places)), appends, now_ms))
        started = [
            self._start_append(prefix, [appends[place] for place in chosen], now_ms)
            for prefix, chosen in places.items()
        ]
        replies = await asyncio.gather(*map(_appended, started), return_exceptions=True)
        return join_appends(len(appends), list(places.values()), replies)

    def _start_append(self, prefix: bytes, appends: Sequence[Append], now_ms: int) -> _Started:
        return [
            self._submit_appends(prefix, appends[start : start + _APPENDS_PER_OPERATION], now_ms)
            for start in range(0, len(appends), _APPENDS_PER_OPERATION)
        ]

    def _submit_appends(
        self, prefix: bytes, appends: Sequence[Append], now_ms: int
    ) -> tuple[Queues, asyncio.Future[Any]]:
        """Send one operation: each queue is named once, messages follow the number of theirs."""
        queues: Queues = {}
        names: Words = []
        messages: Words = []
        size = 0
        # The queue of the messages before, and where their number is to be.
        last: tuple[str, int] | None = None
        head = 0
        for item in appends:
            record = item.record
            size += 100 + len(record)
            key = (item.client_id, item.incarnation)
            if key == last and not item.identity:
                messages.append(record)
                continue
            if last is not None:
                messages[head] = len(messages) - head - 1
            number = queues.get(key)
            if number is None:
                number = queues[key] = len(queues) + 1
                client = item.client_id.encode()
                names += (self._keys.prefix(client), client, item.incarnation)
            if item.identity:
                messages += (-number if item.claimed else number, 0, item.identity, record)
                last = None
            else:
                head = len(messages) + 1
                messages += (number, 0, record)
                last = key
        if last is not None:
            messages[head] = len(messages) - head - 1
        count = 3 + len(names) + len(messages)
        words = [op.APPEND, count, self.writer, now_ms, len(queues), *names, *messages]
        return queues, self._hot.submit(prefix, words, size)

    async def claim(self, claims: Sequence[Claim]) -> list[Holder]:
        """Claim messages for members of groups; who has each claim now. Raises WriterFenced."""
        parts: dict[bytes, list[int]] = {}
        for place, item in enumerate(claims):
            parts.setdefault(self._partitions.group_prefix(item.group.encode()), []).append(place)
        started = []
        for prefix, places in parts.items():
            words: Words = [self.writer]
            for place in places:
                item = claims[place]
                group = item.group.encode()
                before = b"" if item.moved_from is None else _holder_name(item.moved_from)
                member = _holder_name(item.holder)
                words += (self._keys.prefix(group), group, item.identity, member, before)
            size = 200 * len(places)
            started.append(self._hot.submit(prefix, [op.CLAIM, len(words), *words], size))
        replies = await asyncio.gather(*started, return_exceptions=True)
        holders: dict[int, Holder] = {}
        for reply, places in zip(replies, parts.values(), strict=True):
            if isinstance(reply, BaseException):
                raise reply
            for place, word in zip(places, reply, strict=True):
                if type(word) is int:
                    raise WriterFenced
                incarnation, _, client_id = word.decode().partition(":")
                holders[place] = (client_id, int(incarnation))
        return [holders[place] for place in range(len(claims))]

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Read queued records with seq > after_seq in order, bounded; at least one if any."""
        queue = self._keys.queue(client_id.encode(), incarnation)
        return await self._fetch(client_id, queue, after_seq, max_count, max_bytes) or []

    async def fetch_owned(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, bytes]] | None:
        """``fetch`` for a connection, which is to be sent what is read; None if it is fenced."""
        client = client_id.encode()
        queue, owner = self._keys.queue(client, incarnation), (client, epoch)
        return await self._fetch(client_id, queue, after_seq, max_count, max_bytes, owner)

    async def _fetch(
        self,
        client_id: str,
        queue: bytes,
        after_seq: int,
        max_count: int,
        max_bytes: int,
        owner: tuple[bytes, int] | None = None,
    ) -> list[tuple[int, bytes]] | None:
        prefix = self._keys.prefix(client_id.encode())
        words: Words = [op.FETCH, 4, queue, after_seq, max_count, max_bytes]
        if owner is not None:
            words[1] = 7
            words += (prefix, *owner)
        result = await self._hot.submit(prefix, words, min(max_bytes, 256 * max_count))
        if result == 0:
            return None
        return [(int(result[n][2:]), result[n + 1]) for n in range(0, len(result), 2)]

    async def fetch_abandoned(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Read an abandoned queue, as ``fetch`` does."""
        queue = self._keys.abandoned_queue(client_id.encode(), incarnation)
        return await self._fetch(client_id, queue, after_seq, max_count, max_bytes) or []

    async def trim_abandoned(
        self, client_id: str, incarnation: int, through_seq: int, now_ms: int
    ) -> bool:
        """Delete entries of an abandoned queue; True when there are more: its claim is renewed."""
        client = client_id.encode()
        prefix = self._keys.prefix(client)
        words: Words = [op.TRIM_ABANDONED, 5, prefix, client, incarnation, through_seq, now_ms]
        return bool(await self._hot.submit(prefix, words, 100))

    async def abandon_entries(
        self, member: OfflineMember, seqs: Sequence[int], now_ms: int, next_check_ms: int
    ) -> int | None:
        """Make these entries an abandoned queue of their own, claimed now; its incarnation."""
        client = member.client_id.encode()
        prefix = self._keys.prefix(client)
        words: Words = [prefix, client, member.epoch, now_ms, next_check_ms, *seqs]
        number: int = await self._hot.submit(
            prefix, [op.ABANDON_ENTRIES, len(words), *words], 200 * len(words)
        )
        return None if number < 0 else number

    async def return_entries(
        self, client_id: str, epoch: int, seqs: Sequence[int], sent_seq: int, now_ms: int
    ) -> int | None:
        """Make these entries an abandoned queue of their own, claimed now; its incarnation."""
        client = client_id.encode()
        prefix = self._keys.prefix(client)
        words: Words = [prefix, client, epoch, now_ms, sent_seq, *seqs]
        number: int = await self._hot.submit(
            prefix, [op.RETURN_ENTRIES, len(words), *words], 200 * len(words)
        )
        return None if number < 0 else number

    async def complete(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        """Delete entries whose delivery is complete (also their PUBREL state); False if fenced."""
        return await self._fenced(op.COMPLETE, client_id, epoch, seqs, 20 * len(seqs))

    async def complete_many(self, items: Sequence[tuple[str, int, Sequence[int]]]) -> list[bool]:
        """``complete`` for several (client_id, epoch, seqs) at once."""
        prefix = self._keys.prefix
        waiting = []
        for client_id, epoch, seqs in items:
            client = client_id.encode()
            partition = prefix(client)
            words: Words = [op.COMPLETE, 3 + len(seqs), partition, client, epoch, *seqs]
            waiting.append(self._hot.submit(partition, words, 100 + 20 * len(seqs)))
        await asyncio.wait(waiting)
        failures = [error for reply in waiting if (error := reply.exception()) is not None]
        if failures:
            raise failures[0]
        return [bool(reply.result()) for reply in waiting]

    async def release(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        """Store that PUBREC was received for these entries: from now on PUBREL is re-sent."""
        return await self._fenced(op.RELEASE, client_id, epoch, seqs, 20 * len(seqs))

    async def receipt(self, client_id: str, epoch: int, packet_id: int, value: int) -> bool:
        """Store one byte of ``receipts``; False when fenced."""
        return await self._fenced(op.RECEIPT, client_id, epoch, [packet_id, value], 100)

    async def _fenced(
        self,
        letter: bytes,
        client_id: str,
        epoch: int,
        words: Sequence[Word],
        size: int,
    ) -> bool:
        return bool(await self._owned(letter, client_id, epoch, words, size))

    async def _owned(
        self,
        letter: bytes,
        client_id: str,
        epoch: int,
        words: Sequence[Word],
        size: int,
    ) -> Any:
        client = client_id.encode()
        prefix = self._keys.prefix(client)
        return await self._hot.submit(
            prefix, [letter, 3 + len(words), prefix, client, epoch, *words], 100 + size
        )

    # Retained messages

    async def set_retained(
        self,
        topic: str,
        record: bytes | None,
        expires_at_ms: int,
        charge: RetainedCharge | None = None,
        identities: Sequence[str] = (),
    ) -> RetainRefusal | RetainedBefore | None:
        """Replace (or, with None, remove) the retained message of a topic. 0 = no expiry."""
        name = topic.encode()
        prefix = self._keys.prefix(name)
        content = record or b""
        words: Words = [prefix, name, content, expires_at_ms, self.writer]
        if charge is not None:
            left = (charge.messages, charge.bytes, charge.all_messages, charge.all_bytes)
            words += (charge.owner, *(b"" if room is None else room for room in left))
        elif identities:
            words += _NO_CHARGE
        size = 200 + len(content)
        if identities:
            names = [identity.encode() for identity in identities]
            size += sum(map(len, names))
            words += names
        words = [op.SET_RETAINED, len(words), *words]
        result = await self._hot.submit(prefix, words, size)
        if not result:
            raise WriterFenced
        if type(result) is list:
            if charge is not None:
                charge.added = RetainedUse(*result[1:5])
                charge.previous_owner, charge.previous_bytes = result[5].decode(), result[6]
            return RetainRefusal.RETAINED_QUOTA if result[0] == _OVER_QUOTA else None
        if result < 0:
            return RetainedBefore(-result)
        return RetainRefusal.STORE_FULL if result == _STORE_FULL else None

    async def retained_use(self, owner: str) -> RetainedUse:
        """How much the retained messages that count use."""
        found = await self._partitions.each(self._hot, op.RETAINED_USE, owner)
        return RetainedUse(*map(sum, zip(*found, strict=True)))

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        """The retained records of these topics, in order, None where there is none."""
        if not self._partitions.sharded:
            return await self._get_retained(GLOBAL_PREFIX, topics)
        places: dict[bytes, list[int]] = {}
        for place, topic in enumerate(topics):
            places.setdefault(self._keys.prefix(topic.encode()), []).append(place)
        parts = [
            self._get_retained(prefix, [topics[place] for place in chosen])
            for prefix, chosen in places.items()
        ]
        results: list[bytes | None] = [None] * len(topics)
        for chosen, records in zip(places.values(), await asyncio.gather(*parts), strict=True):
            for place, record in zip(chosen, records, strict=True):
                results[place] = record
        return results

    async def _get_retained(self, prefix: bytes, topics: Sequence[str]) -> list[bytes | None]:
        records: list[bytes | None] = []
        while len(records) < len(topics):
            words: Words = [REPLY_BYTES]
            for topic in topics[len(records) : len(records) + _PAGE]:
                name = topic.encode()
                words += (self._keys.prefix(name), name)
            records += await self._bulk.submit(
                prefix, [op.GET_RETAINED, len(words), *words], REPLY_BYTES
            )
        return records

    async def retained_topics(self) -> AsyncIterator[list[str]]:
        """Every topic with a retained message, in chunks."""
        for prefix in self._keys.prefixes:
            async for names in self._partitions.scan(prefix, self._scan_retained):
                yield [name.decode() for name in names]

    async def _scan_retained(self, prefix: bytes, cursor: bytes) -> tuple[bytes, list[bytes]]:
        count = 10 * _PAGE if self._names_only else _PAGE // 10
        key = prefix + b"retained"
        words: Words = [b"HSCAN", key, cursor, b"COUNT", count, *self._names_only]
        try:
            after, names = await self._bulk.submit(
                prefix, [op.COMMAND, len(words), *words], 100 * _PAGE
            )
        except StoreFault:
            if not self._names_only:
                raise
            # Redis before 7.4 has no NOVALUES: it sends the records too, so read fewer.
            self._names_only = ()
            return await self._scan_retained(prefix, cursor)
        return after, names if self._names_only else names[::2]

    # What routers load at their start

    async def stored_subscriptions(self) -> AsyncIterator[list[StoredSubscriptions]]:
        """Every durable session with its subscriptions, in chunks."""
        for prefix in self._keys.prefixes:
            async for found in self._partitions.scan(prefix, self._scan_durable):
                yield stored_sessions(found)

    async def _scan_durable(self, prefix: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
        words: Words = [op.DURABLE_SESSIONS, 3, prefix, cursor, _PAGE]
        page: tuple[bytes, list[Any]] = await self._bulk.submit(prefix, words, 500 * _PAGE)
        return page

    # The server

    async def ping(self) -> None:
        """Prove that the server answers and accepts writes."""
        await self._hot.submit(GLOBAL_PREFIX, [op.COMMAND, 5, b"SET", PING_KEY, 1, b"EX", 60], 100)

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
        await self._partitions.close()


def _nothing() -> None:
    pass


def _holder_name(holder: Holder) -> bytes:
    client_id, incarnation = holder
    return b"%d:%b" % (incarnation, client_id.encode())


async def _appended(started: _Started) -> AppendReply:
    if len(started) > 1:
        await asyncio.wait([future for _, future in started])
        failures = [error for _, future in started if (error := future.exception()) is not None]
        if failures:
            raise failures[0]
    reply = AppendReply()
    for queues, future in started:
        read_appends(await future, queues, reply)
    return reply


def script_header(limits: LimitsConfig) -> tuple[int, int, int, int]:
    """Return the limits with which each call of the script begins."""
    evict = 1 if limits.queue_full_policy == "drop_oldest" else 0
    return (
        limits.max_queued_messages,
        evict,
        limits.max_in_flight,
        limits.max_durable_queue_bytes,
    )
