"""``tidegate serve`` on a server that is already there: Valkey and Redis, over its URL.

Input: a store started by the test, brokers on it. Output: what survives a broker, what its death
sets off, and what a store that cannot be used says at the start.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from support.store_groups import AnyStore, start_store

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DURABLE = [("session_expiry", 3600)]


@pytest.fixture(params=["valkey", "redis", "valkey-limited", "redis-cluster"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    """Run a store of each kind."""
    running = start_store(request.param, tmp_path)
    yield running
    running.stop()


async def _open(broker: Tidegate) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)


async def test_sessions_outlive_the_broker_and_wills_fire_after_its_lease(
    store: AnyStore, start_broker: StartBroker
) -> None:
    """G1, G5: nothing but the store is needed to go on after ``kill -9``."""
    broker = start_broker(store={"url": store.url, "edge_lease_s": 1.0})
    sleeper = await _open(broker)
    await sleeper.connect("sleeper", clean=False, props=DURABLE)
    await sleeper.subscribe(("queue", 1), ("will", 1))
    await sleeper.disconnect()
    doomed = await _open(broker)
    await doomed.connect("doomed", will=mqtt_bytes.Will("will", b"gone", qos=1))
    await doomed.deliver("queue", b"kept", qos=1)
    broker.kill()
    broker.start()
    sleeper = await _open(broker)
    connack = await sleeper.connect("sleeper", clean=False, props=DURABLE)
    assert connack.session_present
    payloads = set()
    for _ in range(2):
        packet = await sleeper.expect("PUBLISH")
        payloads.add(packet.payload)
        await sleeper.acknowledge(packet)
    assert payloads == {b"kept", b"gone"}
    await sleeper.expect_nothing()


def test_a_store_that_does_not_answer_is_one_sentence_at_the_start(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("tidegate")), "serve"]
    done = subprocess.run(
        [*command, "--redis", f"unix://{tmp_path}/nobody", "--listener", "tcp://127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) <= 2
    assert lines[-1].startswith(f"tidegate: cannot start: store.url: {tmp_path}/nobody ")
    assert "Traceback" not in done.stderr


def test_a_data_directory_in_use_is_one_sentence_at_the_start(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    start_broker(store={"data_dir": str(tmp_path)})
    command = [str(Path(sys.executable).with_name("tidegate")), "serve"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path), "--listener", "tcp://127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "tidegate: cannot start:" in done.stderr
    assert "Traceback" not in done.stderr
