"""Clients of 3.1, 3.1.1 and 5.0 side by side, and what 3.1 alone does differently."""

from __future__ import annotations

import itertools

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5, V31, V311, Property, Will
from support.peers import Peers, let_pass

statement = pytest.mark.statement

VERSIONS = {V31: "3.1", V311: "3.1.1", V5: "5.0"}
PAIRS = list(itertools.product(VERSIONS, VERSIONS))


@pytest.mark.parametrize(
    ("sending", "receiving"), PAIRS, ids=[f"{VERSIONS[a]}-{VERSIONS[b]}" for a, b in PAIRS]
)
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.3.4-1", "MQTT311-3.3.4-1")
async def test_message_crosses_from_version_to_version(
    peers: Peers, sending: int, receiving: int, qos: int
) -> None:
    publisher = await peers.connect("publisher", sending)
    subscriber = await peers.connect("subscriber", receiving)
    await subscriber.subscribe((peers.topic(), 2))
    props: list[Property] = [("user", ("a", "b")), ("content_type", "c"), ("message_expiry", 50)]
    await publisher.deliver(
        peers.topic(), b"payload", qos=qos, props=props if sending == V5 else ()
    )
    received = await subscriber.expect("PUBLISH", payload=b"payload", qos=qos)
    if sending == receiving == V5:
        assert received.get("content_type") == "c"
    await subscriber.acknowledge(received)


@pytest.mark.parametrize(
    ("sending", "receiving"), PAIRS, ids=[f"{VERSIONS[a]}-{VERSIONS[b]}" for a, b in PAIRS]
)
async def test_queued_retained_and_will_messages_cross_from_version_to_version(
    peers: Peers, sending: int, receiving: int
) -> None:
    away = await peers.durable("away", receiving)
    await away.subscribe((peers.topic("#"), 1))
    await away.disconnect()
    publisher = await peers.connect("publisher", sending, will=Will(peers.topic("will"), b"w", 1))
    await publisher.deliver(peers.topic("retained"), b"r", retain=True)
    late = await peers.connect("late", receiving)
    await late.subscribe((peers.topic("#"), 1))
    await late.acknowledge(await late.expect("PUBLISH", payload=b"r", retain=True))
    publisher.reset()
    await late.expect("PUBLISH", payload=b"w")
    away = await peers.durable("away", receiving)
    await away.acknowledge(await away.expect("PUBLISH", payload=b"r"))
    await away.acknowledge(await away.expect("PUBLISH", payload=b"w"))


async def test_session_of_one_version_is_resumed_by_another(peers: Peers) -> None:
    old = await peers.durable("device", V311)
    await old.subscribe((peers.topic(), 1))
    await old.disconnect()
    publisher = await peers.connect("publisher", V31)
    await publisher.deliver(peers.topic(), b"kept")
    new = await peers.durable("device", V5)
    assert new.connack is not None
    assert new.connack.session_present
    await new.acknowledge(await new.expect("PUBLISH", payload=b"kept"))
    await new.disconnect()
    await publisher.deliver(peers.topic(), b"kept too")
    again = await peers.durable("device", V31)
    await again.expect("PUBLISH", payload=b"kept too")


async def test_31_has_no_session_present_flag(peers: Peers) -> None:
    first = await peers.durable("device", V31)
    await first.disconnect()
    again = await peers.durable("device", V31)
    assert again.connack is not None
    assert again.connack.raw == b"\x20\x02\x00\x00"


async def test_31_client_identifier_may_be_longer_than_23_bytes(peers: Peers) -> None:
    client = await peers.open(V31)
    await client.connect(peers.client_id("x" * 40))


@pytest.mark.parametrize("flags", [1, 2, 4, 8, 15])
@statement("MQTT311-2.2.2-2")
async def test_31_uses_no_flags_but_those_of_publish(peers: Peers, flags: int) -> None:
    for version in (V311, V31):
        client = await peers.open(version)
        wire = bytearray(mqtt_bytes.connect(peers.client_id(), version=version))
        wire[0] |= flags
        await client.send(bytes(wire))
        if version != V31:
            await client.expect_closed()
    await client.expect("CONNACK", reason=0)
    wire = bytearray(mqtt_bytes.subscribe(1, [(peers.topic(), 2)], version=V31))
    wire[0] ^= flags
    await client.send(bytes(wire))
    await client.expect("SUBACK", codes=[2])
    await client.publish(peers.topic(), qos=2, packet_id=9)
    kinds = {(await client.receive()).kind for _ in range(2)}
    assert kinds == {"PUBLISH", "PUBREC"}
    await client.send(bytes((0x62 ^ flags, 2, 0, 9)))
    await client.expect("PUBCOMP")


async def test_properties_of_every_client_packet_are_accepted(peers: Peers) -> None:
    user: list[Property] = [("user", ("k", "v")), ("user", ("k", "v"))]
    texts: list[Property] = [("reason_string", "because"), *user]
    client = await peers.connect(props=[("session_expiry", 60), *user])
    await client.send(mqtt_bytes.subscribe(1, [(peers.topic(), 2)], props=user))
    await client.expect("SUBACK", codes=[2])
    for qos in (1, 2):
        publisher = await peers.connect("publisher")
        await publisher.publish(peers.topic(), qos=qos)
        received = await client.expect("PUBLISH", qos=qos)
        kinds = ["PUBACK"] if qos == 1 else ["PUBREC", "PUBCOMP"]
        for kind in kinds:
            await client.send(
                mqtt_bytes.acknowledge(kind, received.packet_id, reason=0, props=texts)
            )
            if kind == "PUBREC":
                await client.expect("PUBREL")
    await client.publish(peers.topic("x"), qos=2, packet_id=9)
    await client.expect("PUBREC")
    await client.send(mqtt_bytes.acknowledge("PUBREL", 9, reason=0, props=texts))
    await client.expect("PUBCOMP")
    await client.send(mqtt_bytes.unsubscribe(2, [peers.topic()], props=user))
    await client.expect("UNSUBACK", codes=[0])
    await client.disconnect(0, [("session_expiry", 30), *texts])


async def test_disconnect_may_lengthen_the_session(peers: Peers) -> None:
    client = await peers.connect("short", clean=False, props=[("session_expiry", 1)])
    await client.disconnect(0, [("session_expiry", 300)])
    await let_pass(2.2)
    again = await peers.connect("short", clean=False)
    assert again.connack is not None
    assert again.connack.session_present
