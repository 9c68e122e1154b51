"""Quotas where several routers and edges share them.

Inputs: clients of different edges; a quota, or a store that is nearly full. Observed: reason codes.
"""

from __future__ import annotations

import re

from cluster.conftest import StartCluster
from support import mqtt_bytes
from support.cluster import Cluster
from support.mqtt_bytes import V5
from support.raw_client import RawClient

EXPIRY = ("session_expiry", 300)


async def _client(cluster: Cluster, edge: int, client_id: str, *, durable: bool) -> RawClient:
    address = cluster.edges[edge % len(cluster.edges)].addresses["tcp"]
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
    await client.connect(client_id, clean=not durable, props=[EXPIRY] if durable else [])
    return client


async def test_retained_messages_count_at_whichever_router_they_are(
    start_cluster: StartCluster,
) -> None:
    limits = {"max_retained_messages_per_client": 10}
    cluster = await start_cluster(edges=2, routers=3, limits=limits)
    accepted = 0
    for number in range(40):
        client = await _client(cluster, number, "mine", durable=False)
        packet = await client.deliver(f"t/{number}", retain=True)
        assert packet is not None
        accepted += packet.reason < 0x80
    # Each router has what it has read lately, and what it has stored since.
    assert 10 <= accepted <= 30
    assert cluster.unexpected_errors() == []


async def test_sessions_count_at_whichever_router_they_are(start_cluster: StartCluster) -> None:
    limits = {"max_sessions_per_user": 1}
    cluster = await start_cluster(edges=2, routers=2, limits=limits)
    for edge in (0, 1):
        await (await _client(cluster, edge, "mine", durable=True)).disconnect()
    # Within a second a router may go by what it has read before.
    for number in range(100):
        address = cluster.edges[number % 2].addresses["tcp"]
        client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
        connect = mqtt_bytes.connect(f"c{number}", version=V5, clean=False, props=[EXPIRY])
        await client.send(connect)
        connack = await client.receive_or_end()
        assert connack is not None
        assert connack.reason in {0, 0x97}
        if connack.reason:
            break
    assert connack is not None
    assert connack.reason == 0x97
    await _client(cluster, 0, "mine", durable=True)
    assert cluster.unexpected_errors() == []


async def test_a_full_store_refuses_at_every_edge(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(edges=2, routers=2, store={"memory_reserve_percent": 50})
    sleeper = await _client(cluster, 0, "sleeper", durable=True)
    await sleeper.subscribe(("queue", 1))
    await sleeper.disconnect()
    text = str(cluster.store.command("INFO", "memory"))
    found = re.search(r"used_memory'?: ?(\d+)", text)
    assert found is not None
    cluster.store.command("CONFIG", "SET", "maxmemory", int(found[1]) * 3 // 2)
    for edge, durable in ((0, False), (1, True)):
        for qos in (1, 2):
            publisher = await _client(cluster, edge, f"p{qos}{edge}", durable=durable)
            packet, number = None, 0
            while packet is None or packet.reason < 0x80:
                number += 1
                packet = await publisher.deliver("queue", qos=qos, packet_id=number)
                assert packet is not None
            assert packet.reason == 0x97
    assert (await _client(cluster, 1, "sleeper", durable=True)).connack is not None
