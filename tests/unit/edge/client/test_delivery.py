"""What is sent to one client, where two rules meet: sizes with aliases, queues and groups."""

from __future__ import annotations

import asyncio

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.virtual_time import in_virtual_time, turns
from tidegate.edge.edge import TICK_S
from tidegate.link.interfaces import AttachedSession
from tidegate.mqtt.packets import Publish, SubscriptionOptions

LARGE = b"x" * 500
#: Of every client here: more than a small message takes, less than a large one.
MAXIMUM_BYTES = 200


class _Receipt:
    """What became of a shared message."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def done(self) -> None:
        self.said.append("done")

    def returned(self) -> None:
        self.said.append("returned")


async def _subscriber(alone: LoneEdge, qos: int = 0, aliases: int = 0) -> EdgeClient:
    props = [("maximum_packet_size", MAXIMUM_BYTES)]
    if aliases:
        props.append(("topic_alias_maximum", aliases))
    client = await alone.connect("c", props=props)
    client.send(mqtt_bytes.subscribe(1, [("t", qos)]))
    await turns()
    assert client.kinds() == ["SUBACK"]
    return client


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.statement("MQTT-3.1.2-24", "MQTT-3.3.2-8")
async def test_an_alias_is_announced_by_the_first_message_that_is_sent(qos: int) -> None:
    """Not by one before it that was too large: its client has never seen the mapping."""
    async with LoneEdge() as alone:
        client = await _subscriber(alone, qos, aliases=10)
        alone.edge.deliver(Publish("t", LARGE, qos), "")
        alone.edge.deliver(Publish("t", b"first", qos), "")
        alone.edge.deliver(Publish("t", b"second", qos), "")
        first, second = client.received()
        assert (first.topic, first.get("topic_alias"), first.payload) == ("t", 1, b"first")
        assert (second.topic, second.get("topic_alias"), second.payload) == ("", 1, b"second")
        assert alone.counters.dropped["too_large"] == 1


@pytest.mark.statement("MQTT-3.1.2-25")
async def test_a_message_too_large_for_a_durable_sessions_client_leaves_its_queue() -> None:
    async with LoneEdge() as alone:
        alone.router.incarnation = 7
        client = await _subscriber(alone, 1)
        alone.edge.push("c", 1, 1, Publish("t", LARGE, 1))
        alone.edge.push("c", 1, 2, Publish("t", b"small", 1))
        await turns()
        assert [packet.payload for packet in client.received()] == [b"small"]
        assert alone.router.completed == [("c", 1, [1])]


async def test_messages_that_are_dropped_hold_up_nothing_behind_them() -> None:
    async with LoneEdge() as alone:
        alone.router.incarnation = 7
        props = [("maximum_packet_size", MAXIMUM_BYTES), ("receive_maximum", 1)]
        client = await alone.connect("c", props=props)
        for seq, payload in enumerate((b"first", LARGE, LARGE, b"last"), 1):
            alone.edge.push("c", 1, seq, Publish("t", payload, 1))
        (first,) = client.received()
        client.send(mqtt_bytes.acknowledge("PUBACK", first.packet_id))
        await turns()
        assert [packet.payload for packet in client.received()] == [b"last"]


async def test_a_shared_message_too_large_for_its_member_is_settled() -> None:
    async with LoneEdge() as alone:
        client = await _subscriber(alone)
        receipt = _Receipt()
        message = Publish("t", LARGE, 1)
        options = SubscriptionOptions(1)
        assert alone.edge.deliver_shared("c", 1, message, "$share/g/t", options, receipt)
        assert receipt.said == ["done"]
        assert client.kinds() == []


@pytest.mark.statement("MQTT-4.4.0-1", "MQTT-3.3.1-1")
async def test_exactly_what_has_been_sent_before_is_sent_again_with_dup() -> None:
    async with LoneEdge() as alone:
        alone.router.session = AttachedSession(9, 7, True, sent_seq=2, last_seq=3)
        alone.router.queued = {seq: Publish("t", b"%d" % seq, 1) for seq in (1, 2, 3)}
        client = alone.accept()
        client.send(mqtt_bytes.connect("c", clean=False))
        await turns()
        sent = [packet for packet in client.received() if packet.kind == "PUBLISH"]
        assert [(packet.packet_id, bool(packet.flags & 8)) for packet in sent] == [
            (1, True),
            (2, True),
            (3, False),
        ]


@pytest.mark.statement("MQTT-3.1.4-3", "MQTT-3.3.1-1")
async def test_a_connection_whose_session_another_has_reads_nothing_more() -> None:
    async with LoneEdge() as alone:
        alone.router.session = AttachedSession(9, 7, True, sent_seq=0, last_seq=1)
        alone.router.queued = {1: Publish("t", b"1", 1)}
        alone.router.has_newer = True
        client = alone.accept()
        client.send(mqtt_bytes.connect("c", clean=False))
        await turns()
        assert client.kinds() == ["CONNACK", "DISCONNECT"]
        assert client.client.is_closed


@pytest.mark.statement("MQTT-3.3.2-5", "MQTT-4.3.3-7")
async def test_what_expired_goes_on_only_if_it_was_sent_or_may_be_a_begun_exchange() -> None:
    """Of QoS 1 the client keeps no state: what may not have been sent to it is not sent late."""
    async with LoneEdge() as alone:
        alone.router.session = AttachedSession(9, 7, True, 2, True, 4)
        alone.router.queued = {
            seq: Publish("t", b"%d" % seq, 2 if seq == 4 else 1, expires_at_ms=1000)
            for seq in (1, 2, 3, 4, 5)
        }
        alone.now_ms = 2000
        client = alone.accept()
        client.send(mqtt_bytes.connect("c", clean=False, props=[("session_expiry", 300)]))
        await turns()
        sent = [packet.payload for packet in client.received() if packet.kind == "PUBLISH"]
        assert sent == [b"1", b"2", b"4"]
        assert [seq for _, _, seqs in alone.router.completed for seq in seqs] == [3, 5]


async def _with_one_in_flight(alone: LoneEdge, expires_at_ms: int) -> EdgeClient:
    """A client with one message in flight, no room for another, and two that wait and expire."""
    client = await alone.connect("c", props=[("receive_maximum", 1)])
    client.send(mqtt_bytes.subscribe(1, [("t", 1)]))
    await turns()
    for seq, until_ms in enumerate((0, expires_at_ms, expires_at_ms), 1):
        message = Publish("t", b"%d" % seq, 1, expires_at_ms=until_ms)
        if alone.router.incarnation:
            alone.edge.push("c", 1, seq, message)
        else:
            alone.edge.deliver(message, "")
    await turns()
    assert client.kinds() == ["SUBACK", "PUBLISH"]
    return client


@pytest.mark.statement("MQTT-3.3.2-5")
async def test_held_messages_that_have_expired_do_not_hold_up_those_behind_them() -> None:
    async with LoneEdge() as alone:
        alone.router.incarnation = 7
        client = await _with_one_in_flight(alone, 1000)
        alone.edge.push("c", 1, 4, Publish("t", b"4", 1))
        alone.now_ms = 1000
        client.send(mqtt_bytes.acknowledge("PUBACK", 1))
        await turns()
        assert [packet.payload for packet in client.received()] == [b"4"]
        assert [seq for _, _, seqs in alone.router.completed for seq in seqs] == [1, 2, 3]


@in_virtual_time
@pytest.mark.statement("MQTT-3.3.2-5")
async def test_what_expires_in_memory_is_dropped_though_the_client_takes_nothing() -> None:
    async with LoneEdge() as alone:
        await _with_one_in_flight(alone, 1000)
        counters = alone.counters
        options, receipt = SubscriptionOptions(1), _Receipt()
        shared = Publish("t", b"4", 1, expires_at_ms=2000)
        assert alone.edge.deliver_shared("c", 1, shared, "$share/g/t", options, receipt)
        assert counters.queued == 3
        alone.now_ms = 1000
        await asyncio.sleep(1.5 * TICK_S)
        assert (counters.queued, counters.dropped["expired"], receipt.said) == (1, 2, [])
        alone.now_ms = 2000
        await asyncio.sleep(TICK_S)
        assert (counters.queued, counters.dropped["expired"], receipt.said) == (0, 3, ["done"])
        assert not alone.edge.context.expiring


@pytest.mark.statement("MQTT-3.3.2-5")
async def test_a_message_takes_the_place_of_one_that_has_expired_in_memory() -> None:
    async with LoneEdge(limits={"max_queued_messages": 2}) as alone:
        client = await _with_one_in_flight(alone, 1000)
        alone.now_ms = 1000
        alone.edge.deliver(Publish("t", b"4", 1), "")
        counters = alone.counters
        assert (counters.queued, counters.dropped["expired"]) == (1, 2)
        assert counters.dropped["queue_full"] == 0
        client.send(mqtt_bytes.acknowledge("PUBACK", 1))
        await turns()
        assert [packet.payload for packet in client.received()] == [b"4"]
