"""The store of a cluster goes back, to nothing or to a copy, while clients are connected.

Inputs: real processes; the store is emptied, or started again with what it had a while ago.
Observed: which connections end and how, what the next CONNECT says, what is delivered then, and
what routers report. The same for one process: tests/integration/test_store_rollback.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.cluster import Cluster
from support.cluster_clients import ClusterClients, receive_publish
from support.mqtt_bytes import V5, V311
from support.raw_client import RawClient

#: A check of the store's history a second, then what is done about it.
NOTICE_S = 8.0
UNSPECIFIED = 0x80
WENT_BACK = "sessions of connected clients are lost"


@pytest.fixture
async def cluster(start_cluster: Callable[..., Awaitable[Cluster]]) -> Cluster:
    """Two edges and two routers of this test's own."""
    return await start_cluster(edges=2, routers=2)


async def _status(cluster: Cluster, router: int) -> dict[str, Any]:
    _, body = await cluster.routers[router].admin("/status")
    found: dict[str, Any] = json.loads(body)["store_history"]
    return found


async def _reported_once(cluster: Cluster) -> None:
    """Every router says so once: log, counter, /status."""
    async with asyncio.timeout(NOTICE_S):
        for number, router in enumerate(cluster.routers):
            while (status := await _status(cluster, number))["rollbacks"] != 1:
                await asyncio.sleep(0.02)
            while (status := await _status(cluster, number))["state"] != "current":
                await asyncio.sleep(0.02)
            assert status["last_rollback"]
            assert router.stderr().count(WENT_BACK) == 1
            assert "tidegate_store_rollbacks_total 1.0" in (await router.admin("/metrics"))[1]


async def _session_is_new(clients: ClusterClients, edge: int, name: str, topic: str) -> RawClient:
    """Connect again, and subscribe; the broker says that there was no session. [MQTT-3.2.2-3]"""
    again = await clients.connect(edge, name, durable=True)
    assert again.connack is not None
    assert not again.connack.session_present
    assert (await again.subscribe((topic, 1))).codes == [1]
    return again


async def test_connections_of_a_store_that_was_emptied_end_and_begin_anew(
    cluster: Cluster,
) -> None:
    """[MQTT-4.1.0-1], [MQTT-3.2.2-3], [MQTT-3.8.4-6]"""
    clients = ClusterClients(cluster)
    topic = clients.topic()
    connected = [
        await clients.connect(0, "five", durable=True),
        await clients.connect(1, "other", durable=True),
        await clients.connect(0, "clean"),
        await clients.connect(1, "old", V311, durable=True),
    ]
    for client in connected:
        await client.subscribe((topic, 1))
    cluster.store.command("FLUSHALL")
    for client in connected:
        last = await client.expect_closed(reasons=[UNSPECIFIED], timeout_s=NOTICE_S)
        if client.version == V5:
            assert last is not None
            assert "store has gone back" in str(last.get("reason_string"))
    # Who comes back before every router has noticed may be ended once more.
    await _reported_once(cluster)
    again = await _session_is_new(clients, 1, "five", topic)
    publisher = await clients.connect(0, "publisher")
    await publisher.deliver(topic, b"after")
    assert (await receive_publish(again)).payload == b"after"
    await _reported_once(cluster)


async def test_sessions_that_a_copy_has_go_on_and_others_begin_anew(cluster: Cluster) -> None:
    clients = ClusterClients(cluster)
    topic = clients.topic()
    kept = await clients.connect(0, "kept", durable=True)
    await kept.subscribe((topic, 1))
    publisher = await clients.connect(1, "publisher")
    await kept.disconnect()
    await publisher.deliver(topic, b"in the copy")
    copy = await asyncio.to_thread(cluster.store.keep_copy)
    kept = await clients.connect(0, "kept", durable=True)
    assert (await receive_publish(kept)).payload == b"in the copy"
    lost = await clients.connect(1, "lost", durable=True)
    await lost.subscribe((topic, 1))
    # As long as a lease lasts: those of the copy have ended when it is used.
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        await publisher.deliver(topic, b"live")
        await receive_publish(kept)
        await receive_publish(lost)
    await asyncio.to_thread(cluster.store.go_back, copy)
    for client in (kept, lost, publisher):
        await client.expect_closed(reasons=[UNSPECIFIED], timeout_s=NOTICE_S)
    kept = await clients.connect(1, "kept", durable=True)
    assert kept.connack is not None
    assert kept.connack.session_present
    assert (await receive_publish(kept)).payload == b"in the copy"
    lost = await _session_is_new(clients, 0, "lost", topic)
    publisher = await clients.connect(0, "publisher")
    await publisher.deliver(topic, b"after")
    for client in (kept, lost):
        assert (await receive_publish(client)).payload == b"after"
    await _reported_once(cluster)
