"""SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK and subscription options (chapters 3.8 to 3.11)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5
from support.peers import Peers, both_transports, both_versions
from support.raw_client import RawClient

statement = pytest.mark.statement

NO_LOCAL = 0x04


@both_transports
@both_versions
@pytest.mark.parametrize("packet_id", [1, 255, 65_535])
@statement("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.2.1-6", "MQTT311-3.8.4-1")
@statement("MQTT311-3.8.4-2", "MQTT311-2.3.1-7")
async def test_suback_has_the_packet_identifier(peers: Peers, version: int, packet_id: int) -> None:
    client = await peers.connect(version=version)
    await client.subscribe(peers.topic(), packet_id=packet_id)


@both_versions
@statement("MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
@statement("MQTT-3.2.2-10")
@statement("MQTT311-3.8.4-4", "MQTT311-3.8.4-5", "MQTT311-3.9.3-1", "MQTT311-3.9.3-2")
async def test_suback_has_a_code_for_each_filter_in_order(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.connect(version=version)
    wanted = [2, 0, 1, 1, 2, 0]
    filters = [(peers.topic(str(number)), qos) for number, qos in enumerate(wanted)]
    answer = await client.subscribe(*filters)
    assert answer.codes == wanted
    for number, qos in enumerate(wanted):
        await publisher.deliver(peers.topic(str(number)), qos=2)
        received = await client.expect("PUBLISH", topic=peers.topic(str(number)), qos=qos)
        await client.acknowledge(received)


@both_versions
@statement("MQTT-3.8.4-5", "MQTT311-3.8.4-4")
async def test_same_filter_twice_in_one_packet_counts_as_a_sequence(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.connect(version=version)
    answer = await client.subscribe((peers.topic(), 0), (peers.topic(), 2), (peers.topic(), 1))
    assert answer.codes == [0, 2, 1]
    await publisher.deliver(peers.topic(), qos=2)
    await client.acknowledge(await client.expect("PUBLISH", qos=1))
    await peers.assert_nothing_delivered(publisher, client)


@both_versions
@statement("MQTT-3.8.4-3", "MQTT311-3.8.4-3")
async def test_subscribing_again_replaces_the_subscription(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.subscriber((peers.topic(), 0), version=version)
    await client.subscribe((peers.topic(), 1), packet_id=2)
    await publisher.deliver(peers.topic(), qos=1)
    await client.acknowledge(await client.expect("PUBLISH", qos=1))
    await peers.assert_nothing_delivered(publisher, client)


@both_versions
@statement("MQTT-3.8.4-4", "MQTT311-3.8.4-3")
async def test_replacing_a_subscription_loses_no_message(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    subscriber = await peers.subscriber((peers.topic(), 1), version=version)
    count = 30
    for number in range(count):
        await publisher.publish(peers.topic(), b"%d" % number, qos=1, packet_id=number + 1)
        await subscriber.send(
            mqtt_bytes.subscribe(number + 1, [(peers.topic(), 1)], version=version)
        )
    for number in range(count):
        received = await subscriber.expect_among("PUBLISH", payload=b"%d" % number)
        await subscriber.send(mqtt_bytes.acknowledge("PUBACK", received.packet_id))


@both_versions
@statement("MQTT-3.3.4-2", "MQTT311-3.3.5-1")
async def test_overlapping_subscriptions_give_the_highest_qos(
    peers: Peers, version: int, publisher: RawClient, is_tidegate: bool
) -> None:
    client = await peers.connect(version=version)
    await client.subscribe((peers.topic("#"), 0), (peers.topic("a"), 2), (peers.topic("+"), 1))
    await publisher.deliver(peers.topic("a"), qos=2)
    received = await client.expect_among("PUBLISH", qos=2)
    if is_tidegate:
        await client.acknowledge(received)
        await peers.connect("another", version)
        await client.expect_nothing()


@statement("MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5")
async def test_single_copy_has_the_identifiers_of_all_matching_subscriptions(
    peers: Peers, publisher: RawClient
) -> None:
    client = await peers.connect()
    for number, topic_filter in ((1, "#"), (268_435_455, "a"), (300, "b"), (None, "+")):
        props: list[mqtt_bytes.Property] = (
            [] if number is None else [("subscription_identifier", number)]
        )
        await client.subscribe((peers.topic(topic_filter), 1), props=props)
    await publisher.deliver(peers.topic("a"))
    received = await client.expect("PUBLISH")
    assert sorted(map(int, map(str, received.all("subscription_identifier")))) == [1, 268_435_455]
    await client.acknowledge(received)
    await publisher.deliver(peers.topic("c"))
    received = await client.expect("PUBLISH")
    assert received.all("subscription_identifier") == [1]


@statement("MQTT-3.3.4-3", "MQTT-3.8.4-3", "MQTT-3.1.2-5")
async def test_subscription_identifier_is_kept_queued_and_replaced(
    peers: Peers, publisher: RawClient
) -> None:
    client = await peers.durable()
    await client.subscribe((peers.topic(), 1), props=[("subscription_identifier", 5)])
    await client.disconnect()
    await publisher.deliver(peers.topic())
    client = await peers.durable()
    received = await client.expect("PUBLISH")
    assert received.all("subscription_identifier") == [5]
    await client.acknowledge(received)
    await client.subscribe((peers.topic(), 1))
    await publisher.deliver(peers.topic())
    received = await client.expect("PUBLISH")
    assert received.all("subscription_identifier") == []


@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.8.3-3")
async def test_no_local_keeps_own_messages_away(peers: Peers, qos: int) -> None:
    client = await peers.connect()
    other = await peers.connect("other")
    await client.subscribe((peers.topic(), NO_LOCAL | 2))
    await client.deliver(peers.topic(), b"own", qos=qos)
    await other.deliver(peers.topic(), b"foreign", qos=qos)
    await client.expect("PUBLISH", payload=b"foreign")


@both_versions
@statement("MQTT-3.8.3-3", "MQTT311-3.3.5-1")
async def test_without_no_local_own_messages_come_back(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    await client.subscribe(peers.topic())
    await client.publish(peers.topic(), b"own")
    await client.expect("PUBLISH", payload=b"own")


# --- UNSUBSCRIBE ------------------------------------------------------------------------------


@both_transports
@both_versions
@statement("MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-2.2.1-6")
@statement("MQTT311-3.10.4-1", "MQTT311-3.10.4-2", "MQTT311-3.10.4-4", "MQTT311-2.3.1-7")
async def test_unsubscribe_ends_the_subscription(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.subscriber((peers.topic("+"), 1), version=version)
    answer = await client.unsubscribe(peers.topic("+"), packet_id=65_535)
    assert answer.codes == ([0] if version == V5 else [])
    await publisher.deliver(peers.topic("a"))
    await peers.assert_nothing_delivered(publisher, client)


@both_versions
@statement("MQTT-3.10.4-1", "MQTT311-3.10.4-1")
async def test_unsubscribe_compares_filters_character_by_character(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.subscriber((peers.topic("a/+"), 1), version=version)
    await client.unsubscribe(peers.topic("a/b"), peers.topic("a/#"), peers.topic("A/+"))
    await publisher.deliver(peers.topic("a/b"))
    await client.expect("PUBLISH")


@both_versions
@statement("MQTT-3.10.4-5", "MQTT311-3.10.4-5", "MQTT-3.11.3-2")
async def test_unsubscribing_what_is_not_subscribed_is_answered(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    answer = await client.unsubscribe(peers.topic(), packet_id=3)
    assert answer.codes == ([0x11] if version == V5 else [])


@both_versions
@statement("MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-3.11.3-2", "MQTT311-3.10.4-6")
async def test_unsuback_has_a_code_for_each_filter_in_order(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    client = await peers.subscriber((peers.topic("a"), 1), (peers.topic("b"), 1), version=version)
    answer = await client.unsubscribe(
        peers.topic("x"), peers.topic("b"), peers.topic("y"), peers.topic("a"), peers.topic("b")
    )
    assert answer.codes == ([0x11, 0, 0x11, 0, 0x11] if version == V5 else [])
    await publisher.deliver(peers.topic("a"))
    await publisher.deliver(peers.topic("b"))
    await peers.assert_nothing_delivered(publisher, client)


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
@statement("MQTT-3.10.4-3", "MQTT311-3.10.4-3")
async def test_delivery_that_has_begun_is_completed_after_unsubscribe(
    peers: Peers, version: int, publisher: RawClient, qos: int
) -> None:
    client = await peers.durable(version=version)
    await client.subscribe((peers.topic(), 2))
    await publisher.deliver(peers.topic(), b"begun", qos=qos)
    received = await client.expect("PUBLISH", payload=b"begun")
    await client.unsubscribe(peers.topic())
    client.reset()
    again = await peers.durable(version=version)
    received = await again.expect(
        "PUBLISH", payload=b"begun", dup=True, packet_id=received.packet_id
    )
    await again.acknowledge(received)
    await again.expect_nothing()


@statement("MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1", "MQTT-3.11.2-2")
async def test_suback_and_unsuback_fit_the_clients_maximum_packet_size(peers: Peers) -> None:
    client = await peers.connect(props=[("maximum_packet_size", 25)])
    suback = await client.subscribe("a", "$share/g/b", "$SYS/#")
    unsuback = await client.unsubscribe("a", "never", "$share/g/b")
    assert len(suback.raw) <= 25
    assert len(unsuback.raw) <= 25


# --- shared subscriptions ---------------------------------------------------------------------


@both_transports
@statement("MQTT-4.8.2-1", "MQTT-4.8.2-2")
async def test_each_message_goes_to_one_member_of_a_group(
    peers: Peers, publisher: RawClient
) -> None:
    shared = f"$share/group/{peers.topic('+')}"
    members = [await peers.subscriber((shared, 1), name=f"member{n}") for n in range(3)]
    whole = await peers.subscriber((peers.topic("+"), 1), name="whole")
    count = 30
    for number in range(count):
        await publisher.deliver(peers.topic("a"), b"%d" % number)
    for number in range(count):
        await whole.acknowledge(await whole.expect("PUBLISH", payload=b"%d" % number))
    found: list[int] = []
    for member in members:
        own = await _drain_with_marker(peers, publisher, member)
        assert own == sorted(own)
        found += own
    assert sorted(found) == list(range(count))


async def _drain_with_marker(peers: Peers, publisher: RawClient, member: RawClient) -> list[int]:
    """Numbers in the payloads up to a marker that only this member gets."""
    marker = peers.topic(f"end/{id(member)}")
    await member.send(mqtt_bytes.subscribe(9, [(marker, 1)]))
    await member.expect_among("SUBACK", packet_id=9)
    await publisher.deliver(marker, b"end", packet_id=9)
    found: list[int] = []
    while (received := await member.expect_among("PUBLISH")).payload != b"end":
        found.append(int(received.payload))
        await member.acknowledge(received)
    return found


async def test_groups_get_a_copy_each(peers: Peers, publisher: RawClient) -> None:
    one = await peers.subscriber(f"$share/one/{peers.topic()}", name="one")
    two = await peers.subscriber(f"$share/two/{peers.topic()}", name="two")
    await publisher.publish(peers.topic(), b"x")
    await one.expect("PUBLISH", payload=b"x")
    await two.expect("PUBLISH", payload=b"x")


@pytest.mark.parametrize("granted", [0, 1, 2])
@statement("MQTT-4.8.2-3")
async def test_shared_subscription_respects_the_granted_qos(
    peers: Peers, publisher: RawClient, granted: int
) -> None:
    member = await peers.subscriber((f"$share/group/{peers.topic()}", granted))
    await publisher.deliver(peers.topic(), qos=2)
    await member.expect("PUBLISH", qos=granted)


@pytest.mark.parametrize(
    "shared", ["$share//t", "$share/g", "$share/g/", "$share/a+/t", "$share/#/t"]
)
@statement("MQTT-4.8.2-1", "MQTT-4.8.2-2")
async def test_malformed_share_name_is_refused(peers: Peers, shared: str) -> None:
    client = await peers.connect()
    await client.send(mqtt_bytes.subscribe(1, [shared]))
    answer = await client.receive()
    if answer.kind == "SUBACK":
        assert answer.codes == [0x8F]
    else:
        assert answer.kind == "DISCONNECT"
        assert answer.reason in {0x81, 0x82, 0x8F}


@statement("MQTT-4.8.2-4", "MQTT-4.3.3-3")
async def test_shared_qos_2_delivery_is_completed_after_reconnect(
    peers: Peers, publisher: RawClient
) -> None:
    shared = f"$share/group/{peers.topic()}"
    member = await peers.durable("member")
    await member.subscribe((shared, 2))
    await publisher.deliver(peers.topic(), b"begun", qos=2)
    received = await member.expect("PUBLISH", payload=b"begun")
    other = await peers.subscriber((shared, 2), name="other")
    member.reset()
    again = await peers.durable("member")
    received = await again.expect(
        "PUBLISH", payload=b"begun", dup=True, packet_id=received.packet_id
    )
    await again.acknowledge(received)
    await peers.assert_nothing_delivered(publisher, other)


@statement("MQTT-4.8.2-5")
async def test_shared_message_of_an_ended_session_goes_to_nobody_else(
    peers: Peers, publisher: RawClient
) -> None:
    shared = f"$share/group/{peers.topic()}"
    member = await peers.durable("member")
    await member.subscribe((shared, 2))
    await publisher.deliver(peers.topic(), b"begun", qos=2)
    await member.expect("PUBLISH", payload=b"begun")
    other = await peers.subscriber((shared, 2), name="other")
    member.reset()
    await peers.connect("member", clean=True)
    await peers.assert_nothing_delivered(publisher, other)


@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
@statement("MQTT-4.8.2-6")
async def test_shared_message_that_is_refused_goes_to_nobody_else(
    peers: Peers, publisher: RawClient, qos: int, kind: str
) -> None:
    shared = f"$share/group/{peers.topic()}"
    member = await peers.subscriber((shared, 2), name="member")
    await publisher.deliver(peers.topic(), b"unwanted", qos=qos)
    received = await member.expect("PUBLISH", qos=qos)
    other = await peers.subscriber((shared, 2), name="other")
    await member.send(mqtt_bytes.acknowledge(kind, received.packet_id, reason=0x83, props=[]))
    await member.expect_nothing()
    await peers.assert_nothing_delivered(publisher, other)
    await peers.assert_nothing_delivered(publisher, member)


async def test_leaving_a_group_leaves_the_rest_of_it(peers: Peers, publisher: RawClient) -> None:
    shared = f"$share/group/{peers.topic()}"
    leaving = await peers.subscriber(shared, name="leaving")
    staying = await peers.subscriber(shared, name="staying")
    answer = await leaving.unsubscribe(shared)
    assert answer.codes == [0]
    for number in range(4):
        await publisher.publish(peers.topic(), b"%d" % number)
        await staying.expect("PUBLISH", payload=b"%d" % number)
    await leaving.expect_nothing()
