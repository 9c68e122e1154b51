"""The queue of a durable session on real servers: order, limits, identities, bounded reads.

Inputs: calls of ``RedisStore``. Observed: its replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.store_groups import AnyStore
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import Append, AppendOutcome, AttachReply, AttachRequest, DetachRequest
from tidegate.store.client.lanes import StoreFault
from tidegate.store.records import encode_queued
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await connect(server)
    yield store
    await store.close()


async def connect(server: AnyStore, **limits: Any) -> RedisStore:
    return await RedisStore.connect(
        url=server.url, limits=LimitsConfig(**limits), store=StoreConfig()
    )


async def attach(store: RedisStore, client_id: str = "c") -> AttachReply:
    return await store.attach(AttachRequest(client_id, "e1", False, 100, NOW))


async def append(store: RedisStore, appends: list[Append]) -> list[int | AppendOutcome]:
    return (await store.append(appends)).outcomes


async def records(store: RedisStore, incarnation: int, after: int = 0) -> list[bytes]:
    found = await store.fetch("c", incarnation, after, 10_000, 100_000_000)
    return [record for _, record in found]


@pytest.mark.statement("MQTT-4.5.0-1")
async def test_entries_are_numbered_from_1_in_order(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    assert await append(store, [Append("c", attached, b"a"), Append("c", attached, b"b")]) == [1, 2]
    assert await append(store, [Append("c", attached, b"c")]) == [3]
    assert await store.fetch("c", attached, 0, 10, 1000) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert await store.fetch("c", attached, 2, 10, 1000) == [(3, b"c")]
    assert await store.fetch("c", attached, 3, 10, 1000) == []


async def test_callers_at_the_same_time_keep_their_order(store: RedisStore) -> None:
    incarnations = [(await attach(store, f"c{number}")).incarnation for number in range(7)]
    calls = [
        append(store, [Append(f"c{number % 7}", incarnations[number % 7], b"%d" % number)])
        for number in range(1000)
    ]
    seqs = await asyncio.gather(*calls)
    assert seqs == [[number // 7 + 1] for number in range(1000)]


async def test_a_long_list_of_appends_is_cut_and_joined(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    assert await append(store, [Append("c", attached, b"x")] * 700) == list(range(1, 701))
    assert await append(store, []) == []


async def test_one_call_has_messages_of_every_kind_for_several_queues(server: AnyStore) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=4)
    a, b = (await attach(store, "c")).incarnation, (await attach(store, "d")).incarnation
    appends = [
        Append("c", a, b"1"),
        Append("c", a, b"2"),
        Append("d", b, b"3"),
        Append("c", a, b"4", "p|1|0"),
        Append("c", a, b"4", "p|1|0"),
        Append("d", b, b"5"),
        Append("d", b, b"6"),
        Append("gone", 1, b"7"),
        Append("c", a, b"8"),
        Append("c", a, b"9"),
        Append("c", a, b"10", "p|2|0", claimed=True),
        Append("d", b, b"11", "p|2|0", claimed=True),
        Append("gone", 1, b"12", "p|3|0"),
    ]
    full, gone = AppendOutcome.QUEUE_FULL, AppendOutcome.NO_SESSION
    assert await append(store, appends) == [
        1, 2, 1, 3, AppendOutcome.DUPLICATE, 2, 3, gone, 4, full, full, 4, gone,
    ]  # fmt: skip
    assert await records(store, a) == [b"1", b"2", b"4", b"8"]
    assert [record for _, record in await store.fetch("d", b, 0, 10, 1000)] == [
        b"3", b"5", b"6", b"11",
    ]  # fmt: skip
    await store.close()


async def test_a_session_that_ends_between_two_appends_of_one_call_is_not_made_again(
    store: RedisStore, server: AnyStore
) -> None:
    attached = (await attach(store)).incarnation

    async def end() -> None:
        await store.attach(AttachRequest("c", "e1", True, 0, NOW))

    # The first goes alone, the others together once it is answered.
    outcomes = await asyncio.gather(
        append(store, [Append("c", attached, b"1")]),
        append(store, [Append("c", attached, b"2")]),
        end(),
        append(store, [Append("c", attached, b"3")]),
    )
    assert outcomes[1] == [2]
    assert outcomes[3] == [AppendOutcome.NO_SESSION]
    assert not [name for name in server.key_names() if ":q:" in str(name)]


async def test_ended_sessions_take_nothing(store: RedisStore, server: AnyStore) -> None:
    attached = (await attach(store)).incarnation
    before = server.key_names()
    replies = await append(
        store, [Append("c", attached + 1, b"x"), Append("nobody", 1, b"x", "identity")]
    )
    assert replies == [AppendOutcome.NO_SESSION] * 2
    assert server.key_names() == before


async def test_a_full_queue_refuses_the_newest(server: AnyStore) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=3)
    attached = (await attach(store)).incarnation
    replies = await append(store, [Append("c", attached, b"%d" % number) for number in range(4)])
    assert replies == [1, 2, 3, AppendOutcome.QUEUE_FULL]
    assert await append(store, [Append("c", attached, b"x", "id")]) == [AppendOutcome.QUEUE_FULL]
    assert await records(store, attached) == [b"0", b"1", b"2"]
    (completed, replies) = await asyncio.gather(
        store.complete("c", attached, [1]),
        append(store, [Append("c", attached, b"y", "id"), Append("c", attached, b"z")]),
    )
    assert completed
    assert replies == [4, AppendOutcome.QUEUE_FULL]
    assert store.evicted_count == 0
    await store.close()


async def test_a_full_queue_drops_the_oldest_and_counts_it(server: AnyStore) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=3, queue_full_policy="drop_oldest")
    attached = (await attach(store)).incarnation
    assert await append(store, [Append("c", attached, b"%d" % number) for number in range(5)]) == [
        *range(1, 6)
    ]
    assert await append(store, [Append("c", attached, b"5")]) == [6]
    assert await append(store, [Append("c", attached + 1, b"5")]) == [AppendOutcome.NO_SESSION]
    assert await records(store, attached) == [b"3", b"4", b"5"]
    assert store.evicted_count == 3
    await store.close()


async def test_whose_oldest_messages_were_dropped_is_in_the_reply(server: AnyStore) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=2, queue_full_policy="drop_oldest")
    names = [f"client-{number}" for number in range(4)]
    places = {name: (await attach(store, name)).incarnation for name in names}
    few, none, many, gone = names
    topics = [Publish(f"t/{number}/é", b"", 1) for number in range(3)]
    appends = [Append(few, places[few], encode_queued(one, 1, False)) for one in topics]
    appends += [Append(none, places[none], b"x")]
    appends += [Append(many, places[many], b"%d" % number) for number in range(250)]
    appends += [Append(gone, places[gone] + 1, b"x")]
    reply = await store.append(appends)
    assert reply.evicted == {
        (few, places[few]): (1, "t/0/é"),
        # Not a record of this version.
        (many, places[many]): (248, ""),
    }
    assert store.evicted_count == 249
    assert (reply.outcomes[2], reply.outcomes[-2]) == (3, 250)
    assert (await store.append(appends[3:4])).evicted == {}
    await store.close()


@pytest.mark.statement("MQTT-4.3.3-10")
async def test_an_identity_is_queued_once(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    other = (await attach(store, "d")).incarnation
    replies = await append(
        store,
        [
            Append("c", attached, b"x", "p/1/0"),
            Append("d", other, b"x", "p/1/0"),
            Append("c", attached, b"x", "p/1/0"),
            Append("c", attached, b"y", "p/1/1"),
        ],
    )
    assert replies == [1, 1, AppendOutcome.DUPLICATE, 2]
    await store.complete("c", attached, [1])
    assert await append(store, [Append("c", attached, b"x", "p/1/0")]) == [AppendOutcome.DUPLICATE]


async def test_identities_are_bounded_and_the_latest_stay(
    store: RedisStore, server: AnyStore
) -> None:
    attached = (await attach(store)).incarnation
    for start in range(0, 6400, 100):
        await append(
            store,
            [Append("c", attached, b"x", f"{number}") for number in range(start, start + 100)],
        )
        await store.complete("c", attached, range(start + 1, start + 101))
    (key,) = [name for name in server.key_names() if b":x:" in name]
    kept = server.command("ZCARD", key)
    assert isinstance(kept, int)
    assert 4096 <= kept < 4096 + 64
    assert server.command("TTL", key) in range(86_300, 86_401)
    assert await append(store, [Append("c", attached, b"x", "6399")]) == [AppendOutcome.DUPLICATE]


async def test_fetch_is_bounded_by_count_and_by_bytes(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    await append(store, [Append("c", attached, b"%04d" % number) for number in range(1, 501)])
    assert [seq for seq, _ in await store.fetch("c", attached, 0, 20, 10_000)] == [*range(1, 21)]
    assert [seq for seq, _ in await store.fetch("c", attached, 5, 100, 42)] == [*range(6, 16)]
    assert [seq for seq, _ in await store.fetch("c", attached, 5, 100, 1)] == [6]
    assert [seq for seq, _ in await store.fetch("c", attached, 0, 1000, 10_000)] == [*range(1, 501)]
    assert len(await store.fetch("c", attached, 490, 1000, 10_000)) == 10


async def test_a_superseded_connection_fetches_nothing(store: RedisStore) -> None:
    first = await attach(store)
    await append(store, [Append("c", first.incarnation, b"before")])
    page = (first.incarnation, 0, 10, 1000)
    assert await store.fetch_owned("c", first.epoch, *page) == [(1, b"before")]
    second = await attach(store)
    await append(store, [Append("c", first.incarnation, b"after")])
    assert await store.fetch_owned("c", first.epoch, *page) is None
    assert await store.fetch_owned("c", second.epoch, *page) == [(1, b"before"), (2, b"after")]
    await store.detach(DetachRequest("c", second.epoch, NOW, False, None, 2))
    assert await store.fetch_owned("c", first.epoch, *page) is None


async def test_fetch_returns_a_record_larger_than_its_bound(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    await append(store, [Append("c", attached, bytes(300_000)), Append("c", attached, b"x")])
    assert [seq for seq, _ in await store.fetch("c", attached, 0, 10, 1000)] == [1]


async def test_completed_entries_are_gone_with_their_release(server: AnyStore) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=5000)
    attached = (await attach(store)).incarnation
    await append(store, [Append("c", attached, b"x")] * 100)
    await append(store, [Append("c", attached, b"x")] * 2400)
    assert await store.release("c", attached, [*range(1, 2300)])
    assert await store.complete("c", attached, [*range(1, 2400)])
    assert await store.complete("c", attached, [1, 2])
    reply = await attach(store)
    assert (reply.queued_count, reply.released) == (101, [])
    await store.close()


async def test_a_cancelled_caller_does_not_affect_others(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    tasks = [
        asyncio.create_task(append(store, [Append("c", attached, b"%d" % number)]))
        for number in range(300)
    ]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    await tasks[1]
    for task in tasks[3::4]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if not isinstance(result, asyncio.CancelledError):
            assert result == [number + 1]
    assert await records(store, attached) == [b"%d" % number for number in range(300)]


async def test_words_that_are_no_utf8_fail_alone(store: RedisStore) -> None:
    attached = (await attach(store)).incarnation
    bad, good = await asyncio.gather(
        append(store, [Append("c", attached, b"x", "\ud800")]),
        append(store, [Append("c", attached, b"y")]),
        return_exceptions=True,
    )
    assert isinstance(bad, Exception)
    assert good == [1]


async def test_a_damaged_key_fails_alone(store: RedisStore, server: AnyStore) -> None:
    attached = (await attach(store)).incarnation
    damaged = (await attach(store, "d")).incarnation
    (key,) = [name for name in server.key_names() if b":q:d:" in name]
    server.command("SET", key, "not a stream")
    bad, good = await asyncio.gather(
        append(store, [Append("d", damaged, b"x")]),
        append(store, [Append("c", attached, b"y")]),
        return_exceptions=True,
    )
    assert isinstance(bad, StoreFault)
    assert good == [1]


async def test_a_queue_deleted_by_hand_starts_empty(store: RedisStore, server: AnyStore) -> None:
    attached = (await attach(store)).incarnation
    await append(store, [Append("c", attached, b"x")] * 5)
    await store.detach(DetachRequest("c", attached, NOW, False, None, 3))
    (key,) = [name for name in server.key_names() if b":q:" in name]
    server.command("DEL", key)
    assert (await attach(store)).last_seq == 3
    assert await append(store, [Append("c", attached, b"x")]) == [4]
