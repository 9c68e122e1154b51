"""The replicated bundled store under load: what is rendered for its pods, as real processes.

Input: three pods (the start script, the configuration and the member with its Sentinel, as the
operator renders them), a broker with the store section of routers, publishers with QoS 1 to a
durable session. A primary is killed, frozen, emptied and stopped, a replica frozen. Observed:
nothing acknowledged is missing, who is the primary afterwards, how long publishers waited.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from support.replicated_store import ReplicatedStore, StorePod
from support.waiting import wait_for, wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DURABLE = [("session_expiry", 3600), ("receive_maximum", 1000)]
_PUBLISHERS = 8
#: A failover takes 6 to 8 seconds, and 10 more for each vote in which two Sentinels tie.
_DEADLINE_S = 150.0
_PACE_S = 0.005
#: How far apart faults are that come at once.
_AT_ONCE_S = 1.0
#: Size of a message: what is sent to a frozen server meanwhile does not fit into its sockets.
_MORE_THAN_SOCKETS_HOLD = 32 * 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicatedStore]:
    pods = ReplicatedStore(tmp_path_factory.mktemp("store"))
    pods.start()
    yield pods
    pods.kill()


class Load:
    """Publishers to one durable session, until stopped; each waits for every PUBACK."""

    def __init__(self, broker: Tidegate, payload_bytes: int) -> None:
        self._payload_bytes = payload_bytes
        address = broker.address("tcp")
        self._url = f"tcp://{address.host}:{address.port}"
        self._stopped = False
        self.acknowledged: set[bytes] = set()
        self.longest_wait_s = 0.0

    async def run(self) -> None:
        """Publish until ``stop``."""
        await asyncio.gather(*(self._publish(number) for number in range(_PUBLISHERS)))

    async def subscribe(self) -> None:
        """Make the session that everything is queued for."""
        client = await RawClient.open(self._url, version=V5)
        # The store may have one of an earlier test.
        await client.connect("sleeper", clean=True, props=DURABLE)
        await client.subscribe(("load/#", 1))
        await client.disconnect()

    async def _publish(self, number: int) -> None:
        client = await RawClient.open(self._url, version=V5)
        await client.connect(f"publisher-{number}")
        count = 0
        while not self._stopped:
            count += 1
            payload = b"%d-%d" % (number, count)
            started = time.monotonic()
            padded = payload.ljust(self._payload_bytes)
            await client.publish("load/x", padded, qos=1, packet_id=count % 60_000 + 1)
            reply = await client.receive(_DEADLINE_S)
            assert reply.kind == "PUBACK"
            self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - started)
            if reply.reason < 0x80:
                self.acknowledged.add(payload)
            await asyncio.sleep(_PACE_S)
        await client.disconnect()

    async def more(self, count: int = 200) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        await wait_for_async(
            lambda: len(self.acknowledged) >= wanted, _DEADLINE_S, "messages are acknowledged"
        )

    def stop(self) -> None:
        self._stopped = True

    async def received(self) -> set[bytes]:
        """What the session gets."""
        client = await RawClient.open(self._url, version=V5)
        connack = await client.connect("sleeper", clean=False, props=DURABLE)
        assert connack.session_present
        found: set[bytes] = set()
        while self.acknowledged - found:
            packet = await client.expect("PUBLISH")
            found.add(packet.payload.rstrip())
            await client.acknowledge(packet)
        await client.disconnect()
        return found


@asynccontextmanager
async def load_on(
    store: ReplicatedStore, start_broker: StartBroker, payload_bytes: int = 0
) -> AsyncIterator[Load]:
    """Load while the block runs; then compare, and wait until all pods are in step."""
    broker = start_broker(store=store.settings, limits={"max_queued_messages": 100_000})
    load = Load(broker, payload_bytes)
    await load.subscribe()
    running = asyncio.create_task(load.run())
    await load.more()
    yield load
    await load.more()
    load.stop()
    await running
    assert load.acknowledged <= await load.received()
    await asyncio.to_thread(store.wait_until_ready)
    print(f"longest wait: {load.longest_wait_s:.1f} s")  # shown with -s


async def _replaced(store: ReplicatedStore, old: StorePod) -> StorePod:
    return await asyncio.to_thread(store.wait_for_another_primary, old)


async def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    async with load_on(store, start_broker) as load:
        old = store.primary()
        old.kill()
        new = await _replaced(store, old)
        await load.more()
        old.start()
        await asyncio.to_thread(store.wait_until_ready)
        assert old.report()["role"] == "replica"
        assert store.primary() is new
        assert load.longest_wait_s < 30


async def test_a_frozen_primary_is_fenced_when_it_comes_back(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    async with load_on(store, start_broker) as load:
        old = store.primary()
        old.freeze()
        new = await _replaced(store, old)
        await load.more()
        old.thaw()
        await load.more()
        await asyncio.to_thread(store.wait_until_ready)
        assert old.report()["role"] == "replica"
        assert store.primary() is new


async def test_publishers_do_not_wait_for_a_replica_that_is_cut_off(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    async with load_on(store, start_broker) as load:
        primary, (replica, _) = store.primary(), store.replicas()
        replica.freeze()
        await load.more(2000)
        replica.thaw()
        await asyncio.to_thread(store.wait_until_ready)
        assert store.primary() is primary


async def test_a_primary_that_is_stopped_hands_over_first(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    async with load_on(store, start_broker) as load:
        old = store.primary()
        await asyncio.to_thread(old.stop)
        # Without it, Sentinel would begin after 5 seconds. Members look every second.
        await wait_for_async(store.has_another_primary(old), 4, "another server is the primary")
        await load.more()
        old.start()


async def test_a_primary_whose_volume_is_empty_does_not_empty_the_others(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    async with load_on(store, start_broker) as load:
        old = store.primary()
        old.kill()
        shutil.rmtree(old.directory("data"))
        old.directory("data").mkdir()
        # At once: the Sentinels still name it as the primary.
        old.start()
        await _replaced(store, old)
        await load.more()
        await asyncio.to_thread(store.wait_until_ready)
        assert old.report()["role"] == "replica"
        # No Sentinel counts one that does not exist any more.
        await asyncio.to_thread(store.wait_until_known)


async def test_a_server_that_ends_comes_back_as_what_it_was(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    """The container is restarted sooner than Sentinel would promote another one."""
    async with load_on(store, start_broker):
        primary = store.primary()
        primary.kill_server()
        primary.start_server()
        await asyncio.to_thread(store.wait_until_ready)
        assert store.primary() is primary


async def test_all_servers_come_back_after_an_outage(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    """Nobody can be asked for the primary then but what each Sentinel has written."""
    async with load_on(store, start_broker) as load:
        primary = store.primary()
        for pod in store.pods:
            pod.kill()
        # The primary is the last one to come back.
        for pod in sorted(store.pods, key=lambda one: one is primary):
            pod.start()
        await load.more()
        await asyncio.to_thread(store.wait_until_ready)


@pytest.mark.timeout(400)
async def test_a_killed_primary_a_lost_node_and_a_server_that_is_cut_off_at_once(
    store: ReplicatedStore, start_broker: StartBroker
) -> None:
    """All three faults at once, with the node's volume: what is left is the replica cut off."""
    async with load_on(store, start_broker, _MORE_THAN_SOCKETS_HOLD) as load:
        primary, (lost, cut_off) = store.primary(), store.replicas()
        cut_off.freeze_server()
        with contextlib.suppress(TimeoutError):
            # What is acknowledged now, only these two have.
            async with asyncio.timeout(_AT_ONCE_S):
                await load.more()
        lost.kill()
        primary.kill()
        cut_off.thaw()
        shutil.rmtree(lost.directory("data"))
        lost.directory("data").mkdir()
        lost.start()
        assert await _replaced(store, primary) is cut_off
        await load.more()
        primary.start()


