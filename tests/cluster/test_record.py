"""The record of a cluster: three edges and two routers write one record.

Inputs: a client that moves from edge to edge, a router that is killed. Observed: its events.
"""

from __future__ import annotations

from cluster.conftest import StartCluster
from support.cluster import Cluster
from support.raw_client import RawClient
from support.recorded import events_of, until_recorded


async def _connect(cluster: Cluster, edge: int, client_id: str) -> RawClient:
    host, port = cluster.edges[edge].mqtt
    client = await RawClient.open(f"tcp://{host}:{port}")
    await client.connect(client_id, clean=False, props=[("session_expiry", 600)])
    return client


async def test_a_client_that_moves_between_edges_has_one_record(
    start_cluster: StartCluster,
) -> None:
    cluster = await start_cluster(edges=3, routers=2)
    first = await _connect(cluster, 0, "mover")
    second = await _connect(cluster, 1, "mover")
    await first.expect_closed()
    await until_recorded(cluster.store, "mover", "connected", "taken_over")
    await until_recorded(cluster.store, "mover", "connected", "connected")
    cluster.routers[0].kill()
    third = await _connect(cluster, 2, "mover")
    await second.expect_closed()
    await third.subscribe(("t", 1))
    await until_recorded(cluster.store, "mover", "taken_over", "taken_over")
    await until_recorded(
        cluster.store, "mover", "connected", "connected", "connected", "subscribed"
    )
    events = events_of(cluster.store, "mover")
    places = [event.edge for event in events if event.kind.value == "connected"]
    assert places == [edge.name for edge in cluster.edges]
    assert len([event for event in events_of(cluster.store) if event.client == "mover"]) == len(
        events
    )
