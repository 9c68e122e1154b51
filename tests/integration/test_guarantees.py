"""The guarantees of the broker, each attacked: kills, a store that stops answering, takeovers.

Input: raw clients against ``tidegate serve`` with its embedded store. Output: what subscribers get,
in which order and how often, and what the counters say of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311
from support.peers import let_pass
from support.raw_client import DEADLINE_S, RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

NEVER = [("session_expiry", 3600)]


@contextmanager
def _stopped(pids: set[int]) -> Iterator[None]:
    """Keep processes from running."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _metrics(broker: Tidegate) -> dict[str, float]:
    url = f"http://{broker.address('admin').host}:{broker.address('admin').port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^(tidegate_\S+) (\S+)$", text, re.MULTILINE)
    }


async def _open(broker: Tidegate, version: int = V5) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)


async def _durable(broker: Tidegate, client_id: str, *filters: tuple[str, int]) -> RawClient:
    client = await _open(broker)
    await client.connect(client_id, clean=False, props=NEVER)
    if filters:
        await client.subscribe(*filters)
    return client


async def _drain(client: RawClient, count: int) -> list[bytes]:
    """Receive and acknowledge ``count`` messages, each step when it comes."""
    payloads = []
    completed = 0
    while completed < count:
        packet = await client.receive()
        if packet.kind == "PUBREL":
            await client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
            completed += 1
            continue
        payloads.append(packet.payload)
        if packet.qos:
            answer = "PUBACK" if packet.qos == 1 else "PUBREC"
            await client.send(mqtt_bytes.acknowledge(answer, packet.packet_id))
        completed += packet.qos < 2
    return payloads


async def test_what_was_acknowledged_is_there_after_a_kill_in_the_middle(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G1: every PUBACK that arrived before the kill stands for a message that survives it."""
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(store={"data_dir": data, "durability": "always"})
    sleeper = await _durable(broker, "sleeper", ("g1/#", 1))
    await sleeper.disconnect()
    writer = await _open(broker)
    await writer.connect("writer")
    for number in range(1, 61):
        await writer.publish("g1/t", b"%d" % number, qos=1, packet_id=number)
    acknowledged = [(await writer.expect("PUBACK")).packet_id for _ in range(20)]
    broker.kill()
    broker.start()
    again = await _durable(broker, "sleeper")
    assert again.connack is not None
    assert again.connack.session_present
    got = await _drain(again, len(acknowledged))
    assert got[:20] == [b"%d" % number for number in acknowledged]
    again.close()


async def test_a_qos_2_message_sent_again_after_a_kill_is_queued_once(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G2: the same exchange, before and after the crash, is one message for a durable session."""
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(store={"data_dir": data, "durability": "always"})
    sleeper = await _durable(broker, "sleeper", ("g2/#", 2))
    await sleeper.disconnect()
    writer = await _durable(broker, "writer")
    await writer.publish("g2/t", b"once", qos=2, packet_id=7)
    await writer.expect("PUBREC", packet_id=7)
    broker.kill()
    broker.start()
    writer = await _durable(broker, "writer")
    await writer.publish("g2/t", b"once", qos=2, packet_id=7, dup=True)
    await writer.expect("PUBREC", packet_id=7)
    await writer.send(mqtt_bytes.acknowledge("PUBREL", 7))
    await writer.expect("PUBCOMP", packet_id=7, reason=0)
    # The same packet identifier begins a new exchange now.
    assert await writer.deliver("g2/t", b"again", qos=2, packet_id=7) is not None
    again = await _durable(broker, "sleeper")
    assert await _drain(again, 2) == [b"once", b"again"]
    await again.expect_nothing()
    again.close()
    writer.close()


async def test_only_the_newest_connection_owns_a_session(start_broker: StartBroker) -> None:
    """G3: of many connections with one client identifier, one is left, and it works."""
    broker = start_broker()
    clients = [await _open(broker) for _ in range(20)]
    for client in clients:
        await client.send(mqtt_bytes.connect("same", clean=False, props=NEVER))
    for client in clients:
        await client.expect_among("CONNACK", reason=0)
    ends = await asyncio.gather(
        *(client.receive_or_end(2.0) for client in clients), return_exceptions=True
    )
    ended = [end for end in ends if not isinstance(end, BaseException)]
    assert len(ended) == 19
    assert all(end is not None and end.reason == 0x8E for end in ended)
    alive = next(c for c, end in zip(clients, ends, strict=True) if isinstance(end, BaseException))
    await alive.subscribe(("g3", 1))
    await alive.publish("g3", b"mine", qos=1, packet_id=9)
    got = await alive.expect_among("PUBLISH")
    assert got.payload == b"mine"
    alive.close()


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [1, 2])
async def test_order_and_identifiers_survive_reconnects(
    start_broker: StartBroker, version: int, qos: int
) -> None:
    """G4: unacknowledged messages come again first, in order, same identifiers, DUP set."""
    broker = start_broker()

    async def connect() -> RawClient:
        client = await _open(broker, version)
        await client.connect("reader", clean=False, props=NEVER if version == V5 else ())
        return client

    reader = await connect()
    await reader.subscribe(("g4/#", qos))
    writer = await _open(broker)
    await writer.connect("writer")
    for number in range(100):
        await writer.deliver("g4/t", b"%d" % number, qos=qos, packet_id=number + 1)
    first = [await reader.expect("PUBLISH") for _ in range(10)]
    assert not any(packet.dup for packet in first)
    reader.close()
    reader = await connect()
    second = [await reader.expect("PUBLISH") for _ in range(10)]
    assert [p.packet_id for p in second] == [p.packet_id for p in first]
    assert all(packet.dup for packet in second)
    for packet in second:
        await reader.send(
            mqtt_bytes.acknowledge("PUBACK" if qos == 1 else "PUBREC", packet.packet_id)
        )
    rest = await _drain(reader, 90 if qos == 1 else 100)
    payloads = [packet.payload for packet in second] + rest
    assert payloads == [b"%d" % number for number in range(100)]
    reader.close()
    writer.close()


