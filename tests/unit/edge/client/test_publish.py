"""PUBLISH and PUBREL from one client, where a refusal meets what is remembered of an exchange."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.virtual_time import turns
from tidegate.mqtt.enums import ReasonCode

QUOTA = int(ReasonCode.QUOTA_EXCEEDED)


@pytest.mark.statement("MQTT-4.3.3-9")
async def test_a_packet_identifier_refused_in_pubrec_can_be_used_for_another_message() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.router.answers_late = True
        client.send(mqtt_bytes.publish("t", b"refused", qos=2, packet_id=1))
        alone.router.answer(code=QUOTA)
        client.send(mqtt_bytes.publish("t", b"another", qos=2, packet_id=1))
        alone.router.answer()
        assert [packet.reason for packet in client.received()] == [QUOTA, 0]
        assert [message.payload for message in alone.router.published] == [b"refused", b"another"]


@pytest.mark.statement("MQTT-4.3.3-10")
async def test_a_qos_2_message_sent_again_is_answered_once_and_not_before_it_is_stored() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.router.answers_late = True
        client.send(mqtt_bytes.publish("t", qos=2, packet_id=1))
        client.send(mqtt_bytes.publish("t", qos=2, packet_id=1, dup=True))
        assert client.kinds() == []
        alone.router.answer()
        assert client.kinds() == ["PUBREC"]
        client.send(mqtt_bytes.publish("t", qos=2, packet_id=1, dup=True))
        assert client.kinds() == ["PUBREC"]
        assert len(alone.router.published) == 1


@pytest.mark.statement("MQTT-4.6.0-3")
async def test_a_qos_2_message_sent_again_is_answered_after_those_before_it() -> None:
    """An earlier connection had its receipt stored, but not those of the messages before it."""
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.publish("t", qos=2, packet_id=3))
        assert client.kinds() == ["PUBREC"]
        alone.router.answers_late = True
        for packet_id in (1, 2):
            client.send(mqtt_bytes.publish("t", qos=2, packet_id=packet_id, dup=True))
        client.send(mqtt_bytes.publish("t", qos=2, packet_id=3, dup=True))
        client.send(mqtt_bytes.publish("t", qos=1, packet_id=4, dup=True))
        assert client.kinds() == []
        for _ in range(3):
            alone.router.answer()
        answers = [(packet.kind, packet.packet_id) for packet in client.received()]
        assert answers == [("PUBREC", 1), ("PUBREC", 2), ("PUBREC", 3), ("PUBACK", 4)]
        assert len(alone.router.published) == 4


async def test_who_waits_for_the_end_learns_that_everything_has_its_outcome() -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        alone.router.answers_late = True
        for packet_id in (1, 2):
            client.send(mqtt_bytes.publish("t", qos=1, packet_id=packet_id))
        client.lose()
        await turns()
        (detached,) = alone.router.detached
        publisher = detached.publisher
        assert publisher is not None
        settled: list[bool] = []
        publisher.on_settled = lambda: settled.append(publisher.is_under_way())
        alone.router.answer(1)
        assert publisher.is_under_way()
        assert settled == []
        alone.router.answer()
        assert settled == [False]


@pytest.mark.statement("MQTT-3.3.4-7")
async def test_a_message_refused_in_pubrec_is_no_longer_under_way() -> None:
    async with LoneEdge(limits={"receive_maximum": 1}) as alone:
        client = await alone.connect("c")
        alone.router.answers_late = True
        for packet_id in (1, 2):
            client.send(mqtt_bytes.publish("t", qos=2, packet_id=packet_id))
            alone.router.answer(code=QUOTA)
            await turns()
        assert [(packet.kind, packet.reason) for packet in client.received()] == [
            ("PUBREC", QUOTA)
        ] * 2
