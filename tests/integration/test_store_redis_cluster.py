"""The store on a real cluster of three masters, while slots move and servers are lost.

Inputs: appends without a pause on sessions all over the cluster; slots that move key by key or at
once, masters that are killed. Observed: what was acknowledged, what is queued, in what order.
The other tests of the store run on a cluster too (``support.store_groups.KINDS``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from support.store_groups import Cluster
from support.store_server import DEADLINE_S, TcpServer, programs
from support.waiting import wait_for, wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AttachRequest, RetainedBefore, StoreUnavailable
from tidegate.store.keys import Keyspace
from tidegate.store.redis_store import RedisStore, StoreRefused

NOW = 1_700_000_000_000
#: Between two groups of messages of a session: load, and yet a machine that others can use.
_PACE_S = 0.005
PREFIX = Keyspace(64).prefix(b"c0")


def program(name: str) -> str:
    found = programs()[name]
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module", params=["valkey", "redis"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    servers = Cluster(program(request.param), tmp_path_factory.mktemp("s"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
async def store(cluster: Cluster, counters: Counters) -> AsyncIterator[RedisStore]:
    cluster.command("FLUSHALL")
    store = await connect(cluster.url, counters)
    yield store
    await store.close()


async def connect(url: str, counters: Counters, **settings: Any) -> RedisStore:
    chosen: dict[str, Any] = {"url": url, "operation_timeout_s": 5, **settings}
    return await RedisStore.connect(
        url=url,
        limits=LimitsConfig(max_queued_messages=1_000_000),
        store=StoreConfig(**chosen),
        counters=counters,
    )


class Load:
    """Appends to sessions ``c0``, ``c1``, … many at a time, and remembers what became of each.

    Every other one has an identity, which a session must not take for seen when it was not queued.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.incarnations: dict[str, int] = {}
        #: Client identifier → what was acknowledged, in the order of the numbers.
        self.acknowledged: dict[str, list[bytes]] = {}
        self.failed_count = 0
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, count: int = 12) -> None:
        for number in range(count):
            client = f"c{number}"
            reply = await self.store.attach(AttachRequest(client, "e1", False, 100, NOW))
            self.incarnations[client] = reply.incarnation
            self.acknowledged[client] = []
        self._tasks = [asyncio.create_task(self._publish(client)) for client in self.incarnations]

    async def _publish(self, client: str) -> None:
        number = 0
        while not self._stopped:
            names = [b"%08d" % (number + step) for step in range(8)]
            number += len(names)
            # All are asked for before any is answered: their order is the store's business.
            waiting = [asyncio.ensure_future(self._append(client, name)) for name in names]
            for name, answer in zip(names, waiting, strict=True):
                if await answer:
                    self.acknowledged[client].append(name)
            await asyncio.sleep(_PACE_S)

    async def _append(self, client: str, name: bytes) -> bool:
        identity = name.decode() if name[-1] % 2 else ""
        try:
            reply = await self.store.append(
                [Append(client, self.incarnations[client], name, identity)]
            )
        except StoreUnavailable:
            self.failed_count += 1
            await asyncio.sleep(0.01)
            return False
        assert isinstance(reply.outcomes[0], int), reply
        return True

    async def more(self, count: int) -> None:
        """Wait until each session has so many more."""
        wanted = {client: len(names) + count for client, names in self.acknowledged.items()}
        await wait_for_async(
            lambda: all(len(self.acknowledged[one]) >= wanted[one] for one in wanted),
            DEADLINE_S,
            "messages are acknowledged",
        )

    async def stop(self) -> dict[str, list[bytes]]:
        """End it; what is queued now, for each session."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        return {client: await self._queued(client) for client in self.incarnations}

    async def _queued(self, client: str) -> list[bytes]:
        records: list[bytes] = []
        after = 0
        while page := await self.store.fetch(
            client, self.incarnations[client], after, 5000, 10_000_000
        ):
            records += [record for _, record in page]
            after = page[-1][0]
        return records


# Slots that move


async def test_an_operation_is_never_lost_or_doubled_while_its_slot_moves_key_by_key(
    store: RedisStore, cluster: Cluster, counters: Counters
) -> None:
    load = Load(store)
    await load.start()
    await load.more(50)
    slot = key_slot(PREFIX)

    def between() -> None:
        """Let operations meet the slot while some keys are here and some there."""
        seen = counters.store_moved
        wait_for(lambda: counters.store_moved > seen, DEADLINE_S, "an operation is sent again")

    source = cluster.owner(PREFIX)
    target = next(server for server in cluster.masters if server is not source)
    await asyncio.to_thread(cluster.move_slot, slot, source, target, between)
    assert cluster.owner(PREFIX) is target
    await load.more(50)
    queued = await load.stop()
    assert load.failed_count == 0
    # All of it, once, in order: nothing failed, so what is queued is what was acknowledged.
    assert queued == load.acknowledged


@pytest.mark.parametrize("cluster", ["valkey"], indirect=True)  # Redis moves key by key only
async def test_a_slot_that_moves_at_once_is_followed(
    store: RedisStore, cluster: Cluster, counters: Counters
) -> None:
    source = cluster.owner(PREFIX)
    target = next(server for server in cluster.masters if server is not source)
    load = Load(store)
    await load.start()
    await load.more(50)
    slot = key_slot(PREFIX)
    await asyncio.to_thread(
        source.command,
        *("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot),
        *("NODE", cluster.identifier(target)),
    )
    await wait_for_async(lambda: cluster.owner(PREFIX) is target, DEADLINE_S, "the slot has moved")
    await load.more(50)
    queued = await load.stop()
    assert load.failed_count == 0
    assert queued == load.acknowledged
    assert counters.store_moved > 0


async def test_a_partition_without_server_is_refused_after_the_timeout_and_comes_back(
    cluster: Cluster, counters: Counters
) -> None:
    cluster.command("FLUSHALL")
    store = await connect(cluster.url, counters, operation_timeout_s=0.5)
    attached = await store.attach(AttachRequest("c0", "e1", False, 100, NOW))
    slot = key_slot(PREFIX)
    source = cluster.owner(PREFIX)
    target = next(server for server in cluster.masters if server is not source)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identifier(source))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identifier(target))
    waiting = [store.append([Append("c0", attached.incarnation, b"%d" % n)]) for n in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert counters.store_circuit_open == 1
    # Only that partition is concerned.
    other = next(f"o{n}" for n in range(99) if Keyspace(64).prefix(b"o%d" % n) != PREFIX)
    await store.attach(AttachRequest(other, "e1", False, 100, NOW))
    for server in (source, target):
        server.command("CLUSTER", "SETSLOT", slot, "STABLE")
    await wait_for_async(lambda: not counters.store_circuit_open, DEADLINE_S, "it comes back")
    # What was refused had not been begun.
    assert (await store.append([Append("c0", attached.incarnation, b"x", "id")])).outcomes == [1]
    await store.close()


@pytest.mark.parametrize("cluster", ["valkey"], indirect=True)
async def test_a_partition_may_be_on_its_way_for_the_whole_timeout_however_old_the_connection_is(
    cluster: Cluster, counters: Counters
) -> None:
    cluster.command("FLUSHALL")
    store = await connect(cluster.url, counters, operation_timeout_s=1)
    until_s = asyncio.get_running_loop().time() + 1.1
    await wait_for_async(
        lambda: asyncio.get_running_loop().time() > until_s, DEADLINE_S, "the connection is old"
    )
    assert await store.get_retained(["t1"]) == [None]  # the first operation on that connection
    slot = key_slot(Keyspace(64).prefix(b"t1"))
    source = cluster.owner(Keyspace(64).prefix(b"t1"))
    target = next(server for server in cluster.masters if server is not source)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identifier(source))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identifier(target))
    reading = asyncio.ensure_future(store.get_retained(["t1"]))
    await wait_for_async(lambda: counters.store_moved > 1, DEADLINE_S, "it is sent again")
    for server in (source, target):
        server.command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert await reading == [None]
    await store.close()


async def test_identities_of_retained_messages_are_in_the_partition_of_the_topic(
    store: RedisStore, cluster: Cluster
) -> None:
    """They move with it."""
    topic = next(f"t{n}" for n in range(10_000) if Keyspace(64).prefix(b"t%d" % n) == PREFIX)
    assert await store.set_retained(topic, b"1", 0, None, ["older"]) is None
    assert await store.set_retained(topic, b"2", 0, None, ["newer"]) is None
    source = cluster.owner(PREFIX)
    target = next(server for server in cluster.masters if server is not source)
    await asyncio.to_thread(cluster.move_slot, key_slot(PREFIX), source, target, lambda: None)
    assert await store.set_retained(topic, b"1", 0, None, ["older"]) == RetainedBefore(1)
    assert await store.get_retained([topic]) == [b"2"]


async def test_a_scan_begins_again_when_its_partition_has_moved(
    store: RedisStore, cluster: Cluster
) -> None:
    topics = [f"t{number}" for number in range(200_000)]
    topics = [topic for topic in topics if Keyspace(64).prefix(topic.encode()) == PREFIX]
    await asyncio.gather(*(store.set_retained(topic, b"r", 0) for topic in topics))
    found: set[str] = set()
    source = cluster.owner(PREFIX)
    target = next(server for server in cluster.masters if server is not source)
    async for names in store.retained_topics():
        found |= set(names)
        if cluster.owner(PREFIX) is source:
            await asyncio.to_thread(
                cluster.move_slot, key_slot(PREFIX), source, target, lambda: None
            )
    assert found == set(topics)


# Servers that are lost


@pytest.mark.parametrize("name", ["valkey", pytest.param("redis", marks=pytest.mark.slow)])
async def test_nothing_acknowledged_is_lost_when_a_master_is_killed_under_load(
    name: str, tmp_path: Path, counters: Counters
) -> None:
    cluster = Cluster(program(name), tmp_path, replicas=1, node_timeout_ms=1000)
    cluster.start()
    try:
        store = await connect(cluster.url, counters, durability="replicated")
        load = Load(store)
        await load.start()
        await load.more(100)
        lost = cluster.owner(PREFIX)
        lost.kill()
        new = await asyncio.to_thread(promoted, cluster, lost)
        # Its replica is alone now, so it can confirm nothing until it has one itself.
        lost.start()
        await load.more(100)
        queued = await load.stop()
        for client, names in load.acknowledged.items():
            assert set(names) <= set(queued[client])
            # A batch whose outcome was in doubt may be there although nobody was told so.
            assert queued[client] == sorted(set(queued[client]))
        assert new is not lost
        await store.close()
    finally:
        cluster.stop()


def promoted(cluster: Cluster, lost: TcpServer) -> TcpServer:
    return wait_for(
        lambda: owner if (owner := cluster.owner(PREFIX)) is not lost else None,
        DEADLINE_S,
        "a replica is promoted",
    )  # type: ignore[return-value]  # wait_for returns truthy results only


# Servers of another kind


async def test_a_cluster_needs_a_url_that_says_so(cluster: Cluster, counters: Counters) -> None:
    with pytest.raises(StoreRefused, match="must begin with redis\\+cluster"):
        await connect(cluster.masters[0].url, counters)


async def test_a_single_server_is_no_cluster(tmp_path: Path, counters: Counters) -> None:
    server = TcpServer(program("redis"), tmp_path)
    server.start()
    try:
        with pytest.raises(StoreRefused, match="is not part of a cluster"):
            await connect(f"redis+cluster://{server.address}", counters)
    finally:
        server.stop()


async def test_a_cluster_that_does_not_answer_is_unavailable(
    tmp_path: Path, counters: Counters
) -> None:
    server = TcpServer("nothing", tmp_path)
    with pytest.raises(StoreUnavailable, match=server.address):
        await connect(f"redis+cluster://{server.address}", counters)
