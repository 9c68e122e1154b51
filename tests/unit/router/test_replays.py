"""Retained messages for the queues of durable sessions; time is virtual.

Inputs: SUBSCRIBEs, live messages, requests of edges. Observed: what the store has appended.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.link.interfaces import RetainedForQueue
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router import replays as router_replays
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.replays import NOTED_S, Replays, note_live
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import RoutingTable
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.records import encode_retained

QOS1 = SubscriptionOptions(1, subscription_identifier=7)


class Harness:
    """The parts of a router, and one durable session with the subscription ``#``."""

    def __init__(self) -> None:
        self.store = FakeStore()
        store: Any = self.store
        self.table = RoutingTable()
        self.retained = RetainedMessages(store, lambda: 0, lambda: None)
        queues = QueueWriter(store, Counters(), {}, lambda: None, lambda: 0)
        self.replays = Replays(self.table, self.retained, queues)
        self.session = self.table.session("c", 1)
        self.subscribe("#")

    def subscribe(self, topic_filter: str, handling: int = 0) -> None:
        """As ``Replica.apply``."""
        options = SubscriptionOptions(1, False, False, handling)
        self.replays.subscribed(self.session, [(topic_filter, options)])
        self.table.subscribe_durable(self.session, topic_filter, options)

    def live(self, topic: str) -> None:
        """As ``Routing``."""
        assert self.session.live_topics is not None
        note_live(self.session.live_topics, topic)

    def noted(self) -> dict[str, Any]:
        """What is noted, by filter."""
        return self.session.live_topics or {}

    def keep(self, *topics: str, qos: int = 2) -> None:
        """Have messages retained."""
        for topic in topics:
            record = encode_retained(Publish(topic, topic.encode(), qos, True), 0)
            self.store.records[topic] = record

    async def queue(self, *topics: str, topic_filter: str = "#", incarnation: int = 1) -> list[str]:
        """Have them queued; return what was appended."""
        before = len(self.store.appended)
        items = [RetainedForQueue(topic_filter, QOS1, Publish(topic)) for topic in topics]
        await self.replays.queue("c", incarnation, items)
        return [payload.decode() for _, payload in self.store.appended[before:]]


@in_virtual_time
async def test_what_is_retained_now_is_queued() -> None:
    harness = Harness()
    harness.keep("a", "b")
    harness.keep("c", qos=0)
    assert await harness.queue("a", "b", "c", "nothing") == ["a", "b"]


@in_virtual_time
async def test_a_topic_that_has_had_a_live_message_since_is_left_out() -> None:
    harness = Harness()
    harness.keep("a", "b")
    harness.live("a")
    assert await harness.queue("a", "b") == ["b"]
    # Another SUBSCRIBE begins anew, the same one once more as well.
    harness.subscribe("+")
    assert await harness.queue("a", topic_filter="+") == ["a"]
    harness.replays.again("c", ["#"])
    assert await harness.queue("a") == ["a"]


@in_virtual_time
async def test_retain_handling_says_whether_live_topics_are_noted() -> None:
    harness = Harness()
    harness.subscribe("one", 1)
    harness.subscribe("two", 2)
    harness.subscribe("$share/g/three")
    assert sorted(harness.noted()) == ["#", "one"]
    harness.live("t")
    harness.subscribe("one", 1)
    assert harness.noted()["one"] == {"t"}


@in_virtual_time
async def test_nothing_is_queued_for_what_is_not_there_any_more() -> None:
    harness = Harness()
    harness.keep("a")
    assert await harness.queue("a", incarnation=2) == []
    harness.table.unsubscribe_durable(harness.session, "#")
    assert await harness.queue("a") == []


@in_virtual_time
async def test_what_is_noted_is_bounded_in_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_replays, "MAX_TOPICS", 2)
    harness = Harness()
    for number in range(5):
        harness.live(f"t{number}")
    assert len(harness.noted()["#"]) == 2
    await asyncio.sleep(NOTED_S)
    harness.subscribe("other")
    assert sorted(harness.noted()) == ["other"]
    monkeypatch.setattr(router_replays, "MAX_NOTED", 2)
    for number in range(5):
        harness.subscribe(f"f{number}")
    assert sorted(harness.noted()) == ["f3", "f4"]
