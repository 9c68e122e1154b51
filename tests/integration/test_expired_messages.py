"""What has expired holds no place in queues, whoever holds them: the store, or memory.

Input: raw clients against ``tidegate serve`` whose queues are full of messages that expire. Output:
what subscribers get, and what the counters say of it (G7).
"""

from __future__ import annotations

import re
import urllib.request

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, Packet
from support.peers import let_pass
from support.raw_client import RawClient
from support.waiting import wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

PLACES = 10
IN_FLIGHT = 2
EXPIRY_S = 1
EXPIRES = [("message_expiry", EXPIRY_S)]
NEW = [b"new %d" % number for number in range(PLACES)]


async def _connect(broker: Tidegate, client_id: str, *, durable: bool = False) -> RawClient:
    address = broker.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
    props = [("receive_maximum", IN_FLIGHT)] + ([("session_expiry", 600)] if durable else [])
    await client.connect(client_id, clean=not durable, props=props)
    return client


def _messages(broker: Tidegate) -> dict[str, float]:
    """The counters of copies, without those that are 0."""
    url = f"http://{broker.address('admin').host}:{broker.address('admin').port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^tidegate_messages_(\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found if float(value)}


def _is_balanced(found: dict[str, float]) -> bool:
    dropped = sum(count for name, count in found.items() if name.startswith("dropped"))
    queued = found.get("queued", 0)
    return found["published_total"] == found["delivered_total"] + queued + dropped


async def _receive(client: RawClient, first: list[Packet]) -> list[bytes]:
    """Acknowledge what was in flight, then everything up to the last new message."""
    payloads = []
    for packet in first:
        payloads.append(packet.payload)
        await _answer(client, packet)
    completed = sum(packet.qos == 1 for packet in first)
    while completed < len(payloads) or payloads[-1:] != NEW[-1:]:
        packet = await client.receive()
        if packet.kind == "PUBREL":
            await client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
            completed += 1
        else:
            payloads.append(packet.payload)
            await _answer(client, packet)
            completed += packet.qos == 1
    return payloads


async def _answer(client: RawClient, packet: Packet) -> None:
    answer = "PUBACK" if packet.qos == 1 else "PUBREC"
    await client.send(mqtt_bytes.acknowledge(answer, packet.packet_id))


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.statement("MQTT-3.3.2-5", "MQTT-4.3.3-7")
async def test_a_queue_full_of_expired_messages_takes_new_ones(
    start_broker: StartBroker, policy: str, qos: int
) -> None:
    broker = start_broker(
        limits={"max_queued_messages": PLACES, "queue_full_policy": policy},
        features={"sys_interval_s": 0},
    )
    publisher = await _connect(broker, "publisher")
    offline = await _connect(broker, "offline", durable=True)
    await offline.subscribe(("t", qos))
    await offline.disconnect()
    begun: dict[RawClient, list[Packet]] = {}
    for name, durable in (("durable", True), ("clean", False)):
        client = await _connect(broker, name, durable=durable)
        await client.subscribe(("t", qos))
        begun[client] = []
    for number in range(PLACES):
        await publisher.deliver("t", b"old %d" % number, qos=qos, props=EXPIRES)
    for client, packets in begun.items():
        packets += [await client.expect("PUBLISH") for _ in range(IN_FLIGHT)]
    await let_pass(EXPIRY_S + 0.1)
    for payload in NEW:
        await publisher.deliver("t", payload, qos=qos)
    for client, packets in begun.items():
        assert await _receive(client, packets) == [b"old 0", b"old 1", *NEW]
    again = await _connect(broker, "offline", durable=True)
    assert await _receive(again, []) == NEW
    await wait_for_async(lambda: "queued" not in _messages(broker), 10, "nothing is queued")
    found = _messages(broker)
    assert _is_balanced(found)
    assert found['dropped_total{reason="expired"}'] == 3 * PLACES - 2 * IN_FLIGHT
    assert len([name for name in found if name.startswith("dropped")]) == 1
    for client in (publisher, again, *begun):
        client.close()


@pytest.mark.statement("MQTT-3.3.2-5")
async def test_expired_messages_are_deleted_when_nothing_more_is_queued(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(features={"sys_interval_s": 0})
    publisher = await _connect(broker, "publisher")
    offline = await _connect(broker, "offline", durable=True)
    await offline.subscribe(("t", 1))
    await offline.disconnect()
    stuck = await _connect(broker, "stuck")
    await stuck.subscribe(("t", 1))
    for _ in range(PLACES):
        await publisher.deliver("t", b"old", props=EXPIRES)
    await publisher.deliver("t", b"alive")
    await wait_for_async(lambda: _messages(broker)["queued"] == 2, 10, "expired ones are deleted")
    found = _messages(broker)
    assert found['dropped_total{reason="expired"}'] == 2 * PLACES - IN_FLIGHT
    assert _is_balanced(found)
    for client in (publisher, stuck):
        client.close()
