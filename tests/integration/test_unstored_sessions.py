"""Clean sessions of ``tidegate serve``: what of them is in the store, and what they end there.

Input: raw clients of a broker on a store of each kind. Output: what the store has of them, and what
clients find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from support.store_groups import AnyStore, start_store
from tidegate.runtime.config.model import StoreConfig
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.inspection.sessions import SessionInspection

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


class _Found:
    """What the store has of clients."""

    def __init__(self, access: StoreAccess) -> None:
        self._sessions = SessionInspection(access)

    async def __call__(self, client_id: str) -> bool:
        return await self._sessions.describe(client_id) is not None


async def _is_quiet(broker: Tidegate, found: _Found) -> None:
    """Return when new clients are not stored: the broker has swept, and has numbers for them."""
    number = 0
    while True:
        number += 1
        client = await _open(broker)
        name = f"probe-{number % 50}"
        await client.connect(name)
        is_stored = await found(name)
        await client.disconnect()
        if not is_stored:
            return
        await asyncio.sleep(0.05)


async def test_a_clean_session_is_not_stored_and_what_it_ends_is_ended(
    store: AnyStore, start_broker: StartBroker
) -> None:
    broker = start_broker(store={"url": store.url, "partitions": 1})
    access = await StoreAccess.connect(store.url, StoreConfig(partitions=1))
    found = _Found(access)
    await _is_quiet(broker, found)
    clean = await _open(broker)
    await clean.connect("c")
    await clean.subscribe(("t", 1))
    assert not await found("c")
    # A durable session takes its place, and is ended by the next clean one.
    durable = await _open(broker)
    await durable.connect("c", clean=False, props=DURABLE)
    await clean.expect("DISCONNECT")
    await durable.subscribe(("t", 1))
    assert await found("c")
    await durable.disconnect()
    clean = await _open(broker)
    await clean.connect("c")
    await clean.deliver("t", b"for nobody", qos=1)
    await clean.disconnect()
    again = await _open(broker)
    await again.connect("c")
    assert not await found("c")
    newer = await _open(broker)
    await newer.connect("c")
    await again.expect("DISCONNECT")
    await newer.expect_nothing()
    await newer.disconnect()
    durable = await _open(broker)
    assert not (await durable.connect("c", clean=False, props=DURABLE)).session_present
    await durable.expect_nothing()
    await durable.disconnect()
    await access.close()


async def test_a_client_with_a_will_is_stored_and_what_follows_comes_after_the_will(
    store: AnyStore, start_broker: StartBroker
) -> None:
    """G5: also after ``kill -9``, and whatever clean session the client has next."""
    broker = start_broker(store={"url": store.url, "edge_lease_s": 2.0})
    watcher = await _open(broker)
    await watcher.connect("watcher", clean=False, props=DURABLE)
    await watcher.subscribe(("state", 1))
    doomed = await _open(broker)
    await doomed.connect("doomed", will=mqtt_bytes.Will("state", b"gone", qos=1))
    broker.kill()
    broker.start()
    back = await _open(broker)
    await back.connect("doomed")
    await back.deliver("state", b"back", qos=1)
    watcher = await _open(broker)
    await watcher.connect("watcher", clean=False, props=DURABLE)
    payloads = []
    for _ in range(2):
        packet = await watcher.expect("PUBLISH")
        payloads.append(packet.payload)
        await watcher.acknowledge(packet)
    assert payloads == [b"gone", b"back"]
    await watcher.disconnect()
    await back.disconnect()
