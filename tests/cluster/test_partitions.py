"""An edge that cannot reach routers, while clients, store and the other edges are well.

Inputs: paths between edges and routers that are reset, silent or slow. Observed: where sessions go,
what waits, and that everything comes together again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from support.cluster import TIMEOUT_S, Cluster
from support.cluster_clients import ClusterClients, nothing_more, receive_publish
from support.faulting_proxy import FaultingProxy

CUT_OFF, OTHER = 0, 1
#: Longer than any of these partitions: an edge without a lease has lost its sessions.
LEASE_S = 8
#: A message that the usual way cannot bring is found by looking into the queue.
LOOK_S = 6.0


@pytest.fixture
async def parted(
    start_cluster: Callable[..., Awaitable[Cluster]],
) -> ClusterClients:
    """Return guests of a cluster with a proxy on each path."""
    return ClusterClients(
        await start_cluster(edges=2, proxied=True, store={"edge_lease_s": LEASE_S})
    )


def _paths(cluster_clients: ClusterClients, edge: int) -> list[FaultingProxy]:
    name = cluster_clients.edge(edge).name
    return [proxy for (one, _), proxy in cluster_clients.cluster.proxies.items() if one == name]


@pytest.mark.parametrize("way", ["reset", "silent"])
async def test_a_session_leaves_an_edge_that_is_cut_off(parted: ClusterClients, way: str) -> None:
    topic = parted.topic()
    old = await parted.connect(CUT_OFF, "client", durable=True)
    await old.subscribe((topic, 1))
    for path in _paths(parted, CUT_OFF):
        if way == "reset":
            path.cut()
        else:
            path.blackhole()
    started = time.monotonic()
    new = await parted.connect(OTHER, "client", durable=True)
    assert time.monotonic() - started < 1
    assert new.connack is not None
    assert new.connack.session_present
    publisher = await parted.connect(OTHER, "publisher")
    await publisher.deliver(topic, b"once")
    assert (await receive_publish(new)).payload == b"once"
    for path in _paths(parted, CUT_OFF):
        path.heal()
    last = await old.expect_closed()
    assert last is None or last.reason == 0x8E
    await new.expect_nothing()


async def test_publishes_at_an_edge_that_is_cut_off_wait_and_none_is_lost(
    parted: ClusterClients,
) -> None:
    topic = parted.topic()
    reader = await parted.connect(OTHER, "reader", durable=True)
    await reader.subscribe((topic, 2))
    publisher = await parted.connect(CUT_OFF, "publisher", durable=True)
    for path in _paths(parted, CUT_OFF):
        path.blackhole()
    for number in range(1, 11):
        await publisher.publish(topic, b"%d" % number, qos=2, packet_id=number)
    with pytest.raises(TimeoutError):
        await publisher.receive(2 * TIMEOUT_S)
    for path in _paths(parted, CUT_OFF):
        path.heal()
    for number in range(1, 11):
        await publisher.expect("PUBREC", packet_id=number)
    found = [(await receive_publish(reader)).payload for _ in range(10)]
    assert found == [b"%d" % number for number in range(1, 11)]
    await nothing_more(reader)


async def test_an_edge_that_reaches_one_router_of_two_serves_its_clients(
    parted: ClusterClients,
) -> None:
    """Publishes of the other edge go through both routers; none is lost to who is cut off."""
    reader = await parted.connect(CUT_OFF, "reader", durable=True)
    await reader.subscribe((parted.topic("#"), 1))
    _paths(parted, CUT_OFF)[0].blackhole()
    publishers = [await parted.connect(edge, f"publisher{edge}") for edge in (CUT_OFF, OTHER)]
    for number in range(1, 21):
        for publisher in publishers:
            topic = parted.topic(f"{number}/{publishers.index(publisher)}")
            await publisher.deliver(topic, topic.encode(), packet_id=number)
    started = time.monotonic()
    found = {(await receive_publish(reader, LOOK_S)).payload for _ in range(40)}
    print(f"everything was there {time.monotonic() - started:.2f} s after the last publish")
    assert len(found) == 40
    fresh = await parted.connect(CUT_OFF, "fresh", durable=True)
    await fresh.subscribe((parted.topic("x/#"), 1))
    await publishers[1].deliver(parted.topic("x/1"), b"new subscription", packet_id=100)
    assert (await receive_publish(fresh, LOOK_S)).payload == b"new subscription"


async def test_a_slow_path_delays_and_loses_nothing(parted: ClusterClients) -> None:
    reader = await parted.connect(CUT_OFF, "reader")
    await reader.subscribe((parted.topic("#"), 0))
    for path in _paths(parted, CUT_OFF):
        path.delay_s = 0.2
    publisher = await parted.connect(OTHER, "publisher")
    started = time.monotonic()
    sent = [b"%d" % number for number in range(100)]
    for payload in sent:
        await publisher.publish(parted.topic("slow"), payload)
    found = [(await receive_publish(reader)).payload for _ in sent]
    assert found == sent
    assert 0.2 <= time.monotonic() - started < 2
