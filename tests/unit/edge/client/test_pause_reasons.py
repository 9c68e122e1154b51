"""What waits while publishers are held, and what does not; a real edge, both ends faked.

Input: bytes of clients, ``Edge.pause_publishing``, a router that answers late. Output: what reaches
the router and in which order, what clients are sent, when their sockets are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import PINGREQ, V5
from support.peers import both_versions
from support.virtual_time import run_virtual, turns
from tidegate.edge.client.packet_queue import LINGER_S, OVERHEAD_BYTES, READ_AHEAD_BYTES
from tidegate.edge.edge import TICK_S
from tidegate.mqtt.enums import ReasonCode

DISCONNECT = mqtt_bytes.disconnect()


def _numbers(alone: LoneEdge) -> list[int]:
    """What has reached the router, by its payload."""
    return [int(message.payload.rstrip(b"\0")) for message in alone.router.published]


# Held by the link


@both_versions
async def test_publishes_wait_in_order_until_they_are_taken_again(version: int) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c", version)
        client.send(client.publish(1), client.publish(2, qos=1))
        alone.edge.pause_publishing()
        alone.edge.pause_publishing()
        client.send(client.publish(3, qos=1), client.publish(4))
        client.send(client.publish(5, qos=2))
        assert _numbers(alone) == [1, 2]
        assert client.kinds() == ["PUBACK"]
        alone.edge.resume_publishing()
        client.send(client.publish(6))  # comes before those that wait have had their turn
        assert _numbers(alone) == [1, 2]
        await turns()
        assert _numbers(alone) == [1, 2, 3, 4, 5, 6]
        assert client.kinds() == ["PUBACK", "PUBREC"]
        client.send(client.publish(7))
        assert _numbers(alone)[-1] == 7


async def test_a_client_that_publishes_nothing_notices_nothing() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        client.send(PINGREQ)
        assert client.kinds() == ["PINGRESP"]
        assert not client.channel.is_paused
        assert not alone.edge.context.waiting_for_router
        client.send(DISCONNECT)
        assert client.channel.is_closed
        assert alone.counters.closed["disconnect"] == 1


async def test_pings_and_acknowledgements_pass_what_waits() -> None:
    async with LoneEdge() as alone:
        reader = await alone.connect("reader")
        reader.send(mqtt_bytes.subscribe(1, [("s", 2)]))
        await turns()
        for qos in (1, 2):
            alone.edge.deliver(_message("s", qos), "")
        got = [packet for packet in reader.received() if packet.kind == "PUBLISH"]
        alone.edge.pause_publishing()
        reader.send(
            reader.publish(1),
            mqtt_bytes.acknowledge("PUBACK", got[0].packet_id),
            PINGREQ,
            mqtt_bytes.acknowledge("PUBREC", got[1].packet_id),
        )
        assert reader.kinds() == ["PINGRESP", "PUBREL"]
        reader.send(mqtt_bytes.acknowledge("PUBCOMP", got[1].packet_id))
        assert reader.client.delivery.waiting() == (0, 0)
        assert _numbers(alone) == []


async def test_subscribe_unsubscribe_and_pubrel_wait_too() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        client.send(client.publish(1, qos=2))
        assert client.kinds() == ["PUBREC"]
        alone.edge.pause_publishing()
        client.send(
            mqtt_bytes.acknowledge("PUBREL", 1),
            mqtt_bytes.subscribe(2, [("a", 0)]),
            client.publish(3, qos=1),
            mqtt_bytes.unsubscribe(4, ["a"]),
            PINGREQ,
        )
        assert client.kinds() == ["PINGRESP"]
        alone.edge.resume_publishing()
        await turns()
        assert client.kinds() == ["PUBCOMP", "SUBACK", "PUBACK", "UNSUBACK"]


async def test_reading_stops_when_enough_waits_and_goes_on_afterwards() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        sent = 0
        while not client.channel.is_paused:
            sent += 1
            client.send(client.publish(sent, size=1000))
        assert sent - 1 < READ_AHEAD_BYTES / (1000 + OVERHEAD_BYTES) <= sent
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == list(range(1, sent + 1))
        assert not client.channel.is_paused


async def test_one_large_packet_may_wait_whatever_its_size() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        packet = client.publish(1, size=500_000)
        for start in range(0, len(packet), 50_000):
            client.send(packet[start : start + 50_000])
        assert client.channel.is_paused
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == [1]


async def test_a_hold_from_inside_a_publish_stops_the_next_one() -> None:
    """The link runs out of credit in the middle of a chunk, again and again."""
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.router.on_publish = lambda message: alone.edge.pause_publishing()
        client.send(*(client.publish(number) for number in range(1, 5)))
        for count in range(1, 5):
            assert _numbers(alone) == list(range(1, count + 1))
            alone.edge.resume_publishing()
            await turns()
        assert not alone.edge.context.waiting_for_router or alone.edge.context.is_publishing_paused


async def test_many_held_clients_go_on_a_few_at_a_time() -> None:
    async with LoneEdge() as alone:
        clients = [await alone.connect(f"c{number}") for number in range(5)]
        alone.edge.pause_publishing()
        for number, client in enumerate(clients):
            client.send(client.publish(number))
        assert len(alone.edge.context.waiting_for_router) == 5
        now_s = 0.0

        def slow(message: object) -> None:
            nonlocal now_s
            now_s += 1

        alone.router.on_publish = slow
        alone.edge.context.time_s = lambda: now_s  # each takes a second
        alone.edge.resume_publishing()
        alone.edge.resume_publishing()
        await asyncio.sleep(0)
        assert _numbers(alone) == [0]
        await turns()
        assert _numbers(alone) == [0, 1, 2, 3, 4]
        assert not alone.edge.context.waiting_for_router


async def test_a_hold_between_resuming_and_its_turn_keeps_them_waiting() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        client.send(client.publish(1))
        alone.edge.resume_publishing()
        alone.edge.pause_publishing()
        await turns()
        assert _numbers(alone) == []
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == [1]


async def test_a_client_that_connects_meanwhile_is_held_from_its_first_publish() -> None:
    async with LoneEdge() as alone:
        alone.edge.pause_publishing()
        client = await alone.connect("c")
        client.send(client.publish(1), PINGREQ)
        assert client.kinds() == ["PINGRESP"]
        assert _numbers(alone) == []
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == [1]


async def test_nothing_is_answered_before_connack() -> None:
    """PINGREQ passes only what an accepted client waits for [MQTT-3.1.4-6]."""
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"), PINGREQ)
        await turns()
        assert client.kinds() == []
        assert not client.channel.is_paused  # the end of the connection would not be noticed
        alone.router.reachable.set()
        await turns()
        assert client.kinds() == ["CONNACK", "PINGRESP"]


async def test_little_is_read_before_connack() -> None:
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"), *[PINGREQ] * 19)
        assert not client.channel.is_paused
        client.send(PINGREQ, PINGREQ)
        assert client.channel.is_paused
        alone.router.reachable.set()
        await turns()
        assert client.kinds() == ["CONNACK", *["PINGRESP"] * 21]
        assert not client.channel.is_paused


async def test_little_of_a_large_packet_is_read_before_connack() -> None:
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        large = client.publish(1, size=10_000)
        client.send(mqtt_bytes.connect("c"), large[:2000])
        assert not client.channel.is_paused
        client.send(large[2000:5000])
        assert client.channel.is_paused
        alone.router.reachable.set()
        await turns()
        client.send(large[5000:])
        assert _numbers(alone) == [1]


async def test_packets_behind_connect_count_when_the_client_leaves_before_connack() -> None:
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"), client.publish(1), DISCONNECT)
        await turns()
        client.lose()
        alone.router.reachable.set()
        await turns()
        assert _numbers(alone) == [1]
        assert alone.counters.closed["disconnect"] == 1


async def test_a_client_that_leaves_before_connack_is_forgotten_at_once() -> None:
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        await turns()
        client.lose()
        assert not alone.edge.registry.connecting
        assert alone.counters.refused["abandoned"] == 1


@both_versions
async def test_a_broken_rule_is_punished_after_what_came_before_it(version: int) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c", version)
        alone.edge.pause_publishing()
        client.send(client.publish(1, qos=1), b"\xff\xff\xff\xff\xff\xff")
        assert client.channel.is_paused
        assert not client.channel.is_closed
        alone.edge.resume_publishing()
        await turns()
        assert client.kinds() == (["PUBACK", "DISCONNECT"] if version == V5 else ["PUBACK"])
        assert client.channel.is_closed


# The end of a client that is held


async def test_disconnect_behind_waiting_publishes_is_handled_after_them() -> None:
    async with LoneEdge() as alone:
        client = await _with_will(alone)
        alone.edge.pause_publishing()
        client.send(client.publish(1), client.publish(2, qos=1), DISCONNECT)
        assert not client.channel.is_closed
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == [1, 2]
        assert client.channel.is_closed
        assert alone.counters.closed["disconnect"] == 1
        assert not alone.router.detached[0].publish_will


async def test_what_was_read_before_the_connection_was_lost_still_has_its_turn() -> None:
    async with LoneEdge() as alone:
        client = await _with_will(alone)
        alone.edge.pause_publishing()
        client.send(client.publish(1))
        client.lose()
        assert "c" in alone.edge.clients
        alone.edge.resume_publishing()
        await turns()
        assert _numbers(alone) == [1]
        assert alone.counters.closed["peer_closed"] == 1
        assert alone.router.detached[0].publish_will


def test_what_waits_for_too_long_after_its_connection_is_dropped_and_counted() -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            client = await _with_will(alone)
            alone.edge.pause_publishing()
            client.send(client.publish(1), client.publish(2, qos=1), client.publish(3))
            client.lose()
            await asyncio.sleep(LINGER_S + 0.1)
            counters = alone.counters
            assert "c" not in alone.edge.clients
            assert not alone.edge.context.waiting_for_router
            assert counters.closed["peer_closed"] == 1
            assert counters.dropped["disconnected"] == 2  # QoS 0; the other is sent again
            assert counters.messages_received == [2, 0, 0]
            assert counters.unaccounted() == 0
            alone.edge.resume_publishing()
            await turns()
            assert _numbers(alone) == []

    run_virtual(scenario())


def test_a_waiting_disconnect_holds_the_will_back_also_when_it_comes_too_late() -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            client = await _with_will(alone)
            alone.edge.pause_publishing()
            client.send(client.publish(1), DISCONNECT)
            client.lose()
            await asyncio.sleep(LINGER_S + 0.1)
            assert alone.counters.dropped["disconnected"] == 1
            assert not alone.router.detached[0].publish_will

    run_virtual(scenario())


async def test_a_takeover_ends_a_held_client_at_once() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        client.send(client.publish(1))
        alone.edge.kick("c", 0, ReasonCode.SESSION_TAKEN_OVER)
        assert client.channel.is_closed
        assert not alone.edge.context.waiting_for_router
        assert alone.counters.dropped["disconnected"] == 1


# Held by unanswered publishes, and by an answer that keeps the order


@both_versions
async def test_a_client_with_too_many_unanswered_publishes_is_still_answered_pings(
    version: int,
) -> None:
    async with LoneEdge(limits={"receive_maximum": 4}) as alone:
        client = await alone.connect("c", version)
        alone.router.answers_late = True
        client.send(*(client.publish(number, qos=1) for number in range(1, 5)))
        client.send(client.publish(5), PINGREQ)
        assert _numbers(alone) == [1, 2, 3, 4]
        assert client.kinds() == ["PINGRESP"]
        assert not client.channel.is_paused
        alone.router.answer(1)
        await turns()
        assert _numbers(alone) == [1, 2, 3, 4]  # half of them must be answered
        alone.router.answer(1)
        assert _numbers(alone) == [1, 2, 3, 4]  # never from inside the router's own call
        await turns()
        assert _numbers(alone) == [1, 2, 3, 4, 5]
        alone.router.answer()
        assert client.kinds() == ["PUBACK"] * 4


async def test_a_ping_comes_after_the_suback_that_it_was_sent_after() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.router.reachable.clear()
        client.send(mqtt_bytes.subscribe(1, [("a", 0)]), PINGREQ)
        await turns()
        assert client.kinds() == []
        alone.router.reachable.set()
        await turns()
        assert client.kinds() == ["SUBACK", "PINGRESP"]


def test_pings_are_answered_while_a_subscribe_takes_long() -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            client = await alone.connect("c", keep_alive=10)
            alone.router.reachable.clear()
            client.send(mqtt_bytes.subscribe(1, [("a", 0)]), client.publish(1), PINGREQ)
            for _ in range(5):
                await asyncio.sleep(10)
                assert client.kinds() == ["PINGRESP"]
                client.send(PINGREQ)
            assert _numbers(alone) == []
            alone.router.reachable.set()
            await turns()
            assert client.kinds() == ["PINGRESP", "SUBACK"]
            assert _numbers(alone) == [1]

    run_virtual(scenario())


def test_a_pubrel_that_no_router_takes_is_tried_again() -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            alone.router.incarnation = 1
            client = await alone.connect("c", clean=False, props=[("session_expiry", 60)])
            client.send(client.publish(1, qos=2))
            assert client.kinds() == ["PUBREC"]
            alone.router.failures = 3
            client.send(mqtt_bytes.acknowledge("PUBREL", 1))
            await asyncio.sleep(1)
            assert client.kinds() == []
            await asyncio.sleep(2)
            assert client.kinds() == ["PUBCOMP"]
            # Nor does a client that has gone keep it going for ever.
            client.send(client.publish(2, qos=2))
            alone.router.failures = 1_000_000
            client.send(mqtt_bytes.acknowledge("PUBREL", 2), DISCONNECT)
            await asyncio.sleep(1)
            assert alone.router.failures == 999_999

    run_virtual(scenario())


# Keep alive


def _keep_alive_scenario(send: int) -> Coroutine[Any, Any, bool]:
    """Whether a client is still there after ten keep alives without a packet."""

    async def scenario() -> bool:
        async with LoneEdge() as alone:
            client = await alone.connect("c", keep_alive=10)
            alone.edge.pause_publishing()
            for number in range(send):
                client.send(client.publish(number, size=50_000))
            await asyncio.sleep(100)
            there = "c" in alone.edge.clients
            if there:
                assert client.channel.is_paused
                alone.edge.resume_publishing()
                await asyncio.sleep(15)
                assert "c" in alone.edge.clients, "being read again counts as a sign of life"
                await asyncio.sleep(2 * TICK_S + 0.01)
                assert "c" not in alone.edge.clients
            return there

    return scenario()


def test_a_client_that_is_not_read_is_not_ended_by_its_keep_alive() -> None:
    assert run_virtual(_keep_alive_scenario(send=2))


@pytest.mark.parametrize("send", [0, 1])
def test_a_held_client_that_is_read_must_still_keep_alive(send: int) -> None:
    assert not run_virtual(_keep_alive_scenario(send))


def test_a_client_that_takes_nothing_must_still_keep_alive() -> None:
    async def scenario() -> None:
        async with LoneEdge(limits={"max_queued_bytes": 1024}) as alone:
            client = await alone.connect("c", keep_alive=10)
            client.client.pause_writing()
            while not client.channel.is_paused:
                client.send(PINGREQ)
            await asyncio.sleep(15 + 2 * TICK_S + 0.01)
            assert "c" not in alone.edge.clients

    run_virtual(scenario())


# Helpers


def _message(topic: str, qos: int) -> Any:
    from tidegate.mqtt.packets import Publish

    return Publish(topic, b"x", qos, False)


async def _with_will(alone: LoneEdge, version: int = V5) -> EdgeClient:
    return await alone.connect("c", version, will=mqtt_bytes.Will("w"))