async def test_every_copy_is_accounted_for(start_broker: StartBroker) -> None:
    """G7: published = delivered + queued + dropped, over everything that can become of a copy."""
    broker = start_broker(limits={"max_queued_messages": 5}, features={"sys_interval_s": 0})
    sleeper = await _durable(broker, "sleeper", ("g7/a", 1))
    await sleeper.disconnect()
    reader = await _durable(broker, "reader", ("g7/#", 2))
    plain = await _open(broker)
    await plain.connect("plain", props=[("maximum_packet_size", 60)])
    await plain.subscribe(("g7/#", 1))
    reading = asyncio.create_task(_drain(reader, 14))
    writer = await _open(broker)
    await writer.connect("writer")
    for number in range(12):
        await writer.deliver("g7/a", b"x", qos=1, packet_id=number + 1)
    await writer.deliver("g7/b", b"y" * 100, qos=2, packet_id=20)
    await writer.deliver("nobody/here", b"z", qos=1, packet_id=21)
    await writer.publish("g7/a", b"low")
    await writer.publish("nobody/yet", b"kept", retain=True)
    assert len(await reading) == 14
    for _ in range(12):
        await plain.acknowledge(await plain.expect("PUBLISH"))
    await plain.expect("PUBLISH")
    await plain.expect_nothing()
    await reader.expect_nothing()

    async def at_rest() -> dict[str, float]:
        for _ in range(200):
            found = _metrics(broker)
            if found["tidegate_messages_queued"] == 5:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(found)

    found = await at_rest()
    dropped = {
        name: value
        for name, value in found.items()
        if name.startswith("tidegate_messages_dropped_total") and value
    }
    assert found["tidegate_messages_published_total"] == (
        found["tidegate_messages_delivered_total"]
        + found["tidegate_messages_queued"]
        + sum(dropped.values())
    )
    assert found['tidegate_packets_received_total{type="publish"}'] == 16
    assert found['tidegate_packets_received_total{type="connect"}'] == 4
    assert dropped == {
        'tidegate_messages_dropped_total{reason="queue_full"}': 7,
        'tidegate_messages_dropped_total{reason="too_large"}': 1,
        'tidegate_messages_dropped_total{reason="no_subscriber"}': 1,
        'tidegate_messages_dropped_total{reason="qos0_offline"}': 1,
    }
    for client in (reader, plain, writer):
        client.close()


