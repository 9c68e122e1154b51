"""What a publish becomes for durable sessions, and what its publisher is answered.

Inputs: publishes, a played store with durable subscriptions. Observed: what is queued for whom, and
the answers. Who is asked among a group's members: test_groups. Instances of a cluster:
test_membership_router.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.fake_link import FakeEdge, FakeOrigin
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import NO_MATCHING_SUBSCRIBERS
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import StoredSubscriptions
from tidegate.store.client.lanes import StoreFault
from tidegate.store.records import decode_queued

Subscriptions = Sequence[tuple[str, SubscriptionOptions]]


class _Harness:
    """A router that is alone, with the durable session "c"."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self.store = FakeStore()
        self.store.subscriptions = [StoredSubscriptions("c", 1, "", 0, list(subscriptions))]
        self.counters = Counters()
        store: Any = self.store
        self.router = Router(
            store, LimitsConfig(), FeaturesConfig(), self.counters, self.store.now_ms
        )

    async def publish(self, publisher: str, payload: bytes, qos: int = 1) -> FakeOrigin:
        """Publish, and wait until everything that can be done for it is done."""
        origin = FakeOrigin(publisher)
        message = Publish("t", payload, qos, packet_id=7)
        code = self.router.publish(origin, message)
        if code is not None:
            origin.answers.append((payload, code))
        await turns()
        return origin

    @property
    def queued(self) -> list[tuple[bytes, int, tuple[int, ...]]]:
        """What is in the session's queue: payload, QoS, subscription identifiers."""
        found = [decode_queued(append.record) for append in self.store.appends]
        return [(one.payload, one.qos, one.subscription_identifiers) for one in found]


async def _harness(*subscriptions: tuple[str, SubscriptionOptions]) -> _Harness:
    harness = _Harness(subscriptions)
    await harness.router.start()
    return harness


@pytest.mark.statement("MQTT-3.8.3-3")
@in_virtual_time
async def test_no_local_keeps_a_durable_sessions_own_messages_out_of_its_queue() -> None:
    harness = await _harness(("t", SubscriptionOptions(2, no_local=True)))
    await harness.publish("c", b"own")
    await harness.publish("other", b"others")
    assert harness.queued == [(b"others", 1, ())]


@pytest.mark.statement("MQTT-3.8.3-3", "MQTT-3.3.4-4")
@in_virtual_time
async def test_own_messages_come_through_the_subscriptions_without_no_local_only() -> None:
    harness = await _harness(
        ("t", SubscriptionOptions(2, no_local=True, subscription_identifier=1)),
        ("+", SubscriptionOptions(1, subscription_identifier=2)),
    )
    await harness.publish("c", b"own", 2)
    await harness.publish("other", b"others", 2)
    (own, others) = harness.queued
    assert own == (b"own", 1, (2,))
    assert (*others[:2], set(others[2])) == (b"others", 2, {1, 2})


@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_the_store_refuses_is_not_acknowledged_as_stored(qos: int) -> None:
    @in_virtual_time
    async def play() -> None:
        harness = await _harness(("t", SubscriptionOptions(2)))
        harness.store.append_replies = [StoreFault("WRONGTYPE")]
        refused = await harness.publish("p", b"refused", qos)
        stored = await harness.publish("p", b"stored", qos)
        assert refused.answers == [(b"refused", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)]
        assert stored.answers == [(b"stored", 0)]
        assert harness.counters.dropped["store_unavailable"] == 1
        assert harness.counters.published == 2

    play()


@in_virtual_time
async def test_an_edge_with_durable_sessions_only_is_sent_qos_0_and_no_copy_of_others() -> None:
    harness = await _harness(("t", SubscriptionOptions(1)))
    edge = FakeEdge()
    harness.router.attach_edge(edge)
    harness.router.add_interest("edge-1", ["t", "u"], only_qos0=True)
    codes = [
        harness.router.publish(FakeOrigin("p"), Publish(topic, b"%d" % qos, qos, packet_id=1))
        for topic in "tu"
        for qos in (0, 1, 2)
    ]
    await turns()
    assert edge.payloads == [b"0", b"0"]
    assert [payload for payload, *_ in harness.queued] == [b"1", b"2"]
    # Of u there is no subscription any more, and its edge will say so.
    assert codes == [0, None, None, 0, 0x10, None]
    assert harness.counters.dropped["no_subscriber"] == 2


