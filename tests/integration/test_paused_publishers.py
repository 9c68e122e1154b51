"""Clients whose packets wait for a store that has stopped: they are answered pings, and stay.

Input: raw and paho clients against ``tidegate serve``, its store paused with SIGSTOP. Output: what
each client is sent meanwhile, what arrives afterwards, the memory of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311
from support.paho_client import PahoClient
from support.peers import let_pass
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

#: Longer than one and a half keep alives of a second, and a tick of the broker's clock.
LONG_S = 4.0
MIB = 1024 * 1024


async def _open(broker: Tidegate, version: int = V5) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)


async def _sleeper(broker: Tidegate) -> None:
    """Leave a durable session that wants everything below t."""
    client = await _open(broker)
    await client.connect("sleeper", clean=False, props=[("session_expiry", 3600)])
    await client.subscribe(("t/#", 1))
    await client.disconnect()


async def _wake(broker: Tidegate, count: int) -> list[bytes]:
    """What the durable session has got."""
    client = await _open(broker)
    await client.connect("sleeper", clean=False, props=[("session_expiry", 3600)])
    got: list[bytes] = []
    while len(got) < count:
        packet = await client.expect("PUBLISH")
        got.append(packet.payload)
        await client.acknowledge(packet)
    await client.expect_nothing()
    return got


@contextmanager
def _stopped(pids: set[int]) -> Iterator[None]:
    """Keep processes from running."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def _ping_for(client: RawClient, seconds: float) -> None:
    """Send PINGREQ again and again; each is answered, and nothing else comes."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await client.expect_nothing()
        await let_pass(0.4)


async def test_a_publisher_is_answered_pings_while_its_publishes_wait(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(limits={"receive_maximum": 10})
    await _sleeper(broker)
    writer = await _open(broker, V311)
    await writer.connect("writer", keep_alive=1)
    with _stopped(broker.descendants()):
        for number in range(1, 31):
            await writer.publish("t", b"%d" % number, qos=1, packet_id=number)
        await _ping_for(writer, LONG_S)
    for number in range(1, 31):
        await writer.expect("PUBACK", packet_id=number)
    assert await _wake(broker, 30) == [b"%d" % number for number in range(1, 31)]


async def test_a_publisher_that_is_not_read_any_more_is_kept_too(start_broker: StartBroker) -> None:
    """Its pings are in the socket behind publishes that nobody takes: that is our doing."""
    broker = start_broker(limits={"receive_maximum": 10})
    await _sleeper(broker)
    writer = await _open(broker, V311)
    await writer.connect("writer", keep_alive=1)
    with _stopped(broker.descendants()):
        for number in range(1, 31):
            await writer.publish("t", b"%d" % number + bytes(20_000), qos=1, packet_id=number)
        await writer.send(mqtt_bytes.PINGREQ)
        await let_pass(LONG_S)
    kinds = [(await writer.receive()).kind for _ in range(31)]
    assert sorted(kinds) == ["PINGRESP"] + ["PUBACK"] * 30
    got = await _wake(broker, 30)
    assert [payload.rstrip(b"\0") for payload in got] == [b"%d" % n for n in range(1, 31)]


async def test_a_subscriber_waits_for_its_suback_and_is_answered_pings(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    client = await _open(broker)
    await client.connect("c", clean=False, keep_alive=1, props=[("session_expiry", 60)])
    with _stopped(broker.descendants()):
        await client.send(mqtt_bytes.subscribe(1, [("a", 1)]))
        await client.send(mqtt_bytes.PINGREQ)
        await client.expect("PINGRESP")
        await _ping_for(client, LONG_S)
    await client.expect("SUBACK", packet_id=1)


async def test_many_floods_that_wait_cost_what_they_may(start_broker: StartBroker) -> None:
    """64 KiB each and a packet, whatever they send (G6)."""
    broker = start_broker(limits={"receive_maximum": 10})
    await _sleeper(broker)
    writers = [await _open(broker, V311) for _ in range(20)]
    for number, writer in enumerate(writers):
        await writer.connect(f"writer{number}")
    before = broker.memory_bytes()
    sending = []
    with _stopped(broker.descendants()):
        for writer in writers:
            flood = b"".join(
                mqtt_bytes.publish("t", bytes(8000), qos=1, packet_id=number, version=V311)
                for number in range(1, 1001)
            )
            sending.append(asyncio.create_task(writer.send(flood)))
        other = await _open(broker)
        await other.send(mqtt_bytes.PINGREQ)  # no CONNECT: it is closed, so the broker goes on
        await other.expect_closed()
        await let_pass(1)
        assert broker.memory_bytes() - before < 20 * MIB
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


def test_paho_stays_connected_through_an_outage_of_the_store(start_broker: StartBroker) -> None:
    broker = start_broker(limits={"receive_maximum": 5})
    address = broker.address("tcp")
    with PahoClient(broker, "sleeper", clean=False) as sleeper:
        sleeper.subscribe("t", 1)
        with PahoClient(broker, "writer", connect=False) as writer:
            writer.paho.connect(address.host, address.port, keepalive=1)
            writer.paho.loop_start()
            wait_for(lambda: writer.reason is not None, DEADLINE_S, "CONNACK")
            with _stopped(broker.descendants()):
                infos = [writer.paho.publish("t", b"%d" % number, qos=1) for number in range(20)]
                end = time.monotonic() + LONG_S
                wait_for(lambda: time.monotonic() > end, 2 * LONG_S, "time passes")
                assert writer.disconnected is None
            wait_for(lambda: all(info.is_published() for info in infos), DEADLINE_S, "PUBACKs")
            assert sleeper.payloads(20) == [b"%d" % number for number in range(20)]
            assert writer.disconnected is None
