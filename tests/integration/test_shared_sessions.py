"""Shared subscriptions of sessions that end with messages still to deliver (MQTT5 §4.8.2).

Input: raw clients against ``tidegate serve``. Output: what the members that stay receive.
"""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5
from support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


async def _member(broker: Tidegate, client_id: str, receive_maximum: int) -> RawClient:
    address = broker.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
    limits = [("session_expiry", 3600), ("receive_maximum", receive_maximum)]
    await client.connect(client_id, clean=False, props=limits)
    await client.subscribe(("$share/g/t/+", 2))
    return client


@pytest.mark.parametrize(
    ("first_qos", "others"),
    [
        pytest.param(2, [b"2", b"3", b"4"], id="qos2-begun-stays"),
        pytest.param(1, [b"1", b"2", b"3", b"4"], id="qos1-begun-goes"),
    ],
)
@pytest.mark.statement("MQTT-4.8.2-5")
async def test_an_ended_sessions_shared_messages_go_to_another_member(
    start_broker: StartBroker, first_qos: int, others: list[bytes]
) -> None:
    broker = start_broker()
    ending = await _member(broker, "ending", 1)
    address = broker.address("tcp")
    writer = await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)
    await writer.connect("writer")
    for number, qos in enumerate((first_qos, 2, 1, 2), 1):
        await writer.deliver("t/1", b"%d" % number, qos=qos, packet_id=number)
    begun = await ending.expect("PUBLISH", payload=b"1")
    assert begun.qos == first_qos
    staying = await _member(broker, "staying", 100)
    await ending.disconnect(0, [("session_expiry", 0)])
    for payload in others:
        message = await staying.receive()
        while message.kind == "PUBREL":
            await staying.send(mqtt_bytes.acknowledge("PUBCOMP", message.packet_id))
            message = await staying.receive()
        assert (message.kind, message.payload) == ("PUBLISH", payload)
        answer = "PUBACK" if message.qos == 1 else "PUBREC"
        await staying.send(mqtt_bytes.acknowledge(answer, message.packet_id))
    for client in (ending, staying, writer):
        client.close()
