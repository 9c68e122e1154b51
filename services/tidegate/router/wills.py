"""Wills that are due: published like any other message, then forgotten by the store.

Owns nothing but the feature that it goes by. Called by ``sessions`` for wills that a connection's
end or its successor makes due, and by ``sweeping`` for those whose time has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tidegate.mqtt.packets import Publish
from tidegate.router.routing import Routing
from tidegate.router.storing import insist
from tidegate.runtime.config.model import FeaturesConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWill, Store
from tidegate.store.records import RecordError, decode_will

log = logging.getLogger(__name__)


class _WillOrigin:
    """The publisher of a will, which no longer has a connection."""

    __slots__ = ("_done", "_will_id", "client_id", "epoch")

    def __init__(self, will: DueWill, done: Callable[[], None]) -> None:
        self.client_id = will.client_id
        self.epoch = 0
        self._will_id = will.will_id
        self._done = done

    def identity(self, message: Publish) -> str:
        """A will that is claimed twice is still queued once (G5)."""
        return f"will|{self._will_id}"

    def receipt(self, message: Publish) -> int:
        """Nobody waits for a PUBREC."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """It is durable: forget the claim."""
        self._done()


class Wills:
    """See the module's docstring. ``features`` may be replaced at any time."""

    __slots__ = ("_counters", "_now_ms", "_routing", "_store", "_tasks", "features")

    def __init__(
        self,
        store: Store,
        features: FeaturesConfig,
        counters: Counters,
        now_ms: Callable[[], int],
        *,
        tasks: Tasks,
        routing: Routing,
    ) -> None:
        self._store = store
        self.features = features
        self._counters = counters
        self._now_ms = now_ms
        self._tasks = tasks
        self._routing = routing

    def publish(self, due: DueWill) -> None:
        """Publish a will that this router has claimed; one that it cannot read is left alone."""
        try:
            will = decode_will(due.record).will
        except RecordError:
            # Perhaps of a newer version: the claim runs out, and who can read it publishes it.
            self._counters.internal_errors += 1
            log.exception("a will cannot be read", extra={"will": due.will_id})
            return
        message = Publish(
            will.topic,
            will.payload,
            will.qos,
            will.retain and self.features.retain,
            properties=will.properties,
            message_expiry_interval=will.message_expiry_interval,
        )
        if will.message_expiry_interval is not None:
            message.expires_at_ms = self._now_ms() + will.message_expiry_interval * 1000
        self._counters.wills_published += 1

        def done() -> None:
            self._tasks.spawn(self._forget(due.will_id))

        if self._routing.publish(_WillOrigin(due, done), message) is not None:
            done()

    async def _forget(self, will_id: str) -> None:
        await insist(lambda: self._store.will_published([will_id]), "forget a will")
