"""One message for many clients: each copy is accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.virtual_time import in_virtual_time, turns
from tidegate.edge.edge import ENDING, EXPIRING, TURN
from tidegate.mqtt.packets import Publish


async def test_copies_that_have_expired_are_counted_as_published_and_dropped() -> None:
    async with LoneEdge() as alone:
        clients = [await alone.connect(f"c{number}") for number in range(3)]
        for client in clients:
            client.send(mqtt_bytes.subscribe(1, [("t", 0)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"in time", expires_at_ms=1000), "")
        alone.now_ms = 1000
        alone.edge.deliver(Publish("t", b"too late", expires_at_ms=1000), "")
        for client in clients:
            (packet,) = client.received()
            assert (packet.payload, packet.get("message_expiry")) == (b"in time", 1)
        counters = alone.counters
        assert (counters.published, counters.delivered) == (6, 3)
        assert counters.dropped["expired"] == 3


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_a_message_that_comes_again_goes_to_those_who_have_not_had_it(qos: int) -> None:
    """Its first router has died. Who has subscribed meanwhile may get it from the second one."""
    async with LoneEdge() as alone:
        early = [await alone.connect(f"early{granted}") for granted in range(3)]
        for granted, client in enumerate(early):
            client.send(mqtt_bytes.subscribe(1, [("t", granted), ("#", granted)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"once", qos), "p", "p|1|7|0")
        late = await alone.connect("late")
        late.send(mqtt_bytes.subscribe(1, [("t", 2)]))
        await turns()
        late.received()
        for _ in range(2):
            alone.edge.deliver(Publish("t", b"once", qos), "p", "p|1|7|0")
        alone.edge.deliver(Publish("t", b"other", qos), "p", "p|1|7|1")
        for granted, client in enumerate([*early, late]):
            got = [(packet.payload, packet.qos) for packet in client.received()]
            served = min(qos, granted, 2)
            assert got == [(b"once", served), (b"other", served)]


@pytest.mark.parametrize("qos", [0, 2])
async def test_a_message_that_comes_again_is_for_no_durable_session(qos: int) -> None:
    """It may have had it at another edge; what it lacks at QoS 1 and 2 is in its queue."""
    async with LoneEdge() as alone:
        alone.edge.deliver(Publish("t", b"once", qos), "p", "will|7:p")
        early = await alone.connect("early")
        alone.router.incarnation = 7
        moved = [await alone.connect(f"moved{granted}") for granted in (0, 2)]
        for granted, client in zip((0, 0, 2), (early, *moved), strict=True):
            client.send(mqtt_bytes.subscribe(1, [("t", granted)]))
            await turns()
            client.received()
        alone.edge.deliver(Publish("t", b"once", qos), "p", "will|7:p")
        assert [packet.payload for packet in early.received()] == [b"once"]
        assert [client.received() for client in moved] == [[], []]


async def test_messages_without_identity_are_messages_of_their_own() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.subscribe(1, [("t", 1)]))
        await turns()
        client.received()
        for _ in range(2):
            alone.edge.deliver(Publish("t", b"same", 1), "p")
        assert [packet.payload for packet in client.received()] == [b"same", b"same"]


async def test_a_fence_ends_the_older_connection_only() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        epoch = alone.edge.clients["c"].epoch
        alone.edge.fence("c", epoch)
        assert "c" in alone.edge.clients
        alone.edge.fence("c", epoch + 1)
        (packet,) = client.received()
        assert (packet.kind, packet.reason) == ("DISCONNECT", 0x8E)
        await turns()
        (detached,) = alone.router.detached
        # Its will is the business of who has the session.
        assert (detached.publish_will, detached.is_superseded) == (False, True)


@pytest.mark.parametrize("first", ["m", "m/x"])
async def test_a_topic_above_a_mount_point_does_not_share_what_is_below(first: str) -> None:
    """ "m/#" matches "m" too, which is no topic of the mount point's clients."""
    async with LoneEdge(listeners=[{"mount_point": "m/"}]) as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.subscribe(1, [("#", 0)]))
        await turns()
        client.received()
        for topic in (first, "m", "m/x", "m"):
            alone.edge.deliver(Publish(topic, b"x"), "")
            found = [packet.topic for packet in client.received()]
            assert found == (["x"] if topic == "m/x" else [])


async def _in_turns(work: Coroutine[Any, Any, None], done: Callable[[], int]) -> list[int]:
    """Return what is done in each turn of the event loop until this work ends."""
    task, in_turns, before = asyncio.create_task(work), list[int](), done()
    while not task.done():
        await asyncio.sleep(0)
        in_turns.append(done() - before)
        before = done()
    await task
    return in_turns


@pytest.mark.parametrize("what", ["looks", "ends", "times out", "expires"])
@in_virtual_time
async def test_a_tick_over_many_clients_takes_the_event_loop_for_a_few_at_a_time(what: str) -> None:
    async with LoneEdge() as alone:
        edge, counters, many = alone.edge, alone.counters, 2 * TURN + 1
        expired: list[int] = []

        def expire(number: int) -> bool:
            expired.append(number)
            return False

        if what == "times out":
            for _ in range(many):
                alone.accept()
        elif what == "expires":
            edge.context.expiring = {partial(expire, number): None for number in range(many)}
        else:
            for number in range(many):
                await alone.connect(f"c{number}", keep_alive=1 if what == "ends" else 0)
        late_s = edge.context.time_s() + 1000
        edge.context.time_s = lambda: late_s

        def done() -> int:
            return (
                counters.closed["keep_alive_timeout"]
                + counters.refused["connect_timeout"]
                + len(expired)
            )

        in_turns = await _in_turns(edge.tick(), done)
        most = {"looks": 0, "expires": TURN // EXPIRING}.get(what, TURN // ENDING)
        assert sum(in_turns) == (0 if what == "looks" else many)
        assert max(in_turns) <= most
        assert len(in_turns) > many // TURN
        assert not edge.context.expiring
