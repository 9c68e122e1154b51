"""Retained messages over several edges and routers: one truth, right after the acknowledgement.

Inputs: retained messages set at one edge; subscriptions at another; routers that are killed.
Observed: what SUBSCRIBE brings. TIDEGATE_RETAINED says how many for the large one.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from support import mqtt_bytes
from support.cluster_clients import ClusterClients, receive_publish
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for_async

COUNT = int(os.environ.get("TIDEGATE_RETAINED", "5000"))
#: Publishes under way at once: the Receive Maximum that the edges announce.
WINDOW = 100


async def test_a_retained_message_is_found_at_every_edge_right_after_its_puback(
    cluster_clients: ClusterClients,
) -> None:
    edges = len(cluster_clients.cluster.edges)
    clients = [await cluster_clients.connect(edge, f"client{edge}") for edge in range(edges)]
    for number in range(30):
        topic = cluster_clients.topic(f"state/{number % 3}")
        writer, reader = clients[number % edges], clients[(number + 1) % edges]
        await writer.deliver(topic, b"%d" % number, packet_id=number + 1, retain=True)
        await reader.subscribe((topic, 1), packet_id=number + 1)
        found = await receive_publish(reader)
        assert (found.payload, found.retain) == (b"%d" % number, True)
        await reader.unsubscribe(topic, packet_id=number + 1)


async def test_a_cleared_retained_message_is_found_nowhere(cluster_clients: ClusterClients) -> None:
    topic = cluster_clients.topic("state")
    writer = await cluster_clients.connect(0, "writer")
    await writer.deliver(topic, b"there", retain=True)
    await writer.deliver(topic, b"", retain=True)
    for edge in range(len(cluster_clients.cluster.edges)):
        reader = await cluster_clients.connect(edge, f"reader{edge}")
        await reader.subscribe((topic, 1))
        await reader.expect_nothing()


async def test_retained_messages_survive_the_end_of_every_router(
    cluster_clients: ClusterClients,
) -> None:
    cluster = cluster_clients.cluster
    writer = await cluster_clients.connect(0, "writer")
    for number in range(20):
        topic = cluster_clients.topic(f"kept/{number}")
        await writer.deliver(topic, b"%d" % number, packet_id=number + 1, retain=True)
    for router in cluster.routers:
        await asyncio.to_thread(router.kill)
    await cluster.heal()
    await cluster.until_ready()
    reader = await cluster_clients.connect(1, "reader")
    await reader.send(mqtt_bytes.subscribe(1, [(cluster_clients.topic("kept/+"), 1)]))
    await reader.expect_among("SUBACK")
    found = {(await receive_publish(reader)).payload for _ in range(20)}
    assert found == {b"%d" % number for number in range(20)}


async def _publish_all(writer: RawClient, cluster_clients: ClusterClients) -> None:
    """Publish ``COUNT`` retained messages, ``WINDOW`` of them under way."""
    acknowledged = 0
    for number in range(COUNT):
        topic = cluster_clients.topic(f"many/{number % 100}/{number}")
        await writer.publish(
            topic, b"%d" % number, qos=1, packet_id=number % 65535 + 1, retain=True
        )
        if number >= WINDOW - 1:
            await writer.expect("PUBACK", reason=0x10)
            acknowledged += 1
    while acknowledged < COUNT:
        await writer.expect("PUBACK")
        acknowledged += 1


@pytest.mark.timeout(120 + COUNT / 200)
async def test_many_retained_messages_with_one_wildcard_all_arrive(
    cluster_clients: ClusterClients,
) -> None:
    """No silent cap; and meanwhile the broker answers others."""
    writer = await cluster_clients.connect(0, "writer")
    started = time.monotonic()
    await _publish_all(writer, cluster_clients)
    published_s = time.monotonic() - started
    reader = await cluster_clients.connect(1, "reader")
    bystanders = [await cluster_clients.connect(edge, f"neighbour{edge}") for edge in range(2)]
    slowest_s = 0.0
    found: set[bytes] = set()

    async def read() -> None:
        await reader.send(mqtt_bytes.subscribe(1, [(cluster_clients.topic("many/#"), 1)]))
        await reader.expect_among("SUBACK")
        while len(found) < COUNT:
            found.add((await receive_publish(reader)).payload)

    started = time.monotonic()
    reading = asyncio.create_task(read())
    while not reading.done():
        for neighbour in bystanders:
            asked = time.monotonic()
            await neighbour.expect_nothing()
            slowest_s = max(slowest_s, time.monotonic() - asked)
        await asyncio.wait({reading}, timeout=0.05)
    await reading
    print(
        f"{COUNT} retained: set in {published_s:.1f} s, read in {time.monotonic() - started:.1f} s,"
        f" others were answered within {slowest_s * 1000:.0f} ms"
    )
    assert found == {b"%d" % number for number in range(COUNT)}
    assert slowest_s < 1.0


async def test_every_edge_sees_the_last_of_quick_changes(cluster_clients: ClusterClients) -> None:
    """One writer per topic: what was acknowledged last is what all edges give out."""
    topic = cluster_clients.topic("changing")
    writers = [await cluster_clients.connect(edge, f"writer{edge}") for edge in range(2)]
    for number in range(40):
        await writers[number % 2].deliver(topic, b"%d" % number, packet_id=number + 1, retain=True)
    for edge in range(len(cluster_clients.cluster.edges)):
        reader = await cluster_clients.connect(edge, f"reader{edge}")
        await reader.subscribe((topic, 0))
        await wait_for_async(lambda reader=reader: reader.pipe.buffer, DEADLINE_S, "a message")  # type: ignore[misc]
        assert (await reader.expect("PUBLISH")).payload == b"39"
