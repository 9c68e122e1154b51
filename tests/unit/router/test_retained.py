"""Retained messages that change while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from support.virtual_time import in_virtual_time, turns
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.retained import RetainedMessages
from tidegate.store.records import encode_retained


class _Store:
    """Has a retained message for every topic; ``may_answer`` cleared: reading waits."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        found = [encode_retained(Publish(topic, b"old", 1, True), 0) for topic in topics]
        await self.may_answer.wait()
        return list(found)

    async def set_retained(self, topic: str, record: bytes | None, expires_at_ms: int) -> None:
        """It is stored at once."""


@in_virtual_time
async def test_a_message_that_is_replaced_while_it_is_read_is_left_out() -> None:
    """Whoever reads has subscribed already, and gets the newer one as a message of now."""
    store: Any = _Store()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    reading = asyncio.create_task(retained.get(["stays", "changes", "goes"]))
    await turns()
    retained.set(Publish("changes", b"new", 1, True), Pending(lambda: None))
    retained.set(Publish("goes", b"", 1, True), Pending(lambda: None))
    await retained.idle()
    store.may_answer.set()
    assert [(one.topic, one.payload) for one in await reading] == [("stays", b"old")]


@in_virtual_time
async def test_a_message_that_is_being_stored_is_read_as_it_will_be() -> None:
    store: Any = _Store()
    store.may_answer.set()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    retained.set(Publish("new", b"new", 1, True), Pending(lambda: None))
    retained.set(Publish("gone", b"", 1, True), Pending(lambda: None))
    found = await retained.get(["new", "gone", "old"])
    assert [(one.topic, one.payload) for one in found] == [("new", b"new"), ("old", b"old")]
    await retained.idle()
