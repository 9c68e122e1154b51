"""What a client may do, and how its connection ends: taken over, by the process, by keep alive."""

from __future__ import annotations

import asyncio

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.mqtt_bytes import V5, Will
from support.virtual_time import run_virtual, turns
from tidegate.edge.client.client import may_publish
from tidegate.edge.client.state import ClientState
from tidegate.edge.edge import TICK_S
from tidegate.mqtt.enums import ReasonCode

TAKEN_OVER = ReasonCode.SESSION_TAKEN_OVER


@pytest.mark.statement("MQTT-3.1.4-3")
async def test_a_connection_that_is_taken_over_asks_for_no_will() -> None:
    """The session has its successor's will now; its own was the store's to publish, or not."""
    async with LoneEdge() as alone:
        client = await alone.connect("c", will=Will("w"))
        alone.edge.kick("c", 1, TAKEN_OVER)
        await turns()
        assert [packet.reason for packet in client.received()] == [TAKEN_OVER]
        assert [one.publish_will for one in alone.router.detached] == [False]


async def test_an_mqtt_5_client_whose_connect_has_just_come_is_refused_as_one_at_the_end() -> None:
    alone = LoneEdge()
    alone.edge.start()
    client = alone.accept(V5)
    client.send(mqtt_bytes.connect("c"))
    await alone.edge.stop()  # before anything else has its turn
    assert [packet.reason for packet in client.received()] == [ReasonCode.SERVER_UNAVAILABLE]


async def test_a_disconnect_lengthens_a_session_up_to_the_limit() -> None:
    async with LoneEdge(limits={"max_session_expiry_s": 60}) as alone:
        client = await alone.connect("c", props=[("session_expiry", 30)])
        client.send(mqtt_bytes.disconnect(0, [("session_expiry", 1000)]))
        await turns()
        assert [one.session_expiry_s for one in alone.router.detached] == [60]


# Keep alive


@pytest.mark.parametrize("keep_alive_s", [1, 10])
@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.statement("MQTT-3.1.2-22", "MQTT311-3.1.2-24")
def test_silence_of_one_and_a_half_keep_alive_ends_a_connection(
    keep_alive_s: int, sends: bool
) -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            client = await alone.connect("c", keep_alive=keep_alive_s)
            await asyncio.sleep(1.5 * keep_alive_s)
            assert not client.channel.is_closed
            if sends:
                client.send(mqtt_bytes.PINGREQ)
                await asyncio.sleep(1.5 * keep_alive_s)
                assert not client.channel.is_closed
            # What came when is known to within a tick, and looked at at each.
            await asyncio.sleep(2 * TICK_S + 0.01)
            assert client.channel.is_closed
            assert alone.counters.closed["keep_alive_timeout"] == 1

    run_virtual(scenario())


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
        states = [client.client.state]
        client.send(mqtt_bytes.connect("c"))
        await turns()
        states.append(client.client.state)
        client.lose()
        states.append(client.client.state)
        client.client.data_received(mqtt_bytes.PINGREQ)
        states.append(client.client.state)
        assert states == [
            ClientState.CONNECTING,
            ClientState.CONNECTED,
            ClientState.CLOSED,
            ClientState.CLOSED,
        ]
        await turns()
        assert [request.client_id for request in alone.router.detached] == ["c"]
