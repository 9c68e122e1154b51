"""``tidegate router`` and ``tidegate edge`` as their users run them: start, readiness, end.

Inputs: one or two routers and two edges with a real store, processes stopped and started in any
order. Observed: ready lines, the admin pages, exit codes, and that a message goes from one edge to
the other. What becomes of messages under faults is in tests/cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.broker import Address
from support.cluster import Cluster, Node, ended
from support.cluster_clients import ClusterClients, receive_publish
from support.mqtt_bytes import V5, V311
from support.ports import free_port
from support.waiting import wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

SERVER_UNAVAILABLE = 0x88
SHUTTING_DOWN = 0x8B
NO_ROUTER = "no router reachable\n"
NO_STORE = "store not reachable\n"
DEADLINE_S = 30.0


@contextlib.asynccontextmanager
async def _laid_out(**layout: Any) -> AsyncIterator[Cluster]:
    # Short, because the path of a Unix socket has about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="tgp-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name).resolve(), **{"edges": 2, "routers": 1} | layout)
        for node in cluster.nodes:
            # Asked before the ready line can say where.
            port = node.settings["admin"]["port"] = free_port()
            node.addresses["admin"] = Address("http", "127.0.0.1", port)
        try:
            yield cluster
        finally:
            for node in cluster.nodes:
                print(f"--- {node.name}\n{node.stderr()[-4000:]}")
            await cluster.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Yield two edges and a router that run."""
    async with _laid_out() as cluster:
        await cluster.start()
        yield cluster


@pytest.fixture
def cluster_clients(cluster: Cluster) -> ClusterClients:
    """Raw clients on the edges."""
    return ClusterClients(cluster)


async def _until_ready_says(node: Node, status: int, text: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await node.admin("/readyz")) != (status, text):
            await asyncio.sleep(0.02)
    assert answer == (status, text)


async def _status(node: Node) -> dict[str, Any]:
    status, body = await node.admin("/status")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_goes_from_one_edge_to_the_other(
    cluster_clients: ClusterClients, qos: int, version: int
) -> None:
    topic = cluster_clients.topic()
    subscriber = await cluster_clients.connect(0, "subscriber", version)
    await subscriber.subscribe((topic, qos))
    publisher = await cluster_clients.connect(1, "publisher", version)
    await publisher.deliver(topic, b"hello", qos=qos)
    received = await receive_publish(subscriber)
    assert (received.payload, received.qos) == (b"hello", qos)


async def test_a_durable_session_moves_between_edges_with_what_it_missed(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic()
    client = await cluster_clients.connect(0, "client", durable=True)
    await client.subscribe((topic, 2))
    await client.disconnect()
    publisher = await cluster_clients.connect(0, "publisher")
    for number, qos in enumerate((1, 2), start=1):
        await publisher.deliver(topic, b"missed %d" % number, qos=qos, packet_id=number)
    client = await cluster_clients.connect(1, "client", durable=True)
    assert client.connack is not None
    assert client.connack.session_present
    assert [(await receive_publish(client)).payload for _ in range(2)] == [b"missed 1", b"missed 2"]


async def test_the_ready_lines_name_the_addresses(cluster: Cluster) -> None:
    (router,) = cluster.routers
    link = router.addresses["link"].path
    assert re.fullmatch(
        rf"tidegate ready link=unix:{link} admin=http://127\.0\.0\.1:\d+\n", router.stdout()
    )
    assert re.fullmatch(
        r"tidegate ready tcp=tcp://127\.0\.0\.1:\d+ admin=http://127\.0\.0\.1:\d+\n",
        cluster.edges[0].stdout(),
    )


async def test_a_router_can_listen_on_a_port_that_the_system_chooses() -> None:
    async with _laid_out(edges=1, link={"heartbeat_s": 0.25}) as cluster:
        (router,), (edge,) = cluster.routers, cluster.edges
        router.settings["link"]["listen"] = "127.0.0.1:0"
        await asyncio.to_thread(cluster.store.start)
        await asyncio.to_thread(router.start)
        address = router.addresses["link"]
        assert address.port
        edge.settings["link"]["routers"] = [f"localhost:{address.port}"]
        await asyncio.to_thread(edge.start)
        assert (await _status(edge))["ready"]


async def test_status_names_who_is_attached(cluster: Cluster) -> None:
    (router,) = cluster.routers
    facts = await _status(router)
    assert (facts["role"], facts["name"], facts["ready"]) == ("router", "router-0", True)
    assert sorted(facts["link"]["edges"]) == ["edge-0", "edge-1"]
    facts = await _status(cluster.edges[1])
    assert (facts["role"], facts["name"], facts["clients"]) == ("edge", "edge-1", 0)
    assert facts["link"]["routers"]["router-0"]["state"] == "open"


async def test_metrics_say_what_runs_and_how_it_is_linked(cluster: Cluster) -> None:
    found = {}
    for node in cluster.nodes:
        status, text = await node.admin("/metrics")
        assert status == 200
        found[node.name] = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("tidegate_link")
        }
        assert f'name="{node.name}",role="{node.role}"' in text
    assert found["edge-0"]["tidegate_link_routers", "open"] == 1
    assert found["edge-0"]["tidegate_link_routers", "down"] == 0
    assert sum(found["router-0"].values()) == 2


async def test_an_edge_without_a_router_is_not_ready_and_takes_nobody(
    cluster: Cluster, cluster_clients: ClusterClients
) -> None:
    (router,), edge = cluster.routers, cluster.edges[0]
    await _until_ready_says(edge, 200, "ready\n")
    await asyncio.to_thread(router.kill)
    await _until_ready_says(edge, 503, NO_ROUTER)
    assert await edge.admin("/livez") == (200, "alive\n")
    client = await cluster_clients.open(0)
    with pytest.raises(AssertionError):
        await client.connect("somebody")
    await asyncio.to_thread(router.start)
    await _until_ready_says(edge, 200, "ready\n")


