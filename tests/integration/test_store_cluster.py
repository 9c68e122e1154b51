"""What the store does for several routers: where to push, and later more.

Inputs: calls of ``RedisStore`` on real servers. Observed: its replies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from support.store_server import StoreServer, programs
from tidegate.runtime.config import LimitsConfig, StoreConfig
from tidegate.store.api import Append, AppendOutcome, AttachReply, AttachRequest, DetachRequest
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoreServer]:
    program = programs()[request.param]
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    running = StoreServer(program, tmp_path_factory.mktemp("s"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def store(server: StoreServer) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await connect(server)
    yield store
    await store.close()


async def connect(server: StoreServer) -> RedisStore:
    return await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=StoreConfig())


async def attach(
    store: RedisStore,
    client_id: str = "c",
    *,
    edge: str = "e1",
    clean: bool = False,
    expiry: int = 100,
) -> AttachReply:
    return await store.attach(AttachRequest(client_id, edge, clean, expiry, NOW))


# Where to push


async def test_an_append_names_the_connections_of_its_sessions(store: RedisStore) -> None:
    here = await attach(store, "here", edge="e1")
    there = await attach(store, "there", edge="e2")
    away = await attach(store, "away")
    await store.detach(DetachRequest("away", away.epoch, NOW, False))
    reply = await store.append(
        [
            Append("here", here.incarnation, b"1"),
            Append("away", away.incarnation, b"1", "id"),
            Append("there", there.incarnation, b"1", "id"),
            Append("here", here.incarnation, b"2", "id"),
            Append("away", away.incarnation, b"2"),
        ]
    )
    assert reply.outcomes == [1, 1, 1, 2, 2]
    assert reply.locations == {
        ("here", here.incarnation): ("e1", here.epoch),
        ("there", there.incarnation): ("e2", there.epoch),
    }


async def test_an_append_finds_the_connection_that_took_over(store: RedisStore) -> None:
    old = await attach(store, edge="e1")
    new = await attach(store, edge="e2")
    reply = await store.append([Append("c", old.incarnation, b"x")])
    assert reply.locations == {("c", old.incarnation): ("e2", new.epoch)}


async def test_another_life_of_the_client_is_no_place_to_push(store: RedisStore) -> None:
    old = await attach(store)
    new = await attach(store, clean=True)
    reply = await store.append(
        [Append("c", old.incarnation, b"x"), Append("c", new.incarnation, b"y")]
    )
    assert reply.outcomes == [AppendOutcome.NO_SESSION, 1]
    assert reply.locations == {("c", new.incarnation): ("e1", new.epoch)}
    await attach(store, expiry=0, clean=True)
    reply = await store.append([Append("c", new.incarnation, b"x")])
    assert (reply.outcomes, reply.locations) == ([AppendOutcome.NO_SESSION], {})


async def test_a_long_list_of_appends_has_all_locations(store: RedisStore) -> None:
    lives = {f"c{n}": await attach(store, f"c{n}", edge=f"e{n}") for n in range(300)}
    reply = await store.append([Append(c, life.incarnation, b"x") for c, life in lives.items()])
    assert reply.outcomes == [1] * 300
    assert reply.locations == {
        (client_id, life.incarnation): (f"e{client_id[1:]}", life.epoch)
        for client_id, life in lives.items()
    }


async def test_nothing_to_append_needs_no_server(store: RedisStore) -> None:
    reply = await store.append([])
    assert (reply.outcomes, reply.locations) == ([], {})
