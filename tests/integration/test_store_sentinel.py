"""The store behind sentinels: which server it uses, and what happens when that one is lost.

Inputs: a master with two replicas and three sentinels, real ones; pretended sentinels where they
must contradict each other. Observed: where operations go, what is still there after a fail-over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_groups import Watched
from support.store_server import DEADLINE_S, programs
from support.store_stub import CLOSE, OK, StoreStub, array, bulk, usable
from support.waiting import wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AttachRequest, StoreUnavailable
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.inspection.sessions import SessionInspection
from tidegate.store.inspection.values import SessionQuery
from tidegate.store.keys import PING_KEY
from tidegate.store.redis_store import RedisStore

#: Between two messages of a publisher: load, and yet a machine that others can use.
_PACE_S = 0.002
NOW = 1_700_000_000_000


@pytest.fixture(params=["valkey", "redis"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    program = programs()[request.param]
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    servers = Watched(program, tmp_path, replicas=2)
    servers.start()
    yield servers
    servers.stop()


#: What is slow, and does not depend on the server's product much.
BY_VALKEY = pytest.mark.parametrize(
    "watched", ["valkey", pytest.param("redis", marks=pytest.mark.slow)], indirect=True
)


async def connect(url: str, **settings: object) -> RedisStore:
    store = StoreConfig.model_validate({"url": url, "operation_timeout_s": 1, **settings})
    limits = LimitsConfig(max_queued_messages=1_000_000)
    return await RedisStore.connect(url=url, limits=limits, store=store, counters=Counters())


class Load:
    """Publishers that append numbered messages until they are stopped."""

    def __init__(self, store: RedisStore, incarnation: int) -> None:
        self._store = store
        self._incarnation = incarnation
        self._stopped = False
        self.acknowledged: list[bytes] = []
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(20)]

    async def _publish(self, publisher: int) -> None:
        count = 0
        while not self._stopped:
            count += 1
            name = b"%d-%d" % (publisher, count)
            try:
                reply = await self._store.append([Append("c", self._incarnation, name)])
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                assert isinstance(reply.outcomes[0], int)
                self.acknowledged.append(name)
                await asyncio.sleep(_PACE_S)

    async def more(self, count: int) -> None:
        """Wait until so many more have been acknowledged."""
        wanted = len(self.acknowledged) + count
        await wait_for_async(
            lambda: len(self.acknowledged) >= wanted, DEADLINE_S, "messages are acknowledged"
        )

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


async def queued(store: RedisStore, incarnation: int) -> list[bytes]:
    records: list[bytes] = []
    after = 0
    while page := await store.fetch("c", incarnation, after, 10_000, 10_000_000):
        records += [record for _, record in page]
        after = page[-1][0]
    return records


async def test_nothing_acknowledged_is_lost_when_the_master_is_killed_under_load(
    watched: Watched,
) -> None:
    store = await connect(watched.url, durability="replicated")
    attached = await store.attach(AttachRequest("c", "e1", False, 100, NOW))
    load = Load(store, attached.incarnation)
    await load.more(2000)
    watched.master.kill()
    await asyncio.to_thread(watched.wait_for_promotion)
    await load.more(2000)
    await load.stop()
    records = await queued(store, attached.incarnation)
    assert set(load.acknowledged) <= set(records)
    # Each publisher's messages are there in its order.
    for publisher in range(20):
        own = [int(name.split(b"-")[1]) for name in records if name.startswith(b"%d-" % publisher)]
        assert own == sorted(own)
    await store.close()


@BY_VALKEY
async def test_a_master_that_hangs_is_replaced(watched: Watched) -> None:
    store = await connect(watched.url)
    attached = await store.attach(AttachRequest("c", "e1", False, 100, NOW))
    load = Load(store, attached.incarnation)
    await load.more(100)
    old = watched.master
    old.pause()
    await asyncio.to_thread(watched.wait_for_promotion)
    await load.more(100)
    # It comes back, and is nobody's master any more.
    old.resume()
    await load.more(100)
    await load.stop()
    found = watched.master.command("KEYS", "*:q:c:*")
    assert isinstance(found, list)
    kept = watched.master.command("XLEN", found[0])
    assert kept == len(await queued(store, attached.incarnation))
    await store.close()


@BY_VALKEY
async def test_an_unknown_master_is_said_to_be_so(watched: Watched) -> None:
    url = watched.url.replace("/" + Watched.NAME, "/nobody")
    with pytest.raises(StoreUnavailable, match="has no master named nobody"):
        await connect(url)


# Sentinels that contradict each other


def master_is(address: tuple[str, int], epoch: int) -> bytes:
    host, port = address
    facts = {b"ip": host.encode(), b"port": b"%d" % port, b"config-epoch": b"%d" % epoch}
    return array(*(bulk(word) for pair in facts.items() for word in pair))


def sentinel(address: tuple[str, int], epoch: int) -> StoreStub:
    return StoreStub(lambda words: master_is(address, epoch) if words[0] == b"SENTINEL" else OK)


def server(role: bytes) -> StoreStub:
    return StoreStub(
        lambda words: array(bulk(role), b":0\r\n") if words[0] == b"ROLE" else usable(words)
    )


async def test_the_sentinel_with_the_latest_fail_over_is_believed() -> None:
    async with (
        server(b"master") as old,
        server(b"master") as new,
        sentinel(old.address, 1) as behind,
        sentinel(new.address, 2) as first,
        sentinel(new.address, 2) as second,
    ):
        store = await connect(f"redis+sentinel://{behind.host},{first.host},{second.host}/tide")
        await store.close()
        assert new.connection_count == 1
        assert old.connection_count == 0


async def test_a_server_that_is_no_master_is_not_used() -> None:
    async with server(b"slave") as replica, sentinel(replica.address, 1) as one:
        with pytest.raises(StoreUnavailable, match="not a master: its role is slave"):
            await connect(f"redis+sentinel://{one.host}/tide")


async def test_reads_follow_writes_to_a_new_master() -> None:
    """Of two connections to a master that was away, one may have seen nothing of it."""
    lost = False

    def at_old(words: list[bytes]) -> bytes:
        if words[0] == b"ROLE":
            return array(bulk(b"master"), b":0\r\n")
        return CLOSE if lost and PING_KEY in words else usable(words)

    def at_sentinel(words: list[bytes]) -> bytes:
        if words[0] != b"SENTINEL":
            return OK
        return master_is(new.address, 2) if lost else master_is(old.address, 1)

    async with StoreStub(at_old) as old, server(b"master") as new, StoreStub(at_sentinel) as one:
        store = await connect(f"redis+sentinel://{one.host}/tide")
        await store.get_retained(["before"])
        lost = True
        with pytest.raises(StoreUnavailable):
            await store.ping()
        await store.ping()
        await store.get_retained(["after"])
        await store.close()
        assert asked_for(old) == {b"before"}
        assert asked_for(new) == {b"after"}


def asked_for(stub: StoreStub) -> set[bytes]:
    """Return the topics whose retained messages were read there."""
    return {words[-1] for words in stub.commands if words[-1] in {b"before", b"after"}}


async def test_one_sentinel_that_answers_is_enough() -> None:
    async with (
        server(b"master") as master,
        sentinel(master.address, 1) as answering,
        StoreStub(lambda _: CLOSE) as broken,
    ):
        store = await connect(f"redis+sentinel://{broken.host},{answering.host}/tide")
        await store.ping()
        await store.close()


async def test_sentinels_are_given_their_own_password(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("for-data\n")
    (tmp_path / "sentinels").write_text("for-sentinels\n")
    async with server(b"master") as master, sentinel(master.address, 1) as one:
        store = await connect(
            f"redis+sentinel://{one.host}/tide",
            username="tidegate",
            password_file=tmp_path / "data",
            sentinel_username="watcher",
            sentinel_password_file=tmp_path / "sentinels",
        )
        await store.close()
        assert [b"AUTH", b"watcher", b"for-sentinels"] in one.commands
        assert [b"AUTH", b"tidegate", b"for-data"] in master.commands


@BY_VALKEY
async def test_operators_see_sessions_behind_sentinels(watched: Watched) -> None:
    store, settings = await connect(watched.url), StoreConfig(url=watched.url)
    await store.attach(AttachRequest("c", "e1", False, 100, NOW))
    access = await StoreAccess.connect(watched.url, settings)
    page = await SessionInspection(access).page(SessionQuery(), None, 10)
    assert [(item.key, item.edge_id) for item in page.items] == [("c", "e1")]
    await access.close()
    await store.close()
