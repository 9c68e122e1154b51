"""Retained messages: an index of their topics in memory, the messages themselves in the store.

Called by ``routing``, ``replica``, ``sweeper`` and the router. One writer: of several messages for
a topic that wait at the same time only the newest is written, so a retry can never overwrite a
newer message with an older one. A publish with an identity (QoS 2, a will) is stored once, also
when it comes again by another router: see ``retained_changes``. Reads of its topic wait until it is
known whether it had been stored before.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from tidegate.core.rendezvous import owner
from tidegate.core.retained_index import RetainedIndex
from tidegate.link.interfaces import RetainedPage, RetainedRequest
from tidegate.mqtt.packets import Publish
from tidegate.mqtt.topics import matches
from tidegate.router.pending import Pending, PendingEnqueue
from tidegate.router.retained_calls import RetainedCalls
from tidegate.router.retained_changes import RetainedChange, WaitingChanges
from tidegate.router.retained_quota import RetainedQuota
from tidegate.router.store_calls import Backoff
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    RetainedBefore,
    RetainRefusal,
    Store,
    StoreUnavailable,
    WriterFenced,
)
from tidegate.store.records import decode_retained

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
EXPIRY_BATCH: Final = 500
#: A page of retained messages ends after so many, or so many bytes of payload, or after so many
#: topics of which other routers may have the messages.
PAGE_MESSAGES: Final = 500
PAGE_BYTES: Final = 262_144
PAGE_TOPICS: Final = 5_000
#: Messages that are read at a time for a page.
SLICE: Final = 64
#: A read waits so long until it is known whether a message had been stored before.
CERTAIN_S: Final = 2.0
#: By topic: the newest message of those that have come during a read, None: removed.
Changes: TypeAlias = dict[str, Publish | None]
#: Lists of topics that are kept for next pages.
MAX_LISTS: Final = 1_000


class RetainedMessages:
    """Write, find and read retained messages; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        now_ms: Callable[[], int],
        on_fenced: Callable[[], None],
        counters: Counters | None = None,
        quota: RetainedQuota | None = None,
    ) -> None:
        self._store = store
        self._counters = counters or Counters()
        self._calls = RetainedCalls(store, quota, now_ms)
        self._on_fenced = on_fenced
        self._now_ms = now_ms
        self._index = RetainedIndex()
        # Not yet written: topic -> newest message (None: removed). Reads see it first.
        self._dirty: dict[str, Publish | None] = {}
        self._writing: dict[str, Publish | None] = {}
        # Of topics of both that have changes with an identity: all of their changes.
        self._chains: dict[str, WaitingChanges] = {}
        self._writing_chains: dict[str, WaitingChanges] = {}
        # How often the outcome of writing such changes is not known: reads in flight fail then.
        self._unknown_outcomes = 0
        self._waiters: dict[str, list[Pending]] = {}
        # The pendings of what is being written. Both are replaced when that is cancelled.
        self._writing_for: dict[str, list[Pending]] = {}
        # Topics of which the index may be wrong: their writes were cancelled or refused.
        self._unverified: set[str] = set()
        # What has come since each read in flight began: what it reads of these may be stale.
        self._reads: list[Changes] = []
        #: Topics that match, sorted, of which only a part has been read. Any may be dropped.
        self._lists: OrderedDict[int, list[str]] = OrderedDict()
        self._list_numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._index)

    async def load(self) -> None:
        """Build the index from the store, or replace it."""
        before = set(self._index.match("#"))
        async for topics in self._store.retained_topics():
            for topic in topics:
                before.discard(topic)
                self._index.add(topic)
        for topic in before:
            self.apply(topic, False)

    def set(
        self,
        message: Publish,
        pending: Pending,
        owner: str = "",
        identity: str = "",
        may_repeat: bool = False,
    ) -> None:
        """Keep a copy of ``message`` as its topic's retained one; an empty payload removes it.

        [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]. ``pending`` is released once it is stored.
        ``owner``: the client that it counts for, "" for the broker's own. ``identity``: it is
        stored once. ``may_repeat``: perhaps it has been stored before.
        """
        topic = message.topic
        kept = message if message.payload else None
        if kept is not None:
            self._index.add(topic)
        elif not may_repeat:
            self._index.discard(topic)
        has_quota = self._calls.has_quota
        if identity or topic in self._chains:
            change = RetainedChange(kept, owner if has_quota else "", identity, may_repeat)
            self._chain(topic, change)
        elif has_quota:
            self._calls.charge_to(topic, owner)
        self._dirty[topic] = kept
        if not may_repeat:
            for read in self._reads:
                read[topic] = kept
        pending.add()
        self._waiters.setdefault(topic, []).append(pending)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def _chain(self, topic: str, change: RetainedChange) -> None:
        """Add a change to those that wait."""
        chain = self._chains.get(topic)
        if chain is None:
            is_first = topic not in self._dirty
            chain = WaitingChanges() if is_first else self._chain_of(topic, self._dirty)
            self._chains[topic] = chain
        chain.add(change)

    def wait(self, topic: str, pending: Pending) -> None:
        """Release ``pending`` once everything that was set for a topic until now is stored."""
        for waiters in (self._waiters, self._writing_for):
            if topic in waiters:
                pending.add()
                waiters[topic].append(pending)
                return

    def apply(self, topic: str, exists: bool) -> None:
        """Apply a change by another router: a topic has a retained message now, or none."""
        if topic in self._dirty or topic in self._writing:
            return
        self._unverified.discard(topic)
        if exists:
            self._index.add(topic)
        else:
            self._index.discard(topic)

    def cancel(self) -> None:
        """Cancel what is not known to be written: this router is fenced."""
        cancelled = [*self._writing_for.values(), *self._waiters.values()]
        self._unverified.update(self._writing, self._dirty)
        self._dirty, self._waiters = {}, {}
        self._writing, self._writing_for = {}, {}
        self._chains, self._writing_chains = {}, {}
        for pendings in cancelled:
            for pending in pendings:
                pending.cancel()

    def may_match(self, topic_filter: str) -> bool:
        """Whether a topic that matches may have a retained message; False is certain."""
        return self._index.may_match(topic_filter)

    def match(self, topic_filter: str) -> list[str]:
        """Topics that have a retained message and match the filter."""
        return list(self._index.match(topic_filter))

    async def page(self, request: RetainedRequest) -> RetainedPage:
        """Return the retained messages that match filters, from one topic on.

        A first page has what its topics retain when it is returned. From a later one a topic that
        is written meanwhile is left out, as by ``get``. Raises StoreUnavailable.
        """
        unknown_outcomes = await self._certain(request.filters)
        number, after = request.list_number, request.after
        topics = self._lists.get(number)
        if topics is None:
            number, topics = 0, self._match_all(request.filters)
        at = bisect_right(topics, after) if after else 0
        stop = min(len(topics), at + PAGE_TOPICS)
        name, names = request.name, request.names
        changed: Changes = {}
        messages: list[Publish] = []
        size_bytes = 0
        self._reads.append(changed)
        try:
            while at < stop and len(messages) < PAGE_MESSAGES and size_bytes < PAGE_BYTES:
                part: list[str] = []
                while at < stop and len(part) < SLICE:
                    topic = topics[at]
                    at += 1
                    if not names or owner(topic, names) == name:
                        part.append(topic)
                found = await self._read(part, changed)
                messages += found
                size_bytes += sum(len(message.payload) for message in found)
            await self._certain(request.filters, unknown_outcomes)
        finally:
            self._reads = [read for read in self._reads if read is not changed]
        end = topics[at - 1] if at < len(topics) else None
        is_first = not after
        if changed:
            messages = [message for message in messages if message.topic not in changed]
            if is_first:
                messages += _now(changed, request, end)
                messages.sort(key=_topic_of)
        if end is None:
            self._lists.pop(number, None)
            return RetainedPage(messages, is_of_now=is_first)
        if is_first and changed:
            # The page may be cut to that of another router: then the next one has these again.
            new = {message.topic for message in _now(changed, request, None)}
            topics = sorted(new.union(topics))
        number = self._keep(number, topics)
        return RetainedPage(messages, end, {name: number}, is_of_now=is_first)

    async def page_of(self, topics: Sequence[str]) -> RetainedPage:
        """Return what these topics retain when it is returned. Raises StoreUnavailable."""
        changed: Changes = {}
        unknown_outcomes = await self._certain(topics)
        self._reads.append(changed)
        try:
            messages = await self._read(topics, changed)
            await self._certain(topics, unknown_outcomes)
        finally:
            self._reads = [read for read in self._reads if read is not changed]
        messages = [message for message in messages if message.topic not in changed]
        messages += _now(changed, RetainedRequest(topics), None)
        messages.sort(key=_topic_of)
        return RetainedPage(messages, is_of_now=True)

    def _match_all(self, filters: Sequence[str]) -> list[str]:
        if len(filters) == 1:
            return sorted(self._index.match(filters[0]))
        found: set[str] = set()
        for topic_filter in filters:
            found.update(self._index.match(topic_filter))
        return sorted(found)

    def _keep(self, number: int, topics: list[str]) -> int:
        """Keep a list for the next page; return its number."""
        number = number or next(self._list_numbers)
        self._lists[number] = topics
        self._lists.move_to_end(number)
        if len(self._lists) > MAX_LISTS:
            self._lists.popitem(last=False)
        return number

    async def get(self, topics: Sequence[str]) -> list[Publish]:
        """Return the retained messages of ``topics``, without those that have expired.

        A topic written during the read is left out: the subscription of the caller is in place
        already, and it has got the newer message as a live one.
        """
        changed: Changes = {}
        unknown_outcomes = await self._certain(topics)
        self._reads.append(changed)
        try:
            messages = await self._read(topics, changed)
            await self._certain(topics, unknown_outcomes)
            return [message for message in messages if message.topic not in changed]
        finally:
            self._reads = [read for read in self._reads if read is not changed]

    def _uncertain(self, filters: Sequence[str]) -> list[str]:
        """Topics that match, of which it is not known what they retain."""
        chains = [*self._chains.items()]
        chains += [item for item in self._writing_chains.items() if item[0] not in self._dirty]
        return [
            topic
            for topic, chain in chains
            if chain.newest.may_repeat and any(matches(one, topic) for one in filters)
        ]

    async def _certain(self, filters: Sequence[str], unknown_outcomes: int | None = None) -> int:
        """Return when it is known what topics that match retain. Raises StoreUnavailable.

        Returns how many unknown outcomes there have been. ``unknown_outcomes``: how many when the
        read began.
        """
        while (self._chains or self._writing_chains) and (topics := self._uncertain(filters)):
            pending = PendingEnqueue()
            for topic in topics:
                self.wait(topic, pending)
            pending.release()
            try:
                async with asyncio.timeout(CERTAIN_S):
                    await pending.done.wait()
            except TimeoutError:
                pending.cancelled = True
            if pending.cancelled:
                raise StoreUnavailable("retained messages are not stored yet")
        if unknown_outcomes not in (None, self._unknown_outcomes):
            raise StoreUnavailable("retained messages have changed meanwhile")
        return self._unknown_outcomes

    async def _read(self, topics: Sequence[str], changed: Changes) -> list[Publish]:
        if self._chains or self._writing_chains:
            await self._certain(topics)
        now_ms = self._now_ms()
        found: list[Publish] = []
        early = {
            topic: self._dirty.get(topic, self._writing.get(topic))
            for topic in topics
            if topic in self._dirty or topic in self._writing
        }
        rest = [topic for topic in topics if topic not in early]
        records = await self._store.get_retained(rest) if rest else []
        stored = dict(zip(rest, records, strict=True))
        for topic in topics:
            if topic in changed:
                continue
            message: Publish | None
            if topic in early:
                message = early[topic]
            else:
                record = stored[topic]
                message = decode_retained(record).publish if record is not None else None
            if message is not None and (
                not message.expires_at_ms or message.expires_at_ms > now_ms
            ):
                found.append(message)
        return found

    async def expire(self) -> int:
        """Remove what has expired; how many. Raises StoreUnavailable."""
        await self._verify_index()
        topics = await self._store.expired_retained(self._now_ms(), EXPIRY_BATCH)
        for topic in topics:
            if topic not in self._dirty and topic not in self._writing:
                self._index.discard(topic)
        return len(topics)

    async def _verify_index(self) -> None:
        """Correct the index after writes were cancelled."""
        topics = list(self._unverified)[:MAX_BATCH]
        if not topics:
            return
        records = await self._store.get_retained(topics)
        for topic, record in zip(topics, records, strict=True):
            if topic in self._unverified:  # no change of it meanwhile
                self.apply(topic, record is not None)
                self._unverified.discard(topic)

    async def idle(self) -> None:
        """Return when everything is written."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while self._dirty:
                self._take()
                writing, waiters = self._writing, self._writing_for
                try:
                    results = await self._calls.write_all(
                        writing, self._writing_chains, self._dirty
                    )
                except StoreUnavailable as error:
                    self._restore()
                    await backoff.pause("store retained messages", str(error))
                    continue
                except WriterFenced:
                    if self._writing is writing:  # otherwise it is cancelled already
                        self.cancel()
                        self._on_fenced()
                    continue
                except Exception:
                    log.exception("storing retained messages failed")
                    for pendings in waiters.values():
                        for pending in pendings:
                            pending.failed = True
                else:
                    for topic, result in zip(writing, results, strict=True):
                        if isinstance(result, RetainRefusal):
                            self._refuse(topic, result, waiters[topic])
                        elif topic in self._writing_chains:  # otherwise it is cancelled, or plain
                            self._answered(topic, result)
                backoff.reset()
                self._writing, self._writing_for, self._writing_chains = {}, {}, {}
                for pendings in waiters.values():
                    for pending in pendings:
                        pending.release()
        finally:
            self._task = None
            if self._dirty:
                self._task = asyncio.create_task(self._run())

    def _take(self) -> None:
        """Take the next batch to be written."""
        topics = list(self._dirty)[:MAX_BATCH]
        self._writing = {topic: self._dirty.pop(topic) for topic in topics}
        self._writing_for = {topic: self._waiters.pop(topic, []) for topic in topics}
        if self._chains:
            chained = [topic for topic in topics if topic in self._chains]
            self._writing_chains = {topic: self._chains.pop(topic) for topic in chained}

    def _refuse(self, topic: str, refusal: RetainRefusal, waiters: Sequence[Pending]) -> None:
        """Refuse what was to be retained; the topic keeps the message that it has, or none."""
        self._unverified.add(topic)
        self._counters.published += len(waiters)
        self._counters.dropped[refusal.value] += len(waiters)
        for pending in waiters:
            pending.over_quota = True

    def _answered(self, topic: str, before: RetainedBefore | None) -> None:
        """The newest change of a topic is stored now (None), or had been before."""
        chain = self._writing_chains[topic]
        if before is not None:
            self._index.add(topic)
            self._unverified.add(topic)
            if chain.drop_repeated(before.count):
                self._put_back(topic)
                self._waiters[topic] = self._writing_for.pop(topic) + self._waiters.get(topic, [])
            return
        newest = chain.newest
        if topic in self._dirty:
            newer = self._chains.get(topic)
            if newer is None or newer.is_certain:
                return
        elif newest.message is None:
            self._index.discard(topic)
        for read in self._reads:
            read[topic] = newest.message

    def _put_back(self, topic: str) -> None:
        """Have a change written that is not, before what has come since."""
        older = self._writing_chains.get(topic)
        newer = self._chains.get(topic)
        if topic not in self._dirty:
            self._dirty[topic] = older.newest.message if older else self._writing[topic]
            if older is not None:
                self._chains[topic] = older
        elif older is not None or newer is not None:
            older = older or self._chain_of(topic, self._writing)
            newer = self._chains[topic] = newer or self._chain_of(topic, self._dirty)
            newer.add_before(older)

    def _chain_of(self, topic: str, changes: Changes) -> WaitingChanges:
        """A change that has no identity."""
        return WaitingChanges(self._calls.plain_change(topic, changes[topic]))

    def _restore(self) -> None:
        """Put a failed batch back, under newer messages; nothing, if it was cancelled."""
        if any(chain.newest.may_repeat for chain in self._writing_chains.values()):
            self._unknown_outcomes += 1
        for topic in self._writing:
            self._put_back(topic)
        for topic, pendings in self._writing_for.items():
            self._waiters[topic] = pendings + self._waiters.get(topic, [])
        self._writing, self._writing_for, self._writing_chains = {}, {}, {}


def _now(changed: Changes, request: RetainedRequest, end: str | None) -> list[Publish]:
    """What of the changes belongs to a page that ends with a topic, None: that has all."""
    names = request.names
    return [
        message
        for topic, message in changed.items()
        if message is not None
        and (end is None or topic <= end)
        and (not names or owner(topic, names) == request.name)
        and any(matches(topic_filter, topic) for topic_filter in request.filters)
    ]


def _topic_of(message: Publish) -> str:
    return message.topic
