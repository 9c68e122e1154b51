"""Retained messages for one client's new subscriptions, at the client's own pace.

Owns the filters whose retained messages are still to be sent; read in chunks, when the client has
taken what it was given. ``delivery`` makes one for a SUBSCRIBE, and drops it when it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.link.interfaces import RouterUnavailable
from tidegate.mqtt.packets import Publish, SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client

CHUNK: Final = 64
RETRY_S: Final = 0.5


class RetainedSink(Protocol):
    """Where retained messages go (``delivery.Delivery``)."""

    async def wait_for_room(self) -> None:
        """Wait until the client has taken what it was given, or the connection is over."""

    def send_qos0(self, message: Publish, retain: bool, subscription_ids: tuple[int, ...]) -> None:
        """Send a QoS 0 copy now, or drop it, counted."""

    def offer_retained(self, message: Publish, qos: int, subscription_ids: tuple[int, ...]) -> bool:
        """Deliver one with QoS 1 or 2; False when it has to go through the session's queue."""


class RetainedStream:
    """See the module's docstring."""

    __slots__ = ("_client", "_context", "_delivery", "filters")

    def __init__(
        self,
        client: Client,
        delivery: RetainedSink,
        filters: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        self._client = client
        self._context = client.context
        self._delivery = delivery
        #: More may be added while it runs.
        self.filters = list(filters)

    async def run(self) -> None:
        """Return when there is nothing left to send, or the connection is over."""
        while self.filters and not self._client.is_closed:
            topic_filter, options = self.filters.pop(0)
            try:
                await self._send_matches(topic_filter, options)
            except RouterUnavailable:
                if not self._client.is_closed:
                    self.filters.insert(0, (topic_filter, options))
                    await asyncio.sleep(RETRY_S)

    async def _send_matches(self, topic_filter: str, options: SubscriptionOptions) -> None:
        async for topics in self._context.router.match_retained(topic_filter):
            for start in range(0, len(topics), CHUNK):
                await self._delivery.wait_for_room()
                if self._client.is_closed:
                    return
                await self._send_chunk(topics[start : start + CHUNK], options)

    async def _send_chunk(self, topics: list[str], options: SubscriptionOptions) -> None:
        client, delivery = self._client, self._delivery
        router = self._context.router
        while True:
            try:
                messages = await router.get_retained(topics)
                break
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
                if client.is_closed:
                    return
        identifier = options.subscription_identifier
        subscription_ids = (identifier,) if identifier else ()
        durable: list[Publish] = []
        for message in messages:
            if client.is_closed:
                return
            if not client.may_read(message.topic):
                continue
            qos = min(message.qos, options.qos)
            if not qos:
                await delivery.wait_for_room()
                delivery.send_qos0(message, True, subscription_ids)
            elif not delivery.offer_retained(message, qos, subscription_ids):
                durable.append(
                    Publish(
                        message.topic, message.payload, qos, True, False, 0, message.properties,
                        message.message_expiry_interval, 0, subscription_ids,
                        message.expires_at_ms,
                    )
                )  # fmt: skip
        while durable and not client.is_closed:
            # Retried here: starting the filter over would send again what was sent.
            try:
                await router.enqueue(client.client_id, client.incarnation, durable)
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return
