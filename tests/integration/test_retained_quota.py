"""Quotas of retained messages, as clients meet them.

Inputs: raw clients that retain messages, at ``tidegate serve``. Observed: reason
codes, what later subscribers get, counters.
"""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import pytest

from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311
from support.raw_client import DEADLINE_S, RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


def _start(start_broker: StartBroker, **limits: Any) -> Tidegate:
    return start_broker(limits=limits)


async def _client(broker: Tidegate, client_id: str, version: int = V5) -> RawClient:
    address = broker.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
    await client.connect(client_id)
    return client


async def _retain(client: RawClient, topic: str, payload: bytes = b"x", qos: int = 1) -> int:
    """Retain a message; return the reason code, 0 for any success."""
    packet = await client.deliver(topic, payload, qos=qos, retain=True)
    assert packet is not None
    return packet.reason if packet.reason >= 0x80 else 0


def _metric(broker: Tidegate, name: str) -> float:
    address = broker.addresses["admin"]
    url = f"http://{address.host}:{address.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
        text: str = reply.read().decode()
    found = re.search(f"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_client_has_so_many(start_broker: StartBroker, qos: int) -> None:
    broker = _start(start_broker, max_retained_messages_per_client=3)
    mine, other = await _client(broker, "mine"), await _client(broker, "other")
    codes = [await _retain(mine, f"t/{number}", qos=qos) for number in range(5)]
    assert codes == [0, 0, 0, 0x97, 0x97]
    assert await _retain(other, "t/other", qos=qos) == 0
    # Another value of a topic that it has, and a message in the place of one that is removed.
    assert await _retain(mine, "t/0", b"longer", qos=qos) == 0
    assert await _retain(mine, "t/1", b"", qos=qos) == 0
    assert await _retain(mine, "t/4", qos=qos) == 0
    assert await _retain(mine, "t/5", qos=qos) == 0x97
    reader = await _client(broker, "reader")
    await reader.subscribe(("t/#", 0))
    topics = {(await reader.expect("PUBLISH")).topic for _ in range(4)}
    assert topics == {"t/0", "t/2", "t/4", "t/other"}
    await reader.expect_nothing()
    assert _metric(broker, 'tidegate_messages_dropped_total{reason="retained_quota"}') == 3


async def test_pipelined_messages_are_counted_too(start_broker: StartBroker) -> None:
    broker = _start(start_broker, max_retained_messages_per_client=10)
    mine = await _client(broker, "mine")
    for number in range(40):
        await mine.publish(f"t/{number}", qos=1, packet_id=1 + number, retain=True)
    codes = [(await mine.expect("PUBACK")).reason for _ in range(40)]
    assert sum(code < 0x80 for code in codes) == 10
    assert set(codes) <= {0, 0x10, 0x97}


async def test_bytes_count(start_broker: StartBroker) -> None:
    broker = _start(start_broker, max_retained_bytes_per_client=10_000)
    mine = await _client(broker, "mine")
    assert await _retain(mine, "t/0", bytes(6_000)) == 0
    assert await _retain(mine, "t/1", bytes(6_000)) == 0x97
    assert await _retain(mine, "t/0", bytes(9_000)) == 0
    assert await _retain(mine, "t/0", bytes(12_000)) == 0x97
    assert await _retain(mine, "t/0", bytes(1_000)) == 0
    assert await _retain(mine, "t/1", bytes(6_000)) == 0


@pytest.mark.parametrize(
    "limits", [{"max_retained_messages": 4}, {"max_retained_bytes": 4 * 1_100}]
)
async def test_all_clients_together_have_so_many(
    start_broker: StartBroker, limits: dict[str, int]
) -> None:
    broker = _start(start_broker, **limits)
    clients = [await _client(broker, f"c{number}") for number in range(6)]
    codes = [
        await _retain(client, f"t/{number}", bytes(1_000)) for number, client in enumerate(clients)
    ]
    assert codes == [0, 0, 0, 0, 0x97, 0x97]
    # What the broker itself retains does not count, and is not refused.
    await clients[0].subscribe(("$SYS/broker/version", 0))
    await clients[0].expect("PUBLISH", topic="$SYS/broker/version")


async def test_before_mqtt_5_the_connection_is_closed(start_broker: StartBroker) -> None:
    broker = _start(start_broker, max_retained_messages_per_client=1)
    mine = await _client(broker, "mine", V311)
    assert await _retain(mine, "t/0") == 0
    await mine.publish("t/1", qos=1, retain=True)
    await mine.expect_closed()
    assert _metric(broker, 'tidegate_connections_closed_total{reason="quota_exceeded"}') == 1


async def test_they_outlive_connection_and_process(start_broker: StartBroker) -> None:
    broker = _start(start_broker, max_retained_messages_per_client=1)
    mine = await _client(broker, "mine")
    assert await _retain(mine, "t/0") == 0
    broker.stop()
    broker.start()
    mine = await _client(broker, "mine")
    assert await _retain(mine, "t/1") == 0x97
    assert await _retain(mine, "t/0", b"new") == 0
