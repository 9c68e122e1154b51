"""The store when its server dies, hangs, refuses or forgets (G1, G8).

Inputs: calls of ``RedisStore`` and a server that is killed, paused, filled or flushed. Observed:
replies, StoreUnavailable, and what is still there afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.store_server import DEADLINE_S, StoreServer, programs
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import Append, AttachReply, AttachRequest, DetachRequest, StoreUnavailable
from tidegate.store.keys import Keyspace
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreServer]:
    program = programs()[request.param]
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    running = StoreServer(program, tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def store(server: StoreServer) -> AsyncIterator[RedisStore]:
    store = await connect(server)
    yield store
    await store.close()


async def connect(server: StoreServer, timeout_s: float = 10) -> RedisStore:
    return await RedisStore.connect(
        url=server.url,
        limits=LimitsConfig(max_queued_messages=100_000),
        store=StoreConfig(operation_timeout_s=timeout_s),
    )


async def attach(store: RedisStore, client_id: str = "c", will: bytes | None = None) -> AttachReply:
    return await store.attach(AttachRequest(client_id, "e1", False, 100, NOW, will))


def _connections(server: StoreServer) -> set[bytes]:
    """The identifiers of the store's connections that have been used."""
    listed = server.command("CLIENT", "LIST", "TYPE", "normal")
    assert isinstance(listed, list | bytes)
    lines = listed.splitlines() if isinstance(listed, bytes) else listed
    used = [line for line in lines if b"cmd=evalsha" in line]
    return {line.split()[0] for line in used}


async def until_back(store: RedisStore) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            await store.ping()
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the store does not come back"
            await asyncio.sleep(0.01)
        else:
            return


async def test_all_that_was_answered_is_there_after_a_kill(
    store: RedisStore, server: StoreServer
) -> None:
    attached = await attach(store, will=b"w")
    await store.renew_lease("e1", NOW, 1000)
    await store.set_retained("t", b"r", 0)
    answered = 0

    async def publish() -> None:
        nonlocal answered
        while True:
            await store.append([Append("c", attached.incarnation, b"%d" % answered)])
            answered += 1

    publisher = asyncio.create_task(publish())
    while answered < 200:
        await asyncio.sleep(0)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await publisher
    with pytest.raises(StoreUnavailable):
        await store.ping()
    server.start()
    await until_back(store)
    found = await store.fetch("c", attached.incarnation, 0, 100_000, 100_000_000)
    assert [record for _, record in found][:answered] == [b"%d" % n for n in range(answered)]
    assert await store.get_retained(["t"]) == [b"r"]
    assert [will.record for will in (await store.sweep_edges(NOW + 1000, 10)).wills] == [b"w"]
    again = await attach(store)
    assert again.session_present
    assert again.last_seq >= answered


async def test_an_outage_is_reported_once_for_what_is_completed_together(
    store: RedisStore, server: StoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody retrieves is an ERROR line of asyncio."""
    await attach(store)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.complete_many([("c", 1, [1]), ("d", 1, [1]), ("e", 1, [1])])
    gc.collect()
    # asyncio's own, of a connection that breaks in a write, is deleted before it is looked at
    # when the connection is collected in that order.
    unretrieved = [
        record.exc_info[1]
        for record in caplog.records
        if "never retrieved" in record.getMessage() and record.exc_info
    ]
    assert not [error for error in unretrieved if not isinstance(error, OSError)]
    server.start()


async def test_nothing_waits_for_a_server_that_is_gone(
    store: RedisStore, server: StoreServer
) -> None:
    await store.ping()
    server.kill()
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    assert time.monotonic() - started < 2
    server.start()
    await until_back(store)


async def test_a_server_that_hangs_is_given_up_after_the_timeout(server: StoreServer) -> None:
    store = await connect(server, timeout_s=0.2)
    attached = await attach(store)
    server.pause()
    calls = [store.append([Append("c", attached.incarnation, b"x")]) for _ in range(10)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    server.resume()
    await until_back(store)
    assert (await attach(store)).session_present
    await store.close()


async def test_a_server_that_is_not_there_cannot_be_connected_to(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await RedisStore.connect(
            url=f"unix://{tmp_path}/none", limits=LimitsConfig(), store=StoreConfig()
        )


async def test_forgotten_scripts_are_loaded_again(store: RedisStore, server: StoreServer) -> None:
    await store.ping()
    server.command("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(attach(store, f"c{number}") for number in range(10)))
    assert len(replies) == 10


async def test_a_full_server_refuses_writes_and_takes_deletions(
    store: RedisStore, server: StoreServer
) -> None:
    attached = await attach(store, will=b"w")
    await store.append([Append("c", attached.incarnation, b"x")])
    server.command("CONFIG", "SET", "maxmemory", "1")
    results = await asyncio.gather(
        store.append([Append("c", attached.incarnation, b"y", "id")]),
        attach(store, "new"),
        attach(store),
        store.detach(DetachRequest("c", attached.epoch, NOW, True)),
        store.ping(),
        store.fetch("c", attached.incarnation, 0, 10, 1000),
        store.complete("c", attached.epoch, [1]),
        return_exceptions=True,
    )
    assert [isinstance(result, StoreUnavailable) for result in results] == [True] * 5 + [False] * 2
    assert results[5] == [(1, b"x")]
    assert results[6] is True
    server.command("CONFIG", "SET", "maxmemory", "0")
    # Nothing was done by halves: the connection is still the owner, its will still there.
    assert (await store.append([Append("c", attached.incarnation, b"y", "id")])).outcomes == [2]
    reply = await store.detach(DetachRequest("c", attached.epoch, NOW, True))
    assert [will.record for will in reply.wills] == [b"w"]


async def test_a_replica_is_unavailable_until_it_is_one_no_more(
    store: RedisStore, server: StoreServer
) -> None:
    await store.ping()
    before = _connections(server)
    server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable):
        await store.ping()
    server.command("REPLICAOF", "NO", "ONE")
    await until_back(store)
    # A new connection finds the server that has taken over, where there is another one.
    assert not before & _connections(server)


async def test_a_broken_connection_is_reopened(store: RedisStore, server: StoreServer) -> None:
    attached = await attach(store)
    for _ in range(5):
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until_back(store)
    assert (await attach(store)).incarnation == attached.incarnation


async def test_an_epoch_that_the_server_has_forgotten_is_not_given_again(
    store: RedisStore, server: StoreServer
) -> None:
    """G3: two owners with the same epoch could not be told apart."""
    for _ in range(20):
        before = await attach(store)
    # What a power cut or a replica in its place may have cost: the last connections.
    prefix = Keyspace(64).prefix(b"c")
    server.command("DECRBY", prefix + b"epoch", 10)
    server.command("DEL", prefix + b"s:c")
    server.kill()
    server.start()
    await until_back(store)
    after = await attach(store)
    assert not after.session_present
    assert after.epoch > before.epoch
    # Nothing is skipped while the server stays.
    assert (await attach(store)).epoch == after.epoch + 1


async def test_closing_finishes_what_was_asked_for(server: StoreServer) -> None:
    store = await connect(server)
    attached = await attach(store)
    calls = [
        asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"x")]))
        for _ in range(1000)
    ]
    await asyncio.sleep(0)
    await store.close()
    assert [seq for call in calls for seq in (await call).outcomes] == list(range(1, 1001))
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store.close()
