"""What each durability keeps when servers are lost, and what it waits for.

Inputs: appends to a master with a replica that is paused or killed at a chosen moment. Observed:
what was acknowledged, what the promoted replica still has, counters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.store_groups import Replicated
from support.store_server import DEADLINE_S, StoreServer, TcpServer, programs
from support.virtual_time import turns
from support.waiting import wait_for, wait_for_async
from tidegate.core.standing import Standing
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AttachReply, AttachRequest, StoreUnavailable
from tidegate.store.redis_store import RedisStore, StoreRefused

NOW = 1_700_000_000_000
TIMEOUT_S = 0.5


@pytest.fixture(params=["valkey", "redis"])
def program(request: pytest.FixtureRequest) -> str:
    found = programs()[request.param]
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return found


@pytest.fixture
def pair(program: str, tmp_path: Path) -> Iterator[Replicated]:
    servers = Replicated(program, tmp_path, 1, "--repl-diskless-sync-delay", "0")
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
def three(program: str, tmp_path: Path) -> Iterator[Replicated]:
    servers = Replicated(program, tmp_path, 2, "--repl-diskless-sync-delay", "0")
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
def counters() -> Counters:
    return Counters()


Open = Callable[..., Any]


@pytest.fixture
async def open_store(counters: Counters) -> AsyncIterator[Open]:
    stores: list[RedisStore] = []

    async def connect(url: str, **settings: Any) -> RedisStore:
        chosen: dict[str, Any] = {"operation_timeout_s": TIMEOUT_S, "url": url, **settings}
        store = await RedisStore.connect(
            url=url,
            limits=LimitsConfig(max_queued_messages=1_000_000),
            store=StoreConfig(**chosen),
            counters=counters,
        )
        stores.append(store)
        return store

    yield connect
    for store in stores:
        await store.close()


async def attach(store: RedisStore) -> AttachReply:
    return await store.attach(AttachRequest("c", "e1", False, 100, NOW))


def promote(pair: Replicated) -> TcpServer:
    """Kill the master and put its replica in its place."""
    (replica,) = pair.replicas
    pair.master.kill()
    replica.resume()
    replica.command("REPLICAOF", "NO", "ONE")
    return replica


async def queued(store: RedisStore, incarnation: int) -> set[bytes]:
    records: set[bytes] = set()
    after = 0
    while page := await store.fetch("c", incarnation, after, 1000, 50_000_000):
        records |= {record[:8] for _, record in page}
        after = page[-1][0]
    return records


async def publish(store: RedisStore, incarnation: int, first: int, count: int) -> set[bytes]:
    """Append large numbered messages; those that were acknowledged."""

    async def one(number: int) -> bytes | None:
        name = b"%08d" % number
        try:
            await store.append([Append("c", incarnation, name + bytes(50_000))])
        except StoreUnavailable:
            return None
        return name

    found = await asyncio.gather(*(one(first + number) for number in range(count)))
    return {name for name in found if name is not None}


# Without waiting for replicas


async def test_everysec_loses_what_the_replica_did_not_have(
    pair: Replicated, open_store: Open
) -> None:
    """The promise of everysec is about one server; this is what it costs when that is gone."""
    store = await open_store(pair.url)
    attached = await attach(store)
    early = await publish(store, attached.incarnation, 0, 10)
    pair.wait_for_replicas(1)
    wait_for(lambda: in_step(pair), DEADLINE_S, "the replica has all of it")
    pair.replicas[0].pause()
    late = await publish(store, attached.incarnation, 10, 400)  # 20 MB: more than sockets hold
    assert len(late) == 400
    promoted = await open_store(promote(pair).url)
    kept = await queued(promoted, attached.incarnation)
    assert early <= kept
    assert late - kept


def in_step(pair: Replicated) -> bool:
    with pair.master.client() as client:
        facts = client.info("replication")
    return bool(facts["slave0"]["offset"] == facts["master_repl_offset"])


# Waiting for replicas


async def test_replicated_acknowledges_only_what_a_promoted_replica_has(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    early = await publish(store, attached.incarnation, 0, 10)
    assert len(early) == 10
    pair.replicas[0].pause()
    late = asyncio.ensure_future(publish(store, attached.incarnation, 10, 400))
    await wait_for_async(lambda: counters.store_circuit_open, DEADLINE_S, "answers are held back")
    promoted_url = promote(pair).url
    acknowledged = early | await late
    promoted = await open_store(promoted_url)
    assert acknowledged <= await queued(promoted, attached.incarnation)


async def test_answers_are_held_back_until_the_replica_has_confirmed(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    pair.replicas[0].pause()
    append = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await wait_for_async(lambda: counters.store_replica_waits > 1, DEADLINE_S, "waits are repeated")
    assert not append.done()
    pair.replicas[0].resume()
    assert (await append).outcomes == [1]
    assert (await store.append([Append("c", attached.incarnation, b"2")])).outcomes == [2]
    assert counters.store_circuit_open == 0


async def test_new_callers_are_refused_while_replicas_are_missing(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    pair.replicas[0].pause()
    held = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await asyncio.sleep(0)
    behind = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"2")]))
    with pytest.raises(StoreUnavailable, match="replicas"):
        await behind
    refused = asyncio.ensure_future(store.ping())
    await turns()
    assert refused.done(), "it waits"
    with pytest.raises(StoreUnavailable, match="replicas"):
        await refused
    assert not held.done()
    assert counters.store_circuit_open == 1
    pair.replicas[0].resume()
    # What was refused has not been done: what follows gets the next number.
    assert (await held).outcomes == [1]
    await wait_for_async(lambda: not counters.store_circuit_open, DEADLINE_S, "the circuit closes")
    assert (await store.append([Append("c", attached.incarnation, b"3")])).outcomes == [2]


async def test_what_a_master_without_replicas_has_decides_nothing(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    """It may have been replaced: elsewhere the session has another connection by now."""
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    connection = ("c", attached.epoch)
    assert await store.verify([connection]) == [Standing.OWNED]
    pair.replicas[0].pause()
    held = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await wait_for_async(lambda: counters.store_circuit_open, DEADLINE_S, "answers are held back")
    for decision in (
        store.verify([connection]),
        store.verify_wills("e1", ["1:c"]),
        store.leased_edges(NOW),
        store.log_positions(),
    ):
        with pytest.raises(StoreUnavailable):
            await decision
    pair.replicas[0].resume()
    await held


async def test_what_is_held_back_is_in_doubt_when_the_master_is_lost(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    pair.replicas[0].pause()
    held = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await wait_for_async(lambda: counters.store_replica_waits > 0, DEADLINE_S, "it is held back")
    pair.master.kill()
    with pytest.raises(StoreUnavailable):
        await held
    pair.replicas[0].resume()


async def test_a_store_that_waits_for_replicas_can_be_closed(
    pair: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(pair.url, durability="replicated", replication_timeout_s=0.1)
    attached = await attach(store)
    pair.replicas[0].pause()
    held = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await wait_for_async(lambda: counters.store_replica_waits > 0, DEADLINE_S, "it is held back")
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < 4 * TIMEOUT_S
    with pytest.raises(StoreUnavailable):
        await held
    assert counters.store_circuit_open == 0
    pair.replicas[0].resume()


# All that keep up


async def test_what_only_the_lost_servers_had_was_not_acknowledged(
    three: Replicated, open_store: Open, counters: Counters
) -> None:
    """The master and one replica are lost at once while the other replica is behind."""
    store = await open_store(
        three.url, durability="replicated", replication_timeout_s=0.1, operation_timeout_s=10
    )
    attached = await attach(store)
    early = await publish(store, attached.incarnation, 0, 10)
    assert len(early) == 10
    lost, behind = three.replicas
    behind.pause()
    late = asyncio.ensure_future(publish(store, attached.incarnation, 10, 400))
    await wait_for_async(lambda: counters.store_replica_waits > 1, DEADLINE_S, "it is waited for")
    lost.kill()
    three.master.kill()
    behind.resume()
    behind.command("REPLICAOF", "NO", "ONE")
    acknowledged = early | await late
    promoted = await open_store(behind.url)
    assert acknowledged <= await queued(promoted, attached.incarnation)


async def test_a_replica_that_hangs_is_left_out_and_counts_again_when_it_keeps_up(
    three: Replicated, open_store: Open, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(three.url, durability="replicated", replication_timeout_s=0.05)
    attached = await attach(store)
    three.replicas[0].pause()
    append = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"1")]))
    await wait_for_async(lambda: counters.store_replica_waits > 0, DEADLINE_S, "it is waited for")
    assert not append.done()
    assert (await append).outcomes == [1]
    assert counters.store_circuit_open == 0
    assert "replica does not keep up: writes are confirmed without it" in caplog.messages
    waits = counters.store_replica_waits
    await store.append([Append("c", attached.incarnation, b"2")])
    assert counters.store_replica_waits == waits

    caplog.set_level("INFO")
    caplog.clear()
    three.replicas[0].resume()

    async def counts() -> bool:
        await store.append([Append("c", attached.incarnation, b"3")])
        return any("," in str(getattr(one, "replicas", "")) for one in caplog.records)

    async with asyncio.timeout(DEADLINE_S):
        while not await counts():
            pass


async def test_a_replica_that_is_gone_is_not_waited_for(
    three: Replicated, open_store: Open, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(
        three.url, durability="replicated", replication_timeout_s=0.05, operation_timeout_s=60
    )
    attached = await attach(store)
    three.replicas[0].kill()
    async with asyncio.timeout(DEADLINE_S):
        assert (await store.append([Append("c", attached.incarnation, b"1")])).outcomes == [1]
    assert "replica does not keep up: writes are confirmed without it" not in caplog.messages


async def test_a_minimum_alone_waits_for_no_more(
    three: Replicated, open_store: Open, counters: Counters
) -> None:
    store = await open_store(three.url, durability="replicated", replicas_confirm="minimum")
    attached = await attach(store)
    three.replicas[0].pause()
    assert (await store.append([Append("c", attached.incarnation, b"1")])).outcomes == [1]
    assert counters.store_replica_waits == 0
    three.replicas[0].resume()


async def test_a_user_who_may_not_see_replicas_has_the_minimum(
    three: Replicated, open_store: Open, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    three.master.command("ACL", "SETUSER", "tide", "on", ">x", "~*", "&*", "+@all", "-role")
    url = three.url.replace("redis://", "redis://tide:x@")
    store = await open_store(url, durability="replicated")
    attached = await attach(store)
    three.replicas[0].pause()
    assert (await store.append([Append("c", attached.incarnation, b"1")])).outcomes == [1]
    assert counters.store_replica_waits == 0
    assert [one for one in caplog.records if getattr(one, "missing", "") == "+role"]
    three.replicas[0].resume()


# What only the server can keep


async def test_always_is_refused_on_a_server_that_does_not_keep_it(
    program: str, tmp_path: Path, open_store: Open
) -> None:
    server = StoreServer(program, tmp_path)
    server.start()
    try:
        await open_store(server.url, durability="always")
        server.command("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(StoreRefused, match="appendfsync everysec"):
            await open_store(server.url, durability="always")
        server.command("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(StoreRefused, match="appendonly no"):
            await open_store(server.url, durability="always")
    finally:
        server.stop()
