"""QoS 1 and 2: acknowledgements, re-delivery, order (chapters 3.4 to 3.7, 4.3 to 4.6)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.peers import Peers, both_transports, both_versions, let_pass
from support.raw_client import RawClient

statement = pytest.mark.statement
ack = mqtt_bytes.acknowledge


# --- the broker as receiver -------------------------------------------------------------------


@both_transports
@both_versions
@pytest.mark.parametrize("packet_id", [1, 255, 256, 65_535])
@statement("MQTT-4.3.2-4", "MQTT-3.3.4-1", "MQTT-3.4.2-1", "MQTT-2.2.1-5")
@statement("MQTT311-4.3.2-2", "MQTT311-3.3.4-1", "MQTT311-2.3.1-6", "MQTT311-3.3.5-2")
async def test_puback_has_the_packet_identifier(
    peers: Peers, publisher: RawClient, packet_id: int
) -> None:
    await publisher.deliver(peers.topic(), qos=1, packet_id=packet_id)


@both_transports
@both_versions
@pytest.mark.parametrize("packet_id", [1, 65_535])
@statement("MQTT-4.3.3-8", "MQTT-4.3.3-11", "MQTT-3.5.2-1", "MQTT-3.7.2-1", "MQTT-2.2.1-5")
@statement("MQTT311-4.3.3-2", "MQTT311-2.3.1-6")
async def test_pubrec_and_pubcomp_have_the_packet_identifier(
    peers: Peers, publisher: RawClient, packet_id: int
) -> None:
    await publisher.deliver(peers.topic(), qos=2, packet_id=packet_id)


@both_versions
@statement("MQTT-4.3.2-5", "MQTT-3.3.1-3", "MQTT311-4.3.2-2", "MQTT311-3.3.1-3")
async def test_same_packet_identifier_after_puback_is_a_new_message(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 1), version=version)
    for dup in (False, True):
        await publisher.publish(peers.topic(), qos=1, packet_id=5, dup=dup)
        await publisher.expect("PUBACK", packet_id=5)
    first = await subscriber.expect("PUBLISH", dup=False)
    second = await subscriber.expect("PUBLISH", dup=False)
    assert first.packet_id != second.packet_id


@both_versions
@statement("MQTT-4.3.3-10", "MQTT311-4.3.3-2")
async def test_repeated_qos_2_publish_is_acknowledged_and_delivered_once(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    for dup in (False, True, True):
        await publisher.publish(peers.topic(), b"once", qos=2, packet_id=5, dup=dup)
        await publisher.expect("PUBREC", packet_id=5)
    await publisher.send(ack("PUBREL", 5))
    await publisher.expect("PUBCOMP", packet_id=5)
    await subscriber.acknowledge(await subscriber.expect("PUBLISH", payload=b"once"))
    await peers.assert_nothing_delivered(publisher, subscriber, qos=2)


@both_versions
@statement("MQTT-4.3.3-10", "MQTT-4.4.0-1", "MQTT-3.1.2-5", "MQTT311-4.3.3-2")
@statement("MQTT311-4.4.0-1")
async def test_qos_2_publish_repeated_after_a_reconnect_is_delivered_once(
    peers: Peers, version: int
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    publisher = await peers.durable("publisher", version)
    await publisher.publish(peers.topic(), b"once", qos=2, packet_id=5)
    await publisher.expect("PUBREC", packet_id=5)
    publisher.reset()
    again = await peers.durable("publisher", version)
    await again.publish(peers.topic(), b"once", qos=2, packet_id=5, dup=True)
    await again.expect("PUBREC", packet_id=5)
    await again.send(ack("PUBREL", 5))
    await again.expect("PUBCOMP", packet_id=5)
    await subscriber.acknowledge(await subscriber.expect("PUBLISH", payload=b"once"))
    await peers.assert_nothing_delivered(again, subscriber, qos=2)


@both_versions
@statement("MQTT-4.3.3-11", "MQTT311-4.3.3-2")
async def test_pubrel_repeated_after_a_reconnect_is_answered(peers: Peers, version: int) -> None:
    publisher = await peers.durable("publisher", version)
    await publisher.publish(peers.topic(), qos=2, packet_id=5)
    await publisher.expect("PUBREC", packet_id=5)
    publisher.reset()
    again = await peers.durable("publisher", version)
    for _ in range(2):
        await again.send(ack("PUBREL", 5))
        await again.expect("PUBCOMP", packet_id=5)


@both_versions
@statement("MQTT-4.3.3-12", "MQTT311-4.3.3-2")
async def test_same_packet_identifier_after_pubcomp_is_a_new_message(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    for payload in (b"one", b"two"):
        await publisher.deliver(peers.topic(), payload, qos=2, packet_id=5)
    await subscriber.expect("PUBLISH", payload=b"one")
    await subscriber.expect("PUBLISH", payload=b"two")


@statement("MQTT-4.3.3-13")
async def test_qos_2_exchange_goes_on_when_the_message_has_expired(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.publish(peers.topic(), qos=2, packet_id=5, props=[("message_expiry", 1)])
    await publisher.expect("PUBREC", packet_id=5)
    await let_pass(1.5)
    await publisher.send(ack("PUBREL", 5))
    await publisher.expect("PUBCOMP", packet_id=5, reason=0)


@statement("MQTT-3.7.2-1")
async def test_unknown_pubrel_is_answered_with_0x92(peers: Peers, publisher: RawClient) -> None:
    await publisher.send(ack("PUBREL", 4711))
    await publisher.expect("PUBCOMP", packet_id=4711, reason=0x92)


@statement("MQTT-3.6.2-1")
async def test_unknown_pubrec_is_answered_with_0x92(peers: Peers, publisher: RawClient) -> None:
    await publisher.send(ack("PUBREC", 4711))
    await publisher.expect("PUBREL", packet_id=4711, reason=0x92)


@both_versions
@pytest.mark.parametrize("kind", ["PUBACK", "PUBCOMP"])
async def test_unknown_puback_and_pubcomp_are_ignored(publisher: RawClient, kind: str) -> None:
    await publisher.send(ack(kind, 4711))
    await publisher.expect_nothing()


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
@statement("MQTT311-4.3.2-2", "MQTT-4.3.2-4")
async def test_acknowledgements_come_in_the_order_of_the_messages(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    numbers = [7, 3, 9, 1, 8, 2]
    await publisher.send(
        *[
            mqtt_bytes.publish(peers.topic(), qos=qos, packet_id=number, version=version)
            for number in numbers
        ]
    )
    for number in numbers:
        await publisher.expect("PUBACK" if qos == 1 else "PUBREC", packet_id=number)


# --- the broker as sender ---------------------------------------------------------------------


@both_transports
@both_versions
@statement("MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-2.2.1-4", "MQTT311-4.3.2-1")
@statement("MQTT311-2.3.1-4", "MQTT311-2.3.1-1")
async def test_qos_1_messages_have_unused_packet_identifiers_and_no_dup(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 1), version=version)
    for _ in range(5):
        await publisher.deliver(peers.topic())
    numbers = [(await subscriber.expect("PUBLISH", qos=1, dup=False)).packet_id for _ in range(5)]
    assert len(set(numbers)) == 5


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
@statement("MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.3.3-1")
@statement("MQTT-4.3.3-2")
@statement("MQTT311-4.4.0-1", "MQTT311-3.3.1-1", "MQTT311-4.3.2-1", "MQTT311-4.3.3-1")
@statement("MQTT311-2.3.1-4")
async def test_unacknowledged_message_is_resent_with_dup_after_reconnect(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.durable(version=version)
    await subscriber.subscribe((peers.topic(), 2))
    await publisher.deliver(peers.topic(), b"again", qos=qos)
    first = await subscriber.expect("PUBLISH", payload=b"again", qos=qos, dup=False)
    subscriber.reset()
    for _ in range(2):
        subscriber = await peers.durable(version=version)
        await subscriber.expect(
            "PUBLISH", payload=b"again", qos=qos, dup=True, packet_id=first.packet_id
        )
        subscriber.reset()
    subscriber = await peers.durable(version=version)
    await subscriber.acknowledge(await subscriber.expect("PUBLISH", payload=b"again"))
    await subscriber.disconnect()
    subscriber = await peers.durable(version=version)
    await peers.assert_nothing_delivered(publisher, subscriber)


@both_versions
@statement("MQTT-4.3.2-3", "MQTT-4.4.0-1", "MQTT311-4.3.2-1")
async def test_nothing_is_resent_while_connected(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    await publisher.deliver(peers.topic(), b"unacknowledged", qos=1)
    await subscriber.expect("PUBLISH", payload=b"unacknowledged")
    await let_pass(1.0)
    await peers.assert_nothing_delivered(publisher, subscriber)


@both_versions
@statement("MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-3.6.2-1", "MQTT-4.4.0-1")
@statement("MQTT311-4.3.3-1", "MQTT311-4.4.0-1")
async def test_after_pubrec_only_pubrel_is_resent(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.durable(version=version)
    await subscriber.subscribe((peers.topic(), 2))
    await publisher.deliver(peers.topic(), qos=2)
    received = await subscriber.expect("PUBLISH", qos=2)
    await subscriber.send(ack("PUBREC", received.packet_id))
    await subscriber.expect("PUBREL", packet_id=received.packet_id)
    subscriber.reset()
    again = await peers.durable(version=version)
    await again.expect("PUBREL", packet_id=received.packet_id)
    await again.send(ack("PUBCOMP", received.packet_id))
    await peers.assert_nothing_delivered(publisher, again)


@both_versions
@statement("MQTT-4.3.3-6", "MQTT311-4.3.3-1")
async def test_repeated_pubrec_gets_another_pubrel(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    await publisher.deliver(peers.topic(), qos=2)
    received = await subscriber.expect("PUBLISH", qos=2)
    for _ in range(2):
        await subscriber.send(ack("PUBREC", received.packet_id))
        await subscriber.expect("PUBREL", packet_id=received.packet_id)


@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
@statement("MQTT-4.4.0-2", "MQTT-4.3.3-4")
async def test_negative_acknowledgement_ends_the_delivery(
    peers: Peers, publisher: RawClient, qos: int, kind: str
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 2))
    await publisher.deliver(peers.topic(), b"unwanted", qos=qos)
    received = await subscriber.expect("PUBLISH", qos=qos)
    await subscriber.send(ack(kind, received.packet_id, reason=0x83, props=[]))
    await subscriber.expect_nothing()
    await subscriber.disconnect()
    again = await peers.durable()
    await peers.assert_nothing_delivered(publisher, again)


@statement("MQTT-4.3.3-7")
async def test_qos_2_message_that_was_sent_does_not_expire(
    peers: Peers, publisher: RawClient
) -> None:
    subscriber = await peers.durable()
    await subscriber.subscribe((peers.topic(), 2))
    await publisher.deliver(peers.topic(), b"sent", qos=2, props=[("message_expiry", 1)])
    first = await subscriber.expect("PUBLISH", payload=b"sent")
    subscriber.reset()
    await let_pass(2.1)
    again = await peers.durable()
    received = await again.expect("PUBLISH", packet_id=first.packet_id, dup=True, payload=b"sent")
    await again.acknowledge(received)


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_transports
@statement("MQTT-4.6.0-5", "MQTT-4.6.0-6", "MQTT311-4.6.0-6", "MQTT311-4.6.0-5")
async def test_messages_of_one_topic_keep_their_order(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    count = 40
    subscriber = await peers.subscriber((peers.topic(), 2), version=version)
    for number in range(count):
        if qos == 2:
            await publisher.deliver(peers.topic(), b"%d" % number, qos=2, packet_id=number + 1)
        else:
            await publisher.publish(peers.topic(), b"%d" % number, qos=qos, packet_id=number + 1)
    for number in range(count):
        received = await subscriber.expect("PUBLISH", payload=b"%d" % number, qos=qos)
        if qos == 1:
            await subscriber.send(ack("PUBACK", received.packet_id))
        elif qos == 2:
            await subscriber.send(ack("PUBREC", received.packet_id))
            await subscriber.expect_among("PUBREL", packet_id=received.packet_id)
            await subscriber.send(ack("PUBCOMP", received.packet_id))


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
@statement("MQTT-4.6.0-5", "MQTT-4.4.0-1", "MQTT311-4.6.0-1", "MQTT311-4.6.0-6")
async def test_unacknowledged_and_queued_messages_come_back_in_order(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    subscriber = await peers.durable(version=version)
    await subscriber.subscribe((peers.topic(), 2))
    for number in range(4):
        await publisher.deliver(peers.topic(), b"%d" % number, qos=qos)
    seen = [await subscriber.expect("PUBLISH") for _ in range(4)]
    subscriber.reset()
    for number in range(4, 8):
        await publisher.deliver(peers.topic(), b"%d" % number, qos=qos)
    again = await peers.durable(version=version)
    for number in range(8):
        received = await again.expect("PUBLISH", payload=b"%d" % number)
        if number < 4:
            assert received.packet_id == seen[number].packet_id
            assert received.dup


@both_versions
@statement("MQTT-4.3.2-3", "MQTT311-4.3.2-1")
async def test_many_messages_reuse_packet_identifiers_only_after_puback(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 1), version=version)
    under_way: set[int] = set()
    for number in range(100):
        await publisher.deliver(peers.topic(), b"%d" % number)
        received = await subscriber.expect("PUBLISH", payload=b"%d" % number)
        assert received.packet_id not in under_way
        under_way.add(received.packet_id)
        if len(under_way) >= 10:
            oldest = under_way.pop()
            await subscriber.send(ack("PUBACK", oldest))


@statement("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3")
@statement("MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-2", "MQTT-3.7.2-3")
async def test_acknowledgements_fit_the_clients_maximum_packet_size(peers: Peers) -> None:
    client = await peers.connect(props=[("maximum_packet_size", 25)])
    for topic in (peers.topic(), "$SYS/x"):
        for qos, kind in ((1, "PUBACK"), (2, "PUBREC")):
            await client.publish(topic, qos=qos, packet_id=3)
            assert len((await client.expect(kind, packet_id=3)).raw) <= 25
    for kind, answer in (("PUBREL", "PUBCOMP"), ("PUBREC", "PUBREL")):
        await client.send(ack(kind, 4711))
        assert len((await client.expect(answer, packet_id=4711)).raw) <= 25


@statement("MQTT-3.1.2-29")
async def test_without_problem_information_acknowledgements_carry_no_text(peers: Peers) -> None:
    client = await peers.connect(props=[("request_problem", 0)])
    answers = []
    for topic in (peers.topic(), "$SYS/x"):
        for qos, kind in ((1, "PUBACK"), (2, "PUBREC")):
            await client.publish(topic, qos=qos, packet_id=3)
            answers.append(await client.expect(kind, packet_id=3))
    for kind, answer in (("PUBREL", "PUBCOMP"), ("PUBREC", "PUBREL")):
        await client.send(ack(kind, 4711))
        answers.append(await client.expect(answer, packet_id=4711))
    answers.append(await client.subscribe("$SYS/+", "t", packet_id=8))
    answers.append(await client.unsubscribe("never/subscribed", packet_id=9))
    for received in answers:
        assert received.properties == []
