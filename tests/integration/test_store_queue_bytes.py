"""The bytes that the queue of a durable session may have, on real servers.

Inputs: appends of ``RedisStore`` under ``limits.max_durable_queue_bytes``. Observed: outcomes, what
is queued, counters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest

from support.store_groups import AnyStore
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AppendOutcome, AttachRequest, DetachRequest
from tidegate.store.records import encode_queued
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
MOST_BYTES = 1_000_000
LARGE = bytes(100_000)
FULL = AppendOutcome.QUEUE_BYTES


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await RedisStore.connect(
        url=server.url, limits=_limits(), store=StoreConfig(), counters=Counters()
    )
    yield store
    await store.close()


def _limits(
    policy: Literal["drop_newest", "drop_oldest"] = "drop_newest", most: int = MOST_BYTES
) -> LimitsConfig:
    return LimitsConfig(max_durable_queue_bytes=most, queue_full_policy=policy)


async def _incarnation(store: RedisStore) -> tuple[int, int]:
    reply = await store.attach(AttachRequest("c", "e1", False, 100, NOW))
    return reply.incarnation, reply.epoch


async def _append(store: RedisStore, incarnation: int, *records: bytes) -> list[object]:
    appends = [Append("c", incarnation, record) for record in records]
    return list((await store.append(appends, NOW)).outcomes)


async def _seqs(store: RedisStore, incarnation: int) -> list[int]:
    return [seq for seq, _ in await store.fetch("c", incarnation, 0, 10_000, 100_000_000)]


@pytest.mark.parametrize("together", [False, True])
async def test_newer_messages_are_refused(store: RedisStore, together: bool) -> None:
    incarnation, epoch = await _incarnation(store)
    outcomes: list[object] = []
    for records in [[LARGE] * 20] if together else [[LARGE]] * 20:
        outcomes += await _append(store, incarnation, *records)
    taken = sum(outcome is not FULL for outcome in outcomes)
    # Servers keep a record in more memory than it has bytes; those of one call are added up.
    assert 6 <= taken <= 10
    assert outcomes == [*range(1, taken + 1), *[FULL] * (20 - taken)]
    # Small ones are not compared, and what is acknowledged makes room.
    assert await _append(store, incarnation, b"small") == [taken + 1]
    assert await store.complete("c", epoch, [1, 2, 3])
    outcomes = await _append(store, incarnation, *[LARGE] * 10)
    assert outcomes[0] == taken + 2
    assert outcomes[-1] is FULL


async def test_the_oldest_ones_are_dropped(store: RedisStore) -> None:
    store.set_limits(_limits("drop_oldest"))
    incarnation, _ = await _incarnation(store)
    for number in range(20):
        assert await _append(store, incarnation, LARGE) == [number + 1]
    kept = await _seqs(store, incarnation)
    assert kept == list(range(21 - len(kept), 21))
    assert 6 <= len(kept) <= 9
    assert store._counters.dropped["queue_full"] == 20 - len(kept)
    # One that is larger than the whole drops nothing.
    assert await _append(store, incarnation, bytes(2 * MOST_BYTES)) == [FULL]
    assert await _seqs(store, incarnation) == kept


async def test_what_made_room_is_named_by_its_topic(store: RedisStore) -> None:
    store.set_limits(_limits("drop_oldest"))
    incarnation, _ = await _incarnation(store)
    records = [encode_queued(Publish(f"t/{n}", LARGE, 1), 1, False) for n in range(20)]
    named = [
        dict((await store.append([Append("c", incarnation, record)], NOW)).evicted)
        for record in records
    ]
    removed = [one["c", incarnation] for one in named if one]
    # Each is the first of those that were removed for one message.
    expected, at = [], 0
    for count, _ in removed:
        expected.append(f"t/{at}")
        at += count
    assert at > 10
    assert [topic for _, topic in removed] == expected


async def test_a_refused_identity_is_another_message_later(store: RedisStore) -> None:
    incarnation, epoch = await _incarnation(store)
    await _append(store, incarnation, *[LARGE] * 20)
    kept = await _seqs(store, incarnation)
    append = [Append("c", incarnation, LARGE, "identity")]
    assert (await store.append(append, NOW)).outcomes == [FULL]
    assert await store.complete("c", epoch, kept)
    (first,) = (await store.append(append, NOW)).outcomes
    assert isinstance(first, int)
    assert (await store.append(append, NOW)).outcomes == [AppendOutcome.DUPLICATE]
    # To no session: as without the limit.
    assert (await store.append([Append("d", 1, LARGE)], NOW)).outcomes == [AppendOutcome.NO_SESSION]


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_expired_messages_make_room(
    store: RedisStore, policy: Literal["drop_newest", "drop_oldest"]
) -> None:
    store.set_limits(LimitsConfig(max_durable_queue_bytes=MOST_BYTES, queue_full_policy=policy))
    incarnation, epoch = await _incarnation(store)
    message = Publish("t", LARGE, 1)
    expiring = encode_queued(message, 1, False, (), NOW + 1000)
    lasting = encode_queued(message, 1, False, (), 0)
    await _offline(store, epoch)
    assert await _append(store, incarnation, lasting, *[expiring] * 4) == [1, 2, 3, 4, 5]
    appends = [Append("c", incarnation, lasting) for _ in range(5)]
    outcomes = (await store.append(appends, NOW + 1000)).outcomes
    assert outcomes == [6, 7, 8, 9, 10]
    assert await _seqs(store, incarnation) == [1, 6, 7, 8, 9, 10]
    assert store._counters.dropped["expired"] == 4
    assert store._counters.dropped["queue_full"] == 0


async def _offline(store: RedisStore, epoch: int) -> None:
    """End the connection, with nothing sent: then nothing of the queue may have been begun."""
    await store.detach(DetachRequest("c", epoch, NOW, publish_will=False))


async def test_without_a_limit_there_is_none(store: RedisStore) -> None:
    store.set_limits(_limits(most=0))
    incarnation, _ = await _incarnation(store)
    assert await _append(store, incarnation, *[LARGE] * 20) == list(range(1, 21))
