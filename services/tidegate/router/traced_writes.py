"""Spans around the router's writes: ``append`` to durable sessions' queues, and ``retain``.

Each class is called in place of what it wraps; the router puts them there when it is given a
tracer, and without one nothing of this runs. The ``route`` span, their parent, is made by
``link.traced_links``. Proven by ``tests/integration/test_telemetry.py``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import QueueItem
from tidegate.runtime.telemetry.tracing import (
    APPEND,
    MAX_TRACED_COPIES,
    RETAIN,
    Tracer,
    message_attributes,
)
from tidegate.store.api import AppendReply


class TracedAppend:
    """Appends a batch, with one span for each traced message of it that has been stored."""

    def __init__(
        self, append: Callable[[list[QueueItem]], Awaitable[AppendReply]], tracer: Tracer
    ) -> None:
        self._append = append
        self._tracer = tracer

    async def __call__(self, batch: list[QueueItem]) -> AppendReply:
        """See QueueWriter."""
        began_ns = time.time_ns()
        reply = await self._append(batch)
        copies: dict[bytes, list[QueueItem]] = {}
        for item in batch:
            if item.trace:
                copies.setdefault(item.trace, []).append(item)
        for parent, items in copies.items():
            span = self._tracer.start(APPEND, parent, began_ns)
            client_id = items[0].session.client_id if len(items) == 1 else ""
            attributes = message_attributes(items[0].message, client_id)
            attributes["tidegate.sessions"] = len(items)
            attributes["messaging.batch.message_count"] = len(batch)
            span.end(attributes)
            for item in items[:MAX_TRACED_COPIES]:
                item.trace = span.context
            for item in items[MAX_TRACED_COPIES:]:
                item.trace = b""
        return reply


class TracedRetain:
    """Stores a retained message, with a span that ends when it is stored."""

    def __init__(self, retain: Callable[[Origin, Publish, Pending], None], tracer: Tracer) -> None:
        self._retain = retain
        self._tracer = tracer

    def __call__(self, origin: Origin, message: Publish, pending: Pending) -> None:
        """See Routing."""
        if not message.trace:
            self._retain(origin, message, pending)
            return
        span = self._tracer.start(RETAIN, message.trace)
        pending.add()

        def stored() -> None:
            span.end(message_attributes(message, origin.client_id), failed=write.failed)
            pending.failed |= write.failed
            pending.over_quota |= write.over_quota
            pending.release()

        write = Pending(stored)
        self._retain(origin, message, write)
        write.release()
