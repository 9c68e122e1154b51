"""Requests of edges that take effect late: a router that hung brings them to a real server at last.

Inputs: attempts at one CONNECT or SUBSCRIBE in any order, as an edge sends them through several
routers, and what the connection does in between. Observed: replies, wills, subscriptions, and what
is left of a connection that has ended. [MQTT-3.1.2-8], [MQTT-3.2.2-2]
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from support.store_groups import AnyStore
from tidegate.core.attempt import Attempt
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import (
    Append,
    AttachReply,
    AttachRequest,
    DetachReply,
    DetachRequest,
    LateRequest,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
PROCESS, OTHER_PROCESS = 5 << 32, 6 << 32
OPTIONS = SubscriptionOptions(qos=1)


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await RedisStore.connect(
        url=server.url, limits=LimitsConfig(), store=StoreConfig(partitions=64)
    )
    yield store
    await store.close()


def connect(
    number: int = 1,
    tries: int = 0,
    *,
    edge: str = "e1",
    clean: bool = False,
    expiry: int = 100,
    will: bytes | None = b"will",
    supersedes: int = 0,
) -> AttachRequest:
    return AttachRequest(
        "c",
        edge,
        clean,
        expiry,
        NOW,
        will,
        supersedes=supersedes,
        number=PROCESS + number,
        tries=tries,
    )


async def end(store: RedisStore, reply: AttachReply, *, will: bool = True) -> DetachReply:
    return await store.detach(DetachRequest("c", reply.epoch, NOW, publish_will=will))


async def subscriptions(store: RedisStore, epoch: int = 0) -> list[str]:
    """The filters of the client's session, by a CONNECT that supersedes this epoch."""
    reply = await store.attach(connect(99, edge="e9", supersedes=epoch, will=None))
    return sorted(topic_filter for topic_filter, _ in reply.subscriptions)


# CONNECT


@pytest.mark.parametrize("expiry", [0, 100])
async def test_a_second_attempt_gets_what_the_first_one_got(store: RedisStore, expiry: int) -> None:
    request = connect(expiry=expiry)
    first = await store.attach(request)
    again = await store.attach(replace(request, tries=1))
    assert (again.epoch, again.incarnation) == (first.epoch, first.incarnation)
    assert not again.session_present
    assert again.wills == []
    assert [will.record for will in (await end(store, again)).wills] == [b"will"]


@pytest.mark.statement("MQTT-3.2.2-2", "MQTT-3.2.2-3")
async def test_a_second_attempt_finds_the_session_that_the_first_one_found(
    store: RedisStore,
) -> None:
    await end(store, await store.attach(connect(will=None)))
    request = connect(2)
    first = await store.attach(request)
    again = await store.attach(replace(request, tries=1))
    assert first.session_present
    assert again.session_present
    assert again.epoch == first.epoch


async def test_what_came_between_two_attempts_stays(store: RedisStore) -> None:
    """The first one was answered after all, or the edge has gone on with the second one."""
    request = connect(clean=True)
    first = await store.attach(replace(request, tries=1))
    await store.subscribe("c", first.epoch, [("a", OPTIONS)])
    await store.append([Append("c", first.incarnation, b"1")])
    with pytest.raises(LateRequest):
        await store.attach(request)
    again = await store.attach(replace(request, tries=2))
    assert again.epoch == first.epoch
    assert [name for name, _ in again.subscriptions] == ["a"]
    assert again.last_seq == 1


async def test_a_second_attempt_waits_for_the_fence_of_the_first_one(store: RedisStore) -> None:
    older = await store.attach(connect(edge="e2", will=None))
    request = connect(supersedes=older.epoch)
    first = await store.attach(request)
    again = await store.attach(replace(request, tries=1))
    assert first.fence_position > 0
    assert again.fence_position >= first.fence_position


@pytest.mark.parametrize("expiry", [0, 100])
@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.1.2-10")
async def test_a_late_attempt_does_not_begin_a_connection_that_has_ended(
    store: RedisStore, expiry: int
) -> None:
    request = connect(expiry=expiry)
    reply = await store.attach(replace(request, tries=1))
    (will,) = (await end(store, reply)).wills
    await store.will_published([will.will_id])
    with pytest.raises(LateRequest):
        await store.attach(request)
    after = await store.attach(connect(2, edge="e2"))
    assert after.wills == []
    assert not after.taken_epoch
    assert after.session_present == (expiry > 0)