async def test_a_router_without_its_store_is_not_ready(cluster: Cluster) -> None:
    (router,) = cluster.routers
    await asyncio.to_thread(cluster.store.kill)
    await _until_ready_says(router, 503, NO_STORE)
    assert (await _status(router))["link"]["store_reachable"] is False
    assert await router.admin("/livez") == (200, "alive\n")
    await asyncio.to_thread(cluster.store.start)
    await _until_ready_says(router, 200, "ready\n")


async def test_processes_can_be_started_in_any_order() -> None:
    async with _laid_out(edges=1) as cluster:
        (router,), (edge,) = cluster.routers, cluster.edges
        link = router.settings["link"]["listen"]
        edge.settings["link"]["routers"] = [link]
        edge.launch()
        await _until_ready_says(edge, 503, NO_ROUTER)
        router.launch()
        await _until_ready_says(router, 503, NO_STORE)
        assert not router.stdout()
        assert not edge.stdout()
        await asyncio.to_thread(cluster.store.start)
        await asyncio.to_thread(router.wait_until_ready)
        await asyncio.to_thread(edge.wait_until_ready)
        await cluster.until_ready()


async def test_an_edge_that_was_drained_before_it_found_a_router_accepts_nobody() -> None:
    async with _laid_out(edges=1) as cluster:
        (edge,) = cluster.edges
        edge.settings["link"]["routers"] = [cluster.routers[0].settings["link"]["listen"]]
        port = edge.settings["listeners"][0]["port"] = free_port()
        edge.launch()
        await _until_ready_says(edge, 503, NO_ROUTER)
        assert (await edge.admin("/drain", post=True))[0] == 202
        await asyncio.to_thread(cluster.store.start)
        for router in cluster.routers:
            await asyncio.to_thread(router.start)
        await wait_for_async(lambda: "tidegate ready" in edge.stdout(), DEADLINE_S, "it has begun")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        assert (await _status(edge))["listeners"] == {}
        assert await asyncio.to_thread(edge.stop) == 0


@pytest.mark.parametrize("role", ["edge", "router"])
async def test_what_waits_for_others_can_be_told_to_end(role: str) -> None:
    async with _laid_out(edges=1) as cluster:
        (node,) = cluster.edges if role == "edge" else cluster.routers
        cluster.edges[0].settings["link"]["routers"] = ["unix:/nowhere"]
        node.launch()
        await _until_ready_says(node, 503, NO_ROUTER if role == "edge" else NO_STORE)
        assert await asyncio.to_thread(node.stop) == 0


async def test_a_store_that_cannot_be_used_ends_the_router_with_a_sentence() -> None:
    async with _laid_out(edges=0, routers=2) as cluster:
        one, two = cluster.routers
        two.settings["store"]["partitions"] = 32
        await asyncio.to_thread(cluster.store.start)
        await asyncio.to_thread(one.start)
        two.launch()
        assert await ended(two, DEADLINE_S) == 1
        last = two.stderr().splitlines()[-1]
        sentence = "tidegate: cannot start: store.partitions: the store holds format version"
        assert last.startswith(sentence)
        assert "with 64 partitions" in last


async def test_an_edge_that_is_told_to_end_lets_its_clients_go(
    cluster: Cluster, cluster_clients: ClusterClients
) -> None:
    edge = cluster.edges[0]
    client = await cluster_clients.connect(0, "client", durable=True)
    old = await cluster_clients.connect(0, "old", V311)
    edge.terminate()
    await client.expect("DISCONNECT", reason=SHUTTING_DOWN)
    await old.expect_closed()
    assert await ended(edge, DEADLINE_S) == 0
    again = await cluster_clients.connect(1, "client", durable=True)
    assert again.connack is not None
    assert again.connack.session_present
    (router,) = cluster.routers
    async with asyncio.timeout(DEADLINE_S):
        while (await _status(router))["link"]["edges"] != ["edge-1"]:
            await asyncio.sleep(0.02)


async def test_clients_notice_nothing_of_a_router_that_is_told_to_end() -> None:
    quick = {"heartbeat_s": 0.25, "discovery_interval_s": 0.2}
    async with _laid_out(edges=1, routers=2, link=quick) as cluster:
        await cluster.start()
        await cluster.until_ready()
        cluster_clients = ClusterClients(cluster)
        topic = cluster_clients.topic()
        client = await cluster_clients.connect(0, "client")
        await client.subscribe((topic, 1))
        for number, router in enumerate(cluster.routers):
            router.terminate()
            assert await ended(router, DEADLINE_S) == 0
            assert (await cluster.edges[0].admin("/readyz"))[0] == 200
            await client.publish(topic, b"%d" % number, qos=1, packet_id=number + 1)
            seen = {(await client.receive()).kind, (await client.receive()).kind}
            assert seen == {"PUBACK", "PUBLISH"}
            await asyncio.to_thread(router.start)
            async with asyncio.timeout(DEADLINE_S):
                while len((await _status(cluster.edges[0]))["link"]["routers"]) < 2:
                    await asyncio.sleep(0.02)


async def test_the_last_router_ends_within_its_time(
    cluster: Cluster, cluster_clients: ClusterClients
) -> None:
    (router,) = cluster.routers
    await asyncio.to_thread(cluster.edges[1].stop)
    await asyncio.to_thread(cluster.edges[0].stop)
    await wait_for_async(
        lambda: router.stderr().count("edge detached") == 2, DEADLINE_S, "both edges gone"
    )
    router.terminate()
    # Nobody is attached: there is nothing to wait for.
    assert await ended(router, 5.0) == 0
