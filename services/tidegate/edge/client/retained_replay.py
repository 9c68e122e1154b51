"""The retained messages of one SUBSCRIBE: read, ordered with live ones, sent at the client's pace.

Made by ``subscribe``, run by ``delivery``. A SUBSCRIBE has one moment of effect. Until then every
message of its topics that reaches this edge is noted: the last one that was published with RETAIN,
or what is read after it, is what its topic has retained at that moment. After it messages are live.
What has not been read by then follows in pages, without topics that have had a newer live message.
Of the reads of one client each begins after the one before has ended, or is done again: what is
read later is not older.

For a durable session routers queue what has QoS 1 or 2, and the store has up to which topic all has
been sent or queued, so that another connection of the session goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tidegate.link.interfaces import (
    RetainedForQueue,
    RetainedPage,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.mqtt.packets import Publish, SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client, Outbound, Replay
    from tidegate.edge.client.registry import ClientRegistry

RETRY_S: Final = 0.5
#: SUBACK waits for so many attempts to read the first page.
TRIES: Final = 2
#: Topics that are noted during one read; when there are more, it is done again.
MAX_NOTED: Final = 10_000
MAX_NOTED_BYTES: Final = 4_194_304
#: SUBACK waits so long for the first messages to be queued.
FIRST_S: Final = 2.0
#: Messages that are queued for a durable session at a time.
CHUNK: Final = 64


class RetainedReplay:
    """See the module's docstring. ``begin`` first, ``end`` at the end."""

    __slots__ = (
        "_chunk",
        "_client",
        "_in_effect",
        "_noted",
        "_noted_bytes",
        "_overflows",
        "_page",
        "_queued",
        "_queueing",
        "_recorded",
        "_registry",
        "_sent",
        "_sink",
        "_waiting",
        "filters",
        "unrecorded",
    )

    def __init__(
        self,
        client: Client,
        sink: Outbound,
        registry: ClientRegistry,
        filters: Mapping[str, SubscriptionOptions],
        generation: str = "",
    ) -> None:
        """``generation``: of the SUBSCRIBE of a durable session, as it is in the store."""
        self._client = client
        #: By filter: generations of which the store does not have that all has been sent.
        self.unrecorded = dict.fromkeys(filters, generation) if generation else {}
        self._sink = sink
        self._registry = registry
        self.filters = dict(filters)
        self._in_effect = False
        #: By topic: before the moment of effect the last message with RETAIN, after it None: a
        #: live message has come.
        self._noted: dict[str, Publish | None] = {}
        self._noted_bytes = 0
        self._overflows = 0
        #: The last page that was read.
        self._page: RetainedPage | None = None
        #: By topic: what is to be sent.
        self._waiting: dict[str, Publish] = {}
        #: The last topic that was sent, in their order.
        self._sent = ""
        #: The topic up to which the store has that all has been sent.
        self._recorded = ""
        #: What routers are to append to the queue of a durable session; not too much at a time.
        self._queued: list[RetainedForQueue] = []
        #: Queues the first of them, from before the moment of effect.
        self._queueing: asyncio.Task[None] | None = None
        self._chunk = min(CHUNK, max(1, client.context.limits.max_queued_messages // 2))

    @property
    def is_empty(self) -> bool:
        """Whether a first page has been read, and nothing is or has been retained."""
        page = self._page
        return page is not None and page.after is None and not page.messages and not self._noted

    @property
    def is_done(self) -> bool:
        """Whether everything has been read and sent."""
        return self._is_sent() and not self.unrecorded

    def _is_sent(self) -> bool:
        if not self.filters:
            return True
        return not self._waiting and not self._queued and self._is_read()

    def _is_read(self) -> bool:
        return self._page is not None and self._page.after is None

    def begin(self) -> None:
        """Note live messages from now on."""
        self._registry.observers.begin(self)

    def end(self) -> None:
        """Note nothing any more."""
        self._registry.observers.end(self)

    def go_on(self, topic: str) -> None:
        """Begin in effect, after a topic: another connection of the session came so far."""
        self._in_effect = True
        if topic:
            self._sent = topic
            self._page = RetainedPage([], topic)
        self.begin()

    def forget(self, filters: Iterable[str]) -> None:
        """Send nothing more of these: the client has unsubscribed."""
        forgotten = [name for name in filters if self.filters.pop(name, None) is not None]
        self._registry.observers.forget(self, forgotten)
        for topic_filter in forgotten:
            self.unrecorded.pop(topic_filter, None)
        self._queued = [item for item in self._queued if item.topic_filter in self.filters]

    def absorb(self, other: Replay) -> None:
        """Replay the filters of another one as well, from the beginning: neither has begun."""
        other.end()
        self.end()
        self.filters.update(other.filters)
        self.unrecorded.update(other.unrecorded)
        self._page = None
        self._sent = self._recorded = ""
        self._waiting.clear()
        self._noted.clear()
        self._noted_bytes = 0
        self.begin()

    def renew(self, messages: Sequence[Publish]) -> None:
        """Another replay of the client, which is before this one, has read these now."""
        waiting = self._waiting
        for message in messages:
            if message.topic in waiting:
                waiting[message.topic] = message

    # Live messages

    @property
    def connection(self) -> tuple[str, int]:
        """The client identifier, and the epoch of its connection."""
        return self._client.session_key, self._client.epoch

    def note(self, message: Publish) -> bool:
        """A message that matches is about to be delivered to this edge's clients.

        True if it is taken for what its topic retains.
        """
        topic = message.topic
        if self._in_effect:
            before = self._waiting.pop(topic, None)
            if before is not None:
                self._send(before)
            elif message.retain and not self._is_read() and self._is_ahead(topic):
                self._keep(topic, None)
            return False
        limit = self._client.context.limits.max_retained_payload_bytes
        if not message.retain or len(message.payload) > limit > 0:
            return False
        self._keep(topic, message)
        return True

    def _is_ahead(self, topic: str) -> bool:
        """Whether the message of a topic is still to be read."""
        page = self._page
        return page is None or page.after is None or topic > page.after

    def _keep(self, topic: str, message: Publish | None) -> None:
        self._noted[topic] = message
        if message is not None:
            self._noted_bytes += len(message.payload)
        if len(self._noted) > MAX_NOTED or self._noted_bytes > MAX_NOTED_BYTES:
            self._forget_noted()
            self._overflows += 1

    def _forget_noted(self) -> None:
        self._noted = {}
        self._noted_bytes = 0

    def _forget_read(self, is_read: Callable[[str], bool]) -> None:
        """What has been noted of topics that are read now is the same, or older.

        Older, where the last client with such a subscription has left this edge: routers have sent
        nothing in between. What is noted from now on is newer.
        """
        if self._noted:
            self._noted = {topic: one for topic, one in self._noted.items() if not is_read(topic)}
            self._noted_bytes = sum(len(one.payload) for one in self._noted.values() if one)

    # The moment of effect

    async def read_first(self) -> bool:
        """Read the first page; False if that fails: everything follows later."""
        client = self._client
        self._page = None
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(RETRY_S)
            if client.is_closed:
                return False
            page = await self._read_again()
            if page is not None:
                self._page = page
                return True
        return False

    async def _read_again(self) -> RetainedPage | None:
        """Read the first page; None if that fails, or too much is noted meanwhile."""
        sink = self._sink
        while True:
            self._forget_noted()
            overflows, reads = self._overflows, sink.retained_reads
            router = self._client.context.router
            try:
                page = await router.read_retained(list(self.filters), on_read=self._forget_read)
            except RouterUnavailable:
                return None
            if self._overflows != overflows:
                return None
            if sink.retained_reads == reads:
                sink.retained_read([])  # nothing waits behind this one
                return page

    async def queue_first(self) -> None:
        """For a durable session: have routers queue what they can before the moment of effect.

        The subscription is in force there: what is published later is queued behind it.
        """
        page = self._page
        if page is None or not self._client.incarnation:
            return
        found = {message.topic: message for message in page.messages}
        found.update({topic: one for topic, one in self._noted.items() if one and one.payload})
        batch: list[RetainedForQueue] = []
        for topic in sorted(found):
            if len(batch) >= self._chunk:
                break
            batch += self._for_queue(found[topic])
        if not batch:
            return
        done = {item.message.topic: item.message for item in batch}
        page.messages = [message for message in page.messages if message.topic not in done]
        for topic, message in done.items():
            if self._noted.get(topic) is message:
                del self._noted[topic]
        self._queued, self._sent = batch, batch[-1].message.topic
        self._queueing = self._client.context.spawn(self._queue())
        await asyncio.wait({self._queueing}, timeout=FIRST_S)

    def _for_queue(self, message: Publish) -> list[RetainedForQueue]:
        """What a message is in the queue of a durable session."""
        if not self._client.may_read(message.topic):
            return []
        return [
            RetainedForQueue(topic_filter, options, message)
            for replay, (topic_filter, options) in self._registry.observers.match(message.topic)
            if replay is self and min(message.qos, options.qos)
        ]

    def take_effect(self) -> None:
        """From now on what comes is live; what has been noted is what the topics have retained."""
        self._in_effect = True
        noted, page = self._noted, self._page
        self._forget_noted()
        if page is None:
            return
        waiting = {message.topic: message for message in page.messages}
        for topic, message in noted.items():
            if message is not None and message.payload:
                waiting[topic] = message
            else:
                waiting.pop(topic, None)
        self._waiting = dict(sorted(waiting.items())) if noted else waiting
        if not self._is_read():
            self._noted = {topic: None for topic in noted if self._is_ahead(topic)}

    # Sending

    def send_some(self) -> None:
        """Send what there is room for."""
        waiting, sink, client = self._waiting, self._sink, self._client
        while waiting and sink.has_room() and not client.is_closed:
            if len(self._queued) >= self._chunk:
                return
            self._sent = next(iter(waiting))
            self._send(waiting.pop(self._sent))

    def _send(self, message: Publish) -> None:
        client, sink = self._client, self._sink
        if not client.may_read(message.topic):
            return
        for replay, (topic_filter, options) in self._registry.observers.match(message.topic):
            if replay is not self:
                continue
            identifier = options.subscription_identifier
            subscription_ids = (identifier,) if identifier else ()
            qos = min(message.qos, options.qos)
            if not qos:
                sink.send_qos0(message, True, subscription_ids)
            elif not sink.offer_retained(message, qos, subscription_ids):
                self._queued.append(RetainedForQueue(topic_filter, options, message))

    async def run(self) -> None:
        """Send everything that is left; return early when the connection is over."""
        client, sink = self._client, self._sink
        if self._queueing is not None:
            await asyncio.wait({self._queueing})
            await self._record_sent()
        while not client.is_closed and not self.is_done:
            if self._queued:
                await self._queue()
                if self._queued and not client.is_closed:
                    await asyncio.sleep(RETRY_S)
                await self._record_sent()
                continue
            if self._is_sent():
                await self._record("")
                continue
            await sink.wait_for_room()
            if self._waiting:
                self.send_some()
            elif not client.is_closed:
                if self._page is not None:
                    await self._record(self._page.after or "")
                await self._read_next()

    async def _read_next(self) -> None:
        """Read another page, without topics that have had a live message since."""
        sink = self._sink
        overflows, reads = self._overflows, sink.retained_reads
        router = self._client.context.router
        try:
            page = await router.read_retained(list(self.filters), self._page)
        except RouterUnavailable:
            if not self._client.is_closed:
                await asyncio.sleep(RETRY_S)
            return
        if self._overflows != overflows or sink.retained_reads != reads:
            return
        sink.retained_read(page.messages)
        noted = self._noted
        for message in page.messages:
            if message.topic not in noted:
                self._waiting[message.topic] = message
        self._page = page
        self._forget_noted()
        if not self._is_read():
            self._noted = {topic: None for topic in noted if self._is_ahead(topic)}

    async def _queue(self) -> None:
        """Have routers queue what is to be queued; it stays where they do not."""
        client = self._client
        batch, self._queued = self._queued, []
        try:
            await client.context.router.queue_retained(
                client.session_key, client.incarnation, batch
            )
        except RouterUnavailable:
            self._queued = batch + self._queued

    async def _record_sent(self) -> None:
        """Have the store note how far this is, unless it is at its end."""
        if self._queued or not self._sent or self._is_sent():
            return
        after = self._page.after if self._page is not None else None
        await self._record(self._sent if after is None else min(self._sent, after))

    async def _record(self, topic: str) -> None:
        """Have the store note that topics up to this one (``""``: all) have been sent."""
        client, unrecorded = self._client, self.unrecorded
        if not unrecorded or (topic and topic == self._recorded):
            return
        items = [(name, generation, topic) for name, generation in unrecorded.items()]
        try:
            await client.context.router.replayed(client.session_key, client.epoch, items)
        except SessionFenced as error:
            if not client.is_closed:
                client.fenced(error)
        except RouterUnavailable:
            if not client.is_closed:
                await asyncio.sleep(RETRY_S)
        else:
            self._recorded = topic
            if not topic:
                unrecorded.clear()
