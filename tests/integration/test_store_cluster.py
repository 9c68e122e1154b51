"""The store for several routers: where to push, change logs, leases, sweeps.

Inputs: calls of ``RedisStore`` on real servers, with operations that name many partitions, and with
one operation for each, as in a Redis Cluster. Observed: its replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from support.store_groups import AnyStore, start_store
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store import operations as op
from tidegate.store.api import (
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    Change,
    DetachRequest,
    RetainedAdded,
    RetainedRemoved,
    RouterRecord,
    SessionEnded,
    SessionSubscribed,
    SessionUnsubscribed,
    StoreUnavailable,
    WriterFenced,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
OPTIONS = SubscriptionOptions(qos=1, no_local=True, subscription_identifier=7)
OTHERS = SubscriptionOptions(qos=2)


#: Kinds of store, and whether operations may name partitions together there.
SHAPES = [
    ("valkey", "together"),
    ("valkey", "sharded"),
    ("redis", "together"),
    ("redis", "sharded"),
    ("valkey-cluster", "sharded"),
    ("redis-cluster", "sharded"),
]


@pytest.fixture(scope="module", params=SHAPES, ids="-".join)
def shape(request: pytest.FixtureRequest) -> tuple[str, str]:
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def server(shape: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyStore]:
    running = start_store(shape[0], tmp_path_factory.mktemp("s"))
    yield running
    running.stop()


@pytest.fixture
async def store(server: AnyStore, shape: tuple[str, str]) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await connect(server)
    store._partitions.sharded = shape[1] == "sharded"
    yield store
    await store.close()


async def connect(server: AnyStore) -> RedisStore:
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


def keys(server: AnyStore, pattern: str) -> list[bytes]:
    names = server.command("KEYS", pattern)
    assert isinstance(names, list)
    return names


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


async def test_another_incarnation_is_no_location_to_push_to(store: RedisStore) -> None:
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
    sessions = {f"c{n}": await attach(store, f"c{n}", edge=f"e{n}") for n in range(300)}
    reply = await store.append(
        [Append(c, attached.incarnation, b"x") for c, attached in sessions.items()]
    )
    assert reply.outcomes == [1] * 300
    assert reply.locations == {
        (client_id, attached.incarnation): (f"e{client_id[1:]}", attached.epoch)
        for client_id, attached in sessions.items()
    }


async def test_nothing_to_append_needs_no_server(store: RedisStore) -> None:
    reply = await store.append([])
    assert (reply.outcomes, reply.locations) == ([], {})


# The change log


class Reader:
    """Reads changes as a router does: from where it began, and on."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.positions: list[int] = []

    async def begin(self) -> None:
        self.positions = await self.store.log_positions()

    async def read(self, limit: int = 1000) -> list[Change]:
        found: list[Change] = []
        while True:
            reply = await self.store.changes(self.positions, limit)
            assert not reply.has_gap
            assert len(reply.changes) <= (
                max(64, 4 * limit) if self.store._partitions.sharded else limit
            )
            found += reply.changes
            self.positions = reply.positions
            if not reply.more:
                return found


@pytest.fixture
async def reader(store: RedisStore) -> Reader:
    reader = Reader(store)
    await reader.begin()
    return reader


async def test_a_new_store_has_no_changes(reader: Reader) -> None:
    assert reader.positions == [0] * 64
    assert await reader.read() == []


async def test_changes_of_a_session_are_logged_in_order(store: RedisStore, reader: Reader) -> None:
    attached = await attach(store, "ü")
    await store.subscribe("ü", attached.epoch, [("a/+", OPTIONS), ("b", OTHERS)])
    await store.subscribe("ü", attached.epoch, [("b", OPTIONS)])
    await store.unsubscribe("ü", attached.epoch, ["b", "none"])
    await store.detach(DetachRequest("ü", attached.epoch, NOW, False, 0))
    assert await reader.read() == [
        SessionSubscribed("ü", attached.incarnation, (("a/+", OPTIONS), ("b", OTHERS))),
        SessionSubscribed("ü", attached.incarnation, (("b", OPTIONS),)),
        SessionUnsubscribed("ü", attached.incarnation, ("b", "none")),
        SessionEnded("ü", attached.incarnation),
    ]
    assert await reader.read() == []