@pytest.mark.statement("MQTT311-4.8.0-2")
async def test_a_subscription_that_cannot_be_stored_is_not_granted(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G8: SUBACK says so in 5.0; in 3.1.1 the end of the connection does."""
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(store={"data_dir": data, "operation_timeout_s": 0.5})
    new = await _durable(broker, "new")
    old = await _open(broker, V311)
    await old.connect("old", clean=False)
    with _stopped(broker.descendants()):
        granted = await new.subscribe(("g8", 1))
        assert granted.codes == [0x80]
        await old.send(mqtt_bytes.subscribe(1, [("g8", 1)], version=V311))
        await old.expect_closed()
    async with asyncio.timeout(DEADLINE_S):
        while (await new.subscribe(("g8", 1))).codes != [1]:
            pass
    new.close()


async def test_an_outage_longer_than_the_lease_ends_no_session_and_fires_no_will(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G8: an edge that could not renew its lease for want of a store is not taken for dead."""
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(store={"data_dir": data, "operation_timeout_s": 0.5, "edge_lease_s": 1.0})
    watcher = await _open(broker)
    await watcher.connect("watcher")
    await watcher.subscribe(("g8/#", 1))
    client = await _open(broker)
    will = mqtt_bytes.Will("g8/will", b"dead")
    await client.connect("client", clean=False, props=NEVER, will=will)
    await client.subscribe(("g8/own", 1))
    with _stopped(broker.descendants()):
        await let_pass(2.5)
    await client.publish("g8/own", b"alive", qos=1, packet_id=1)
    got = {(await client.receive()).kind for _ in range(2)}
    assert got == {"PUBACK", "PUBLISH"}
    assert (await watcher.expect("PUBLISH")).payload == b"alive"
    await let_pass(2.5)
    await watcher.expect_nothing()
    await client.expect_nothing()
    for one in (watcher, client):
        one.close()


async def test_a_store_that_stops_answering_stops_only_what_needs_it(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G8: QoS 0 goes on, durable publishes wait, CONNECT is refused with 0x88, nothing is lost."""
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(store={"data_dir": data, "operation_timeout_s": 1.0})
    sleeper = await _durable(broker, "sleeper", ("g8/durable", 1))
    await sleeper.disconnect()
    reader = await _open(broker)
    await reader.connect("reader")
    await reader.subscribe(("g8/#", 0))
    writer = await _open(broker)
    await writer.connect("writer")
    with _stopped(broker.descendants()):
        await writer.publish("g8/live", b"live")
        assert (await reader.expect("PUBLISH")).payload == b"live"
        await writer.publish("g8/durable", b"waits", qos=1, packet_id=1)
        assert (await reader.expect("PUBLISH")).payload == b"waits"
        await writer.expect_nothing()
        late = await _open(broker)
        await late.send(mqtt_bytes.connect("late"))
        await late.expect("CONNACK", reason=0x88)
        await late.expect_closed()
        old = await _open(broker, V311)
        await old.send(mqtt_bytes.connect("old", version=V311))
        await old.expect("CONNACK", reason=3)
        await old.expect_closed()
        await writer.expect_nothing()
    await writer.expect("PUBACK", packet_id=1)
    again = await _durable(broker, "sleeper")
    assert (await _drain(again, 1)) == [b"waits"]
    for client in (reader, writer, again):
        client.close()


async def test_a_flood_during_an_outage_waits_in_the_clients_socket(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G6, G8: reading stops at a limit of unanswered publishes; afterwards all is there."""
    count = 900
    data = str(tmp_path_factory.mktemp("data"))
    broker = start_broker(
        store={"data_dir": data, "operation_timeout_s": 1.0},
        limits={"max_queued_messages": 5000},
    )
    sleeper = await _durable(broker, "sleeper", ("g6", 1))
    await sleeper.disconnect()
    writer = await _open(broker, V311)
    await writer.connect("writer")
    packets = [
        mqtt_bytes.publish("g6", b"%2000d" % number, qos=1, packet_id=number, version=V311)
        for number in range(1, count + 1)
    ]
    with _stopped(broker.descendants()):
        flood = asyncio.create_task(writer.send(*packets))
        await let_pass(1.5)
        assert _metrics(broker)['tidegate_messages_received_total{qos="1"}'] < 400
        assert not writer.pipe.buffer
    answers = [(await writer.expect("PUBACK")).packet_id for _ in range(count)]
    assert answers == list(range(1, count + 1))
    await flood
    again = await _durable(broker, "sleeper")
    # A write whose answer never came is repeated: at least once, and first copies in order.
    got: list[int] = []
    while len(set(got)) < count:
        got += [int(payload) for payload in await _drain(again, 1)]
    assert list(dict.fromkeys(got)) == list(range(1, count + 1))
