"""Whose a session is, at two edges: client identifiers of two mount points, and of two users.

Inputs: clients of one identifier at different edges. Observed: CONNACK, and what becomes of the
other one's connection, session and messages.
"""

from __future__ import annotations

from typing import Any

from cluster.conftest import StartCluster
from support import mqtt_bytes
from support.cluster import Cluster
from support.mqtt_bytes import V5
from support.raw_client import RawClient

LISTENERS = [
    {"name": "tcp", "address": "127.0.0.1", "port": 0},
    {"name": "a", "address": "127.0.0.1", "port": 0, "mount_point": "a/"},
    {"name": "b", "address": "127.0.0.1", "port": 0, "mount_point": "b/"},
]
EXPIRY = ("session_expiry", 300)


async def _open(cluster: Cluster, edge: int, listener: str) -> RawClient:
    address = cluster.edges[edge % len(cluster.edges)].addresses[listener]
    return await RawClient.open(f"tcp://{address.host}:{address.port}")


async def _connect(
    cluster: Cluster, edge: int, listener: str = "tcp", *, durable: bool = True, **options: Any
) -> RawClient:
    client = await _open(cluster, edge, listener)
    props = [EXPIRY] if durable else []
    await client.connect("same", clean=not durable, props=props, **options)
    return client


async def test_mount_points_have_sessions_of_their_own(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(edges=2, routers=2, listeners=LISTENERS)
    for durable in (False, True):
        clients = {}
        for edge, listener in enumerate(("a", "b", "tcp")):
            client = await _connect(cluster, edge, listener, durable=durable)
            await client.subscribe(("news", 1))
            clients[listener] = client
        for listener, client in clients.items():
            await client.deliver("news", listener.encode(), qos=0)
            await client.expect("PUBLISH", topic="news", payload=listener.encode())
            await client.expect_nothing()
            await client.disconnect()
    # Durable ones, offline now: each at the other edge, with what was published for it.
    for edge, listener in enumerate(("b", "tcp", "a")):
        writer = await _open(cluster, edge, listener)
        await writer.connect("writer")
        await writer.deliver("news", listener.encode())
        client = await _connect(cluster, edge, listener)
        assert client.connack is not None
        assert client.connack.session_present
        await client.expect("PUBLISH", topic="news", payload=listener.encode())
        await client.expect_nothing()


async def test_a_user_at_another_edge_is_refused(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(edges=2, routers=2)
    for durable in (False, True):
        mine = await _connect(cluster, 0, durable=durable, username="ann")
        for edge in (0, 1):
            for clean in (False, True):
                other = await _open(cluster, edge, "tcp")
                connect = mqtt_bytes.connect("same", version=V5, clean=clean, username="bob")
                await other.send(connect)
                await other.expect_refused(reasons=[0x87])
        await mine.expect_nothing()
        again = await _connect(cluster, 1, durable=durable, username="ann")
        await mine.expect_closed(reasons=[0x8E])
        await again.disconnect()
    assert cluster.unexpected_errors() == []


async def test_an_identifier_is_free_at_once_when_a_clean_session_has_ended(
    start_cluster: StartCluster,
) -> None:
    cluster = await start_cluster(edges=2, routers=2)
    for number in range(20):
        client = await _connect(cluster, number, durable=False, username=f"user-{number}")
        await client.publish("t", b"x")
        client.reset()
