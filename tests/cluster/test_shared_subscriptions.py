"""A shared subscription with members at several edges: each message to one of them, none lost.

Inputs: members that acknowledge and one that does not, and the end of its edge. Observed: who gets
which message.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from support import mqtt_bytes
from support.cluster_clients import ClusterClients, collect, nothing_more
from support.raw_client import RawClient
from support.waiting import wait_for_async

COUNT = 60
DOOMED = 0
#: Messages of one publisher, and how many of them are unanswered at a time.
BURST = 1500
AT_ONCE = 50


class Member:
    """Takes what comes and acknowledges it."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.received: list[bytes] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.received += await collect(self.client, 0.2)


@contextlib.asynccontextmanager
async def _members(
    cluster_clients: ClusterClients, group: str, edges: list[int]
) -> AsyncIterator[list[Member]]:
    members = []
    for edge in edges:
        client = await cluster_clients.connect(edge, f"member{edge}")
        await client.subscribe((group, 1))
        members.append(Member(client))
    try:
        yield members
    finally:
        for member in members:
            member.task.cancel()
        await asyncio.gather(*(member.task for member in members), return_exceptions=True)


async def _until(members: list[Member], numbers: set[bytes], deadline_s: float) -> Counter[bytes]:
    end = time.monotonic() + deadline_s
    while True:
        found = Counter(payload for member in members for payload in member.received)
        if numbers <= set(found):
            return found
        assert time.monotonic() < end, f"missing: {sorted(numbers - set(found))}"
        await asyncio.sleep(0.02)


async def test_each_message_goes_to_one_member_wherever_it_is(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic("jobs")
    publishers = [await cluster_clients.connect(edge, f"publisher{edge}") for edge in (0, 2)]
    async with _members(cluster_clients, f"$share/group/{topic}", [0, 1, 2]) as members:
        for number in range(COUNT):
            await publishers[number % 2].deliver(topic, b"%d" % number, packet_id=number + 1)
        found = await _until(members, {b"%d" % number for number in range(COUNT)}, 10)
        assert set(found.values()) == {1}
        assert all(member.received for member in members), "a member got nothing at all"


@pytest.mark.parametrize("end", ["killed", "paused"])
async def test_what_a_lost_member_had_not_acknowledged_goes_to_others(
    cluster_clients: ClusterClients, end: str
) -> None:
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(DOOMED, "mute")
    await mute.subscribe((group, 1))
    publisher = await cluster_clients.connect(1, "publisher")
    async with _members(cluster_clients, group, [1, 2]) as members:
        for number in range(COUNT):
            await publisher.deliver(topic, b"%d" % number, packet_id=number + 1)
        assert len(mute.pipe.buffer) > COUNT, "it did not get its share"
        await _lose(cluster_clients, end)
        found = await _until(members, {b"%d" % number for number in range(COUNT)}, 15)
        assert set(found.values()) == {1}


@pytest.mark.parametrize("end", ["killed", "paused"])
async def test_a_durable_member_keeps_its_share_and_others_get_what_comes_later(
    cluster_clients: ClusterClients, end: str
) -> None:
    """It has a queue: what was given to it waits there (MQTT5 §4.8.2), and the rest goes on."""
    topic = cluster_clients.topic("jobs")
    group = f"$share/group/{topic}"
    mute = await cluster_clients.connect(DOOMED, "mute", durable=True)
    await mute.subscribe((group, 1))
    publisher = await cluster_clients.connect(1, "publisher")
    async with _members(cluster_clients, group, [1, 2]) as members:
        for number in range(COUNT // 2):
            await publisher.deliver(topic, b"%d" % number, packet_id=number + 1)
        await _lose(cluster_clients, end)
        back = Member(await cluster_clients.connect(1, "mute", durable=True))
        for number in range(COUNT // 2, COUNT):
            await publisher.deliver(topic, b"%d" % number, packet_id=number + 1)
        everybody = [*members, back]
        found = await _until(everybody, {b"%d" % number for number in range(COUNT)}, 15)
        assert set(found.values()) == {1}
        back.task.cancel()


async def _lose(cluster_clients: ClusterClients, end: str) -> None:
    if end == "killed":
        await asyncio.to_thread(cluster_clients.edge(DOOMED).kill)
    else:
        cluster_clients.edge(DOOMED).pause()


@pytest.mark.statement("MQTT-4.8.2-4", "MQTT-4.3.3-10")
async def test_durable_members_get_a_qos_2_message_once_between_them_though_routers_die(
    cluster_clients: ClusterClients,
) -> None:
    """Messages that a router had queued when it died are sent again, to another router."""
    group = f"$share/group/{cluster_clients.topic('jobs/#')}"
    members = []
    for number in range(3):
        client = await cluster_clients.connect(number, f"durable{number}", durable=True)
        await client.subscribe((group, 2))
        members.append(Member(client))
    topic = cluster_clients.topic("jobs")
    publishers = [
        await cluster_clients.connect(number, f"publisher{number}") for number in range(3)
    ]
    completed = [0]
    sending = [
        asyncio.create_task(_publish(client, f"{topic}/{number}", number * BURST, completed))
        for number, client in enumerate(publishers)
    ]
    for deaths, router in enumerate(cluster_clients.cluster.routers * 2, 1):
        await wait_for_async(lambda: completed[0] > BURST // 2 * deaths, 30, "messages flow")  # noqa: B023
        await asyncio.to_thread(router.kill)
        await asyncio.to_thread(router.start)
        await cluster_clients.cluster.until_ready()
    await asyncio.gather(*sending)
    found = await _until(members, {b"%d" % number for number in range(3 * BURST)}, 15)
    for member in members:
        member.task.cancel()
    await asyncio.gather(*(member.task for member in members), return_exceptions=True)
    for member in members:
        await nothing_more(member.client)
    assert set(found.values()) == {1}, found.most_common(3)


async def _publish(client: RawClient, topic: str, first: int, completed: list[int]) -> None:
    """Publish BURST messages with QoS 2, as many at a time as are allowed."""
    for number in range(BURST + AT_ONCE):
        if number >= AT_ONCE:
            while (answer := await client.receive(30)).kind == "PUBREC":
                await client.send(mqtt_bytes.acknowledge("PUBREL", answer.packet_id))
            completed[0] += 1
        if number < BURST:
            payload = b"%d" % (first + number)
            await client.publish(f"{topic}/{number % 7}", payload, qos=2, packet_id=number + 1)
