"""Whose a session is, and how many a user has: what ``attach`` refuses, on real servers.

Inputs: calls of ``RedisStore`` by several users. Observed: its replies, and that a refusal has
changed nothing.
"""

from __future__ import annotations

import asyncio

import pytest

from support.store_groups import AnyStore
from tidegate.core.session_key import session_key
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.store.api import (
    Append,
    AttachReply,
    AttachRequest,
    DetachRequest,
    OwnedByAnother,
    TooManySessions,
)
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000


async def _attach(
    store: RedisStore,
    user: str,
    client_id: str = "c",
    *,
    edge: str = "e1",
    clean: bool = False,
    expiry: int = 100,
    now: int = NOW,
    checks: bool = True,
    left: int | None = None,
) -> AttachReply:
    request = AttachRequest(
        client_id,
        edge,
        clean,
        expiry,
        now,
        user=user,
        checks_user=checks,
        supersedes=None,
        sessions_left=left,
    )
    return await store.attach(request)


async def _detach(store: RedisStore, epoch: int, client_id: str = "c") -> None:
    await store.detach(DetachRequest(client_id, epoch, NOW, publish_will=False))


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(("owner", "other"), [("ann", "bob"), ("", "bob"), ("ann", "")])
async def test_another_user_neither_resumes_nor_ends_a_session(
    store: RedisStore, owner: str, other: str, connected: bool, clean: bool
) -> None:
    mine = await _attach(store, owner)
    await store.subscribe("c", mine.epoch, [("t", SubscriptionOptions(qos=1))])
    if not connected:
        await _detach(store, mine.epoch)
    await store.append([Append("c", mine.incarnation, b"m")])
    with pytest.raises(OwnedByAnother):
        await _attach(store, other, edge="e2", clean=clean)
    assert await store.verify([("c", mine.epoch)]) == [
        Standing.OWNED if connected else Standing.ENDED
    ]
    again = await _attach(store, owner)
    assert (again.session_present, again.queued_count) == (True, 1)
    assert again.incarnation == mine.incarnation


@pytest.mark.parametrize("expiry", [0, 100])
async def test_a_connection_without_durable_session_is_its_users_until_it_ends(
    store: RedisStore, expiry: int
) -> None:
    mine = await _attach(store, "ann", expiry=0)
    with pytest.raises(OwnedByAnother):
        await _attach(store, "bob", edge="e2", expiry=expiry)
    assert await store.verify([("c", mine.epoch)]) == [Standing.OWNED]
    await _detach(store, mine.epoch)
    await _attach(store, "bob", edge="e2", expiry=expiry)


async def test_a_session_past_its_expiry_is_nobodys(store: RedisStore) -> None:
    mine = await _attach(store, "ann")
    await _detach(store, mine.epoch)
    with pytest.raises(OwnedByAnother):
        await _attach(store, "bob", now=NOW + 99_999)
    assert not (await _attach(store, "bob", now=NOW + 100_000)).session_present
    with pytest.raises(OwnedByAnother):
        await _attach(store, "ann", now=NOW + 100_000)


async def test_a_session_of_a_lost_edge_stays_its_users(store: RedisStore) -> None:
    await _attach(store, "ann")
    await store.sweep_edges(NOW, 10)
    with pytest.raises(OwnedByAnother):
        await _attach(store, "bob")
    assert (await _attach(store, "ann")).session_present


async def test_without_the_check_a_session_changes_its_user(store: RedisStore) -> None:
    mine = await _attach(store, "ann")
    theirs = await _attach(store, "bob", edge="e2", checks=False)
    assert (theirs.session_present, theirs.incarnation) == (True, mine.incarnation)
    with pytest.raises(OwnedByAnother):
        await _attach(store, "ann")


async def test_a_session_of_an_older_version_is_the_first_users_who_comes(
    store: RedisStore, server: AnyStore
) -> None:
    mine = await _attach(store, "")
    await _detach(store, mine.epoch)
    server.command("HDEL", store._keys.prefix(b"c") + b"s:c", "o")
    assert (await _attach(store, "bob")).session_present
    with pytest.raises(OwnedByAnother):
        await _attach(store, "")


