"""Retained messages: an index of their topics in memory, the messages themselves in the store.

Called by ``routing``, ``replica``, ``sweeper`` and the router. One writer: of several messages for
a topic that wait at the same time only the newest is written, so a retry can never overwrite a
newer message with an older one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from tidegate.core.retained_index import RetainedIndex
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.store_calls import Backoff
from tidegate.store.api import Store, StoreUnavailable, WriterFenced
from tidegate.store.records import decode_retained, encode_retained

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
EXPIRY_BATCH: Final = 500


class RetainedMessages:
    """Write, find and read retained messages; see the module's docstring."""

    def __init__(
        self, store: Store, now_ms: Callable[[], int], on_fenced: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_fenced = on_fenced
        self._now_ms = now_ms
        self._index = RetainedIndex()
        # Not yet written: topic -> newest message (None: removed). Reads see it first.
        self._dirty: dict[str, Publish | None] = {}
        self._writing: dict[str, Publish | None] = {}
        self._waiters: dict[str, list[Pending]] = {}
        # The pendings of what is being written. Both are replaced when that is cancelled.
        self._writing_for: dict[str, list[Pending]] = {}
        # Topics of which the index may be wrong: their writes were cancelled.
        self._unverified: set[str] = set()
        # Topics written since each read in flight began: the result of such a read may be stale.
        self._reads: list[set[str]] = []
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

    def set(self, message: Publish, pending: Pending) -> None:
        """Keep a copy of ``message`` as its topic's retained one; an empty payload removes it.

        [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]. ``pending`` is released once it is stored.
        """
        topic = message.topic
        if message.payload:
            self._index.add(topic)
            self._dirty[topic] = message
        else:
            self._index.discard(topic)
            self._dirty[topic] = None
        for read in self._reads:
            read.add(topic)
        pending.add()
        self._waiters.setdefault(topic, []).append(pending)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

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
        for pendings in cancelled:
            for pending in pendings:
                pending.cancel()

    def match(self, topic_filter: str) -> list[str]:
        """Topics that have a retained message and match the filter."""
        return list(self._index.match(topic_filter))

    async def get(self, topics: Sequence[str]) -> list[Publish]:
        """Return the retained messages of ``topics``, without those that have expired.

        A topic written during the read is left out: the subscription of the caller is in place
        already, and it has got the newer message as a live one.
        """
        now_ms = self._now_ms()
        changed: set[str] = set()
        self._reads.append(changed)
        found: list[Publish] = []
        try:
            early = {
                topic: self._dirty.get(topic, self._writing.get(topic))
                for topic in topics
                if topic in self._dirty or topic in self._writing
            }
            rest = [topic for topic in topics if topic not in early]
            records = await self._store.get_retained(rest) if rest else []
        finally:
            self._reads.remove(changed)
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
                topics = list(self._dirty)[:MAX_BATCH]
                writing = self._writing = {topic: self._dirty.pop(topic) for topic in topics}
                waiters = self._writing_for = {
                    topic: self._waiters.pop(topic, []) for topic in topics
                }
                try:
                    await asyncio.gather(
                        *(self._write(topic, message) for topic, message in writing.items())
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
                backoff.reset()
                self._writing, self._writing_for = {}, {}
                for pendings in waiters.values():
                    for pending in pendings:
                        pending.release()
        finally:
            self._task = None
            if self._dirty:
                self._task = asyncio.create_task(self._run())

    def _restore(self) -> None:
        """Put a failed batch back, under newer messages; nothing, if it was cancelled."""
        for topic, message in self._writing.items():
            self._dirty.setdefault(topic, message)
        for topic, pendings in self._writing_for.items():
            self._waiters[topic] = pendings + self._waiters.get(topic, [])
        self._writing, self._writing_for = {}, {}

    async def _write(self, topic: str, message: Publish | None) -> None:
        record = encode_retained(message, self._now_ms()) if message is not None else None
        expires_at_ms = message.expires_at_ms if message is not None else 0
        await self._store.set_retained(topic, record, expires_at_ms)
