"""Wills that are due: published like any other message, then deleted from the store.

Owns nothing but its configuration. Called by ``sessions`` for wills that are due at the end of a
connection, and by ``sweeper`` for delayed ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tidegate.mqtt.packets import Publish
from tidegate.router.routing import Routing
from tidegate.router.store_calls import retry_until_stored
from tidegate.runtime.config.model import FeaturesConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWill, Store
from tidegate.store.records import RecordError, decode_will

log = logging.getLogger(__name__)


class _WillOrigin:
    """The origin of a will: its publisher has no connection."""

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
        """No PUBREC is waited for."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """It is durable: delete the will."""
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
        """Publish a will that this router has claimed; one that it cannot decode is left."""
        try:
            will = decode_will(due.record).will
        except RecordError:
            # Perhaps of a newer version: the claim ends, and a newer router publishes it.
            self._counters.internal_errors += 1
            log.exception("decoding a will failed", extra={"will": due.will_id})
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
            self._tasks.spawn(self._delete(due.will_id))

        if self._routing.publish(_WillOrigin(due, done), message) is not None:
            done()

    async def _delete(self, will_id: str) -> None:
        await retry_until_stored(
            lambda: self._store.will_published([will_id]), "delete a published will"
        )
