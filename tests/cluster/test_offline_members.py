"""A durable member of a shared subscription that is lost for good: others get what waits for it.

Inputs: its edge is killed, paused or cut off, or it says goodbye; the router that helps is killed,
too. Observed: who gets which message, and how often.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from support.cluster_clients import ClusterClients, receive_publish
from support.mqtt_bytes import Packet
from support.raw_client import RawClient

COUNT = 45
DOOMED = 0


class _Member:
    """Takes what comes and acknowledges it."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.received: list[Packet] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.received.append(await receive_publish(self.client, 600))


@contextlib.asynccontextmanager
async def _members(
    cluster_clients: ClusterClients, group: str, *edges: int, durable: bool
) -> AsyncIterator[list[_Member]]:
    """Members that are connected and read, at these edges."""
    members = []
    for edge in edges:
        client = await cluster_clients.connect(edge, f"member{edge}", durable=durable)
        await client.subscribe((group, 2))
        members.append(_Member(client))
    try:
        yield members
    finally:
        for member in members:
            member.task.cancel()
        await asyncio.gather(*(member.task for member in members), return_exceptions=True)


async def _publish(
    cluster_clients: ClusterClients, topic: str, count: int, qos: int = 1
) -> set[bytes]:
    """Publish so many messages; what they say."""
    publisher = await cluster_clients.connect(1, "publisher")
    for number in range(count):
        await publisher.deliver(topic, b"%d" % number, qos=qos, packet_id=number + 1)
    return {b"%d" % number for number in range(count)}


async def _until_all(
    members: list[_Member], numbers: set[bytes], deadline_s: float
) -> Counter[bytes]:
    end = time.monotonic() + deadline_s
    while True:
        found = Counter(packet.payload for member in members for packet in member.received)
        if numbers <= set(found):
            return found
        missing = sorted(numbers - set(found), key=int)
        assert time.monotonic() < end, f"missing: {missing}"
        assert not any(member.task.done() for member in members)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("others", ["durable", "ephemeral"])
@pytest.mark.parametrize("end", ["goodbye", "killed", "paused"])
async def test_what_waits_for_a_durable_member_that_is_gone_goes_to_others(
    cluster_clients: ClusterClients, end: str, others: str
) -> None:
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(
        DOOMED, "mute", durable=True, props=[("receive_maximum", 5)]
    )
    await mute.subscribe((group, 2))
    async with _members(cluster_clients, group, 1, 2, durable=others == "durable") as members:
        numbers = await _publish(cluster_clients, topic, COUNT)
        for _ in range(5):
            await mute.expect("PUBLISH")
        if end == "goodbye":
            mute.close()
        elif end == "killed":
            await asyncio.to_thread(cluster_clients.edge(DOOMED).kill)
        else:
            cluster_clients.edge(DOOMED).pause()
        found = await _until_all(members, numbers, 20)
        assert set(found.values()) == {1}
    back = await cluster_clients.connect(1, "mute", durable=True)
    await back.expect_nothing()


@pytest.mark.statement("MQTT-4.8.2-4")
async def test_qos_2_that_has_begun_waits_for_its_client_and_the_rest_goes(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(
        DOOMED, "mute", durable=True, props=[("receive_maximum", 3)]
    )
    await mute.subscribe((group, 2))
    numbers = await _publish(cluster_clients, topic, 9, qos=2)
    begun = [await mute.expect("PUBLISH") for _ in range(3)]
    rest = numbers - {packet.payload for packet in begun}
    async with _members(cluster_clients, group, 2, durable=True) as members:
        mute.close()
        found = await _until_all(members, rest, 20)
        assert found == Counter(rest)
        back = await cluster_clients.connect(1, "mute", durable=True)
        again = [await back.expect("PUBLISH", dup=True) for _ in begun]
        assert [(packet.packet_id, packet.payload) for packet in again] == [
            (packet.packet_id, packet.payload) for packet in begun
        ]
        for packet in again:
            await back.acknowledge(packet)
        await back.expect_nothing()


async def test_messages_find_a_member_that_comes_later(cluster_clients: ClusterClients) -> None:
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(DOOMED, "mute", durable=True)
    await mute.subscribe((group, 1))
    mute.close()
    numbers = await _publish(cluster_clients, topic, 9)
    async with _members(cluster_clients, group, 2, durable=False) as members:
        found = await _until_all(members, numbers, 20)
        assert set(found.values()) == {1}


@pytest.mark.parametrize("victim", [0, 1])
async def test_any_router_can_give_away_what_waits(
    cluster_clients: ClusterClients, victim: int
) -> None:
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(
        DOOMED, "mute", durable=True, props=[("receive_maximum", 5)]
    )
    await mute.subscribe((group, 1))
    async with _members(cluster_clients, group, 2, durable=True) as members:
        numbers = await _publish(cluster_clients, topic, COUNT)
        mute.close()
        await asyncio.to_thread(cluster_clients.cluster.routers[victim].kill)
        found = await _until_all(members, numbers, 30)
        assert set(found.values()) == {1}
