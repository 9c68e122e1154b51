"""What a will that is due becomes, and when the store may forget it."""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.mqtt.packets import SubscriptionOptions, Will
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import DueWill, StoredSubscriptions
from tidegate.store.records import encode_will


class _Harness:
    """A router that is alone, with an edge and the durable session "d", both interested in t."""

    def __init__(self) -> None:
        self.store = FakeStore()
        options = [("t", SubscriptionOptions(2))]
        self.store.subscriptions = [StoredSubscriptions("d", 1, "", 0, options)]
        store: Any = self.store
        self.counters = Counters()
        self.router = Router(
            store, LimitsConfig(), FeaturesConfig(), self.counters, self.store.now_ms
        )
        self.edge = FakeEdge()
        self.epoch = 4

    async def start(self) -> None:
        """Load, and attach the edge."""
        await self.router.start()
        self.router.attach_edge(self.edge)
        self.router.add_interest("edge-1", ["t"])

    async def publish(self, will: Will) -> None:
        """A will of the client "dying" is due."""
        self.epoch += 1
        await self.publish_again(will)

    async def publish_again(self, will: Will) -> None:
        """The same will is claimed once more."""
        record = encode_will(will, "dying", None)
        due = DueWill(f"{self.epoch}:dying", "dying", self.epoch, record)
        self.router._wills.publish_by(None, [due])
        await turns()


async def _harness() -> _Harness:
    harness = _Harness()
    await harness.start()
    return harness


@pytest.mark.statement("MQTT-3.1.2-8")
@in_virtual_time
async def test_a_wills_expiry_begins_when_it_is_published() -> None:
    harness = await _harness()
    await harness.publish(Will("t", b"gone", 1, message_expiry_interval=10))
    await harness.publish(Will("t", b"for ever", 1))
    now_ms = harness.store.now_ms()
    assert [(one.payload, one.expires_at_ms) for one in harness.edge.delivered] == [
        (b"gone", now_ms + 10_000),
        (b"for ever", 0),
    ]


@pytest.mark.parametrize("may_retain", [True, False])
def test_a_will_is_retained_only_while_that_is_allowed(may_retain: bool) -> None:
    @in_virtual_time
    async def play() -> None:
        harness = await _harness()
        harness.router.reconfigure(LimitsConfig(), FeaturesConfig(retain=may_retain))
        await harness.publish(Will("t", b"gone", 1, retain=True))
        assert [one.payload for one in harness.edge.delivered] == [b"gone"]
        assert harness.store.calls.count("set_retained") == may_retain

    play()


@in_virtual_time
async def test_a_will_that_is_claimed_twice_has_one_identity() -> None:
    """By it the store queues it once, whichever router comes first."""
    harness = await _harness()
    will = Will("t", b"gone", 1)
    await harness.publish(will)
    await harness.publish_again(will)
    first, second = harness.store.appends
    assert first.identity == second.identity == "will|5:dying"
    assert harness.store.published_wills == ["5:dying"] * 2
    # Connected clients are given it once.
    assert harness.edge.payloads == [b"gone"]
