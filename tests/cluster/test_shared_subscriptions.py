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

from support.cluster_clients import ClusterClients, collect
from support.raw_client import RawClient

COUNT = 60
DOOMED = 0


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
