"""Raw clients on the edges of a cluster, with names that no other test uses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Final

from support import mqtt_bytes
from support.cluster import Cluster, Node
from support.mqtt_bytes import V5, Packet, Property, Will
from support.raw_client import DEADLINE_S, RawClient

#: Session expiry of a session that shall outlive its connection.
DURABLE_S: Final = 300
_PROBE_S: Final = 0.8


class ClusterClients:
    """Makes the clients of one test."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.prefix = uuid.uuid4().hex[:8]

    def topic(self, name: str = "topic") -> str:
        """A topic name or filter of this test."""
        return f"{self.prefix}/{name}"

    def client_id(self, name: str = "client") -> str:
        """A client identifier of this test."""
        return f"{name}{self.prefix}"

    def edge(self, number: int) -> Node:
        """The edge of that number (modulo how many there are)."""
        return self.cluster.edges[number % len(self.cluster.edges)]

    async def open(self, edge: int, version: int = V5) -> RawClient:
        """A connection to an edge, without CONNECT."""
        host, port = self.edge(edge).mqtt
        return await RawClient.open(f"tcp://{host}:{port}", version=version)

    async def connect(
        self,
        edge: int,
        name: str,
        version: int = V5,
        *,
        durable: bool = False,
        clean: bool | None = None,
        will: Will | None = None,
        props: Sequence[Property] = (),
    ) -> RawClient:
        """A connected client; ``durable``: its session outlives the connection."""
        client = await self.open(edge, version)
        if durable and version == V5:
            props = [*props, ("session_expiry", DURABLE_S)]
        await client.connect(
            self.client_id(name),
            clean=not durable if clean is None else clean,
            props=props,
            will=will,
        )
        return client


async def connect_when_served(
    cluster_clients: ClusterClients, edge: int, name: str, deadline_s: float = 20.0
) -> RawClient:
    """Connect to an edge that has hung: its routers may have given it up, and it attaches again."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            return await cluster_clients.connect(edge, name)
        except (AssertionError, OSError):
            assert time.monotonic() < end, f"edge {edge} serves nobody"


async def settled(cluster: Cluster, deadline_s: float = 20.0) -> None:
    """Wait until every edge has lived long enough with its lease to keep who connects to it."""
    cluster_clients = ClusterClients(cluster)
    end = time.monotonic() + deadline_s
    for number in range(len(cluster.edges)):
        while True:
            assert time.monotonic() < end, f"edge {number} does not keep its clients"
            try:
                probe = await cluster_clients.connect(number, f"probe{number}")
                last = await probe.receive_or_end(_PROBE_S)
            except TimeoutError:
                await probe.disconnect()
                break
            except (AssertionError, OSError):
                last = None
            assert last is None or last.kind == "DISCONNECT", last


async def receive_publish(client: RawClient, timeout_s: float = DEADLINE_S) -> Packet:
    """The next PUBLISH, which is answered; PUBREL is answered on the way, nothing else comes."""
    while (received := await client.receive(timeout_s)).kind == "PUBREL":
        await client.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))
    assert received.kind == "PUBLISH", received
    if received.qos:
        kind = "PUBACK" if received.qos == 1 else "PUBREC"
        await client.send(mqtt_bytes.acknowledge(kind, received.packet_id))
    return received


async def nothing_more(client: RawClient, *, but: bytes | None = None) -> None:
    """No PUBLISH is on its way, except repetitions of the QoS 1 message ``but``."""
    await client.send(mqtt_bytes.PINGREQ)
    while (received := await client.receive()).kind != "PINGRESP":
        if received.kind == "PUBREL":
            await client.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))
            continue
        assert received.kind == "PUBLISH", received
        assert (received.qos, received.payload) == (1, but), received
        await client.acknowledge(received)


async def collect(client: RawClient, seconds: float) -> list[bytes]:
    """Take and acknowledge everything that comes within so many seconds; the payloads."""
    payloads = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            received = await receive_publish(client, left)
        except TimeoutError:
            break
        payloads.append(received.payload)
    return payloads
