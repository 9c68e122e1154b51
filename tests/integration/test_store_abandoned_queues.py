"""What is left of a durable session's queue for the other members of its shared subscriptions.

Inputs: calls of ``RedisStore`` on real servers. Observed: its replies and the server's keys.
"""

from __future__ import annotations

import asyncio

from support.store_groups import AnyStore
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.store.api import (
    AbandonedQueue,
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    DetachRequest,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
SHARED = [("a/+", SubscriptionOptions(1)), ("$share/g/b", SubscriptionOptions(2))]


async def attach(store: RedisStore, client_id: str = "c", *, clean: bool = False) -> AttachReply:
    return await store.attach(AttachRequest(client_id, "e1", clean, 100, NOW))


async def member(store: RedisStore, client_id: str = "c", count: int = 5) -> AttachReply:
    """A connected session with a shared subscription and messages in its queue."""
    attached = await attach(store, client_id)
    await store.subscribe(client_id, attached.epoch, SHARED)
    await store.append(
        [Append(client_id, attached.incarnation, b"%d" % n) for n in range(1, count + 1)]
    )
    return attached


async def detach(store: RedisStore, attached: AttachReply, sent: int, expiry: int | None) -> None:
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, expiry, sent))


async def lost(store: RedisStore, now: int = NOW) -> list[AbandonedQueue]:
    return (await store.sweep_due(now, 100)).abandoned_queues


async def test_the_queue_of_an_ended_session_waits_for_others(store: RedisStore) -> None:
    attached = await member(store)
    await store.complete("c", attached.epoch, [2])
    await detach(store, attached, 3, 0)
    assert await lost(store) == [AbandonedQueue("c", attached.incarnation, 3, False)]
    assert await store.fetch_abandoned("c", attached.incarnation, 0, 10, 1000) == [
        (n, b"%d" % n) for n in (1, 3, 4, 5)
    ]
    assert await store.fetch_abandoned("c", attached.incarnation, 3, 1, 1000) == [(4, b"4")]
    assert await store.fetch("c", attached.incarnation, 0, 10, 1000) == []
    reply = await store.append([Append("c", attached.incarnation, b"x")])
    assert reply.outcomes == [AppendOutcome.NO_SESSION]


async def test_what_expires_later_has_been_sent_as_far_as_was_said(store: RedisStore) -> None:
    attached = await member(store)
    await detach(store, attached, 2, None)
    assert await lost(store, NOW + 99_999) == []
    await store.sweep_due(NOW + 100_000, 100)
    assert await lost(store, NOW + 100_000) == [AbandonedQueue("c", attached.incarnation, 2, False)]


async def test_what_a_lost_edge_had_sent_is_uncertain(store: RedisStore) -> None:
    attached = await member(store)
    await store.sweep_edges(NOW, 10)
    await store.sweep_due(NOW + 100_000, 100)
    (queue,) = await lost(store, NOW + 100_000)
    assert (queue.incarnation, queue.sent_uncertain) == (attached.incarnation, True)


async def test_a_session_that_ends_with_a_lost_edge_leaves_its_queue(store: RedisStore) -> None:
    attached = await member(store)
    await store.set_expiry("c", attached.epoch, 0)
    await store.sweep_edges(NOW, 10)
    assert [queue.sent_uncertain for queue in await lost(store)] == [True]


async def test_clean_start_abandons_the_queue_of_the_incarnation_before(store: RedisStore) -> None:
    old = await member(store)
    new = await attach(store, clean=True)
    assert await lost(store) == [AbandonedQueue("c", old.incarnation, 0, True)]
    await detach(store, new, 0, None)
    await attach(store, clean=True)
    assert await lost(store) == []  # the second incarnation had no shared subscription


async def test_a_session_keeps_its_groups_over_connections(store: RedisStore) -> None:
    first = await member(store)
    await detach(store, first, 5, None)
    second = await attach(store)
    await store.unsubscribe("c", second.epoch, ["$share/g/b"])
    await detach(store, second, 0, 0)
    assert await lost(store) == [AbandonedQueue("c", first.incarnation, 5, False)]


async def test_without_a_shared_subscription_nothing_is_left(
    store: RedisStore, server: AnyStore
) -> None:
    attached = await attach(store)
    await store.subscribe("c", attached.epoch, SHARED[:1])
    await store.append([Append("c", attached.incarnation, b"x")])
    await detach(store, attached, 0, 0)
    assert await lost(store) == []
    assert not [name for name in server.key_names() if not name.endswith(b":edges")]


async def test_an_empty_queue_is_not_left(store: RedisStore, server: AnyStore) -> None:
    attached = await member(store, count=1)
    await store.complete("c", attached.epoch, [1])
    await detach(store, attached, 1, 0)
    assert await lost(store) == []
    assert not [name for name in server.key_names() if not name.endswith(b":edges")]


async def test_an_abandoned_queue_is_claimed_once_until_it_is_trimmed(
    store: RedisStore, server: AnyStore
) -> None:
    attached = await member(store)
    await detach(store, attached, 0, 0)
    found = await asyncio.gather(*(lost(store) for _ in range(4)))
    assert sum(map(len, found)) == 1
    assert await lost(store, NOW + 9_999) == []
    assert len(await lost(store, NOW + 10_000)) == 1
    assert await store.trim_abandoned("c", attached.incarnation, 2, NOW + 15_000)
    assert await lost(store, NOW + 24_999) == []
    assert [
        seq for seq, _ in await store.fetch_abandoned("c", attached.incarnation, 0, 9, 999)
    ] == [
        3,
        4,
        5,
    ]
    assert len(await lost(store, NOW + 25_000)) == 1
    assert not await store.trim_abandoned("c", attached.incarnation, 5, NOW + 25_000)
    assert await lost(store, NOW + 99_000) == []
    assert not await store.trim_abandoned("c", attached.incarnation, 5, NOW + 25_000)
    assert not [name for name in server.key_names() if not name.endswith(b":edges")]


async def test_an_abandoned_queue_that_is_not_claimed_expires_after_a_day(
    store: RedisStore, server: AnyStore
) -> None:
    attached = await member(store, "a:b")
    await store.detach(DetachRequest("a:b", attached.epoch, NOW, False, 0, 0))
    (key,) = [name for name in server.key_names() if b":lost:" in name]
    assert server.command("TTL", key) in range(86_300, 86_401)
    assert await lost(store) == [AbandonedQueue("a:b", attached.incarnation, 0, False)]
    server.command("DEL", key)
    assert await lost(store, NOW + 10_000) == []
    assert not [name for name in server.key_names() if not name.endswith(b":edges")]


async def test_a_queue_is_left_when_memory_is_full(store: RedisStore, server: AnyStore) -> None:
    attached = await member(store)
    await detach(store, attached, 5, None)
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert (await store.sweep_due(NOW + 100_000, 100)).ended
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert await lost(store, NOW + 100_000) == [AbandonedQueue("c", attached.incarnation, 5, False)]