async def test_a_late_attempt_does_not_discard_what_another_edge_has(store: RedisStore) -> None:
    late = connect(clean=True)
    await end(store, await store.attach(replace(late, tries=1)))
    elsewhere = await store.attach(connect(edge="e2"))
    await store.subscribe("c", elsewhere.epoch, [("a", OPTIONS)])
    await end(store, elsewhere, will=False)
    with pytest.raises(LateRequest):
        await store.attach(late)
    assert await subscriptions(store) == ["a"]


async def test_numbers_of_another_process_are_not_compared(store: RedisStore) -> None:
    """An edge that has been restarted under its name counts from elsewhere."""
    await end(store, await store.attach(connect(7, 1)))
    for process in (PROCESS - (1 << 32), OTHER_PROCESS):
        reply = await store.attach(replace(connect(), number=process + 1))
        assert reply.epoch
        await end(store, reply)


async def test_an_ordinary_connect_leaves_nothing_behind(
    store: RedisStore, server: AnyStore
) -> None:
    await end(store, await store.attach(connect(expiry=0)), will=False)
    assert not [key for key in server.key_names() if b":late:" in key]
    await end(store, await store.attach(connect(2, 1, expiry=0)), will=False)
    (late,) = [key for key in server.key_names() if b":late:" in key]
    ttl = server.command("TTL", late)
    assert isinstance(ttl, int)
    assert 0 < ttl <= 3600


# Withdrawn


@pytest.mark.parametrize("expiry", [0, 100])
async def test_a_withdrawn_connect_ends_without_its_will(store: RedisStore, expiry: int) -> None:
    request = connect(expiry=expiry)
    await store.attach(request)
    await store.withdraw_connects("e1", [("c", Attempt(PROCESS + 1, 1))], NOW)
    with pytest.raises(LateRequest):
        await store.attach(request)
    after = await store.attach(connect(2, edge="e2"))
    assert after.wills == []
    assert not after.taken_epoch


async def test_what_is_withdrawn_before_it_comes_has_no_effect(store: RedisStore) -> None:
    await store.withdraw_connects("e1", [("c", Attempt(PROCESS + 1, 1)), ("d", Attempt(1, 1))], NOW)
    with pytest.raises(LateRequest):
        await store.attach(connect())
    assert not (await store.attach(connect(2))).session_present


async def test_a_newer_connection_is_not_withdrawn(store: RedisStore) -> None:
    newer = await store.attach(connect(2))
    await store.withdraw_connects("e1", [("c", Attempt(PROCESS + 1, 3))], NOW)
    elsewhere = await store.attach(connect(edge="e2"))
    await store.withdraw_connects("e1", [("c", Attempt(PROCESS + 2, 1))], NOW)
    assert elsewhere.taken_epoch == newer.epoch


# Subscriptions


@pytest.mark.parametrize("late", ["subscribe", "unsubscribe"])
async def test_a_late_change_of_subscriptions_has_no_effect(store: RedisStore, late: str) -> None:
    epoch = (await store.attach(connect())).epoch
    first, second = Attempt(PROCESS + 2, 1), Attempt(PROCESS + 3)
    await store.subscribe("c", epoch, [("a", OPTIONS), ("b", OPTIONS)], "", first)
    await store.unsubscribe("c", epoch, ["a"], second)
    if late == "subscribe":
        await store.subscribe("c", epoch, [("a", OPTIONS)], "", Attempt(PROCESS + 2))
        assert await subscriptions(store, epoch) == ["b"]
    else:
        await store.unsubscribe("c", epoch, ["a"], Attempt(PROCESS + 3, 1))
        await store.subscribe("c", epoch, [("a", OPTIONS)], "", Attempt(PROCESS + 4))
        await store.unsubscribe("c", epoch, ["a"], Attempt(PROCESS + 3))
        assert await subscriptions(store, epoch) == ["a", "b"]


async def test_a_repeated_change_is_stored_although_a_newer_one_was_repeated_first(
    store: RedisStore,
) -> None:
    """Two changes of one connection may be under way at once."""
    epoch = (await store.attach(connect())).epoch
    await store.unsubscribe("c", epoch, ["other"], Attempt(PROCESS + 3, 1))
    await store.subscribe("c", epoch, [("a", OPTIONS)], "", Attempt(PROCESS + 2, 1))
    assert await subscriptions(store, epoch) == ["a"]
