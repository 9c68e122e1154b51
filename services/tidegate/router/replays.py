"""Retained messages for the queues of durable sessions, in order with live ones.

Owns what is known of the SUBSCRIBEs whose retained messages are being queued: the topics that have
had a live message since. The router that writes a topic queues its retained message as well, so
that both go through one queue writer. ``replica`` and ``sessions`` report subscriptions; edges have
the messages queued, when the session has room for them; the store knows which are left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from tidegate.link.interfaces import RetainedForQueue, RouterUnavailable
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.router.pending import PendingEnqueue
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.retained import RetainedMessages
from tidegate.router.store_calls import call_once
from tidegate.router.table import DurableSession, RoutingTable

#: So long after a SUBSCRIBE live topics are noted. A message that is queued as a retained one later
#: may have come live as well, but no newer one before it.
NOTED_S: Final = 600.0
#: Topics that are noted of one SUBSCRIBE, and SUBSCRIBEs of which any are.
MAX_TOPICS: Final = 10_000
MAX_NOTED: Final = 50_000


def note_live(live_topics: dict[str, set[str] | None], topic: str) -> None:
    """A message with RETAIN is queued for a session whose retained messages are being queued."""
    for topic_filter, topics in live_topics.items():
        if topics is None:
            live_topics[topic_filter] = {topic}
        elif len(topics) < MAX_TOPICS:
            topics.add(topic)


class Replays:
    """See the module's docstring."""

    __slots__ = ("_noted", "_queues", "_retained", "_table")

    def __init__(
        self, table: RoutingTable, retained: RetainedMessages, queues: QueueWriter
    ) -> None:
        self._table = table
        self._retained = retained
        self._queues = queues
        #: When what is noted of a subscription is dropped, the oldest first.
        self._noted: deque[tuple[float, DurableSession, str]] = deque()

    def subscribed(
        self,
        session: DurableSession,
        subscriptions: Iterable[tuple[str, SubscriptionOptions]],
    ) -> None:
        """A session subscribes: call it before these subscriptions are in the table."""
        now_s = asyncio.get_running_loop().time()
        for topic_filter, options in subscriptions:
            handling = options.retain_handling
            if not topic_filter.startswith("$share/") and (
                handling == 0 or (handling == 1 and topic_filter not in session.subscriptions)
            ):
                self._begin(session, topic_filter, now_s)

    def again(self, client_id: str, filters: Sequence[str]) -> None:
        """Retained messages of these subscriptions are sent once more (see RouterService)."""
        session = self._table.sessions.get(client_id)
        if session is not None:
            now_s = asyncio.get_running_loop().time()
            for topic_filter in filters:
                self._begin(session, topic_filter, now_s)

    def _begin(self, session: DurableSession, topic_filter: str, now_s: float) -> None:
        """Note live topics from now on; drop what is old."""
        if session.live_topics is None:
            session.live_topics = {}
        session.live_topics[topic_filter] = None
        noted = self._noted
        noted.append((now_s + NOTED_S, session, topic_filter))
        while noted[0][0] <= now_s or len(noted) > MAX_NOTED:
            _, old, name = noted.popleft()
            if old.live_topics is not None:
                old.live_topics.pop(name, None)
                old.live_topics = old.live_topics or None

    async def queue(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        """Queue retained messages (see RouterLink.queue_retained)."""
        session = self._table.sessions.get(client_id)
        if session is None or session.incarnation != incarnation:
            return
        topics = list(dict.fromkeys(item.message.topic for item in items))
        messages = {
            message.topic: message for message in await call_once(self._retained.get(topics))
        }
        pending = PendingEnqueue()
        for item in items:
            message = messages.get(item.message.topic)
            live_topics = session.live_topics and session.live_topics.get(item.topic_filter)
            if (
                message is None
                or message.topic in (live_topics or ())
                or item.topic_filter not in session.subscriptions
            ):
                continue
            qos = min(message.qos, item.options.qos)
            identifier = item.options.subscription_identifier
            if qos:
                self._queues.add(
                    session, message, qos, True, (identifier,) if identifier else (), pending, ""
                )
        pending.release()
        await pending.done.wait()
        if pending.cancelled:
            raise RouterUnavailable("router fenced")