async def test_every_way_to_end_a_session_is_logged(store: RedisStore, reader: Reader) -> None:
    cleaned = await attach(store, "cleaned")
    await attach(store, "cleaned", clean=True, expiry=0)
    expired = await attach(store, "expired")
    await store.detach(DetachRequest("expired", expired.epoch, NOW, False))
    await store.sweep_due(NOW + 100_000, 10)
    lost = await attach(store, "lost")
    await store.set_expiry("lost", lost.epoch, 0)
    await store.sweep_edges(NOW, 10)
    overdue = await attach(store, "overdue")
    await store.detach(DetachRequest("overdue", overdue.epoch, NOW, False))
    await store.attach(AttachRequest("overdue", "e1", False, 0, NOW + 100_000))
    sessions = {"cleaned": cleaned, "expired": expired, "lost": lost, "overdue": overdue}
    assert sorted(await reader.read(), key=str) == [
        SessionEnded(name, attached.incarnation) for name, attached in sorted(sessions.items())
    ]


async def test_an_ephemeral_session_changes_nothing(store: RedisStore, reader: Reader) -> None:
    attached = await attach(store, expiry=0)
    assert await store.subscribe("c", attached.epoch, [("a", OPTIONS)]) == -1
    assert await store.unsubscribe("c", attached.epoch, ["a"]) == -1
    await store.detach(DetachRequest("c", attached.epoch, NOW, False))
    assert await reader.read() == []


async def test_retained_topics_are_logged_when_added_and_removed(
    store: RedisStore, reader: Reader
) -> None:
    await store.set_retained("t", b"1", 0)
    await store.set_retained("t", b"2", NOW)
    await store.set_retained("t", None, 0)
    await store.set_retained("t", None, 0)
    await store.set_retained("t", b"3", NOW)
    await store.expired_retained(NOW, 10)
    added, removed = RetainedAdded("t"), RetainedRemoved("t")
    assert await reader.read() == [added, removed, added, removed]


async def test_a_position_says_when_a_reader_knows(store: RedisStore, reader: Reader) -> None:
    attached = await attach(store)
    partition = store.partition("c")
    first = await store.subscribe("c", attached.epoch, [("a", OPTIONS)])
    assert first > reader.positions[partition] == 0
    await reader.read()
    assert reader.positions[partition] == first
    second = await store.unsubscribe("c", attached.epoch, ["a"])
    assert second > first
    await reader.read()
    assert reader.positions[partition] == second
    assert await store.log_positions() == reader.positions


async def test_what_was_stored_before_has_the_position_of_the_end(
    store: RedisStore, reader: Reader
) -> None:
    attached = await attach(store)
    position = await store.subscribe("c", attached.epoch, [("a", OPTIONS), ("b", OTHERS)])
    # The first SUBACK may never have been sent: an equal request waits for the same entry.
    assert await store.subscribe("c", attached.epoch, [("b", OTHERS), ("a", OPTIONS)]) == position
    assert await store.unsubscribe("c", attached.epoch, ["none"]) == position
    assert len(await reader.read()) == 1


async def test_the_last_of_equal_filters_counts(store: RedisStore, reader: Reader) -> None:
    attached = await attach(store)
    await store.subscribe("c", attached.epoch, [("a", OPTIONS)])
    await store.subscribe("c", attached.epoch, [("a", OTHERS), ("a", OPTIONS)])
    await store.subscribe("c", attached.epoch, [("a", OPTIONS), ("a", OTHERS)])
    assert (await attach(store)).subscriptions == [("a", OTHERS)]
    assert [change.subscriptions[-1] for change in await reader.read()] == [  # type: ignore[union-attr]
        ("a", OPTIONS),
        ("a", OPTIONS),
        ("a", OTHERS),
    ]


async def test_a_fenced_change_is_not_logged(store: RedisStore, reader: Reader) -> None:
    old = await attach(store)
    await attach(store)
    assert await store.subscribe("c", old.epoch, [("a", OPTIONS)]) == 0
    assert await store.unsubscribe("c", old.epoch, ["a"]) == 0
    assert await reader.read() == []


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
async def test_changes_are_read_in_bounded_steps(
    store: RedisStore, reader: Reader, limit: int
) -> None:
    topics = [f"t/{number}" for number in range(50)]
    for topic in topics:
        await store.set_retained(topic, b"x", 0)
        await store.set_retained(topic, None, 0)
    found = await reader.read(limit)
    for topic in topics:
        mine = [change for change in found if change.topic == topic]  # type: ignore[union-attr]
        assert mine == [RetainedAdded(topic), RetainedRemoved(topic)]
    assert len(found) == 100


