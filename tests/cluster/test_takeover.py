"""A client identifier has one connection in the whole cluster (G3), whatever its old edge does.

Inputs: CONNECTs with the same client identifier at different edges, the old edge running, paused,
killed or cut off. Observed: how soon the new one is accepted, what becomes of the old one, and
where messages go.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from support import mqtt_bytes
from support.cluster_clients import ClusterClients, receive_publish
from support.mqtt_bytes import V5, V311
from support.peers import both_versions
from support.raw_client import RawClient

TAKEN_OVER = 0x8E
#: The guarantee: a takeover takes no longer.
TAKEOVER_S = 1.0
OLD, NEW, ELSEWHERE = 0, 1, 2


async def _take_over(cluster_clients: ClusterClients, version: int) -> RawClient:
    started = time.monotonic()
    client = await cluster_clients.connect(NEW, "client", version, durable=True)
    took_s = time.monotonic() - started
    print(f"taken over in {took_s * 1000:.0f} ms")
    assert took_s < TAKEOVER_S
    assert client.connack is not None
    assert client.connack.session_present
    return client


@both_versions
@pytest.mark.parametrize("old_edge", ["running", "paused", "killed"])
async def test_a_session_moves_to_another_edge_within_a_second(
    cluster_clients: ClusterClients, old_edge: str, version: int
) -> None:
    topic = cluster_clients.topic()
    old = await cluster_clients.connect(OLD, "client", version, durable=True)
    await old.subscribe((topic, 1))
    publisher = await cluster_clients.connect(ELSEWHERE, "publisher")
    await publisher.deliver(topic, b"before")
    assert (await receive_publish(old)).payload == b"before"
    await old.expect_nothing()
    edge = cluster_clients.edge(OLD)
    if old_edge == "paused":
        edge.pause()
    elif old_edge == "killed":
        await asyncio.to_thread(edge.kill)
    new = await _take_over(cluster_clients, version)
    await publisher.deliver(topic, b"after", packet_id=2)
    while (received := await receive_publish(new)).payload == b"before":
        assert received.dup
    assert received.payload == b"after"
    if old_edge == "paused":
        edge.resume()
    if old_edge != "killed":
        last = await old.expect_closed()
        assert version == V311 or (last is not None and last.reason == TAKEN_OVER)
    await new.expect_nothing()


async def test_clean_start_at_another_edge_discards_what_was_queued(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic()
    old = await cluster_clients.connect(OLD, "client", durable=True)
    await old.subscribe((topic, 1))
    publisher = await cluster_clients.connect(ELSEWHERE, "publisher")
    await publisher.deliver(topic, b"queued")
    new = await cluster_clients.connect(NEW, "client", durable=True, clean=True)
    assert new.connack is not None
    assert not new.connack.session_present
    await publisher.deliver(topic, b"not subscribed", packet_id=2)
    await new.expect_nothing()


async def test_a_disconnected_session_is_found_at_every_edge(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic()
    client = await cluster_clients.connect(OLD, "client", durable=True)
    await client.subscribe((topic, 2))
    publisher = await cluster_clients.connect(ELSEWHERE, "publisher")
    for number in range(6):
        await client.disconnect()
        await publisher.deliver(topic, b"%d" % number, qos=2, packet_id=number + 1)
        client = await cluster_clients.connect(number, "client", durable=True)
        assert client.connack is not None
        assert client.connack.session_present
        received = await receive_publish(client)
        assert (received.payload, received.qos) == (b"%d" % number, 2)
        await client.expect("PUBREL", packet_id=received.packet_id)
        await client.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))


async def test_of_many_connections_at_once_one_is_left(cluster_clients: ClusterClients) -> None:
    """Twelve CONNECTs with one client identifier at three edges: the session has one owner."""
    topic = cluster_clients.topic()
    opened = [await cluster_clients.open(number) for number in range(12)]
    connect = mqtt_bytes.connect(
        cluster_clients.client_id(), version=V5, clean=False, props=[("session_expiry", 300)]
    )
    await asyncio.gather(*(client.send(connect) for client in opened))

    async def fate(client: RawClient) -> RawClient | None:
        """The client if it is accepted and stays for a second, else None."""
        packet = await client.receive_or_end()
        if packet is None or packet.kind != "CONNACK" or packet.reason:
            return None
        try:
            last = await client.receive_or_end(1.0)
        except TimeoutError:
            return client
        assert last is None or (last.kind, last.reason) == ("DISCONNECT", TAKEN_OVER), last
        return None

    left = [client for client in await asyncio.gather(*map(fate, opened)) if client is not None]
    assert len(left) == 1
    (owner,) = left
    await owner.subscribe((topic, 1))
    publisher = await cluster_clients.connect(ELSEWHERE, "publisher")
    await publisher.deliver(topic, b"once")
    assert (await receive_publish(owner)).payload == b"once"
    await owner.expect_nothing()