# What comes again


@in_virtual_time
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_an_exchange_that_comes_again_is_delivered_and_retained_once() -> None:
    """It is queued wherever it is missing; the answer waits until all of it is stored."""
    harness = await _harness(("t", SubscriptionOptions(2)))
    edge = FakeEdge()
    harness.router.attach_edge(edge)
    harness.router.add_interest("edge-1", ["t"])
    origins = [FakeOrigin("p"), FakeOrigin("p", 2)]
    for origin in origins:
        message = Publish("t", b"once", 2, retain=True, packet_id=7)
        assert harness.router.publish(origin, message) is None
    # Another publisher's value comes between the exchange and a third attempt.
    other = await harness.publish("q", b"newer")
    harness.router.publish(FakeOrigin("q"), Publish("t", b"newer", 1, retain=True))
    await turns()
    last = FakeOrigin("p", 3)
    harness.router.publish(last, Publish("t", b"once", 2, retain=True, packet_id=7))
    await turns()
    assert edge.payloads.count(b"once") == 1
    assert edge.identities == []  # this router is alone: no other one brings it again
    assert [origin.answers for origin in (*origins, last)] == [[(b"once", 0)]] * 3
    assert other.answers == [(b"newer", 0)]
    identities = [one.identity for one in harness.store.appends]
    assert identities.count("p/7") == 3  # the queue refuses what it has
    (kept,) = await harness.router.get_retained(["t"])
    assert kept.payload == b"newer"


class _WillOrigin(FakeOrigin):
    is_will = True

    def identity(self, message: Publish) -> str:
        return "will|1"


@pytest.mark.parametrize(("kind", "qos"), [(FakeOrigin, 2), (_WillOrigin, 0), (_WillOrigin, 2)])
@in_virtual_time
async def test_another_router_does_not_retain_what_one_has_retained(
    kind: type[FakeOrigin], qos: int
) -> None:
    """That one has ended before it confirmed it; something newer waits here for the store."""
    harness = await _harness()
    older = Publish("t", b"older", qos, retain=True, packet_id=7)
    harness.router.publish(kind("p"), older)
    await turns()
    store: Any = harness.store
    other = Router(store, LimitsConfig(), FeaturesConfig(), Counters(), harness.store.now_ms)
    await other.start()
    newer, again = FakeOrigin("q"), kind("p", 2)
    assert other.publish(newer, Publish("t", b"newer", 1, retain=True)) is None
    older.dup = True
    assert other.publish(again, older) is None
    (kept,) = (await other.read_retained(["t"])).messages
    assert kept.payload == b"newer"
    await turns()
    assert newer.answers == [(b"newer", NO_MATCHING_SUBSCRIBERS)]
    assert again.answers == [(b"older", NO_MATCHING_SUBSCRIBERS)]


@in_virtual_time
async def test_an_answer_waits_for_the_retained_message_of_an_earlier_attempt() -> None:
    harness = await _harness()
    harness.store.fails = {"set_retained"}
    first, second = FakeOrigin("p"), FakeOrigin("p", 2)
    message = Publish("t", b"once", 2, retain=True, packet_id=7)
    for origin in (first, second):
        assert harness.router.publish(origin, message) is None
    await asyncio.sleep(1)
    assert first.answers == second.answers == []
    harness.store.fails = set()
    await asyncio.sleep(5)
    assert first.answers == second.answers == [(b"once", 0x10)]


@in_virtual_time
async def test_identities_are_forgotten_when_others_have_taken_over() -> None:
    """What was cancelled then has to be done when it is sent again."""
    harness = await _harness()
    edge = FakeEdge()
    harness.router.attach_edge(edge)
    harness.router.add_interest("edge-1", ["t"])
    await harness.publish("p", b"once", 2)
    harness.router._routing.cancel()
    await harness.publish("p", b"once", 2)
    assert edge.payloads == [b"once", b"once"]
