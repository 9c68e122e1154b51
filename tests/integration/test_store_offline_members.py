"""What waits for a member of a shared subscription that is not connected, and may go to others.

Inputs: calls of ``RedisStore`` on real servers. Observed: its replies, its counters and the
server's keys. Which messages may go, and to whom, is the router's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.store_groups import AnyStore
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    AbandonedQueue,
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    DetachRequest,
    OfflineMember,
    StoreUnavailable,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
LATER = NOW + 1000
SHARED = [("a/+", SubscriptionOptions(1)), ("$share/g/b", SubscriptionOptions(2))]


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
async def store(server: AnyStore, counters: Counters) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await RedisStore.connect(
        url=server.url, limits=LimitsConfig(), store=StoreConfig(), counters=counters
    )
    yield store
    await store.close()


async def attach(store: RedisStore, *, clean: bool = False, expiry: int = 100) -> AttachReply:
    return await store.attach(AttachRequest("c", "e1", clean, expiry, NOW))


async def member(store: RedisStore, count: int = 5) -> AttachReply:
    """A connected session with a shared subscription and messages in its queue."""
    attached = await attach(store)
    await store.subscribe("c", attached.epoch, SHARED)
    await store.append([Append("c", attached.incarnation, b"%d" % n) for n in range(1, count + 1)])
    return attached


async def gone(store: RedisStore, sent: int = 3) -> OfflineMember:
    """One whose connection has ended after so many of five messages."""
    attached = await member(store)
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, None, sent))
    return OfflineMember("c", attached.incarnation, attached.epoch, sent, False)


async def due(store: RedisStore, now: int = LATER) -> list[OfflineMember]:
    return (await store.sweep_due(now, 100)).offline_members


async def queued(store: RedisStore, incarnation: int) -> list[int]:
    return [seq for seq, _ in await store.fetch("c", incarnation, 0, 100, 10_000)]


async def test_an_offline_member_is_due_after_a_moment_and_is_claimed_once(
    store: RedisStore,
) -> None:
    expected = await gone(store)
    assert await due(store, LATER - 1) == []
    found = await asyncio.gather(*(due(store) for _ in range(4)))
    assert [each for each in found if each] == [[expected]]
    assert await due(store, LATER + 9_999) == []
    assert await due(store, LATER + 10_000) == [expected]


async def test_what_a_lost_edge_had_sent_to_a_member_is_uncertain(store: RedisStore) -> None:
    attached = await member(store)
    await store.sweep_edges(NOW, 10)
    (found,) = await due(store)
    assert (found.incarnation, found.sent_uncertain) == (attached.incarnation, True)
    assert found.epoch > attached.epoch


async def test_a_member_that_is_back_at_once_keeps_its_messages(store: RedisStore) -> None:
    expected = await gone(store)
    await attach(store)
    assert await due(store) == []
    assert await store.abandon_entries(expected, [1], LATER, 0) is None
    assert await queued(store, expected.incarnation) == [1, 2, 3, 4, 5]


async def test_a_member_without_messages_or_groups_is_not_due(
    store: RedisStore, server: AnyStore
) -> None:
    attached = await member(store, 1)
    await store.complete("c", attached.epoch, [1])
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, None, 1))
    assert await due(store) == []
    attached = await attach(store, clean=True)
    await store.subscribe("c", attached.epoch, SHARED[:1])
    await store.append([Append("c", attached.incarnation, b"x")])
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, None, 0))
    assert await due(store) == []
    (key,) = [name for name in server.key_names() if name.endswith(b":due")]
    assert server.command("ZCARD", key) == 1  # the session's own end


async def test_abandoned_entries_are_a_queue_that_the_caller_has_claimed(
    store: RedisStore,
) -> None:
    expected = await gone(store)
    await due(store)
    number = await store.abandon_entries(expected, [2, 4, 9], LATER, 0)
    assert number
    assert number not in (expected.incarnation, expected.epoch)
    assert await queued(store, expected.incarnation) == [1, 3, 5]
    assert await store.fetch_abandoned("c", number, 0, 10, 1000) == [(2, b"2"), (4, b"4")]
    claimed_until = LATER + 10_000
    assert (await store.sweep_due(claimed_until - 1, 100)).abandoned_queues == []
    work = await store.sweep_due(claimed_until, 100)
    assert (work.abandoned_queues, work.offline_members) == (
        [AbandonedQueue("c", number, 3, False)],
        [],
    )
    assert not await store.trim_abandoned("c", number, 4, claimed_until)
    attached = await attach(store)
    assert (attached.session_present, attached.queued_count, attached.last_seq) == (True, 3, 5)


async def test_two_that_set_the_same_aside_get_it_once(store: RedisStore) -> None:
    expected = await gone(store)
    numbers = await asyncio.gather(
        *(store.abandon_entries(expected, [1, 2], LATER, 0) for _ in "ab")
    )
    assert sorted(number == 0 for number in numbers if number is not None) == [False, True]


async def test_the_end_of_the_session_does_not_touch_what_was_set_aside(
    store: RedisStore,
) -> None:
    expected = await gone(store)
    number = await store.abandon_entries(expected, [1, 2], LATER, 0)
    await attach(store, clean=True)
    assert await store.abandon_entries(expected, [3], LATER, 0) is None
    assert number
    assert [seq for seq, _ in await store.fetch_abandoned("c", number, 0, 9, 999)] == [1, 2]
    (left,) = (await store.sweep_due(LATER, 100)).abandoned_queues
    assert left.incarnation == expected.incarnation
    assert len(await store.fetch_abandoned("c", left.incarnation, 0, 9, 999)) == 3


async def test_it_says_when_to_look_again(store: RedisStore) -> None:
    expected = await gone(store)
    await due(store)
    assert await store.abandon_entries(expected, [], LATER, LATER + 30_000) == 0
    assert await due(store, LATER + 29_999) == []
    assert await due(store, LATER + 30_000) == [expected]
    assert await store.abandon_entries(expected, [], LATER, 0) == 0
    assert await due(store, LATER + 99_999) == []


async def test_a_member_can_be_looked_at_sooner(store: RedisStore) -> None:
    expected = await gone(store)
    await store.abandon_entries(expected, [], LATER, LATER + 30_000)
    await store.schedule_checks(["c", "unknown"], LATER + 500)
    assert await due(store, LATER + 1499) == []
    assert await due(store, LATER + 1500) == [expected]
    await store.abandon_entries(expected, [], LATER, 0)
    await store.schedule_checks(["c"], LATER + 5000)
    assert await due(store, LATER + 6000) == [expected]
    await attach(store)
    await store.schedule_checks(["c"], LATER + 5000)
    assert await due(store, LATER + 60_000) == []


async def test_a_member_is_not_looked_at_later_because_somebody_reports_it(
    store: RedisStore,
) -> None:
    expected = await gone(store)
    await store.schedule_checks(["c"], LATER - 1)
    assert await due(store, LATER - 1) == []
    assert await due(store, LATER) == [expected]


async def test_what_was_set_aside_makes_room_in_the_queue_at_once(
    store: RedisStore,
) -> None:
    """All of it in one call of the script, which remembers how long a queue is."""
    expected = await gone(store)
    store.set_limits(LimitsConfig(max_queued_messages=6))
    session = ("c", expected.incarnation)
    before, number, after = await asyncio.gather(
        store.append([Append(*session, b"the last"), Append(*session, b"one too many")]),
        store.abandon_entries(expected, [1, 2], LATER, 0),
        store.append([Append(*session, b"fits again")]),
    )
    assert before.outcomes == [6, AppendOutcome.QUEUE_FULL]
    assert number
    assert after.outcomes == [7]


async def test_nothing_is_set_aside_by_halves_when_memory_is_full(
    store: RedisStore, server: AnyStore
) -> None:
    expected = await gone(store)
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            await store.abandon_entries(expected, [1, 2], LATER, 0)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert await queued(store, expected.incarnation) == [1, 2, 3, 4, 5]
    assert await due(store) == [expected]


@pytest.mark.parametrize("end", ["detach", "clean", "due"])
async def test_what_ends_with_a_session_is_counted(
    store: RedisStore, counters: Counters, end: str
) -> None:
    attached = await attach(store)
    await store.append([Append("c", attached.incarnation, b"%d" % n) for n in range(1, 8)])
    await store.complete("c", attached.epoch, [2])
    counters.queued = 6
    expiry = 0 if end == "detach" else None
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, expiry, 4))
    if end == "clean":
        await attach(store, clean=True)
    elif end == "due":
        await store.sweep_due(NOW + 100_000, 100)
    # Three of the six were sent, and count as delivered.
    assert (counters.queued, counters.dropped["session_ended"]) == (0, 3)


async def test_what_a_lost_edges_session_leaves_counts_as_dropped(
    store: RedisStore, counters: Counters
) -> None:
    attached = await attach(store)
    await store.append([Append("c", attached.incarnation, b"%d" % n) for n in range(3)])
    await store.set_expiry("c", attached.epoch, 0)
    counters.queued = 3
    await store.sweep_edges(NOW, 10)
    assert (counters.queued, counters.dropped["session_ended"]) == (0, 3)


async def test_a_connected_member_can_give_entries_back(store: RedisStore) -> None:
    attached = await member(store)
    number = await store.return_entries("c", attached.epoch, [2, 4, 9], 2, NOW)
    assert number
    assert await queued(store, attached.incarnation) == [1, 3, 5]
    assert await store.return_entries("c", attached.epoch, [2, 4], 2, NOW) == 0, "once"
    assert (await store.sweep_due(NOW + 9_999, 100)).abandoned_queues == [], "it is claimed"
    (queue,) = (await store.sweep_due(NOW + 10_000, 100)).abandoned_queues
    assert queue == AbandonedQueue("c", number, 2, False)
    found = await store.fetch_abandoned("c", number, 0, 9, 999)
    assert found == [(2, b"2"), (4, b"4")]


async def test_a_member_without_its_session_gives_nothing_back(store: RedisStore) -> None:
    attached = await member(store)
    later = await attach(store)
    assert await store.return_entries("c", attached.epoch, [1], 0, NOW) is None
    await store.detach(DetachRequest("c", later.epoch, NOW, False, None, 0))
    assert await store.return_entries("c", later.epoch, [1], 0, NOW) is None
    assert await queued(store, attached.incarnation) == [1, 2, 3, 4, 5]
