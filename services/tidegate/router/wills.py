"""Wills that are due: published like any other message, then deleted from the store.

In a cluster an edge publishes a will, by the router of its topic, so that each topic has one writer
and the will comes before what the client's next connection publishes: the edge of the connection
that has ended or takes over, or for wills that a sweep finds one that is attached here. A router
that is alone publishes itself. Owns nothing but its configuration. Called by ``sessions`` and
``sweeper``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tidegate.core.session_key import log_fields
from tidegate.link.interfaces import FENCED, EdgeLink, PendingWill
from tidegate.mqtt.packets import Publish
from tidegate.router.routing import Routing
from tidegate.router.store_calls import call_once, retry_until_stored
from tidegate.runtime.config.model import FeaturesConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWill, Store
from tidegate.store.records import RecordError, decode_will

log = logging.getLogger(__name__)


def will_identity(will_id: str) -> str:
    """The identity of a will: one that is claimed twice is queued and delivered once (G5)."""
    return f"will|{will_id}"


class _WillOrigin:
    """The origin of a will: its publisher has no connection."""

    __slots__ = ("_done", "_will_id", "client_id", "epoch")

    is_will: Final = True
    is_superseded: Final = False

    def __init__(self, will: PendingWill, done: Callable[[], None]) -> None:
        self.client_id = will.client_id
        self.epoch = will.epoch
        self._will_id = will.will_id
        self._done = done

    def identity(self, message: Publish) -> str:
        """The same at every attempt (see Origin)."""
        return will_identity(self._will_id)

    def receipt(self, message: Publish) -> int:
        """No PUBREC is waited for."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """It is durable: delete the will."""
        if code != FENCED:
            self._done()


class Wills:
    """See the module's docstring. ``features`` may be replaced at any time."""

    __slots__ = ("_counters", "_now_ms", "_routing", "_store", "_tasks", "features", "on_published")

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
        #: Called with the identifiers of wills that have been published.
        self.on_published: Callable[[Sequence[str]], None] = _nothing

    def pending(self, wills: Iterable[DueWill]) -> list[PendingWill]:
        """Decode claimed wills; those that cannot be decoded are left."""
        found = []
        for due in wills:
            try:
                will = decode_will(due.record).will
            except RecordError:
                # Perhaps of a newer version: the claim ends, and a newer router publishes it.
                self._counters.internal_errors += 1
                log.exception(
                    "decoding a will failed",
                    extra={**log_fields(due.client_id), "epoch": due.epoch},
                )
                continue
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
            found.append(PendingWill(due.will_id, due.client_id, due.epoch, message))
        return found

    def publish_by(self, edge: EdgeLink | None, wills: Iterable[DueWill]) -> None:
        """Have an edge publish claimed wills; None: there is none that can, publish them here.

        An edge that has been detached meanwhile publishes nothing: the claims end after a while,
        and another one gets them.
        """
        for will in self.pending(wills):
            if edge is None:
                self.publish(will)
            else:
                edge.publish_will(will)

    def publish(self, will: PendingWill) -> None:
        """Publish a will here, and delete it when that is stored."""

        def done() -> None:
            self._tasks.spawn(self._delete(will.will_id))

        self._counters.wills_published += 1
        self.on_published([will.will_id])
        if self._routing.publish(_WillOrigin(will, done), will.message) is not None:
            done()

    async def withdraw(self, will_ids: Sequence[str]) -> None:
        """Delete wills of connections that have ended with DISCONNECT (see RouterService)."""
        await retry_until_stored(
            lambda: self._store.will_published(will_ids), "delete withdrawn wills"
        )

    async def verify(self, edge_id: str, will_ids: Sequence[str]) -> list[bool]:
        """Which wills are still the edge's to publish (see RouterService)."""
        return await call_once(self._store.verify_wills(edge_id, will_ids))

    async def published(self, will_ids: Sequence[str]) -> None:
        """Delete wills that edges have published (see RouterService)."""
        await call_once(self._store.will_published(will_ids))
        self._counters.wills_published += len(will_ids)
        self.on_published(will_ids)

    async def _delete(self, will_id: str) -> None:
        await retry_until_stored(
            lambda: self._store.will_published([will_id]), "delete a published will"
        )


def _nothing(_will_ids: Sequence[str]) -> None:
    pass