async def test_large_changes_come_in_several_replies(store: RedisStore, reader: Reader) -> None:
    names = [f"{number:04d}" + "x" * 60_000 for number in range(40)]
    for name in names:
        await store.set_retained(name, b"x", 0)
    reply = await store.changes(reader.positions, 1000)
    if not store._partitions.sharded:
        assert reply.more
        assert len(reply.changes) < 40
    assert {change.topic for change in await reader.read()} == set(names)  # type: ignore[union-attr]


async def test_many_filters_at_once_are_all_logged(store: RedisStore, reader: Reader) -> None:
    attached = await attach(store)
    names = [f"filter/{number}" for number in range(2500)]
    position = await store.subscribe("c", attached.epoch, [(name, OPTIONS) for name in names])
    told = [name for change in await reader.read() for name, _ in change.subscriptions]  # type: ignore[union-attr]
    assert told == names
    assert reader.positions[store.partition("c")] == position
    position = await store.unsubscribe("c", attached.epoch, names)
    told = [name for change in await reader.read() for name in change.topic_filters]  # type: ignore[union-attr]
    assert told == names
    assert reader.positions[store.partition("c")] == position


async def test_a_reader_that_is_far_behind_finds_a_gap(store: RedisStore, reader: Reader) -> None:
    name = "t" * 60_000
    await store.set_retained(name, b"x", 0)
    await reader.read()
    behind, partition = list(reader.positions), store.partition(name)
    for _ in range(150):  # 150 times 60 kB are more than the log keeps
        await store.set_retained(name, None, 0)
        await store.set_retained(name, b"x", 0)
        await reader.read()
    assert (await store.changes(behind, 1000)).has_gap
    assert (await store.changes([0] * 64, 1000)).has_gap
    reply = await store.changes(reader.positions, 1000)
    assert (reply.changes, reply.has_gap, reply.more) == ([], False, False)
    assert reply.positions[partition] == reader.positions[partition]


async def test_old_changes_are_forgotten_but_the_last_one(
    store: RedisStore, server: AnyStore, reader: Reader
) -> None:
    """They are old by the server's clock, whatever the router's is."""
    await store.set_retained("t", b"x", 0)
    (key,) = keys(server, "tg:*:log")
    entries = server.command("XRANGE", key, "-", "+")
    assert isinstance(entries, list)
    ((entry_id, fields),) = entries
    server.command("DEL", key)
    old_ms = int(entry_id.split(b"-")[0]) - 601_000
    for number in range(300):
        words = [word for pair in fields.items() for word in pair]
        server.command("XADD", key, f"{old_ms}-{number + 1}", *words)
    await store.set_retained("other", b"x", 0)
    await reader.read()
    for _ in range(64):  # each sweep looks after one partition
        await store.sweep_due(0, 10)
    left = server.command("XLEN", key)
    assert isinstance(left, int)
    assert 1 <= left <= 100
    assert await reader.read() == []
    assert await store.log_positions() == reader.positions
    await store.set_retained("t", None, 0)
    assert await reader.read() == [RetainedRemoved("t")]


async def test_changes_of_now_are_kept_whatever_the_routers_clock_shows(
    store: RedisStore, server: AnyStore
) -> None:
    for _ in range(150):
        await store.set_retained("t", b"x", 0)
        await store.set_retained("t", None, 0)
    (key,) = keys(server, "tg:*:log")
    for _ in range(64):  # each sweep looks after one partition
        await store.sweep_due(4_000_000_000_000, 10)
    assert server.command("XLEN", key) == 300


async def test_a_server_that_lost_its_contents_is_noticed(
    store: RedisStore, server: AnyStore, reader: Reader
) -> None:
    await store.set_retained("t", b"x", 0)
    await reader.read()
    server.command("FLUSHALL")
    await store.set_retained("t", b"x", 0)
    assert (await store.changes(reader.positions, 10)).has_gap


