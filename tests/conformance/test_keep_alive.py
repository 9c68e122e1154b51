"""PINGREQ, PINGRESP and Keep Alive (chapters 3.1.2.10 and 3.12)."""

from __future__ import annotations

import time

import pytest

from support import mqtt_bytes
from support.peers import Peers, both_transports, both_versions, let_pass

statement = pytest.mark.statement

#: The broker looks twice a second, and knows when a packet came to within as much.
STEP_S = 1.0
#: How late a busy machine may be. (That the broker is not late is tested in virtual time.)
LATE_S = 1.5


@both_transports
@both_versions
@statement("MQTT-3.12.4-1", "MQTT311-3.12.4-1")
async def test_every_pingreq_gets_one_pingresp(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    await client.send(mqtt_bytes.PINGREQ * 3)
    for _ in range(3):
        await client.expect("PINGRESP")
    await client.expect_nothing()


@both_versions
@statement("MQTT-3.1.2-22", "MQTT-3.2.2-22", "MQTT311-3.1.2-24")
async def test_silence_of_one_and_a_half_keep_alive_ends_the_connection(
    peers: Peers, version: int
) -> None:
    keep_alive_s = 2
    began = time.monotonic()
    client = await peers.connect(version=version, keep_alive=keep_alive_s)
    assert client.connack is not None
    assert client.connack.get("server_keep_alive") is None
    last = await client.expect_closed()
    assert last is None or last.reason == 0x8D
    ended_s = time.monotonic() - began
    assert 1.5 * keep_alive_s <= ended_s <= 1.5 * keep_alive_s + STEP_S + LATE_S


@both_versions
@statement("MQTT-3.1.2-22", "MQTT311-3.1.2-24")
async def test_any_packet_counts_as_a_sign_of_life(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version, keep_alive=1)
    for _ in range(3):
        await let_pass(0.8)
        await client.publish(peers.topic(), b"alive")
    await client.expect_nothing()
