"""The store hangs, or all routers are gone: the cluster degrades honestly (G8) and goes on after.

Inputs: SIGSTOP of the store, SIGKILL of every router. Observed: what connected clients can still
do, what waits, what new clients are told, and what /readyz says; then that everything resumes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from support import mqtt_bytes
from support.cluster import Cluster, Node
from support.cluster_clients import ClusterClients, nothing_more, receive_publish
from support.mqtt_bytes import V5, V311
from support.raw_client import RawClient

SERVER_UNAVAILABLE = {V5: 0x88, V311: 3}
#: A CONNECT is refused when the operation's timeout is over; the shared cluster has 2 s.
REFUSAL_S = 5.0
#: How long a publish is watched that must not be acknowledged.
WAIT_S = 1.0
RESUME_S = 10.0
#: In which all processes of a cluster begin, on a busy machine.
BEGIN_S = 30.0


async def _is_refused(cluster_clients: ClusterClients, edge: int, version: int) -> None:
    """CONNECT gets an honest answer in bounded time. [MQTT-3.1.4-6]"""
    client = await cluster_clients.open(edge, version)
    await client.send(mqtt_bytes.connect(cluster_clients.client_id("refused"), version=version))
    async with asyncio.timeout(REFUSAL_S):
        await client.expect_refused(reasons=[SERVER_UNAVAILABLE[version]])


async def _nothing_comes(client: RawClient, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await client.receive(seconds)


async def _connects(
    cluster_clients: ClusterClients, edge: int, name: str, deadline_s: float = RESUME_S
) -> RawClient:
    """Connect as soon as it is possible again."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            return await cluster_clients.connect(edge, name)
        except (AssertionError, OSError):
            assert time.monotonic() < end, "clients are still refused"
            await asyncio.sleep(0.05)


async def _become_unready(nodes: Sequence[Node]) -> None:
    end = time.monotonic() + RESUME_S
    for node in nodes:
        while (await node.admin("/readyz"))[0] != 503:
            assert time.monotonic() < end, f"{node.name} says that it is ready"
            await asyncio.sleep(0.05)


async def test_a_store_that_hangs_stops_what_is_durable_and_nothing_else(
    cluster_clients: ClusterClients,
) -> None:
    topic, durable_topic = cluster_clients.topic("live"), cluster_clients.topic("durable")
    live = await cluster_clients.connect(0, "live")
    await live.subscribe((topic, 0))
    durable = await cluster_clients.connect(1, "durable", durable=True)
    await durable.subscribe((durable_topic, 1))
    writer = await cluster_clients.connect(2, "writer")
    waiting = await cluster_clients.connect(2, "waiting")
    await writer.deliver(durable_topic, b"before")
    assert (await receive_publish(durable)).payload == b"before"
    store = cluster_clients.cluster.store
    store.pause()
    try:
        stopped = time.monotonic()
        await waiting.publish(durable_topic, b"during", qos=1)
        await asyncio.gather(
            _nothing_comes(waiting, WAIT_S),
            _is_refused(cluster_clients, 0, V5),
            _is_refused(cluster_clients, 1, V311),
            _become_unready(cluster_clients.cluster.routers),
        )
        for number in range(20):
            await writer.publish(topic, b"%d" % number)
            assert (await live.expect("PUBLISH")).payload == b"%d" % number
        for client in (live, durable, writer):
            await client.expect_nothing()
    finally:
        store.resume()
    print(f"the store hung for {time.monotonic() - stopped:.1f} s")
    resumed = time.monotonic()
    await waiting.expect("PUBACK")
    assert (await receive_publish(durable)).payload == b"during"
    await _connects(cluster_clients, 0, "new")
    await cluster_clients.cluster.until_ready()
    print(f"all resumed within {time.monotonic() - resumed:.1f} s")
    await live.expect_nothing()
    # The broker could not know whether the store had taken it before the outage.
    await nothing_more(durable, but=b"during")


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_without_routers_edges_keep_their_clients_and_publishes_wait(
    cluster_clients: ClusterClients, how: str
) -> None:
    cluster = cluster_clients.cluster
    topic = cluster_clients.topic()
    subscriber = await cluster_clients.connect(0, "subscriber", durable=True)
    await subscriber.subscribe((topic, 1))
    ephemeral = await cluster_clients.connect(2, "ephemeral", V311)
    await ephemeral.subscribe((topic, 0))
    publisher = await cluster_clients.connect(1, "publisher", V311)
    await publisher.deliver(topic, b"before")
    assert (await receive_publish(subscriber)).payload == b"before"
    assert (await receive_publish(ephemeral)).payload == b"before"
    stopped = time.monotonic()
    for router in cluster.routers:
        if how == "killed":
            await asyncio.to_thread(router.kill)
        else:
            router.pause()
    for client in (subscriber, ephemeral):
        await client.expect_nothing()
    await publisher.publish(topic, b"during", qos=1, packet_id=2)
    await asyncio.gather(
        _nothing_comes(publisher, WAIT_S),
        _is_refused(cluster_clients, 0, V5),
        _is_refused(cluster_clients, 1, V311),
    )
    for client in (subscriber, ephemeral):
        await client.expect_nothing()
    await _become_unready(cluster.edges)
    print(f"without routers for {time.monotonic() - stopped:.1f} s")
    resumed = time.monotonic()
    await cluster.heal()
    await publisher.expect("PUBACK", packet_id=2)
    assert (await receive_publish(subscriber)).payload == b"during"
    await _connects(cluster_clients, 0, "new")
    await cluster.until_ready()
    print(f"all resumed within {time.monotonic() - resumed:.1f} s")
    await nothing_more(subscriber, but=b"during")
    await publisher.expect_nothing()
    await publisher.deliver(topic, b"after", packet_id=3)
    while (received := await receive_publish(ephemeral)).payload == b"during":
        pass
    assert received.payload == b"after"


