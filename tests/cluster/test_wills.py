"""Wills of clients whose edge died: published within its lease and one sweep, exactly once (G5).

Inputs: clients with wills at an edge that is killed, or paused for longer than its lease. Observed:
what subscribers at the other edges get, how often and when.
"""

from __future__ import annotations

import asyncio
import time

from support.cluster import LEASE_S
from support.cluster_clients import ClusterClients, collect, receive_publish
from support.mqtt_bytes import V5, V311, Property, Will

DOOMED, OTHER, THIRD = 0, 1, 2
SWEEP_S = 0.5
#: For a busy machine.
GRACE_S = 2.5
DELAY_S = 1


def _will(cluster_clients: ClusterClients, name: str, *props: Property) -> Will:
    return Will(cluster_clients.topic(f"will/{name}"), name.encode(), qos=1, props=props)


async def test_wills_of_a_killed_edge_are_published_once(cluster_clients: ClusterClients) -> None:
    """Without delay at once, with delay after it, and not for who came back in time."""
    watchers = [await cluster_clients.connect(edge, f"watcher{edge}") for edge in (OTHER, THIRD)]
    for watcher in watchers:
        await watcher.subscribe((cluster_clients.topic("will/#"), 1))
    delay: Property = ("will_delay", DELAY_S)
    long_delay: Property = ("will_delay", 60)
    await cluster_clients.connect(DOOMED, "new", V5, will=_will(cluster_clients, "new"))
    await cluster_clients.connect(DOOMED, "old", V311, will=_will(cluster_clients, "old"))
    await cluster_clients.connect(
        DOOMED, "late", durable=True, will=_will(cluster_clients, "late", delay)
    )
    await cluster_clients.connect(
        DOOMED, "back", durable=True, will=_will(cluster_clients, "back", long_delay)
    )
    killed = time.monotonic()
    await asyncio.to_thread(cluster_clients.edge(DOOMED).kill)
    back = await cluster_clients.connect(OTHER, "back", durable=True)
    assert back.connack is not None
    assert back.connack.session_present
    for watcher in watchers:
        first = {(await receive_publish(watcher)).payload for _ in range(2)}
        assert first == {b"new", b"old"}
    took_s = time.monotonic() - killed
    assert took_s < LEASE_S + SWEEP_S + GRACE_S
    for watcher in watchers:
        assert (await receive_publish(watcher)).payload == b"late"
    print(f"wills {took_s:.1f} s after the kill, the late one {time.monotonic() - killed:.1f} s")
    more = await asyncio.gather(*(collect(watcher, 2 * SWEEP_S) for watcher in watchers))
    assert more == [[], []]


async def test_the_will_of_a_paused_edge_is_published_once_although_it_comes_back(
    cluster_clients: ClusterClients,
) -> None:
    watcher = await cluster_clients.connect(OTHER, "watcher")
    await watcher.subscribe((cluster_clients.topic("will/#"), 1))
    doomed = await cluster_clients.connect(DOOMED, "paused", will=_will(cluster_clients, "paused"))
    edge = cluster_clients.edge(DOOMED)
    paused = time.monotonic()
    edge.pause()
    assert (await receive_publish(watcher)).payload == b"paused"
    assert time.monotonic() - paused < LEASE_S + SWEEP_S + GRACE_S
    edge.resume()
    # The connection lost its session with the lease: it is not kept as if nothing had happened.
    await doomed.expect_closed()
    assert await collect(watcher, 3 * SWEEP_S) == []


async def test_a_will_is_published_when_its_client_goes_on_elsewhere_without_delay(
    cluster_clients: ClusterClients,
) -> None:
    """The takeover ends the old connection, and its will has no delay. [MQTT-3.1.2-8]"""
    watcher = await cluster_clients.connect(THIRD, "watcher")
    await watcher.subscribe((cluster_clients.topic("will/#"), 1))
    await cluster_clients.connect(
        DOOMED, "moves", durable=True, will=_will(cluster_clients, "moves")
    )
    cluster_clients.edge(DOOMED).pause()
    await cluster_clients.connect(OTHER, "moves", durable=True)
    assert (await receive_publish(watcher)).payload == b"moves"
    cluster_clients.edge(DOOMED).resume()
    assert await collect(watcher, 3 * SWEEP_S) == []


async def test_a_polite_end_at_one_edge_publishes_no_will(cluster_clients: ClusterClients) -> None:
    watcher = await cluster_clients.connect(OTHER, "watcher")
    await watcher.subscribe((cluster_clients.topic("will/#"), 1))
    client = await cluster_clients.connect(DOOMED, "polite", will=_will(cluster_clients, "polite"))
    await client.disconnect()
    assert await collect(watcher, 2 * SWEEP_S) == []
