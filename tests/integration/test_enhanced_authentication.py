"""The exchange of AUTH packets, with a method that the test brings along.

Input: a broker in this process with one method ("COUNT": the client must answer each challenge with
the next number), raw clients. Output: the packets they get.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import Property
from support.raw_client import RawClient
from tidegate.edge.auth.methods import Step
from tidegate.edge.channel import Peer
from tidegate.mqtt.enums import ReasonCode
from tidegate.roles.serve import Broker
from tidegate.runtime.config.model import Config

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


class _Count:
    """A method of two challenges: b"1" must be answered with b"2", b"3" with b"4"."""

    def __init__(self, client_id: str, username: str | None, peer: Peer) -> None:
        self._wanted = b"0"

    async def step(self, data: bytes | None) -> Step:
        if data != self._wanted:
            return Step(ReasonCode.NOT_AUTHORIZED)
        number = int(data)
        if number == 4:
            return Step(ReasonCode.SUCCESS, b"welcome", "counter")
        self._wanted = b"%d" % (number + 2)
        return Step(ReasonCode.CONTINUE_AUTHENTICATION, b"%d" % (number + 1))


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """Run a broker with the method; yield its address."""
    config = Config.model_validate(
        {
            "listeners": [{"port": 0, "name": "tcp"}],
            "admin": {"enabled": False},
            "store": {"data_dir": tmp_path / "data"},
        }
    )
    lines: asyncio.Queue[str] = asyncio.Queue()
    broker = Broker(config, lines.put_nowait, {"COUNT": _Count})
    running = asyncio.create_task(broker.run())
    line = await asyncio.wait_for(lines.get(), 20)
    yield line.split("tcp=")[1].split()[0]
    broker.stop("the test ends")
    await asyncio.wait_for(running, 20)


def _proof(data: bytes, method: str = "COUNT") -> list[Property]:
    return [("auth_method", method), ("auth_data", data)]


async def _begin(address: str, data: bytes = b"0") -> RawClient:
    client = await RawClient.open(address)
    await client.send(mqtt_bytes.connect("c", props=_proof(data)))
    return client


async def _answer(client: RawClient, asked: bytes, answer: bytes) -> None:
    packet = await client.expect("AUTH", reason=0x18)
    assert packet.get("auth_method") == "COUNT"
    assert packet.get("auth_data") == asked
    await client.send(mqtt_bytes.auth(0x18, _proof(answer)))


@pytest.mark.statement("MQTT-3.15.2-1", "MQTT-4.12.0-2", "MQTT-4.12.0-3", "MQTT-4.12.0-5")
async def test_an_exchange_ends_in_connack_with_the_last_data(address: str) -> None:
    client = await _begin(address)
    await _answer(client, b"1", b"2")
    await _answer(client, b"3", b"4")
    connack = await client.expect("CONNACK", reason=0)
    assert connack.get("auth_method") == "COUNT"
    assert connack.get("auth_data") == b"welcome"
    client.close()


@pytest.mark.statement("MQTT-4.12.0-4")
async def test_a_wrong_answer_is_refused_with_the_methods_reason(address: str) -> None:
    client = await _begin(address)
    await _answer(client, b"1", b"7")
    await client.expect("CONNACK", reason=0x87)
    await client.expect_closed()


@pytest.mark.statement("MQTT-4.12.0-1")
async def test_an_unknown_method_is_refused(address: str) -> None:
    client = await RawClient.open(address)
    await client.send(mqtt_bytes.connect("c", props=_proof(b"0", "NONE")))
    await client.expect("CONNACK", reason=0x8C)
    await client.expect_closed()


@pytest.mark.statement("MQTT-3.1.2-30")
async def test_nothing_but_auth_may_come_before_the_end_of_the_exchange(address: str) -> None:
    client = await _begin(address)
    await client.expect("AUTH", reason=0x18)
    await client.publish("t")
    await client.expect("CONNACK", reason=0x82)
    await client.expect_closed()


@pytest.mark.statement("MQTT-4.12.0-5")
async def test_another_method_in_the_middle_is_a_protocol_error(address: str) -> None:
    client = await _begin(address)
    await client.expect("AUTH", reason=0x18)
    await client.send(mqtt_bytes.auth(0x18, _proof(b"2", "OTHER")))
    await client.expect("CONNACK", reason=0x82)
    await client.expect_closed()


async def test_a_client_may_give_up_in_the_middle(address: str) -> None:
    client = await _begin(address)
    await client.expect("AUTH", reason=0x18)
    await client.send(mqtt_bytes.disconnect())
    await client.expect_closed()


@pytest.mark.statement("MQTT-4.12.1-1")
async def test_a_client_proves_itself_again_while_other_packets_wait(address: str) -> None:
    client = await _begin(address)
    await _answer(client, b"1", b"2")
    await _answer(client, b"3", b"4")
    await client.expect("CONNACK", reason=0)
    await client.send(mqtt_bytes.auth(0x19, _proof(b"0")))
    await client.send(mqtt_bytes.PINGREQ)
    await _answer(client, b"1", b"2")
    await _answer(client, b"3", b"4")
    done = await client.expect("AUTH", reason=0)
    assert done.get("auth_data") == b"welcome"
    await client.expect("PINGRESP")
    client.close()


@pytest.mark.statement("MQTT-4.12.1-2")
async def test_a_failed_new_proof_ends_the_connection(address: str) -> None:
    client = await _begin(address)
    await _answer(client, b"1", b"2")
    await _answer(client, b"3", b"4")
    await client.expect("CONNACK", reason=0)
    await client.send(mqtt_bytes.auth(0x19, _proof(b"9")))
    await client.expect("DISCONNECT", reason=0x87)
    await client.expect_closed()


@pytest.mark.statement("MQTT-4.12.0-6")
async def test_auth_without_a_method_in_connect_is_a_protocol_error(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "listeners": [{"port": 0, "name": "tcp", "allow_anonymous": True}],
            "admin": {"enabled": False},
            "store": {"data_dir": tmp_path / "data"},
        }
    )
    lines: asyncio.Queue[str] = asyncio.Queue()
    broker = Broker(config, lines.put_nowait)
    running = asyncio.create_task(broker.run())
    line = await asyncio.wait_for(lines.get(), 20)
    client = await RawClient.open(line.split("tcp=")[1].split()[0])
    await client.connect("c")
    await client.send(mqtt_bytes.auth(0x19, _proof(b"0")))
    await client.expect("DISCONNECT", reason=0x82)
    await client.expect_closed()
    broker.stop("the test ends")
    await asyncio.wait_for(running, 20)
