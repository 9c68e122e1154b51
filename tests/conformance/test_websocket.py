"""MQTT over WebSocket (chapter 6), and what browsers and older clients rely on."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V31, V311
from support.peers import Peers, both_versions
from support.raw_client import RawClient, frame

statement = pytest.mark.statement
pytestmark = pytest.mark.parametrize("transport", ["ws"])


@both_versions
@statement("MQTT-6.0.0-3", "MQTT-6.0.0-4", "MQTT311-6.0.0-3", "MQTT311-6.0.0-4")
async def test_subprotocol_mqtt_is_selected(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    assert client.subprotocol == "mqtt"


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["mqttv3.1", "mqtt"], {"mqtt", "mqttv3.1"}),
        (["chat", "mqtt"], {"mqtt"}),
        (["mqttv3.1"], {"mqttv3.1"}),
    ],
    ids=["old first", "unknown first", "old only"],
)
@statement("MQTT-6.0.0-4", "MQTT311-6.0.0-4")
async def test_subprotocol_is_chosen_from_the_list(
    peers: Peers, offered: list[str], selected: set[str]
) -> None:
    client = await peers.open(V31, subprotocols=offered)
    assert client.subprotocol in selected
    await client.connect(peers.client_id())


@both_versions
@pytest.mark.parametrize("opcode", [1])
@statement("MQTT-6.0.0-1", "MQTT311-6.0.0-1")
async def test_text_frame_closes_the_connection(peers: Peers, version: int, opcode: int) -> None:
    client = await peers.connect(version=version)
    await client.send_frame(b"\xc0\x00"[:1].replace(b"\xc0", b"x"), opcode=opcode)
    last = await client.receive_or_end()
    if last is not None:
        assert last.kind == "DISCONNECT"
        assert await client.receive_or_end() is None
    assert client.close_code in {1003, None}


@both_versions
@statement("MQTT-6.0.0-1", "MQTT311-6.0.0-1")
async def test_text_frame_with_connect_is_not_processed(peers: Peers, version: int) -> None:
    client = await peers.open(version)
    await client.send_frame(mqtt_bytes.connect("c", version=version), opcode=1)
    assert await client.receive_or_end() is None


@both_versions
@statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
async def test_several_packets_in_one_frame_are_all_processed(peers: Peers, version: int) -> None:
    client = await peers.open(version)
    await client.send(
        mqtt_bytes.connect(peers.client_id(), version=version)
        + mqtt_bytes.subscribe(1, [peers.topic()], version=version)
        + mqtt_bytes.PINGREQ
    )
    await client.expect("CONNACK", reason=0)
    kinds = {(await client.receive()).kind, (await client.receive()).kind}
    assert kinds == {"SUBACK", "PINGRESP"}


@both_versions
@pytest.mark.parametrize("size", [1, 2, 3, 7])
@statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
async def test_packet_may_be_spread_over_frames(peers: Peers, version: int, size: int) -> None:
    client = await peers.open(version)
    stream = mqtt_bytes.connect(peers.client_id(), version=version) + mqtt_bytes.PINGREQ
    await client.send(*[stream[at : at + size] for at in range(0, len(stream), size)])
    await client.expect("CONNACK", reason=0)
    await client.expect("PINGRESP")


@statement("MQTT-6.0.0-2", "MQTT311-6.0.0-2")
async def test_packet_may_be_one_fragmented_message_with_a_ping_between(peers: Peers) -> None:
    client = await peers.open(V311)
    stream = mqtt_bytes.connect(peers.client_id(), version=V311)
    await client.send_frame(stream[:5], opcode=2, fin=False)
    await client.send_frame(b"are you there", opcode=9)
    await client.send_frame(stream[5:9], opcode=0, fin=False)
    await client.send_frame(stream[9:], opcode=0, fin=True)
    await client.expect("CONNACK", reason=0)
    assert (10, True, b"are you there") in client.frames


@both_versions
@statement("MQTT-6.0.0-1", "MQTT311-6.0.0-1")
async def test_every_frame_of_the_broker_is_one_whole_packet(
    peers: Peers, version: int, is_tidegate: bool
) -> None:
    subscriber = await peers.subscriber(peers.topic(), version=version)
    publisher = await peers.connect("publisher", version)
    for size in (0, 100, 200, 70_000, 300_000):
        for _ in range(3):
            await publisher.publish(peers.topic(), b"x" * size)
    for _ in range(15):
        await subscriber.expect("PUBLISH")
    data = [one for one in subscriber.frames if one[0] not in {9, 10}]
    assert all(opcode == 2 for opcode, _, _ in data[:1])
    if is_tidegate:
        assert all((opcode, fin) == (2, True) for opcode, fin, _ in data)
        for _, _, payload in data:
            buffer = bytearray(payload)
            assert mqtt_bytes.split(buffer) == payload
            assert not buffer


async def test_data_sent_along_with_the_handshake_is_kept(peers: Peers, is_tidegate: bool) -> None:
    if not is_tidegate:
        pytest.skip("mosquitto loses it")
    early = frame(mqtt_bytes.connect(peers.client_id(), version=V311))
    client = await RawClient.open(peers.address("ws"), version=V311, early=early)
    peers.clients.append(client)
    await client.expect("CONNACK", reason=0)


@pytest.mark.parametrize("path", ["/mqtt", "/ws", "/", "/mqtt?token=x"])
async def test_usual_paths_are_served(peers: Peers, path: str) -> None:
    address = peers.server.address("ws")
    client = await RawClient.open(f"ws://{address.host}:{address.port}{path}", version=V311)
    peers.clients.append(client)
    await client.connect(peers.client_id())


async def test_unmasked_client_frame_ends_the_connection(peers: Peers) -> None:
    client = await peers.open(V311)
    await client.send_frame(mqtt_bytes.connect("c", version=V311), masked=False)
    assert await client.receive_or_end() is None
