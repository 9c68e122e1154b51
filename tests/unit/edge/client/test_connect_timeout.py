"""The time from accept to CONNECT, and from CONNECT to CONNACK: what begins it, what does not."""

from __future__ import annotations

import asyncio

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.virtual_time import run_virtual
from tidegate.edge.auth.methods import Step
from tidegate.edge.channel import Peer
from tidegate.edge.client.client import Client
from tidegate.edge.edge import TICK_S
from tidegate.mqtt.enums import ReasonCode

TIMEOUT_S = 10.0
#: A clock that is read once per tick, and the look at it.
LATE_S = 2 * TICK_S + 0.1


class _Endless:
    """A method that always asks once more."""

    def __init__(self, client_id: str, username: str | None, peer: Peer) -> None:
        pass

    async def step(self, data: bytes | None) -> Step:
        return Step(ReasonCode.CONTINUE_AUTHENTICATION, b"and?")


async def _open_for(client: EdgeClient, pieces: list[bytes], pause_s: float) -> float:
    """Send pieces until the connection is closed; return how long that took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for piece in pieces:
        client.send(piece)
        await asyncio.sleep(pause_s)
        if client.channel.is_closed:
            return loop.time() - began_s
    raise AssertionError("still open")


def test_bytes_of_connect_do_not_begin_it_anew() -> None:
    async def scenario() -> None:
        async with LoneEdge() as lone:
            connect = mqtt_bytes.connect("x" * 300)
            client = lone.accept()
            seconds = await _open_for(client, [bytes([each]) for each in connect], 0.1)
            assert TIMEOUT_S - TICK_S <= seconds <= TIMEOUT_S + LATE_S
            assert lone.counters.refused["connect_timeout"] == 1
            assert not lone.edge.registry.connecting

    run_virtual(scenario())


def test_it_includes_the_handshakes() -> None:
    async def scenario() -> None:
        async with LoneEdge() as lone:
            await asyncio.sleep(20)
            channel = lone.accept().channel
            channel.peer = Peer("::1", 1, "wss", "wss")
            accepted_s = asyncio.get_running_loop().time() - 8
            handler = lone.edge.handler_factory(lone.config.listeners[0])(channel, accepted_s)
            assert isinstance(handler, Client)
            client = EdgeClient(lone.edge, handler, channel, mqtt_bytes.V5)
            seconds = await _open_for(client, [b"\x10", b"\x7f", *[b"\0"] * 60], 0.1)
            assert seconds <= TIMEOUT_S - 8 + LATE_S

    run_virtual(scenario())


def test_the_answer_has_a_time_of_its_own_whatever_is_sent_meanwhile() -> None:
    async def scenario() -> None:
        async with LoneEdge() as lone:
            lone.edge.context.authentication_methods = {"ENDLESS": _Endless}
            proof: list[mqtt_bytes.Property] = [("auth_method", "ENDLESS"), ("auth_data", b"x")]
            client = lone.accept()
            connect = mqtt_bytes.connect("c", props=proof)
            client.send(connect[:5])
            await asyncio.sleep(TIMEOUT_S - 1)
            client.send(connect[5:])
            await asyncio.sleep(1)
            seconds = 1 + await _open_for(client, [mqtt_bytes.auth(0x18, proof)] * 100, 1.0)
            assert TIMEOUT_S - TICK_S <= seconds <= TIMEOUT_S + LATE_S + 1
            assert lone.counters.refused["connect_timeout"] == 1

    run_virtual(scenario())