async def test_sessions_end_and_say_so_when_memory_is_full(
    store: RedisStore, server: AnyStore, reader: Reader
) -> None:
    attached = await attach(store)
    await store.subscribe("c", attached.epoch, [("a", OPTIONS)])
    await store.detach(DetachRequest("c", attached.epoch, NOW, False))
    await store.set_retained("t", b"x", NOW)
    await reader.read()
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert (await store.sweep_due(NOW + 100_000, 10)).ended
        assert await store.expired_retained(NOW, 10) == ["t"]
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert set(await reader.read()) == {
        SessionEnded("c", attached.incarnation),
        RetainedRemoved("t"),
    }


# Leases of edges


async def test_a_lease_says_whether_it_was_there(store: RedisStore) -> None:
    assert not await store.renew_lease("e1", NOW, 1000)
    assert await store.renew_lease("e1", NOW + 999, 1000)
    assert not await store.renew_lease("e1", NOW + 1999, 1000)
    assert await store.renew_lease("e1", NOW + 2000, 1000)
    await store.end_lease("e1")
    assert not await store.renew_lease("e1", NOW + 2000, 1000)
    await store.end_all_leases()
    assert not await store.renew_lease("e1", NOW + 2000, 1000)


async def test_a_lease_that_was_swept_was_not_there(store: RedisStore) -> None:
    await store.renew_lease("e1", NOW, 1000)
    await store.sweep_edges(NOW + 1000, 10)
    assert not await store.renew_lease("e1", NOW, 1000)  # its router's clock is behind


