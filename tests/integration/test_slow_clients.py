"""Clients that take too slowly or never acknowledge: bounded memory, counted drops."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import AsyncIterator

import pytest

from support import mqtt_bytes
from support.broker import Server
from support.bystanders import undisturbed
from support.mqtt_bytes import V5, V311, Packet
from support.peers import Peers
from support.raw_client import RawClient
from support.waiting import wait_for_async

MIB = 1024 * 1024
#: limits.max_queued_bytes and what the kernel and the allocator may add to it.
_BOUND_BYTES = 48 * MIB


@pytest.fixture
async def peers(broker: Server) -> AsyncIterator[Peers]:
    """Yield the clients of this test."""
    yield Peers(broker, "tcp")
    await RawClient.reset_all()


def _dropped(server: Server) -> float:
    """The sum of the counters of dropped messages on the admin port."""
    address = server.address("admin")
    url = f"http://{address.host}:{address.port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    pattern = r"^tidegate_\w*dropped\w*_total(?:\{[^}]*\})? ([0-9.e+]+)$"
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


async def _slow_reader(peers: Peers, version: int, qos: int, transport: str) -> RawClient:
    client = await RawClient.open(
        peers.address(transport), version=version, receive_buffer_bytes=4096
    )
    peers.clients.append(client)
    await client.connect(peers.client_id("slow"))
    await client.subscribe((peers.topic("flood"), qos))
    client.pause()
    return client


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_reader_with_a_full_socket_costs_only_itself(
    broker: Server, peers: Peers, transport: str
) -> None:
    slow = await _slow_reader(peers, V5, 0, transport)
    publisher = await peers.connect("publisher")
    healthy = await peers.subscriber(peers.topic("flood"), name="healthy")
    before, dropped = broker.memory_bytes(), _dropped(broker)
    peak = before
    async with undisturbed(peers):
        for number in range(1000):
            await publisher.publish(peers.topic("flood"), b"%06d" % number + b"x" * 65_536)
            received = await healthy.expect("PUBLISH")
            assert received.payload[:6] == b"%06d" % number
            peak = max(peak, broker.memory_bytes())
    assert peak - before < _BOUND_BYTES, f"grew by {(peak - before) // MIB} MiB"
    await wait_for_async(lambda: _dropped(broker) > dropped, 10, "drops are counted")
    slow.resume()
    # What it still gets is whole and in order, or the connection has ended.
    last = -1
    await slow.send(mqtt_bytes.PINGREQ)
    while (received_or_end := await slow.receive_or_end()) is not None:
        if received_or_end.kind != "PUBLISH":
            break
        number = int(received_or_end.payload[:6])
        assert number > last
        last = number


@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])
async def test_client_that_never_acknowledges_gets_one_window(
    broker: Server, peers: Peers, version: int
) -> None:
    silent = await peers.connect("silent", version)
    await silent.subscribe((peers.topic("flood"), 1))
    publisher = await peers.connect("publisher", version)
    before = broker.memory_bytes()
    count = 1500
    async with undisturbed(peers):
        for number in range(count):
            await publisher.deliver(
                peers.topic("flood"), b"%d" % number + b"x" * 2000, packet_id=number + 1
            )
        window = await _publishes_up_to_a_pingresp(silent)
    assert [int(p.payload.rstrip(b"x")) for p in window] == list(range(len(window)))
    assert 1 <= len(window) <= 32
    assert broker.memory_bytes() - before < _BOUND_BYTES
    for received in window:
        await silent.send(mqtt_bytes.acknowledge("PUBACK", received.packet_id))
    following = await silent.expect("PUBLISH")
    assert int(following.payload.rstrip(b"x")) == len(window)


async def test_durable_session_that_never_acknowledges_loses_nothing_within_its_queue(
    broker: Server, peers: Peers
) -> None:
    silent = await peers.durable("silent")
    await silent.subscribe((peers.topic("flood"), 1))
    publisher = await peers.connect("publisher")
    count = 500
    async with undisturbed(peers):
        for number in range(count):
            await publisher.deliver(peers.topic("flood"), b"%d" % number, packet_id=number + 1)
        window = await _publishes_up_to_a_pingresp(silent)
        assert 1 <= len(window) <= 32
        silent.reset()
        again = await peers.durable("silent")
        for number in range(count):
            received = await again.expect("PUBLISH", payload=b"%d" % number)
            await again.send(mqtt_bytes.acknowledge("PUBACK", received.packet_id))
    await again.expect_nothing()


async def _publishes_up_to_a_pingresp(client: RawClient) -> list[Packet]:
    await client.send(mqtt_bytes.PINGREQ)
    found: list[Packet] = []
    while (received := await client.receive()).kind == "PUBLISH":
        found.append(received)
    assert received.kind == "PINGRESP", received
    return found


async def test_slow_reader_of_qos_1_does_not_stop_its_publisher(
    broker: Server, peers: Peers
) -> None:
    await _slow_reader(peers, V311, 1, "tcp")
    publisher = await peers.connect("publisher")
    before = broker.memory_bytes()
    async with undisturbed(peers):
        for number in range(1200):
            await publisher.deliver(
                peers.topic("flood"), b"x" * 20_000, packet_id=number % 65_535 + 1
            )
    assert broker.memory_bytes() - before < _BOUND_BYTES


async def test_publisher_that_reads_nothing_is_bounded(broker: Server, peers: Peers) -> None:
    client = await RawClient.open(peers.address("tcp"), version=V5, receive_buffer_bytes=4096)
    peers.clients.append(client)
    await client.connect(peers.client_id("deaf"))
    client.pause()
    before = broker.memory_bytes()
    transport = client.pipe.transport
    assert transport is not None
    async with undisturbed(peers) as bystanders:
        # PINGREQ and QoS 1 provoke answers that nobody reads; nothing awaits them here.
        block = (mqtt_bytes.PINGREQ * 100 + mqtt_bytes.publish("x", qos=1, packet_id=1)) * 200
        for _ in range(100):
            if transport.is_closing():
                break
            if transport.get_write_buffer_size() < 4 * MIB:
                transport.write(block)
            seen = bystanders.delivered
            await wait_for_async(lambda: bystanders.delivered > seen, 10, "neighbours go on")  # noqa: B023 called at once
    assert broker.memory_bytes() - before < _BOUND_BYTES