async def test_a_publish_that_waited_for_a_router_reaches_clients_without_a_durable_session(
    cluster_clients: ClusterClients,
) -> None:
    """All routers start anew, and edges come to them one by one."""
    cluster = cluster_clients.cluster
    topic = cluster_clients.topic()
    readers = [
        await cluster_clients.connect(edge, f"reader{edge}") for edge in range(len(cluster.edges))
    ]
    for reader in readers:
        await reader.subscribe((topic, 1))
    publishers = [await cluster_clients.connect(edge, f"publisher{edge}") for edge in range(2)]
    for router in cluster.routers:
        await asyncio.to_thread(router.kill)
    for publisher in publishers:
        await publisher.publish(topic, b"waited", qos=1)
    await cluster.heal()
    for publisher in publishers:
        await publisher.expect("PUBACK", reason=0)
    for reader in readers:
        assert [(await receive_publish(reader)).payload for _ in publishers] == [b"waited"] * 2


async def test_everything_that_is_killed_at_once_goes_on_before_leases_have_run_out(
    start_cluster: Callable[..., Awaitable[Cluster]],
) -> None:
    """Nobody comes back but the same edges in another life: they are not waited for."""
    cluster = await start_cluster(
        edges=2, store={"edge_lease_s": 60}, link={"discovery_interval_s": 60}
    )
    cluster_clients = ClusterClients(cluster)
    subscriber = await cluster_clients.connect(0, "subscriber", durable=True)
    await subscriber.subscribe(("t", 1))
    publisher = await cluster_clients.connect(1, "publisher")
    await publisher.deliver("t", b"before")
    assert (await receive_publish(subscriber)).payload == b"before"
    cluster.store.kill()
    for node in cluster.nodes:
        await asyncio.to_thread(node.kill)
    await asyncio.to_thread(cluster.store.start)
    began = time.monotonic()
    await cluster.heal()
    publisher = await cluster_clients.connect(1, "publisher")
    await publisher.deliver("t", b"after")
    subscriber = await cluster_clients.connect(0, "subscriber", durable=True)
    while (await receive_publish(subscriber)).payload != b"after":
        pass
    took_s = time.monotonic() - began
    print(f"all went on within {took_s:.1f} s")
    # Processes have to start, and that is all: a life that has ended would be waited for a minute.
    assert took_s < BEGIN_S


async def test_one_router_of_two_is_enough(cluster_clients: ClusterClients) -> None:
    """Whichever dies: everything that is asked afterwards is done, within the link's timeout."""
    topic = cluster_clients.topic()
    subscriber = await cluster_clients.connect(0, "subscriber", durable=True)
    await subscriber.subscribe((f"{topic}/#", 1))
    publisher = await cluster_clients.connect(1, "publisher")
    number = 0
    for router in cluster_clients.cluster.routers:
        await asyncio.to_thread(router.kill)
        started = time.monotonic()
        for _ in range(20):
            number += 1
            name = f"{topic}/{number}"
            await publisher.deliver(name, b"%d" % number, packet_id=number)
            assert (await receive_publish(subscriber)).payload == b"%d" % number
            await cluster_clients.connect(number, f"new{number}")
        print(f"without {router.name}: 20 publishes in {time.monotonic() - started:.2f} s")
        await cluster_clients.cluster.heal()
        await cluster_clients.cluster.until_ready()
