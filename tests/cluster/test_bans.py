"""Bans in a cluster: in force at every edge within a second, and what a flapping client gets.

Inputs: three edges, two routers, bans that another process stores; a router that dies. Observed:
what clients are answered, and when.
"""

from __future__ import annotations

import time

from cluster.conftest import StartCluster
from support import mqtt_bytes
from support.cluster import Cluster
from support.raw_client import RawClient
from support.recorded import until_recorded
from tidegate.bans.ban import Ban, BanKind
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.ban_store import BanStore
from tidegate.store.redis_store import RedisStore

#: "Within a second", for a machine that runs other tests as well.
IN_FORCE_S = 5.0


async def _open(cluster: Cluster, edge: int) -> RawClient:
    host, port = cluster.edges[edge].mqtt
    return await RawClient.open(f"tcp://{host}:{port}")


async def _until_answered(
    cluster: Cluster, edge: int, client_id: str, username: str, reason: int
) -> None:
    """Connect at an edge until the answer has this reason code."""
    end_s = time.monotonic() + IN_FORCE_S
    while True:
        client = await _open(cluster, edge)
        await client.send(mqtt_bytes.connect(client_id, username=username))
        connack = await client.expect("CONNACK")
        if connack.reason == reason:
            return
        assert time.monotonic() < end_s, f"answered with 0x{connack.reason:02x}"
        client.reset()


async def test_a_ban_counts_at_every_edge_and_ends_with_its_deletion(
    start_cluster: StartCluster,
) -> None:
    flapping = {"enabled": True, "max_disconnects": 3, "ban_s": 600}
    cluster = await start_cluster(edges=3, routers=2, limits={"flapping": flapping})
    store = await RedisStore.connect(
        url=cluster.store.url, limits=LimitsConfig(), store=StoreConfig()
    )
    bans = BanStore(store._partitions)
    try:
        clients = [await _open(cluster, edge) for edge in range(3)]
        for number, client in enumerate(clients):
            await client.connect(f"banned-{number}", username="ann")
        bystander = await _open(cluster, 0)
        await bystander.connect("bystander", username="bob")
        cluster.routers[0].kill()
        ban = Ban.make(BanKind.USER, "ann", at=time.time(), reason="left the company")
        began_s = time.monotonic()
        await bans.add(ban)
        for client in clients:
            await client.expect_closed(reasons=[0x98])
        assert time.monotonic() - began_s < IN_FORCE_S
        for edge in range(3):
            refused = await _open(cluster, edge)
            await refused.send(mqtt_bytes.connect("another", username="ann"))
            await refused.expect_refused(reasons=[0x8A])
        cluster.routers[0].start()
        await bystander.subscribe(("t", 0))
        await bans.delete(ban.id)
        for edge in range(3):
            await _until_answered(cluster, edge, f"back-{edge}", "ann", 0)
        for _ in range(3):
            flapper = await _open(cluster, 1)
            await flapper.connect("flapper")
            flapper.reset()
        await until_recorded(cluster.store, "flapper", "banned")
        for edge in (1, 0, 2):
            await _until_answered(cluster, edge, "flapper", "", 0x8A)
        (stored,) = await bans.stored()
        found = Ban.decode(stored)
        assert found is not None
        assert (found.value, found.by) == ("flapper", "limits.flapping")
    finally:
        await store.close()
