"""Members of shared subscriptions that lose the right to read while messages are published.

Inputs: an ACL file that changes, SIGHUP, members at two edges, a publisher that goes on meanwhile.
Observed: each acknowledged message at one member that may read it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from pathlib import Path

from cluster.conftest import StartCluster
from support import mqtt_bytes
from support.cluster import Cluster
from support.cluster_clients import DURABLE_S
from support.mqtt_bytes import Property
from support.raw_client import RawClient

COMMON = "pattern write jobs/#\nuser kept\ntopic read jobs/#\n"
BOTH = COMMON + "user lost\ntopic read jobs/#\n"
#: Published before the rules change, while they do, and after that.
PART = 20


class _Member:
    """Takes what comes, and acknowledges it, until its UNSUBACK."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.received: list[bytes] = []
        self.task = asyncio.create_task(self._run())

    async def leave(self, filter_: str) -> None:
        """End the subscription, then the connection; what is on its way is still acknowledged."""
        await self.client.send(mqtt_bytes.unsubscribe(7, [filter_], version=self.client.version))
        await self.task
        await self.client.disconnect()

    async def _run(self) -> None:
        while (packet := await self.client.receive(600)).kind != "UNSUBACK":
            if packet.kind == "PUBREL":
                await self.client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
            elif packet.kind == "PUBLISH":
                self.received.append(packet.payload)
                if packet.qos:
                    kind = "PUBACK" if packet.qos == 1 else "PUBREC"
                    await self.client.send(mqtt_bytes.acknowledge(kind, packet.packet_id))


async def _connect(cluster: Cluster, edge: int, client_id: str, durable: bool) -> RawClient:
    host, port = cluster.edges[edge % len(cluster.edges)].mqtt
    client = await RawClient.open(f"tcp://{host}:{port}")
    props: list[Property] = [("session_expiry", DURABLE_S)] if durable else []
    username = client_id.partition("-")[0]
    await client.connect(client_id, clean=not durable, username=username, props=props)
    return client


async def _until_all(members: list[_Member], numbers: set[bytes]) -> Counter[bytes]:
    end = time.monotonic() + 15
    while True:
        found = Counter(payload for member in members for payload in member.received)
        if numbers <= set(found):
            return found
        missing = sorted(numbers - set(found), key=int)
        assert time.monotonic() < end, f"missing: {missing}"
        await asyncio.sleep(0.02)


class _Publisher:
    """Publishes numbers, one after the other."""

    def __init__(self, client: RawClient, topic: str, qos: int) -> None:
        self._client, self._topic, self._qos = client, topic, qos
        self._numbers = itertools.count(1)
        self.published: set[bytes] = set()

    async def publish(self, count: int) -> None:
        """Return when they are acknowledged."""
        for number in itertools.islice(self._numbers, count):
            payload = b"%d" % number
            await self._client.deliver(self._topic, payload, qos=self._qos, packet_id=number)
            self.published.add(payload)


async def _change(cluster: Cluster, file: Path, rules: str) -> None:
    file.write_text(rules)
    for edge in cluster.edges:
        os.kill(edge.pid, signal.SIGHUP)


async def test_members_that_lose_their_right_leave_with_what_waits_for_them(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    file = tmp_path / "acl"
    file.write_text(BOTH)
    auth = {"allow_anonymous": True, "acl_file": str(file), "reload_interval_s": 3600}
    cluster = await start_cluster(edges=2, routers=2, auth=auth)
    for durable, qos in itertools.product((False, True), (0, 1, 2)):
        name = f"{'durable' if durable else 'clean'}-{qos}"
        topic = f"jobs/{name}"
        await _change(cluster, file, BOTH)
        kept = [await _connect(cluster, edge, f"kept-{edge}-{name}", durable) for edge in (0, 1)]
        lost = [await _connect(cluster, edge, f"lost-{edge}-{name}", durable) for edge in (0, 1)]
        for client in (*kept, *lost):
            while (await client.subscribe((f"$share/g/{topic}", qos))).codes != [qos]:
                pass  # this edge has not read the rules yet
        members, leaving = [[_Member(client) for client in them] for them in (kept, lost)]
        publisher = _Publisher(await _connect(cluster, 1, f"writer-{name}", False), topic, qos)
        await publisher.publish(PART)
        await _until_all(members + leaving, publisher.published)  # QoS 0 is not acknowledged
        changing = asyncio.create_task(publisher.publish(PART))
        await _change(cluster, file, COMMON)
        await changing
        await _until_all(members + leaving, publisher.published)
        await _until_gone(cluster, name)
        before = [len(member.received) for member in leaving]
        await publisher.publish(PART)
        found = await _until_all(members + leaving, publisher.published)
        assert set(found.values()) == {1}, name
        assert [len(member.received) for member in leaving] == before, name
        assert all(before), "members that could read got nothing"
        for member in (*members, *leaving):
            await member.leave(f"$share/g/{topic}")


async def _until_gone(cluster: Cluster, name: str) -> None:
    """Wait until both edges have removed their member."""
    end = time.monotonic() + 15
    for edge, node in enumerate(cluster.edges):
        while not any(
            "removed from shared subscription" in line and f"client_id=lost-{edge}-{name}" in line
            for line in node.stderr().splitlines()
        ):
            assert time.monotonic() < end, "no line in the log"
            await asyncio.sleep(0.02)


async def test_the_queue_of_a_member_that_may_not_read_goes_to_one_at_another_edge(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    file = tmp_path / "acl"
    file.write_text(BOTH)
    auth = {"allow_anonymous": True, "acl_file": str(file), "reload_interval_s": 3600}
    cluster = await start_cluster(edges=2, routers=2, auth=auth)
    for qos in (1, 2):
        topic = f"jobs/{qos}"
        lost = await _connect(cluster, 0, f"lost-{qos}", True)
        kept = await _connect(cluster, 1, f"kept-{qos}", True)
        for client in (lost, kept):
            while (await client.subscribe((f"$share/g/{topic}", qos))).codes != [qos]:
                pass
            await client.disconnect()
        publisher = _Publisher(await _connect(cluster, 1, f"writer-{qos}", False), topic, qos)
        await publisher.publish(50)
        await _change(cluster, file, COMMON)
        probe = await _connect(cluster, 0, f"lost-probe-{qos}", False)
        while (await probe.subscribe((f"$share/g/{topic}", 0))).codes != [0x87]:
            await probe.unsubscribe(f"$share/g/{topic}", packet_id=2)
        # Nobody is connected but the one that may not read: its share must wait, or go to the
        # queue of the other one.
        back = _Member(await _connect(cluster, 0, f"lost-{qos}", True))
        member = _Member(await _connect(cluster, 1, f"kept-{qos}", True))
        found = await _until_all([member], publisher.published)
        assert set(found.values()) == {1}
        assert not back.received
        for one in (back, member):
            await one.leave(f"$share/g/{topic}")
        await _change(cluster, file, BOTH)
