"""The end of processes whose store is gone for good, as when a whole broker is deleted.

Inputs: ``tidegate serve``, and an edge with a router, with a client that stays and a message that
nobody can store; the store is killed, then all are told to stop. Output: their exit codes, and what
they say is not stored.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.cluster import Cluster, ended
from support.cluster_clients import ClusterClients
from support.waiting import wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DEADLINE_S = 30.0
#: What draining and closing may take; the default is a minute and ten seconds.
SHORT: dict[str, Any] = {"drain": {"deadline_s": 0.5}, "shutdown_timeout_s": 3.0}
AWAY = "store unavailable, retrying"


@pytest.mark.parametrize("role", ["serve", "edge"])
async def test_processes_without_a_store_end_well_and_say_what_is_not_stored(role: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tge-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name).resolve(), edges=1, routers=1, solo=role == "serve", **SHORT)
        await cluster.start()
        try:
            clients = ClusterClients(cluster)
            offline = await clients.connect(0, "offline", durable=True)
            await offline.subscribe(("t", 1))
            await offline.disconnect()
            stays = await clients.connect(0, "stays", durable=True)
            cluster.store.kill()
            await stays.send(mqtt_bytes.publish("t", b"m", qos=1, packet_id=1))
            nodes = [*cluster.edges, *cluster.routers]
            writer = nodes[-1]
            await wait_for_async(lambda: AWAY in writer.stderr(), DEADLINE_S, "the store is away")
            for node in nodes:
                node.terminate()
            assert [await ended(node, DEADLINE_S) for node in nodes] == [0] * len(nodes)
            assert "ends of connections not stored" in nodes[0].stderr()
            assert "writes not stored" in writer.stderr()
            stays.close()
        finally:
            for node in (*cluster.edges, *cluster.routers):
                print(f"--- {node.name}\n{node.stderr()[-4000:]}")
            await cluster.stop()
