"""What a client may do, and how its connection ends; a real edge, both ends played.

What is sent and in which order is in ``test_pause_reasons.py`` and in the conformance tests.
"""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge, turns
from tidegate.edge.client.client import may_publish
from tidegate.edge.client.state import ClientState


@pytest.mark.parametrize("topic", ["$SYS/broker/uptime", "$share/g/t", "$SYS"])
async def test_topics_of_the_broker_are_refused_without_rules(topic: str) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.publish(topic, b"x", qos=1, packet_id=1))
        assert [packet.reason for packet in client.received()] == [0x87]
        assert not alone.router.published
        assert alone.counters.acl_denied["write"] == 1


def test_other_topics_with_a_dollar_sign_may_be_published() -> None:
    assert may_publish(None, "$other/t")
    assert may_publish(None, "t")


async def test_the_state_only_goes_forward() -> None:
    async with LoneEdge() as alone:
        client = alone.accept()
        assert client.client.state is ClientState.CONNECTING
        client.send(mqtt_bytes.connect("c"))
        await turns()
        assert client.client.state is ClientState.CONNECTED
        client.lose()
        assert client.client.is_closed
        client.client.data_received(mqtt_bytes.PINGREQ)
        assert client.client.state is ClientState.CLOSED
        await turns()
        assert [request.client_id for request in alone.router.detached] == ["c"]