async def test_a_sweep_decided_on_before_an_edge_came_back_takes_nothing(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.renew_lease("e1", NOW, 1000)
    attached = await attach(store)
    sweep = store._coordination._sweep
    came_back = False

    async def slow_sweep(letter: bytes, *rest: Any) -> Any:
        nonlocal came_back
        if letter == op.SWEEP_EDGES and not came_back:
            came_back = True
            assert not await store.renew_lease("e1", NOW + 1001, 1000)
            assert await store.verify([("c", attached.epoch)]) == [Standing.OWNED]
        return await sweep(letter, *rest)

    monkeypatch.setattr(store._coordination, "_sweep", slow_sweep)
    await store.sweep_edges(NOW + 1000, 10)
    assert came_back
    assert await store.verify([("c", attached.epoch)]) == [Standing.OWNED]
    await store.sweep_edges(NOW + 3000, 10)
    assert await store.verify([("c", attached.epoch)]) == [Standing.TAKEN]


async def test_a_sweep_decided_on_before_an_edge_was_new_takes_nothing(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = store._coordination._sweep
    epochs = []

    async def slow_sweep(letter: bytes, *rest: Any) -> Any:
        await store.renew_lease("new", NOW, 1000)
        epochs.append((await attach(store, edge="new")).epoch)
        return await sweep(letter, *rest)

    monkeypatch.setattr(store._coordination, "_sweep", slow_sweep)
    await store.sweep_edges(NOW, 10)
    assert await store.verify([("c", epochs[0])]) == [Standing.OWNED]


async def test_a_lease_is_not_old_before_every_partition_knows_it(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = store._partitions.each

    async def fail(*_: object) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(store._partitions, "each", fail)
    with pytest.raises(StoreUnavailable):
        await store.renew_lease("e1", NOW, 1000)
    monkeypatch.setattr(store._partitions, "each", each)
    assert not await store.renew_lease("e1", NOW, 1000)
    assert await store.renew_lease("e1", NOW, 1000)


async def test_connections_are_verified(store: RedisStore) -> None:
    durable = await attach(store, "durable")
    ephemeral = await attach(store, "ephemeral", expiry=0)
    replaced = await attach(store, "replaced")
    replacing = await attach(store, "replaced")
    ended = await attach(store, "ended")
    await store.detach(DetachRequest("ended", ended.epoch, NOW, False))
    assert await store.verify(
        [
            ("replaced", replaced.epoch),
            ("durable", durable.epoch),
            ("ended", ended.epoch),
            ("nobody", 1),
            ("ephemeral", ephemeral.epoch),
            ("replaced", replacing.epoch),
        ]
    ) == [
        Standing.TAKEN,
        Standing.OWNED,
        Standing.ENDED,
        Standing.LOST,
        Standing.OWNED,
        Standing.OWNED,
    ]
    assert await store.verify([]) == []


async def test_thousands_of_connections_are_verified_in_order(store: RedisStore) -> None:
    epochs = {f"c{n}": (await attach(store, f"c{n}", expiry=0)).epoch for n in range(0, 1500, 3)}
    connections = [(f"c{n}", epochs.get(f"c{n}", 1)) for n in range(1500)]
    assert await store.verify(connections) == [
        Standing.LOST if n % 3 else Standing.OWNED for n in range(1500)
    ]


# Routers


async def test_routers_know_each_other_and_how_far_they_have_read(store: RedisStore) -> None:
    one, two = RouterRecord("ü1", [2**62, *range(63)]), RouterRecord("r2", [0] * 64)
    assert await store.routers(NOW) == []
    assert await store.renew_router(one.instance, NOW, 1000, one.positions) == [one]
    found = await store.renew_router(two.instance, NOW + 500, 1000, two.positions)
    assert sorted(found, key=str) == sorted([one, two], key=str)
    one.positions[5] = 77
    found = await store.renew_router(one.instance, NOW + 500, 1000, one.positions)
    assert sorted(found, key=str) == sorted([one, two], key=str)
    assert sorted(await store.routers(NOW + 1499), key=str) == sorted([one, two], key=str)


async def test_a_router_is_gone_when_its_lease_ends(store: RedisStore, server: AnyStore) -> None:
    await store.renew_router("r1", NOW, 1000, [1] * 64)
    await store.renew_router("r2", NOW, 2000, [2] * 64)
    assert await store.routers(NOW + 1000) == [RouterRecord("r2", [2] * 64)]
    assert await store.renew_router("r3", NOW + 2000, 1000, [3] * 64) == [
        RouterRecord("r3", [3] * 64)
    ]
    assert server.command("HLEN", "tg:{g}:routers") == 1
    await store.end_router("r3")
    assert await store.routers(NOW) == []


# Fenced writers


async def test_a_fenced_writer_writes_nothing_any_more(store: RedisStore, server: AnyStore) -> None:
    attached = await attach(store)
    store.writer = "r1"
    await store.append([Append("c", attached.incarnation, b"1", "id 1")])
    await store.set_retained("t", b"1", 0)
    await store.fence_writer("r1")
    with pytest.raises(WriterFenced):
        await store.append([Append("c", attached.incarnation, b"2", "id 2")])
    with pytest.raises(WriterFenced):
        await store.append([Append("c", attached.incarnation, b"2")] * 300)
    with pytest.raises(WriterFenced):
        await store.set_retained("t", b"2", 0)
    with pytest.raises(WriterFenced):
        await store.set_retained("t", None, 0)
    store.writer = "r2"
    assert (await store.append([Append("c", attached.incarnation, b"3", "id 2")])).outcomes == [2]
    assert await store.get_retained(["t"]) == [b"1"]
    assert server.command("TTL", keys(server, "tg:*:f:r1")[0]) in range(86_300, 86_401)
    assert len(keys(server, "tg:*:f:r1")) == 64


async def test_what_waits_keeps_the_name_of_its_writer(store: RedisStore) -> None:
    attached = await attach(store)
    store.writer = "r1"
    fence = asyncio.ensure_future(store.fence_writer("r1"))
    late = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"late")]))
    retained = asyncio.ensure_future(store.set_retained("t", b"late", 0))
    await asyncio.sleep(0)
    store.writer = "r2"
    new = asyncio.ensure_future(store.append([Append("c", attached.incarnation, b"new")]))
    results = await asyncio.gather(fence, late, retained, new, return_exceptions=True)
    assert [type(result) for result in results[1:3]] == [WriterFenced] * 2
    assert (await new).outcomes == [1]
    assert await store.get_retained(["t"]) == [None]


async def test_a_fence_stops_nothing_else(store: RedisStore) -> None:
    attached = await attach(store)
    store.writer = "r1"
    await store.fence_writer("r1")
    assert await store.subscribe("c", attached.epoch, [("a", OPTIONS)]) > 0
    assert await store.complete("c", attached.epoch, [1])
    assert not (await store.detach(DetachRequest("c", attached.epoch, NOW, False))).fenced