async def test_of_users_that_race_one_has_the_session(store: RedisStore) -> None:
    replies = await asyncio.gather(
        *(_attach(store, f"u{n}", edge=f"e{n}") for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(reply, AttachReply) for reply in replies) == 1
    assert all(isinstance(reply, AttachReply | OwnedByAnother) for reply in replies)


async def test_the_keys_of_two_mount_points_are_two_sessions(store: RedisStore) -> None:
    names = [session_key(mount_point, "c") for mount_point in ("", "a/", "b/")]
    for name in names:
        mine = await _attach(store, "ann", name)
        assert not mine.session_present
        await store.subscribe(name, mine.epoch, [("t", SubscriptionOptions(qos=1))])
        await store.append([Append(name, mine.incarnation, name.encode())])
        await _detach(store, mine.epoch, name)
    found = [session.client_id async for page in store.stored_subscriptions() for session in page]
    assert sorted(found) == sorted(names)
    for name in names:
        mine = await _attach(store, "ann", name)
        entries = await store.fetch(name, mine.incarnation, 0, 10, 1000)
        assert entries == [(1, name.encode())]
        await _detach(store, mine.epoch, name)
    due = await store.sweep_due(NOW + 100_000, 10)
    assert sorted(ended.client_id for ended in due.ended) == sorted(names)


async def test_durable_sessions_are_counted_for_their_users(
    store: RedisStore, server: AnyStore
) -> None:
    async def counts() -> tuple[int, int]:
        return await store.user_sessions("ann"), await store.user_sessions("")

    mine = [await _attach(store, "ann", f"c{number}") for number in range(3)]
    await _attach(store, "", "d")
    await _attach(store, "ann", "ephemeral", expiry=0)
    assert await counts() == (3, 1)
    # Resumed, and made again by Clean Start, it is the same one.
    mine[0] = await _attach(store, "ann", "c0")
    mine[1] = await _attach(store, "ann", "c1", clean=True)
    assert await counts() == (3, 1)
    # Ended by the client, by a CONNECT, by its expiry.
    await store.detach(DetachRequest("c0", mine[0].epoch, NOW, False, session_expiry_s=0))
    await _attach(store, "ann", "c1", clean=True, expiry=0)
    assert await counts() == (1, 1)
    await _detach(store, mine[2].epoch, "c2")
    await store.sweep_due(NOW + 100_000, 10)
    assert await counts() == (0, 1)
    # It changes its user, and one of an older version gets one.
    await _attach(store, "ann", "d", checks=False)
    assert await counts() == (1, 0)
    prefix = store._keys.prefix(b"d")
    server.command("HDEL", prefix + b"s:d", "o")
    server.command("HDEL", prefix + b"users", "ann")
    await _attach(store, "ann", "d")
    assert await counts() == (1, 0)
    await _attach(store, "ann", "d", clean=True, expiry=0)
    assert server.command("KEYS", "*:users") == []


@pytest.mark.parametrize("connected", [False, True])
async def test_a_user_that_has_too_many_makes_no_other_session(
    store: RedisStore, connected: bool
) -> None:
    mine = await _attach(store, "ann", left=1)
    theirs = await _attach(store, "bob", "other")
    if not connected:
        await _detach(store, mine.epoch)
        await _detach(store, theirs.epoch, "other")
    for left in (0, -1):
        for clean in (False, True):
            with pytest.raises(TooManySessions):
                await _attach(store, "ann", "another", clean=clean, left=left)
            with pytest.raises(TooManySessions):
                await _attach(store, "ann", "other", clean=clean, left=left, checks=False)
    assert await store.user_sessions("ann") == 1
    standing = Standing.OWNED if connected else Standing.ENDED
    assert await store.verify([("other", theirs.epoch)]) == [standing]
    # What it has, it has; and a session that ends with its connection is none.
    assert (await _attach(store, "ann", left=0)).session_present
    assert not (await _attach(store, "ann", clean=True, left=0)).session_present
    await _attach(store, "ann", "another", expiry=0, left=0)
