"""What edges are sent, with durable sessions and others mixed: everybody gets everything once.

Inputs: subscriptions of both kinds to one filter and to filters that overlap, at one edge and at
two; sessions that move; publishes of each QoS. Observed: what each client gets, and at which QoS.
"""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.cluster_clients import ClusterClients, nothing_more, receive_publish
from support.raw_client import RawClient


async def _publish_each_qos(
    cluster_clients: ClusterClients, topic: str, receivers: dict[str, tuple[RawClient, int]]
) -> None:
    """Publish one message of each QoS; everybody gets all of them, at the QoS it has at most."""
    for edge in range(2):
        publisher = await cluster_clients.connect(edge, f"publisher{edge}")
        for qos in (0, 1, 2, 1, 0, 2):
            payload = b"%d from %d" % (qos, edge)
            await publisher.deliver(topic, payload, qos=qos)
            for name, (client, granted) in receivers.items():
                received = await receive_publish(client)
                assert (received.payload, received.qos) == (payload, min(qos, granted)), name
                if received.qos == 2:
                    await client.expect("PUBREL", packet_id=received.packet_id)
                    await client.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))
        await publisher.disconnect()
    for client, _ in receivers.values():
        await nothing_more(client)


@pytest.mark.parametrize("first", ["durable", "clean"])
async def test_a_filter_of_a_durable_session_and_of_a_clean_one(
    cluster_clients: ClusterClients, first: str
) -> None:
    topic = cluster_clients.topic("one")
    receivers: dict[str, tuple[RawClient, int]] = {}
    for kind in ("durable", "clean") if first == "durable" else ("clean", "durable"):
        client = await cluster_clients.connect(0, kind, durable=kind == "durable")
        await client.subscribe((topic, 1))
        receivers[kind] = (client, 1)
        await _publish_each_qos(cluster_clients, topic, receivers)
    # The other one stays, and its edge is sent less, or goes on to be sent all of it.
    client, _ = receivers.pop(first)
    await client.unsubscribe(topic)
    await _publish_each_qos(cluster_clients, topic, receivers)


async def test_filters_that_overlap_with_different_qos_and_kinds(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic("a/b")
    wanted = {
        "low": (True, [("a/b", 0)]),
        "mixed": (True, [("a/#", 0), ("a/+", 2)]),
        "high": (True, [("a/b", 2), ("+/b", 1)]),
        "clean": (False, [("a/#", 1)]),
    }
    receivers = {}
    for number, (name, (durable, filters)) in enumerate(wanted.items()):
        client = await cluster_clients.connect(number % 2, name, durable=durable)
        for packet_id, (topic_filter, qos) in enumerate(filters, 1):
            await client.subscribe((cluster_clients.topic(topic_filter), qos), packet_id=packet_id)
        receivers[name] = (client, max(qos for _, qos in filters))
    await _publish_each_qos(cluster_clients, topic, receivers)


async def test_the_qos_of_a_durable_subscription_is_lowered_and_raised(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic("one")
    client = await cluster_clients.connect(0, "durable", durable=True)
    for packet_id, qos in enumerate((1, 0, 2, 0), 1):
        await client.subscribe((topic, qos), packet_id=packet_id)
        await _publish_each_qos(cluster_clients, topic, {"durable": (client, qos)})


async def test_a_session_that_moves_between_edges_gets_each_message_once(
    cluster_clients: ClusterClients,
) -> None:
    topic = cluster_clients.topic("one")
    other = await cluster_clients.connect(0, "clean")
    await other.subscribe((topic, 1))
    client = await cluster_clients.connect(0, "durable", durable=True)
    await client.subscribe((topic, 1))
    for edge in (1, 0, 1):
        client = await cluster_clients.connect(edge, "durable", durable=True)
        await _publish_each_qos(
            cluster_clients, topic, {"durable": (client, 1), "clean": (other, 1)}
        )
