"""Claims of QoS 2 messages for members of groups, on real servers.

Inputs: calls of ``RedisStore``; then two routers on one server, of which one ends, or both
redeliver the same messages. Observed: replies, keys, the queues of the members.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support.store_groups import AnyStore
from support.waiting import wait_for_async
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.groups import RedispatchOrigin
from tidegate.router.pending import Pending
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    Append,
    AppendOutcome,
    AppendReply,
    AttachRequest,
    Claim,
    WriterFenced,
)
from tidegate.store.records import decode_queued
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
A, B, C = ("a", 1), ("b", 2), ("c:1", 3)
GROUP = ("g", "t/#")
FULL = AppendOutcome.QUEUE_FULL


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


async def test_the_first_claim_counts(store: RedisStore) -> None:
    assert await store.claim([]) == []
    assert await store.claim([Claim("g/t", "1", C), Claim("g/t", "2", A)]) == [C, A]
    assert await store.claim([Claim("g/t", "1", A), Claim("g/u", "1", A)]) == [C, A]


async def test_claims_of_many_groups_are_answered_in_their_order(store: RedisStore) -> None:
    claims = [Claim(f"g{number % 7}/t", f"{number}", (f"c{number}", 1)) for number in range(200)]
    assert await store.claim(claims) == [claim.holder for claim in claims]


async def test_a_claim_is_moved_only_from_the_member_that_has_it(store: RedisStore) -> None:
    await store.claim([Claim("g/t", "1", A)])
    assert await store.claim([Claim("g/t", "1", B, moved_from=A)]) == [B]
    assert await store.claim([Claim("g/t", "1", C, moved_from=A)]) == [B]
    assert await store.claim([Claim("g/t", "1", B, moved_from=A)]) == [B]


async def test_a_fenced_router_claims_nothing(store: RedisStore) -> None:
    await store.claim([Claim("g/t", "1", A)])
    store.writer = "old"
    await store.fence_writer("old")
    with pytest.raises(WriterFenced):
        await store.claim([Claim("g/t", "1", B, moved_from=A)])
    store.writer = "new"
    assert await store.claim([Claim("g/t", "1", B)]) == [A]


async def test_claims_are_bounded_and_the_latest_stay(store: RedisStore, server: AnyStore) -> None:
    for start in range(0, 12_000, 500):
        await store.claim([Claim("g/t", f"{start + n}", A) for n in range(500)])
    names = [name for name in server.key_names() if b":k:" in name or b":k2:" in name]
    held = [server.command("HLEN", name) for name in names]
    assert sum(held) <= 2 * 4096  # type: ignore[arg-type]  # numbers
    assert all(server.command("TTL", name) in range(86_000, 86_401) for name in names)
    late = [Claim("g/t", f"{number}", B) for number in range(12_000 - 4096, 12_000)]
    assert set(await store.claim(late)) == {A}
    assert await store.claim([Claim("g/t", "0", B)]) == [B]


async def test_a_queue_that_refuses_a_claimed_message_refuses_it_for_good(
    server: AnyStore,
) -> None:
    server.command("FLUSHALL")
    store = await connect(server, max_queued_messages=1)
    attached = await store.attach(AttachRequest("c", "e1", False, 100, NOW))

    async def append(identity: str, *, claimed: bool) -> int | AppendOutcome:
        item = Append("c", attached.incarnation, b"x", identity, claimed)
        return (await store.append([item])).outcomes[0]

    assert await append("queued", claimed=True) == 1
    assert await append("queued", claimed=True) is AppendOutcome.DUPLICATE
    assert await append("refused", claimed=True) is FULL
    assert await append("not claimed", claimed=False) is FULL
    await store.complete("c", attached.epoch, [1])
    assert await append("queued", claimed=True) is AppendOutcome.DUPLICATE
    assert await append("refused", claimed=True) is FULL
    assert await append("refused", claimed=True) is FULL
    assert await append("not claimed", claimed=False) == 2
    await store.close()


class _Origin:
    """A publisher; the same for each router that gets its message."""

    client_id = "publisher"
    epoch = 1
    is_will = False
    is_superseded = False

    def __init__(self, number: int) -> None:
        self._number = number
        self.codes: list[int] = []

    def identity(self, message: Publish) -> str:
        return f"publisher|1|{self._number}|0"

    def receipt(self, message: Publish) -> int:
        return -1

    def published(self, message: Publish, code: int) -> None:
        self.codes.append(code)


class _Side:
    """A router on its own connections. ``dies``: it never has the outcome of its next append."""

    def __init__(self, name: str, store: RedisStore) -> None:
        self.store = store
        self.router = Router(
            store,
            LimitsConfig(),
            FeaturesConfig(),
            Counters(),
            lambda: NOW,
            alone=False,
            name=name,
        )
        self.dies = False
        self.appended = asyncio.Event()
        self._end = asyncio.Event()
        self._append = store.append
        store.append = self._append_and_die  # type: ignore[method-assign]  # its death is in there

    async def _append_and_die(self, appends: Sequence[Append], now_ms: int = 0) -> AppendReply:
        reply = await self._append(appends, now_ms)
        if self.dies:
            self.appended.set()
            await self._end.wait()
        return reply

    def publish(self, number: int, qos: int = 2) -> _Origin:
        origin = _Origin(number)
        assert self.router.publish(origin, Publish("t/1", b"%d" % number, qos)) is None
        return origin

    async def redispatch(self, numbers: Sequence[int]) -> None:
        """As ``abandoned_queues`` does."""
        done = asyncio.Event()
        pending = Pending(done.set)
        for number in numbers:
            origin = RedispatchOrigin(f"lost|gone|1|{number}", "gone")
            message = Publish("t/1", b"%d" % number, 2)
            self.router._abandoned_queues._dispatch(GROUP, origin, message, pending)
        pending.release()
        await done.wait()

    async def stop(self) -> None:
        self.dies = False
        self._end.set()
        await self.router.stop()
        await self.store.close()


async def _two_sides(
    server: AnyStore, members: int, **limits: Any
) -> tuple[_Side, _Side, dict[str, int]]:
    """Two routers, and the members of the group with their incarnations."""
    server.command("FLUSHALL")
    sides = [_Side(name, await connect(server, **limits)) for name in ("r1", "r2")]
    store = sides[0].store
    incarnations = {}
    for number in range(members):
        reply = await store.attach(AttachRequest(f"m{number}", "e", False, 100, NOW))
        shared = [(f"$share/{GROUP[0]}/{GROUP[1]}", SubscriptionOptions(2))]
        assert await store.subscribe(f"m{number}", reply.epoch, shared)
        incarnations[f"m{number}"] = reply.incarnation
    for side in sides:
        await side.router.start()
    return sides[0], sides[1], incarnations


async def _queued(store: RedisStore, incarnations: dict[str, int]) -> dict[str, list[int]]:
    queues = {}
    for client_id, incarnation in incarnations.items():
        found = await store.fetch(client_id, incarnation, 0, 10_000, 10_000_000)
        queues[client_id] = [int(decode_queued(record).payload) for _, record in found]
    return queues


async def test_a_message_that_a_lost_router_has_queued_goes_to_no_other_member(
    server: AnyStore,
) -> None:
    first, second, incarnations = await _two_sides(server, 3)
    first.dies = True
    lost = [first.publish(number) for number in range(20)]
    await first.appended.wait()
    await second.router.fence(first.router.instance)
    second.publish(100)  # it is the turn of another member than at the other router
    again = [second.publish(number) for number in range(20)]
    await wait_for_async(lambda: all(origin.codes for origin in again), 10, "all are published")
    assert not any(origin.codes for origin in lost)
    queues = await _queued(second.store, incarnations)
    assert sorted(number for queue in queues.values() for number in queue) == [*range(20), 100]
    assert all(len(queue) >= 6 for queue in queues.values())
    await second.stop()
    await first.stop()


async def test_messages_of_one_publisher_reach_each_member_in_order(server: AnyStore) -> None:
    first, second, incarnations = await _two_sides(server, 3)
    origins = [first.publish(number) for number in range(300)]
    await wait_for_async(lambda: all(origin.codes for origin in origins), 10, "all are published")
    queues = await _queued(first.store, incarnations)
    assert all(queue == sorted(queue) for queue in queues.values())
    assert sum(map(len, queues.values())) == 300
    await first.stop()
    await second.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_what_two_routers_redeliver_is_queued_once_though_queues_fill_and_drain(
    server: AnyStore, seed: int
) -> None:
    chosen = random.Random(seed)
    first, second, incarnations = await _two_sides(server, 3, max_queued_messages=4)
    delivered: Counter[int] = Counter()
    ended = False

    async def drain() -> None:
        while not ended:
            for client_id, incarnation in incarnations.items():
                found = await second.store.fetch(client_id, incarnation, 0, 2, 10_000)
                delivered.update(int(decode_queued(record).payload) for _, record in found)
                if found:  # the epoch of its first connection is its incarnation
                    seqs = [seq for seq, _ in found]
                    assert await second.store.complete(client_id, incarnation, seqs)

    draining = asyncio.create_task(drain())
    for start in range(0, 400, 40):
        for _ in range(2):
            orders = [chosen.sample(range(start, start + 40), 30) for _ in range(2)]
            await asyncio.gather(first.redispatch(orders[0]), second.redispatch(orders[1]))
    ended = True
    await draining
    for queue in (await _queued(first.store, incarnations)).values():
        delivered.update(queue)
    assert set(delivered.values()) == {1}, delivered.most_common(5)
    assert len(delivered) > 100
    await first.stop()
    await second.stop()
