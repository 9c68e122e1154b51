"""Receive Maximum and Maximum Packet Size, both ways (chapters 3.1.2.11, 3.3.4, 4.9)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.peers import Peers, both_transports
from support.raw_client import RawClient

statement = pytest.mark.statement
ack = mqtt_bytes.acknowledge


@both_transports
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("maximum", [1, 3])
@statement("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
async def test_broker_keeps_within_the_clients_receive_maximum(
    peers: Peers, publisher: RawClient, qos: int, maximum: int
) -> None:
    count = 8
    subscriber = await peers.connect("subscriber", props=[("receive_maximum", maximum)])
    await subscriber.subscribe((peers.topic(), 2))
    for number in range(count):
        await publisher.deliver(peers.topic(), b"%d" % number, qos=qos)
    window = [await subscriber.expect("PUBLISH") for _ in range(maximum)]
    for number in range(count):
        await subscriber.expect_nothing()
        oldest = window.pop(0)
        assert oldest.payload == b"%d" % number
        await subscriber.acknowledge(oldest)
        if number + maximum < count:
            window.append(await subscriber.expect("PUBLISH"))
    await subscriber.expect_nothing()


@statement("MQTT-3.3.4-9", "MQTT-4.9.0-2")
async def test_pubrec_frees_no_room_before_pubcomp(peers: Peers, publisher: RawClient) -> None:
    subscriber = await peers.connect("subscriber", props=[("receive_maximum", 1)])
    await subscriber.subscribe((peers.topic(), 2))
    for number in range(2):
        await publisher.deliver(peers.topic(), b"%d" % number, qos=2)
    first = await subscriber.expect("PUBLISH", payload=b"0")
    await subscriber.send(ack("PUBREC", first.packet_id))
    await subscriber.expect("PUBREL")
    await subscriber.expect_nothing()
    await subscriber.send(ack("PUBCOMP", first.packet_id))
    await subscriber.expect("PUBLISH", payload=b"1")


@statement("MQTT-3.3.4-9", "MQTT-4.9.0-2", "MQTT-4.4.0-2")
async def test_negative_pubrec_frees_room(peers: Peers, publisher: RawClient) -> None:
    subscriber = await peers.connect("subscriber", props=[("receive_maximum", 1)])
    await subscriber.subscribe((peers.topic(), 2))
    for number in range(2):
        await publisher.deliver(peers.topic(), b"%d" % number, qos=2)
    first = await subscriber.expect("PUBLISH", payload=b"0")
    await subscriber.send(ack("PUBREC", first.packet_id, reason=0x80, props=[]))
    await subscriber.expect("PUBLISH", payload=b"1")


@statement("MQTT-3.3.4-10", "MQTT-4.9.0-3")
async def test_full_window_delays_nothing_but_qos_1_and_2(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.connect("subscriber", props=[("receive_maximum", 1)])
    await subscriber.subscribe((peers.topic(), 1))
    for number in range(3):
        await publisher.deliver(peers.topic(), b"%d" % number)
    await subscriber.expect("PUBLISH", payload=b"0")
    await subscriber.subscribe((peers.topic("zero"), 0), packet_id=5)
    await subscriber.deliver(peers.topic("elsewhere"), qos=1, packet_id=6)
    await subscriber.deliver(peers.topic("elsewhere"), qos=2, packet_id=7)
    await publisher.publish(peers.topic("zero"), b"QoS 0")
    await subscriber.expect("PUBLISH", payload=b"QoS 0", qos=0)
    await subscriber.unsubscribe(peers.topic("zero"), packet_id=8)
    await subscriber.expect_nothing()


@statement("MQTT-3.3.4-9", "MQTT-4.4.0-1")
async def test_resumed_session_keeps_within_a_smaller_receive_maximum(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 1))
    for number in range(6):
        await publisher.deliver(peers.topic(), b"%d" % number)
    for _ in range(6):
        await subscriber.expect("PUBLISH")
    subscriber.reset()
    again = await peers.durable(props=[("receive_maximum", 2)])
    for number in range(6):
        received = await again.expect("PUBLISH", payload=b"%d" % number)
        if number % 2:
            await again.expect_nothing()
            await again.send(ack("PUBACK", received.packet_id - 1))
            await again.send(ack("PUBACK", received.packet_id))


@statement("MQTT-3.3.4-7", "MQTT-4.9.0-1")
async def test_client_that_exceeds_receive_maximum_is_disconnected_with_0x93(
    peers: Peers, publisher: RawClient
) -> None:
    assert publisher.connack is not None
    maximum = publisher.connack.number("receive_maximum", 65_535)
    for number in range(maximum):
        await publisher.publish(peers.topic(), qos=2, packet_id=number + 1)
    for number in range(maximum):
        await publisher.expect("PUBREC", packet_id=number + 1)
    await publisher.expect_nothing()
    await publisher.publish(peers.topic(), qos=2, packet_id=maximum + 1)
    await publisher.expect_closed(reasons=[0x93])


@statement("MQTT-3.3.4-7", "MQTT-4.3.3-10")
async def test_repeated_publish_counts_once_against_receive_maximum(
    peers: Peers, publisher: RawClient
) -> None:
    assert publisher.connack is not None
    maximum = publisher.connack.number("receive_maximum", 65_535)
    for number in range(maximum):
        await publisher.publish(peers.topic(), qos=2, packet_id=number + 1)
        await publisher.expect("PUBREC", packet_id=number + 1)
    await publisher.publish(peers.topic(), qos=2, packet_id=1, dup=True)
    await publisher.expect("PUBREC", packet_id=1)


@both_transports
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.1.2-24", "MQTT-3.1.2-25")
async def test_message_too_large_for_the_client_is_dropped_as_if_delivered(
    peers: Peers, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.connect(
        "subscriber", props=[("maximum_packet_size", 200), ("receive_maximum", 1)]
    )
    await subscriber.subscribe((peers.topic(), 2))
    for payload in (b"x" * 1000, b"small", b"y" * 1000, b"also small"):
        await publisher.deliver(peers.topic(), payload, qos=qos)
    for payload in (b"small", b"also small"):
        received = await subscriber.expect("PUBLISH", payload=payload)
        assert len(received.raw) <= 200
        await subscriber.acknowledge(received)
    await subscriber.expect_nothing()


@statement("MQTT-3.1.2-24")
async def test_maximum_packet_size_is_exact(peers: Peers, publisher: RawClient) -> None:
    whole = len(mqtt_bytes.publish(peers.topic(), b"x" * 50))
    subscriber = await peers.connect("subscriber", props=[("maximum_packet_size", whole)])
    await subscriber.subscribe(peers.topic())
    await publisher.publish(peers.topic(), b"z" * 51)
    await publisher.publish(peers.topic(), b"x" * 50)
    received = await subscriber.expect("PUBLISH", payload=b"x" * 50)
    assert len(received.raw) == whole


@statement("MQTT-3.1.2-24", "MQTT-3.1.2-25", "MQTT-4.5.0-1")
async def test_queued_message_too_large_for_the_client_is_passed_over(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 1))
    await subscriber.disconnect()
    await publisher.deliver(peers.topic(), b"x" * 1000)
    await publisher.deliver(peers.topic(), b"small")
    again = await peers.durable(props=[("maximum_packet_size", 200)])
    await again.expect("PUBLISH", payload=b"small")


@both_transports
@statement("MQTT-3.2.2-15", "MQTT-4.13.1-1")
async def test_packet_over_the_brokers_maximum_is_refused_with_0x95(
    peers: Peers, publisher: RawClient
) -> None:
    assert publisher.connack is not None
    maximum = publisher.connack.number("maximum_packet_size", 268_435_455)
    if maximum > 10_000_000:
        pytest.skip("the broker announces no limit")
    # The header alone tells; nothing has to wait for the body.
    await publisher.send(b"\x30" + mqtt_bytes.varint(maximum + 1) + b"\0\1t")
    await publisher.expect_closed(reasons=[0x95])


@statement("MQTT-3.2.2-15")
async def test_packet_of_the_brokers_maximum_is_accepted(
    peers: Peers, publisher: RawClient
) -> None:
    assert publisher.connack is not None
    maximum = publisher.connack.number("maximum_packet_size", 1_000_000)
    overhead = len(mqtt_bytes.publish(peers.topic(), b"x" * 100_000)) - 100_000
    subscriber = await peers.subscriber(peers.topic())
    await publisher.publish(peers.topic(), b"x" * (maximum - overhead))
    received = await subscriber.expect("PUBLISH")
    assert len(received.payload) == maximum - overhead


@statement("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.1.2-24")
async def test_disconnect_fits_the_clients_maximum_packet_size(peers: Peers) -> None:
    client = await peers.connect(props=[("maximum_packet_size", 20)])
    await client.send(b"\x00\x00")
    last = await client.expect_closed()
    assert last is None or len(last.raw) <= 20


@both_transports
@pytest.mark.parametrize("size", [2, 4, 5, 11, 15, 16, 20])
@statement("MQTT-3.2.0-1", "MQTT-3.1.2-24")
async def test_connack_fits_the_clients_maximum_packet_size_or_there_is_no_connection(
    peers: Peers, size: int
) -> None:
    client = await peers.open()
    await client.send(
        mqtt_bytes.connect(peers.client_id(), props=[("maximum_packet_size", size)]),
        mqtt_bytes.PINGREQ,
    )
    answer = await client.receive_or_end()
    if answer is None:
        assert size < 16
    else:
        assert (answer.kind, len(answer.raw) <= size) == ("CONNACK", True)