async def test_one_server_becomes_three_and_one_again_with_its_data(tmp_path: Path) -> None:
    """The steps that the operator takes, on data of a single server."""
    pods = ReplicatedStore(tmp_path)
    first, *others = pods.pods
    try:
        first.start_single()
        wait_for(first.replies, _DEADLINE_S, "the single server replies")
        first.command("SET", "key", "value")
        # Replicas join it while it serves, and it keeps its data as one of three.
        for pod in others:
            pod.start()
        pods.wait_until_ready(others)
        first.end_single()
        first.start()
        pods.wait_until_ready()
        pods.wait_until_known()
        # Back: any of them may be the primary by now, and the first one is to be.
        if pods.primary() is first:
            first.stop()
            pods.wait_for_another_primary(first)
            first.start()
            pods.wait_until_ready()
            pods.wait_until_known()
        pods.primary().command("SET", "later", "value")
        pods.want_primary(first)
        wait_for(lambda: pods.primary() is first, _DEADLINE_S, "the first one is the primary")
        for pod in others:
            pod.stop()
        assert first.report()["role"] == "primary"
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            first.command("SET", "lost", "value")
        first.kill()
        first.start_single()
        wait_for(first.replies, _DEADLINE_S, "the single server replies")
        assert [first.command("GET", key) for key in ("key", "later")] == [b"value", b"value"]
    finally:
        pods.kill()
