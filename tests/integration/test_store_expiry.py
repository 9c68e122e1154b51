"""Expired entries of queues on real servers: they hold no place, and are deleted [MQTT-3.3.2-5].

Inputs: calls of ``RedisStore``, times as arguments. Observed: its replies, counters, keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.store_groups import AnyStore
from tidegate.edge.client.delivery import MAX_HELD
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store import scripts
from tidegate.store.api import (
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    DetachRequest,
    OfflineMember,
)
from tidegate.store.records import decode_queued, encode_queued
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
FULL = AppendOutcome.QUEUE_FULL


class Tried:
    """A store with one session, and what is to be observed of it."""

    def __init__(self, server: AnyStore, store: RedisStore, counters: Counters) -> None:
        self.server = server
        self.store = store
        self.counters = counters
        self.attached = AttachReply(0, 0, False)

    async def attach(self, *, clean: bool = False, edge: str = "e1") -> AttachReply:
        self.attached = await self.store.attach(AttachRequest("c", edge, clean, 100, NOW))
        return self.attached

    async def detach(self, sent_seq: int = 0, *, expiry_s: int | None = None) -> None:
        epoch = self.attached.epoch
        await self.store.detach(DetachRequest("c", epoch, NOW, False, expiry_s, sent_seq))

    async def append(self, *messages: tuple[bytes, int], now: int = NOW) -> list[Any]:
        """Queue messages: payload, and after how many seconds they expire (0: never)."""
        incarnation = self.attached.incarnation
        appends = [
            Append("c", incarnation, record(payload, NOW + 1000 * expiry_s if expiry_s else 0))
            for payload, expiry_s in messages
        ]
        outcomes = (await self.store.append(appends, now)).outcomes
        self.counters.queued += sum(isinstance(outcome, int) for outcome in outcomes)
        return outcomes

    async def fill(self, count: int, expiry_s: int, *, first: int = 0) -> None:
        outcomes = await self.append(*((b"%d" % (first + n), expiry_s) for n in range(count)))
        assert all(isinstance(outcome, int) for outcome in outcomes)

    async def payloads(self) -> list[bytes]:
        found = await self.store.fetch("c", self.attached.incarnation, 0, 10_000, 100_000_000)
        return [decode_queued(entry).payload for _, entry in found]

    async def complete(self, *seqs: int) -> None:
        assert await self.store.complete("c", self.attached.epoch, seqs)

    def names(self, kind: bytes) -> list[bytes]:
        return [name for name in self.server.key_names() if b":" + kind in name]

    def expiries(self) -> int:
        """How many entries are known to expire."""
        names = self.names(b"v:c:")
        return int(self.server.command("ZCARD", names[0])) if names else 0  # type: ignore[call-overload]

    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self.counters.dropped.items() if count}

    def is_balanced(self, queued: int) -> bool:
        """Whether every entry that was deleted is counted (G7)."""
        return self.counters.queued == queued


@asynccontextmanager
async def tried(server: AnyStore, **limits: Any) -> AsyncIterator[Tried]:
    server.command("FLUSHALL")
    counters = Counters()
    settings = {"max_queued_messages": 10, "max_in_flight": 1} | limits
    store = await RedisStore.connect(
        url=server.url, limits=LimitsConfig(**settings), store=StoreConfig(), counters=counters
    )
    try:
        yield Tried(server, store, counters)
    finally:
        await store.close()


def record(payload: bytes, expires_at_ms: int, qos: int = 1, group: str = "") -> bytes:
    return encode_queued(Publish("t", payload, qos), qos, False, (), expires_at_ms, group)


@pytest.mark.statement("MQTT-3.3.2-5")
async def test_a_full_queue_takes_new_messages_in_place_of_expired_ones(server: AnyStore) -> None:
    async with tried(server) as it:
        await it.attach()
        await it.detach()
        await it.fill(10, 2)
        assert await it.append((b"early", 0), now=NOW + 1999) == [FULL]
        new = [(b"new", 0)] * 11
        assert await it.append(*new, now=NOW + 2000) == [*range(11, 21), FULL]
        assert await it.payloads() == [b"new"] * 10
        assert it.dropped() == {"expired": 10}
        assert it.is_balanced(10)
        assert (it.expiries(), it.store.evicted_count) == (0, 0)


async def test_nothing_alive_is_dropped_while_something_expired_holds_a_place(
    server: AnyStore,
) -> None:
    async with tried(server, queue_full_policy="drop_oldest") as it:
        await it.attach()
        await it.detach()
        await it.append(*((b"%d" % number, (0, 2, 5)[number % 3]) for number in range(10)))
        assert await it.append(*[(b"n", 0)] * 3, now=NOW + 2000) == [11, 12, 13]
        assert await it.payloads() == [b"0", b"2", b"3", b"5", b"6", b"8", b"9", *[b"n"] * 3]
        assert it.dropped() == {"expired": 3}
        assert await it.append(*[(b"n", 0)] * 3, now=NOW + 5000) == [14, 15, 16]
        assert await it.payloads() == [b"0", b"3", b"6", b"9", *[b"n"] * 6]
        assert it.dropped() == {"expired": 6}
        assert await it.append((b"n", 0), now=NOW + 5000) == [17]
        assert await it.payloads() == [b"3", b"6", b"9", *[b"n"] * 7]
        assert it.dropped() == {"expired": 6, "queue_full": 1}
        assert it.is_balanced(10)


async def test_more_expired_ones_than_one_step_deletes_leave_one_by_one(server: AnyStore) -> None:
    async with tried(server, max_queued_messages=2000) as it:
        await it.attach()
        await it.detach()
        await it.fill(2000, 2)
        for number in range(8):
            await it.append(*[(b"%d" % number, 0)] * 250, now=NOW + 2000)
        assert await it.payloads() == [b"%d" % number for number in range(8) for _ in range(250)]
        assert await it.append((b"x", 0), now=NOW + 2000) == [FULL]
        assert it.is_balanced(2000)


@pytest.mark.statement("MQTT-4.3.3-7")
async def test_what_was_sent_stays_when_it_expires_and_holds_no_place(server: AnyStore) -> None:
    async with tried(server) as it:
        await it.attach()
        await it.fill(10, 2)
        assert await it.store.release("c", it.attached.epoch, [2])
        await it.detach(3)
        new = [(b"new", 0)] * 11
        assert await it.append(*new, now=NOW + 2000) == [*range(11, 21), FULL]
        assert await it.payloads() == [b"0", b"1", b"2", *[b"new"] * 10]
        assert it.dropped() == {"expired": 7}
        reply = await it.attach()
        assert (reply.sent_seq, reply.released, reply.queued_count) == (3, [2], 13)
        await it.complete(1, 2, 3)
        assert (it.expiries(), await it.payloads()) == (0, [b"new"] * 10)


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_what_may_be_in_flight_on_a_connection_stays_and_holds_no_place(
    server: AnyStore, policy: str
) -> None:
    places = MAX_HELD + 1
    async with tried(server, max_queued_messages=places + 5, queue_full_policy=policy) as it:
        await it.attach()
        await it.fill(places + 5, 2)
        new = [(b"new", 0)] * (places + 5)
        assert FULL not in await it.append(*new, now=NOW + 2000)
        assert await it.payloads() == [
            *(b"%d" % number for number in range(places)),
            *[b"new"] * (places + 5),
        ]
        assert it.dropped() == {"expired": 5}
        (outcome,) = await it.append((b"last", 0), now=NOW + 2000)
        if policy == "drop_newest":
            assert outcome is FULL
        else:  # the oldest goes, which has expired
            assert (await it.payloads())[0] == b"1"
            assert it.dropped() == {"expired": 6}
        # The edge was lost: what it held is not in flight any more, what may be still is.
        await it.store.sweep_edges(NOW, 100)
        await it.append((b"x", 0), now=NOW + 2000)
        assert (await it.payloads())[1] == b"new"


async def test_a_queue_that_is_not_full_is_emptied_by_time(server: AnyStore) -> None:
    async with tried(server, max_queued_messages=1000) as it:
        await it.attach()
        await it.detach(1)
        await it.append((b"sent", 2), (b"a", 2), (b"b", 0), (b"c", 4), (b"d", 9_000))
        assert not await it.store.expire_queued(NOW + 1999, 100)
        assert len(await it.payloads()) == 5
        assert not await it.store.expire_queued(NOW + 3000, 100)
        assert await it.payloads() == [b"sent", b"b", b"c", b"d"]
        assert not await it.store.expire_queued(NOW + 5000, 100)
        assert await it.payloads() == [b"sent", b"b", b"d"]
        assert it.dropped() == {"expired": 2}
        assert it.is_balanced(3)
        # One that expires before the next visit has its own.
        await it.append((b"e", 7))
        assert not await it.store.expire_queued(NOW + 8000, 100)
        assert await it.payloads() == [b"sent", b"b", b"d"]


async def test_queues_are_emptied_by_time_in_bounded_steps(server: AnyStore) -> None:
    async with tried(server, max_queued_messages=5000) as it:
        await it.attach()
        await it.detach()
        await it.fill(2000, 2)
        steps = 1
        while await it.store.expire_queued(NOW + 3000, 300):
            assert 2000 - 512 * steps <= len(await it.payloads()) < 2000
            steps += 1
        assert steps in range(4, 9)
        assert (await it.payloads(), it.dropped()) == ([], {"expired": 2000})
        assert it.names(b"v:") == it.names(b"queued-due") == []


async def test_the_set_of_those_that_expire_has_no_more_than_the_queue(server: AnyStore) -> None:
    async with tried(server, queue_full_policy="drop_oldest") as it:
        attached = await it.attach()
        await it.fill(30, 50)
        assert it.expiries() == 10
        await it.complete(*range(21, 26))
        assert it.expiries() == 5
        await it.attach()
        assert it.attached.incarnation == attached.incarnation
        await it.complete(*range(26, 31))
        assert it.expiries() == 0
        assert not await it.store.expire_queued(NOW + 51_000, 100)
        assert it.names(b"queued-due") == []
        assert it.dropped() == {"queue_full": 20}


async def test_what_expires_not_costs_no_key(server: AnyStore) -> None:
    async with tried(server) as it:
        await it.attach()
        await it.fill(10, 0)
        assert await it.append((b"x", 0), now=NOW + 10**9) == [FULL]
        assert it.names(b"v:") == it.names(b"queued-due") == []
        (session,) = it.names(b"s:c")
        assert b"v" not in it.server.command("HKEYS", session)  # type: ignore[operator]


async def test_a_connection_that_is_stuck_is_looked_at_again(server: AnyStore) -> None:
    places = MAX_HELD + 1
    async with tried(server, max_queued_messages=500) as it:
        await it.attach()
        await it.fill(places + 10, 2)
        await it.store.expire_queued(NOW + 3000, 1000)
        assert len(await it.payloads()) == places
        await it.detach(1)
        await it.store.expire_queued(NOW + 34_000, 1000)
        assert await it.payloads() == [b"0"]
        await it.store.expire_queued(NOW + 10**9, 1000)
        assert it.names(b"queued-due") == []
        # When it is connected again, that is not for ever.
        await it.attach()
        assert len(it.names(b"queued-due")) == 1
        await it.complete(1)
        await it.store.expire_queued(NOW + 10**9, 1000)
        assert it.names(b"v:") == it.names(b"queued-due") == []


@pytest.mark.parametrize("how", ["clean", "expired", "detached"])
async def test_the_end_of_a_session_leaves_nothing(server: AnyStore, how: str) -> None:
    async with tried(server) as it:
        await it.attach()
        await it.fill(5, 50)
        if how == "clean":
            await it.attach(clean=True)
        else:
            await it.detach(0, expiry_s=0 if how == "detached" else 1)
            await it.store.sweep_due(NOW + 2000, 100)
        assert it.names(b"v:") == it.names(b"queued-due") == []


async def test_what_an_older_broker_left_of_an_ended_session_is_deleted(server: AnyStore) -> None:
    async with tried(server) as it:
        await it.attach()
        await it.fill(5, 2)
        (session,) = it.names(b"s:c")
        it.server.command("HDEL", session, "v")
        await it.attach(clean=True)
        assert len(it.names(b"v:")) == 1
        await it.store.expire_queued(NOW + 3000, 100)
        assert it.names(b"v:") == it.names(b"queued-due") == []
        assert it.dropped() == {"session_ended": 5}


async def test_entries_that_other_members_get_are_not_deleted_here(server: AnyStore) -> None:
    async with tried(server) as it:
        epoch = (await it.attach()).epoch
        shared = [("$share/g/t", SubscriptionOptions(qos=1))]
        assert await it.store.subscribe("c", epoch, shared)
        await it.fill(5, 2)
        await it.detach()
        member = OfflineMember("c", it.attached.incarnation, epoch, 0, False)
        number = await it.store.abandon_entries(member, [1, 2], NOW, NOW + 30_000)
        assert number is not None
        assert it.expiries() == 3
        await it.store.expire_queued(NOW + 3000, 100)
        assert it.dropped() == {"expired": 3}
        assert len(await it.store.fetch_abandoned("c", number, 0, 100, 10_000)) == 2


@pytest.mark.parametrize("group", ["", "g/t", "g/" + "t/" * 200])
@pytest.mark.parametrize("topic", ["t", "t/" * 300])
@pytest.mark.parametrize("identifiers", [(), (7, 8)])
async def test_the_script_reads_the_expiry_of_every_record(
    server: AnyStore, group: str, topic: str, identifiers: tuple[int, ...]
) -> None:
    async with tried(server) as it:
        incarnation = (await it.attach()).incarnation
        message = Publish(topic, b"x", 1, properties=b"\x26\0\1a\0\1b")
        entry = encode_queued(message, 1, True, identifiers, NOW + 123, group)
        forever = encode_queued(message, 1, True, identifiers, 0, group)
        await it.store.append([Append("c", incarnation, each) for each in (entry, forever)])
        (name,) = it.names(b"v:c:")
        assert it.server.command("ZRANGE", name, 0, -1, "WITHSCORES") in (
            [b"1", b"%d" % (NOW + 123)],
            [[b"1", float(NOW + 123)]],
        )


def test_as_many_may_be_held_as_the_edge_holds() -> None:
    source = Path(scripts.__file__).with_name("expiry.lua").read_text(encoding="utf-8")
    assert f"local HELD = {MAX_HELD}\n" in source
