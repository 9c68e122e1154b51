"""What a connection still sends after another one has taken its session over has no effect (G3).

Inputs: clients that go on at another edge while packets of theirs lie unread in the socket of the
first one, which runs, hangs for a moment, or for longer than its lease; QoS 2 exchanges that are
repeated on the next connection; routers that die. Observed: what subscribers get, and what is kept.
[MQTT-3.1.4-3], [MQTT-3.3.1-5], [MQTT-4.3.3-10]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from support import mqtt_bytes
from support.cluster import Cluster
from support.cluster_clients import (
    ClusterClients,
    connect_when_served,
    receive_publish,
    settled,
)
from support.mqtt_bytes import V5, V311, Packet, Will
from support.peers import both_versions
from support.raw_client import RawClient

OLD, NEW, ELSEWHERE = 0, 1, 2
CLIENTS = 6
ROUNDS = 40


async def _payloads(client: RawClient, last: bytes) -> dict[str, list[bytes]]:
    """What a client gets on each topic until every topic has brought ``last``."""
    found: dict[str, list[bytes]] = {}
    open_topics = {f"{number}" for number in range(CLIENTS)}
    while open_topics:
        received = await receive_publish(client)
        topic = received.topic.rpartition("/")[2]
        found.setdefault(topic, []).append(received.payload)
        if received.payload == last:
            open_topics.discard(topic)
    return found


@pytest.mark.parametrize("hang", ["a moment", "longer than the lease"])
@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_lies_in_the_sockets_of_an_edge_that_hung_has_no_effect(
    cluster_clients: ClusterClients, qos: int, durable: bool, hang: str
) -> None:
    topics = [cluster_clients.topic(f"state/{number}") for number in range(CLIENTS)]
    names = [f"mover{number}" for number in range(CLIENTS)]
    watcher = await cluster_clients.connect(ELSEWHERE, "watcher", durable=True)
    await watcher.subscribe((cluster_clients.topic("state/+"), 2), (cluster_clients.topic("w"), 1))
    old = [await cluster_clients.connect(OLD, name, durable=durable) for name in names]
    will = Will(cluster_clients.topic("w"), b"swept", qos=1)
    witness = await cluster_clients.connect(OLD, "witness", will=will)
    edge = cluster_clients.edge(OLD)
    edge.pause()
    for client, topic in zip(old, topics, strict=True):
        await client.publish(topic, b"old", qos=qos, retain=True)
        await client.send(mqtt_bytes.unsubscribe(2, [topic]), mqtt_bytes.disconnect(4))
    if hang != "a moment":
        # Its sessions have been given up: nobody has to be superseded any more.
        assert (await receive_publish(watcher)).payload == b"swept"
    for name, topic in zip(names, topics, strict=True):
        new = await cluster_clients.connect(NEW, name, durable=durable)
        await new.deliver(topic, b"new", retain=True)
    edge.resume()
    for client in old:
        while await client.receive_or_end() is not None:
            pass
    # By the way that the old ones have taken: what they have sent precedes it.
    if hang != "a moment":
        while await witness.receive_or_end() is not None:
            pass
    last = await connect_when_served(cluster_clients, OLD, "last")
    for number, topic in enumerate(topics):
        await last.deliver(topic, b"last", packet_id=number + 1)
    found = await _payloads(watcher, b"last")
    assert found == {f"{number}": [b"new", b"last"] for number in range(CLIENTS)}
    reader = await cluster_clients.connect(ELSEWHERE, "reader")
    await reader.subscribe((cluster_clients.topic("state/+"), 1))
    kept = [(await receive_publish(reader)).payload for _ in range(CLIENTS)]
    assert kept == [b"new"] * CLIENTS


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_bytes_in_the_socket_of_a_busy_edge_never_come_after_the_successor(
    cluster_clients: ClusterClients, qos: int, version: int
) -> None:
    """The client is back at another edge in the same millisecond."""
    watcher = await cluster_clients.connect(ELSEWHERE, "watcher")
    await watcher.subscribe((cluster_clients.topic("+"), 1))
    for number in range(ROUNDS):
        topic, name = cluster_clients.topic(f"{number}"), f"mover{number}"
        old = await cluster_clients.connect(OLD, name, version, durable=True)
        new = await cluster_clients.open(NEW, version)
        for value in range(20):
            await old.publish(topic, b"old", qos=qos, packet_id=value + 1, retain=True)
        await new.connect(cluster_clients.client_id(name), clean=False)
        await new.publish(topic, b"new", qos=1, packet_id=100, retain=True)
        while (await new.receive()).kind != "PUBACK":
            pass
        values = []
        while (received := await receive_publish(watcher)).payload != b"new":
            values.append(received.payload)
        assert set(values) <= {b"old"}
        if qos:
            await watcher.expect_nothing()
        reader = await cluster_clients.connect(ELSEWHERE, "reader")
        await reader.subscribe((topic, 1))
        assert (await receive_publish(reader)).payload == b"new"
        old.close()
        new.close()


async def _exchange_begun(
    cluster: Cluster, old: RawClient, topic: str, subscriber: RawClient
) -> Packet:
    """Begin a QoS 2 exchange that the store cannot complete; what the subscriber is given."""
    cluster.store.pause()
    await old.publish(topic, b"once", qos=2, packet_id=7)
    return await receive_publish(subscriber)


async def _finish(client: RawClient, received: Packet) -> None:
    await client.expect("PUBREL", packet_id=received.packet_id)
    await client.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))


@both_versions
@pytest.mark.parametrize("solo", [False, True], ids=["cluster", "one process"])
@pytest.mark.parametrize("new_edge", [OLD, NEW], ids=["same edge", "another edge"])
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_an_exchange_that_is_repeated_on_the_next_connection_is_delivered_once(
    start_cluster: Callable[..., Awaitable[Cluster]], new_edge: int, version: int, solo: bool
) -> None:
    """Also where the router still waits for the store when the session is taken over."""
    cluster = await start_cluster(edges=3, solo=solo)
    clients = ClusterClients(cluster)
    topic = clients.topic()
    clean = await clients.connect(ELSEWHERE, "clean", version)
    await clean.subscribe((topic, 2))
    durable = await clients.connect(ELSEWHERE, "durable", version, durable=True)
    await durable.subscribe((topic, 2))
    low = await clients.connect(ELSEWHERE, "low", version)
    await low.subscribe((topic, 0))
    old = await clients.connect(OLD, "publisher", version, durable=True)
    given = await _exchange_begun(cluster, old, topic, clean)
    assert given.payload == b"once"
    assert (await receive_publish(low)).payload == b"once"
    opened = await clients.open(new_edge, version)
    props = [("session_expiry", 300)] if version == V5 else []
    await opened.send(
        mqtt_bytes.connect(
            clients.client_id("publisher"),
            version=version,
            clean=False,
            props=props,
        )
    )
    cluster.store.resume()
    assert (await opened.expect("CONNACK")).session_present
    await opened.publish(topic, b"once", qos=2, packet_id=7, dup=True)
    await opened.expect("PUBREC", packet_id=7)
    await opened.send(mqtt_bytes.acknowledge("PUBREL", 7))
    await opened.expect("PUBCOMP", packet_id=7)
    await opened.deliver(topic, b"next", qos=2, packet_id=7)
    await _finish(clean, given)
    assert (await receive_publish(clean)).payload == b"next"
    assert (await receive_publish(low)).payload == b"next"
    assert [(await receive_publish(durable)).payload for _ in range(2)] == [b"once", b"next"]


@both_versions
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_a_routers_death_doubles_no_qos_2_message_for_a_connection_that_stays(
    cluster_clients: ClusterClients, version: int
) -> None:
    cluster = cluster_clients.cluster
    subscriber = await cluster_clients.connect(ELSEWHERE, "subscriber", version)
    await subscriber.subscribe((cluster_clients.topic("+"), 2))
    publisher = await cluster_clients.connect(OLD, "publisher", version, durable=True)
    cluster.store.pause()
    for number in range(16):
        topic = cluster_clients.topic(f"{number}")
        await publisher.publish(topic, b"%d" % number, qos=2, packet_id=number + 1)
    got = [(await receive_publish(subscriber)).payload for _ in range(16)]
    await asyncio.to_thread(cluster.routers[0].kill)
    cluster.store.resume()
    answered = 0
    while answered < 16:
        answered += (await publisher.receive()).kind == "PUBREC"
    await publisher.publish(cluster_clients.topic("last"), b"last")
    while (received := await receive_publish(subscriber)).payload != b"last":
        got.append(received.payload)
    assert sorted(got) == sorted(b"%d" % number for number in range(16))


@both_versions
@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.1.2-10")
async def test_a_connect_that_lay_in_the_socket_of_a_hung_router_begins_nothing_later(
    cluster_clients: ClusterClients, version: int, durable: bool
) -> None:
    """The edge has sent it again, through the other router; that connection has ended since."""
    routers = cluster_clients.cluster.routers
    watcher = await cluster_clients.connect(ELSEWHERE, "watcher")
    await watcher.subscribe((cluster_clients.topic("will/#"), 1))
    names = [f"device{number}" for number in range(CLIENTS)]
    routers[0].pause()
    connecting = [
        cluster_clients.connect(
            OLD,
            name,
            version,
            durable=durable,
            will=Will(cluster_clients.topic(f"will/{name}"), name.encode(), qos=1),
        )
        for name in names
    ]
    for client in await asyncio.gather(*connecting):
        client.reset()
    first = [(await receive_publish(watcher)).payload.decode() for _ in names]
    assert sorted(first) == names
    routers[0].resume()
    await settled(cluster_clients.cluster)
    back = [await cluster_clients.connect(NEW, name, version, durable=durable) for name in names]
    for client in back:
        assert client.connack is not None
        assert client.connack.session_present == durable
    # Wills of connections that were begun late would be published by now: these take over.
    await back[0].publish(cluster_clients.topic("will/last"), b"last")
    assert (await receive_publish(watcher)).payload == b"last"


@both_versions
@pytest.mark.parametrize("end", ["takeover", "reset", "with will"])
async def test_a_will_precedes_what_the_next_connection_publishes(
    cluster_clients: ClusterClients, version: int, end: str
) -> None:
    """Whatever has ended the connection, and whichever router the topic has. [MQTT-3.1.2-8]"""
    if (version, end) == (V311, "with will"):
        pytest.skip("DISCONNECT with Will Message is new in 5.0")
    watcher = await cluster_clients.connect(ELSEWHERE, "watcher")
    await watcher.subscribe((cluster_clients.topic("+"), 1))
    for number in range(ROUNDS):
        topic, name = cluster_clients.topic(f"{number}"), f"device{number}"
        will = Will(topic, b"offline", qos=number % 3, retain=True)
        old = await cluster_clients.connect(OLD, name, version, will=will)
        if end == "reset":
            old.reset()
        elif end == "with will":
            await old.send(mqtt_bytes.disconnect(4))
        new = await cluster_clients.connect(NEW, name, version)
        await new.deliver(topic, b"online", retain=True)
        values: list[bytes] = []
        while not values or values[-1] != b"online":
            values.append((await receive_publish(watcher)).payload)
        await watcher.expect_nothing()
        assert values in ([b"offline", b"online"], [b"online"]), (end, number)
        # At a reset the old edge may learn of the end only by the takeover: one will, either way.
        assert values == [b"offline", b"online"] or end == "reset"
        await new.disconnect()
        old.close()


@pytest.mark.parametrize("end", ["takeover", "reset", "polite"])
@pytest.mark.parametrize("way", ["cut", "silent"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_waits_behind_a_cut_never_comes_after_the_next_connection(
    start_cluster: Callable[..., Awaitable[Cluster]], qos: int, way: str, end: str
) -> None:
    """Its old edge is well, and reaches the router of the topic again only later."""
    cluster = await start_cluster(edges=2, proxied=True, store={"edge_lease_s": 8})
    clients = ClusterClients(cluster)
    topics = [clients.topic(f"{number}") for number in range(CLIENTS)]
    watcher = await clients.connect(NEW, "watcher", durable=True)
    await watcher.subscribe((clients.topic("+"), 2))
    old = [await clients.connect(OLD, f"mover{number}", durable=True) for number in range(CLIENTS)]
    # One router is enough for the sessions: the end of a connection can be stored meanwhile.
    path = cluster.proxies[cluster.edges[OLD].name, cluster.routers[0].name]
    if way == "cut":
        path.cut()
    else:
        path.blackhole()
    for client, topic in zip(old, topics, strict=True):
        await client.publish(topic, b"old", qos=qos, retain=True)
        if end == "reset":
            client.reset()
        elif end == "polite":
            await client.send(mqtt_bytes.disconnect())
    for number, topic in enumerate(topics):
        new = await clients.connect(NEW, f"mover{number}", durable=True)
        await new.deliver(topic, b"new", retain=True)
    path.heal()
    await cluster.until_ready()
    last = await clients.connect(OLD, "last")
    for number, topic in enumerate(topics):
        await last.deliver(topic, b"last", packet_id=number + 1)
    found = await _payloads(watcher, b"last")
    for values in found.values():
        assert [value for value in values if value != b"old"] == [b"new", b"last"]
        assert b"old" not in values or values[0] == b"old"
        assert values.count(b"old") <= 1
    reader = await clients.connect(NEW, "reader")
    await reader.subscribe((clients.topic("+"), 1))
    kept = [(await receive_publish(reader)).payload for _ in range(CLIENTS)]
    assert kept == [b"new"] * CLIENTS


@both_versions
@pytest.mark.statement("MQTT-3.14.4-3")
async def test_no_will_of_a_client_that_disconnected_while_the_store_was_away(
    start_cluster: Callable[..., Awaitable[Cluster]], version: int
) -> None:
    """It connects at another edge, often before the store has the end of that connection."""
    cluster = await start_cluster()
    clients = ClusterClients(cluster)
    watcher = await clients.connect(ELSEWHERE, "watcher")
    await watcher.subscribe((clients.topic("+"), 1))
    names = [f"polite{number}" for number in range(ROUNDS)]
    old = {
        name: await clients.connect(OLD, name, version, will=Will(clients.topic(name), b"will"))
        for name in names
    }
    await asyncio.to_thread(cluster.store.kill)
    for client in old.values():
        await client.disconnect()
    await asyncio.to_thread(cluster.store.start)
    for name in names:
        connack = None
        while connack is None or connack.reason:
            new = await clients.open(NEW, version)
            await new.send(mqtt_bytes.connect(clients.client_id(name), version=version))
            connack = await new.receive()
        await new.publish(clients.topic(name), b"back", qos=1)
        await new.expect("PUBACK")
    for _ in names:
        assert (await receive_publish(watcher)).payload == b"back"
    await watcher.expect_nothing()
