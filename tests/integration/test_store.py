"""The store on real servers: sessions, wills, subscriptions, retained messages, leases.

Inputs: calls of ``RedisStore`` with times that the tests choose. Observed: its replies and, where
nothing may be left behind, the server's keys. The queue is in ``test_store_queue``, outages and
restarts in ``test_store_outage``, the embedded server in ``test_store_embedded``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path

import pytest

from support.store_groups import AnyStore
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import (
    NEVER_EXPIRES_S,
    Append,
    AttachReply,
    AttachRequest,
    ConnectionFenced,
    DetachReply,
    DetachRequest,
    DueWill,
    EdgeLost,
    EndedSession,
    RetainedBefore,
    StoredSubscriptions,
    WriterFenced,
)
from tidegate.store.redis_store import RedisStore, StoreRefused

NOW = 1_700_000_000_000
OPTIONS = SubscriptionOptions(qos=1, no_local=True, subscription_identifier=7)


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await connect(server)
    yield store
    await store.close()


async def connect(server: AnyStore, partitions: int = 64) -> RedisStore:
    return await RedisStore.connect(
        url=server.url, limits=LimitsConfig(), store=StoreConfig(partitions=partitions)
    )


async def attach(
    store: RedisStore,
    client_id: str = "c",
    *,
    edge: str = "e1",
    clean: bool = False,
    expiry: int = 100,
    now: int = NOW,
    will: bytes | None = None,
    delay: int = 0,
) -> AttachReply:
    return await store.attach(AttachRequest(client_id, edge, clean, expiry, now, will, delay))


async def detach(
    store: RedisStore,
    epoch: int,
    client_id: str = "c",
    *,
    now: int = NOW,
    publish_will: bool = True,
    expiry: int | None = None,
    sent: int = 0,
) -> DetachReply:
    request = DetachRequest(client_id, epoch, now, publish_will, expiry, sent)
    return await store.detach(request)


def wills(found: list[DueWill]) -> list[bytes]:
    return [will.record for will in found]


# Sessions


async def test_a_new_durable_session_has_an_incarnation_and_nothing_else(store: RedisStore) -> None:
    reply = await attach(store)
    assert reply.incarnation > 0
    assert reply == AttachReply(
        epoch=reply.epoch, incarnation=reply.incarnation, session_present=False
    )


@pytest.mark.statement("MQTT-3.1.2-5", "MQTT-3.1.3-2", "MQTT-4.1.0-1")
async def test_a_session_is_resumed_with_all_that_it_had(store: RedisStore) -> None:
    first = await attach(store)
    await store.subscribe("c", first.epoch, [("a/+", OPTIONS), ("b", SubscriptionOptions())])
    await store.append([Append("c", first.incarnation, b"1"), Append("c", first.incarnation, b"2")])
    await store.append([Append("c", first.incarnation, b"3")])
    await store.complete("c", first.epoch, [1])
    await store.release("c", first.epoch, [2])
    await store.receipt("c", first.epoch, 3, 5)
    assert await detach(store, first.epoch, sent=2) == DetachReply(fenced=False)
    second = await attach(store, edge="e2", now=NOW + 99_999)
    assert second.epoch > first.epoch
    assert second.session_present
    assert second.incarnation == first.incarnation
    assert (second.sent_seq, second.sent_uncertain) == (2, False)
    assert (second.last_seq, second.queued_count) == (3, 2)
    assert second.released == [2]
    assert second.receipts == b"\0\0\0\x05"
    assert dict(second.subscriptions) == {"a/+": OPTIONS, "b": SubscriptionOptions()}
    assert (second.previous_edge, second.previous_epoch, second.wills) == ("", 0, [])


async def test_the_last_seq_is_known_when_the_queue_is_empty_again(store: RedisStore) -> None:
    first = await attach(store)
    await store.append([Append("c", first.incarnation, b"x")] * 3)
    await store.complete("c", first.epoch, [1, 2, 3])
    await detach(store, first.epoch, sent=3)
    second = await attach(store)
    assert (second.last_seq, second.queued_count) == (3, 0)
    assert (await store.append([Append("c", first.incarnation, b"x")])).outcomes == [4]


@pytest.mark.statement("MQTT-3.1.2-4", "MQTT311-3.1.2-6")
async def test_clean_start_discards_the_session(store: RedisStore, server: AnyStore) -> None:
    first = await attach(store)
    await store.subscribe("c", first.epoch, [("a", OPTIONS)])
    await store.append([Append("c", first.incarnation, b"1", "identity")])
    await store.release("c", first.epoch, [1])
    for value in (255, 0, 5):  # the count runs over
        await store.receipt("c", first.epoch, 3, value)
    await detach(store, first.epoch)
    second = await attach(store, clean=True)
    assert not second.session_present
    assert second.discarded_incarnation == first.incarnation
    assert second.incarnation not in {0, first.incarnation}
    assert (second.subscriptions, second.receipts, second.released) == ([], b"", [])
    assert await store.fetch("c", second.incarnation, 0, 10, 1000) == []
    assert await store.fetch("c", first.incarnation, 0, 10, 1000) == []
    await detach(store, second.epoch, expiry=0)
    assert not [name for name in server.key_names() if not name.endswith(b":edges")]


@pytest.mark.statement("MQTT-3.1.2-23")
async def test_a_session_past_its_expiry_is_gone_before_any_sweep(store: RedisStore) -> None:
    first = await attach(store, will=b"w", delay=500)
    await detach(store, first.epoch)
    second = await attach(store, now=NOW + 100_000)
    assert not second.session_present
    assert second.discarded_incarnation == first.incarnation
    # The session's end comes before the delay is over [MQTT-3.1.2-8].
    assert wills(second.wills) == [b"w"]


async def test_an_ephemeral_session_leaves_nothing(store: RedisStore, server: AnyStore) -> None:
    first = await attach(store, expiry=0)
    assert first.incarnation == 0
    assert await store.subscribe("c", first.epoch, [("a", OPTIONS)])
    assert await store.receipt("c", first.epoch, 3, 5)
    assert await store.release("c", first.epoch, [3])
    assert await detach(store, first.epoch) == DetachReply(fenced=False)
    assert [name.rsplit(b":", 1)[1] for name in server.key_names()] == [b"edges"]
    second = await attach(store, expiry=0)
    assert not second.session_present
    assert second.previous_edge == ""


async def test_a_resumed_session_with_expiry_0_ends_with_its_connection(store: RedisStore) -> None:
    first = await attach(store)
    await detach(store, first.epoch)
    second = await attach(store, expiry=0)
    assert second.session_present
    assert second.incarnation == first.incarnation
    reply = await detach(store, second.epoch)
    assert reply.ended == EndedSession("c", first.incarnation)
    third = await attach(store)
    assert not third.session_present


async def test_a_taken_over_session_with_expiry_0_has_ended(store: RedisStore) -> None:
    first = await attach(store)
    await detach(store, first.epoch)
    second = await attach(store, expiry=0)
    third = await attach(store)
    assert not third.session_present
    assert third.discarded_incarnation == first.incarnation
    assert third.previous_epoch == second.epoch


async def test_disconnect_may_change_the_expiry(store: RedisStore) -> None:
    first = await attach(store)
    await detach(store, first.epoch, expiry=1000)
    second = await attach(store, now=NOW + 999_999)
    assert second.session_present
    assert await store.set_expiry("c", second.epoch, 0)
    assert (await detach(store, second.epoch)).ended == EndedSession("c", first.incarnation)


async def test_a_session_that_never_expires_stays(store: RedisStore) -> None:
    first = await attach(store, expiry=NEVER_EXPIRES_S)
    await detach(store, first.epoch)
    assert (await store.sweep_due(NOW * 1000, 10)).ended == []
    assert (await attach(store, now=NOW * 1000)).session_present


async def test_a_session_ends_in_one_sweep_only(store: RedisStore, server: AnyStore) -> None:
    ids = [f"client {number}" for number in range(20)]
    for client_id in ids:
        reply = await attach(store, client_id)
        await store.append([Append(client_id, reply.incarnation, b"x")])
        await detach(store, reply.epoch, client_id)
    assert (await store.sweep_due(NOW + 99_999, 100)).ended == []
    sweeps = await asyncio.gather(*(store.sweep_due(NOW + 100_000, 7) for _ in range(4)))
    assert all(len(found.ended) <= 7 for found in sweeps)
    assert sorted(session.client_id for found in sweeps for session in found.ended) == sorted(ids)
    assert {name.rsplit(b":", 1)[1] for name in server.key_names()} == {b"edges"}


async def test_a_resumed_session_is_not_swept(store: RedisStore) -> None:
    first = await attach(store)
    await detach(store, first.epoch)
    await attach(store)
    assert (await store.sweep_due(NOW + 1_000_000, 10)).ended == []


async def test_stored_subscriptions_lists_durable_sessions_only(store: RedisStore) -> None:
    expected = {}
    for number in range(30):
        client_id = f"ü{number}"
        reply = await attach(store, client_id)
        await store.subscribe(client_id, reply.epoch, [(f"t/{number}", OPTIONS)])
        expected[client_id] = StoredSubscriptions(
            client_id, reply.incarnation, "e1", reply.epoch, [(f"t/{number}", OPTIONS)]
        )
    await detach(store, expected["ü3"].epoch, "ü3")
    expected["ü3"].edge_id = ""
    await detach(store, expected["ü4"].epoch, "ü4", expiry=0)
    del expected["ü4"]
    await attach(store, "ephemeral", expiry=0)
    found = [session async for page in store.stored_subscriptions() for session in page]
    assert {session.client_id: session for session in found} == expected


async def test_unsubscribed_filters_are_forgotten(store: RedisStore) -> None:
    first = await attach(store)
    filters = [f"filter/{number}" for number in range(2500)]
    assert await store.subscribe("c", first.epoch, [(name, OPTIONS) for name in filters])
    assert await store.unsubscribe("c", first.epoch, filters[1:])
    await detach(store, first.epoch)
    assert (await attach(store)).subscriptions == [(filters[0], OPTIONS)]


async def test_a_count_of_exchanges_that_runs_over_is_noticed(store: RedisStore) -> None:
    first = await attach(store)
    for value in (0, 254, 255, 0, 0, 1, 255, 0, 3):
        await store.receipt("c", first.epoch, 9, value)
    await detach(store, first.epoch)
    second = await attach(store)
    assert second.receipts[9] == 3
    assert second.receipt_wraps == {9: 2}


async def test_a_count_that_runs_over_is_noticed_whatever_was_stored_of_the_last_exchange(
    store: RedisStore,
) -> None:
    first = await attach(store)
    for packet_id, last in ((1, 254), (2, 255)):
        for value in (last, 0):
            await store.receipt("c", first.epoch, packet_id, value)
    await store.receipt("c", first.epoch, 3, 252)
    await store.receipt("c", first.epoch, 3, 0)
    await detach(store, first.epoch)
    assert (await attach(store)).receipt_wraps == {1: 1, 2: 1}


# Fencing (G3)


@pytest.mark.statement("MQTT-3.1.4-3")
async def test_a_new_connection_names_the_one_it_replaces(store: RedisStore) -> None:
    first = await attach(store, edge="e1")
    second = await attach(store, edge="e2")
    assert (second.previous_edge, second.previous_epoch) == ("e1", first.epoch)
    assert second.session_present
    assert second.sent_uncertain


async def test_a_replaced_connection_changes_nothing_any_more(store: RedisStore) -> None:
    old = await attach(store)
    await store.append([Append("c", old.incarnation, b"x")])
    new = await attach(store)
    assert not await store.subscribe("c", old.epoch, [("a", OPTIONS)])
    assert not await store.unsubscribe("c", old.epoch, ["a"])
    assert not await store.complete("c", old.epoch, [1])
    assert not await store.release("c", old.epoch, [1])
    assert not await store.receipt("c", old.epoch, 1, 1)
    assert not await store.set_expiry("c", old.epoch, 0)
    assert await detach(store, old.epoch) == DetachReply(fenced=True)
    third = await attach(store)
    assert third.previous_epoch == new.epoch
    assert (third.queued_count, third.released, third.receipts) == (1, [], b"")
    assert third.subscriptions == []


async def test_connections_that_race_leave_one_owner(store: RedisStore) -> None:
    replies = await asyncio.gather(*(attach(store, edge=f"e{n}") for n in range(50)))
    last = max(replies, key=lambda reply: reply.epoch)
    ends = await asyncio.gather(*(detach(store, reply.epoch) for reply in replies))
    assert [reply for reply, end in zip(replies, ends, strict=True) if not end.fenced] == [last]
    chain = sorted(replies, key=lambda reply: reply.epoch)
    for older, newer in pairwise(chain):
        assert newer.previous_epoch == older.epoch
    assert len({reply.incarnation for reply in replies}) == 1


async def test_a_second_detach_changes_nothing(store: RedisStore) -> None:
    reply = await attach(store, will=b"w")
    assert wills((await detach(store, reply.epoch)).wills) == [b"w"]
    assert (await detach(store, reply.epoch)).fenced


async def test_what_may_have_been_sent_stays_so(store: RedisStore) -> None:
    lost = await attach(store)
    await store.append([Append("c", lost.incarnation, b"x")] * 5)
    uncertain = await attach(store)
    assert (uncertain.sent_seq, uncertain.sent_uncertain) == (5, True)
    await detach(store, uncertain.epoch, sent=2)
    third = await attach(store)
    assert (third.sent_seq, third.sent_uncertain) == (5, False)


# Wills (G5)


@pytest.mark.statement("MQTT-3.1.2-10")
async def test_a_will_is_not_published_after_disconnect(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=5)
    assert (await detach(store, reply.epoch, publish_will=False)).wills == []
    assert (await store.sweep_due(NOW + 90_000, 10)).wills == []
    at_the_end = await store.sweep_due(NOW + 1_000_000, 10)
    assert (len(at_the_end.ended), at_the_end.wills) == (1, [])


@pytest.mark.statement("MQTT-3.1.2-10")
@pytest.mark.parametrize("publish_will", [True, False])
async def test_a_will_is_published_once_or_never_whatever_becomes_of_its_session(
    store: RedisStore, publish_will: bool
) -> None:
    reply = await attach(store, will=b"w")
    found = (await detach(store, reply.epoch, publish_will=publish_will)).wills
    assert wills(found) == [b"w"] * publish_will
    await store.will_published([will.will_id for will in found])
    assert (await attach(store, clean=True)).wills == []


@pytest.mark.parametrize("expiry", [0, 100])
@pytest.mark.statement("MQTT-3.1.2-8", "MQTT311-3.1.2-8")
async def test_a_will_without_delay_is_due_at_once(store: RedisStore, expiry: int) -> None:
    reply = await attach(store, will=b"w", expiry=expiry)
    assert wills((await detach(store, reply.epoch)).wills) == [b"w"]


@pytest.mark.statement("MQTT-3.1.2-8")
async def test_a_delayed_will_of_a_session_that_ends_is_due_at_once(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", expiry=0, delay=60)
    assert wills((await detach(store, reply.epoch)).wills) == [b"w"]


async def test_a_delayed_will_comes_due_once(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=60)
    assert (await detach(store, reply.epoch)).wills == []
    assert (await store.sweep_due(NOW + 59_999, 10)).wills == []
    sweeps = await asyncio.gather(*(store.sweep_due(NOW + 60_000, 10) for _ in range(5)))
    found = [will for sweep in sweeps for will in sweep.wills]
    assert wills(found) == [b"w"]
    assert found[0].client_id == "c"
    await store.will_published([found[0].will_id])
    assert (await store.sweep_due(NOW + 99_999, 10)).wills == []
    assert (await attach(store, now=NOW + 99_999)).wills == []


@pytest.mark.statement("MQTT-3.1.2-8")
async def test_a_will_is_published_at_session_end_when_that_comes_first(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=600)
    await detach(store, reply.epoch)
    found = await store.sweep_due(NOW + 100_000, 10)
    assert wills(found.wills) == [b"w"]
    assert found.ended == [EndedSession("c", reply.incarnation)]
    await store.will_published([will.will_id for will in found.wills])
    assert (await store.sweep_due(NOW + 10_000_000, 10)).wills == []


@pytest.mark.statement("MQTT-3.1.3-9")
async def test_a_delayed_will_is_dropped_when_the_session_is_resumed(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=60)
    await detach(store, reply.epoch)
    assert (await attach(store, now=NOW + 59_999)).wills == []
    assert (await store.sweep_due(NOW + 10_000_000, 10)).wills == []


async def test_a_will_whose_delay_is_over_is_published_though_resumed(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=60)
    await detach(store, reply.epoch)
    resumed = await attach(store, now=NOW + 60_000)
    assert resumed.session_present
    assert wills(resumed.wills) == [b"w"]


async def test_a_delayed_will_is_published_when_clean_start_ends_it(store: RedisStore) -> None:
    reply = await attach(store, will=b"w", delay=60)
    await detach(store, reply.epoch)
    assert wills((await attach(store, clean=True)).wills) == [b"w"]


@pytest.mark.parametrize(
    ("clean", "expiry", "delay", "published"),
    [
        (False, 100, 0, True),
        (False, 100, 60, False),
        (True, 100, 60, True),
        (False, 0, 60, True),
    ],
)
@pytest.mark.statement("MQTT-3.1.3-9", "MQTT-3.1.4-3")
async def test_takeover_publishes_the_old_will_unless_its_delay_runs(
    store: RedisStore, clean: bool, expiry: int, delay: int, published: bool
) -> None:
    await attach(store, will=b"old", expiry=expiry, delay=delay)
    reply = await attach(store, will=b"new", clean=clean)
    assert wills(reply.wills) == ([b"old"] if published else [])
    assert wills((await detach(store, reply.epoch)).wills) == [b"new"]


async def test_a_claimed_will_is_offered_again_until_it_is_published(store: RedisStore) -> None:
    reply = await attach(store, will=b"w")
    (will,) = (await detach(store, reply.epoch)).wills
    assert (await store.sweep_due(NOW + 9_999, 10)).wills == []
    assert (await store.sweep_due(NOW + 10_000, 10)).wills == [will]
    assert (await store.sweep_due(NOW + 10_001, 10)).wills == []
    assert (await store.sweep_due(NOW + 20_000, 10)).wills == [will]
    await store.will_published([will.will_id])
    assert (await store.sweep_due(NOW + 99_999, 10)).wills == []


async def test_wills_of_one_client_have_names_of_their_own(store: RedisStore) -> None:
    names: set[str] = set()
    for _ in range(3):
        reply = await attach(store, "a:b", will=b"w")
        names.update(will.will_id for will in (await detach(store, reply.epoch, "a:b")).wills)
    assert len(names) == 3
    await store.will_published(sorted(names))
    assert (await store.sweep_due(NOW + 20_000, 10)).wills == []


# Fences


async def test_a_takeover_fences_the_other_edge_in_the_log(store: RedisStore) -> None:
    before = await store.log_positions()
    first = await attach(store, edge="e1")
    again = await attach(store, edge="e1")
    assert (first.fence_position, again.fence_position) == (0, 0)
    assert (await store.changes(before, 100)).changes == []
    over = await attach(store, edge="e2")
    found = await store.changes(before, 100)
    assert found.changes == [ConnectionFenced("c", "e1", over.epoch)]
    # Who has read up to the position that CONNECT waits for knows of it.
    assert found.positions[store.partition("c")] == over.fence_position


@pytest.mark.parametrize("expiry", [0, 100])
async def test_a_connect_that_supersedes_nobody_fences_nobody(
    store: RedisStore, expiry: int
) -> None:
    before = await store.log_positions()
    reply = await attach(store, edge="e1", expiry=expiry)
    await detach(store, reply.epoch)
    reply = await attach(store, edge="e2", expiry=expiry)
    assert reply.fence_position == 0
    kinds = {type(change) for change in (await store.changes(before, 100)).changes}
    assert ConnectionFenced not in kinds


@pytest.mark.parametrize("expiry", [0, 100])
@pytest.mark.statement("MQTT-3.1.2-8")
async def test_a_will_under_way_is_the_task_of_the_next_connections_edge(
    store: RedisStore, expiry: int
) -> None:
    before = await store.log_positions()
    first = await attach(store, edge="e1", expiry=expiry, will=b"one")
    (will,) = (await detach(store, first.epoch)).wills
    assert (will.client_id, will.epoch) == ("c", first.epoch)
    second = await attach(store, edge="e2", expiry=expiry, will=b"two")
    assert second.wills == [will]
    assert second.fence_position > 0
    changes = (await store.changes(before, 100)).changes
    assert ConnectionFenced("c", "e1", second.epoch) in changes
    # At a takeover the older will comes first, and a will at the same edge needs no fence.
    third = await attach(store, edge="e2", expiry=expiry)
    assert [one.record for one in third.wills] == [b"one", b"two"]
    assert third.fence_position == 0
    await store.will_published([one.will_id for one in third.wills])
    fourth = await attach(store, edge="e3", expiry=expiry)
    assert fourth.wills == []
    assert ConnectionFenced("c", "e2", fourth.epoch) in (await store.changes(before, 100)).changes


async def test_a_connect_that_is_late_supersedes_nobody(store: RedisStore) -> None:
    """A router, or the store, hung with it; the client has gone on at another edge."""
    request = AttachRequest("c", "e1", False, 100, NOW, b"late", 0, 0)
    newer = await attach(store, edge="e2", will=b"newer")
    late = await store.attach(request)
    assert (late.epoch, late.taken_epoch, late.wills) == (0, newer.epoch, [])
    assert await store.verify([("c", newer.epoch)]) == [Standing.OWNED]
    # Who is known to be superseded, is; and nobody has the session after its connection has ended.
    over = await store.attach(replace(request, supersedes=newer.epoch))
    assert (over.taken_epoch, over.previous_epoch) == (0, newer.epoch)
    await detach(store, over.epoch)
    assert (await store.attach(request)).taken_epoch == 0


async def test_a_fenced_router_attaches_nobody(store: RedisStore) -> None:
    """Its requests have been sent to another one."""
    store.writer = "router.1"
    await store.fence_writer("router.1")
    with pytest.raises(WriterFenced):
        await attach(store)
    store.writer = "router.2"
    assert (await attach(store)).epoch > 0


async def test_a_pending_will_is_the_task_of_the_edge_that_claimed_it_last(
    store: RedisStore,
) -> None:
    reply = await attach(store, edge="e1", will=b"w")
    (will,) = (await detach(store, reply.epoch)).wills
    ids = [will.will_id, f"{reply.epoch + 1}:c", "1:nobody"]
    assert await store.verify_wills("e1", ids) == [True, False, False]
    await attach(store, edge="e2")
    assert await store.verify_wills("e1", ids[:1]) == [False]
    assert await store.verify_wills("e2", ids[:1]) == [True]
    await store.will_published(ids[:1])
    assert await store.verify_wills("e2", ids[:1]) == [False]


async def test_a_will_that_is_claimed_again_is_no_longer_its_first_edges_task(
    store: RedisStore,
) -> None:
    before = await store.log_positions()
    reply = await attach(store, edge="e1", will=b"w")
    (will,) = (await detach(store, reply.epoch)).wills
    assert (await store.sweep_due(NOW + 10_000, 10, "e2")).wills == [will]
    # The will itself has that epoch: an edge that is late with it is refused.
    fence = ConnectionFenced("c", "e1", reply.epoch + 1)
    assert fence in (await store.changes(before, 100)).changes
    assert (await store.sweep_due(NOW + 20_000, 10, "e2")).wills == [will]
    changes = (await store.changes(before, 100)).changes
    assert [one for one in changes if isinstance(one, ConnectionFenced)] == [fence]


async def test_sessions_of_a_lost_edge_are_left_until_every_router_has_read_of_it(
    store: RedisStore,
) -> None:
    await store.renew_lease("dead", NOW, 1000)
    reply = await attach(store, edge="dead", will=b"w")
    before = await store.log_positions()
    assert (await store.sweep_edges(NOW + 1000, 10, "", before)).wills == []
    found = await store.changes(before, 100)
    assert EdgeLost("dead") in found.changes
    assert (await store.sweep_edges(NOW + 1500, 10, "", before)).wills == []
    assert await store.verify([("c", reply.epoch)]) == [Standing.OWNED]
    # It is logged once.
    assert (await store.changes(found.positions, 100)).changes == []
    swept = await store.sweep_edges(NOW + 2000, 10, "", found.positions)
    assert wills(swept.wills) == [b"w"]
    assert await store.verify([("c", reply.epoch)]) == [Standing.TAKEN]


async def test_an_edge_that_comes_back_is_lost_anew_the_next_time(store: RedisStore) -> None:
    await store.renew_lease("e1", NOW, 1000)
    reply = await attach(store)
    before = await store.log_positions()
    await store.sweep_edges(NOW + 1000, 10, "", before)
    read = (await store.changes(before, 100)).positions
    assert not await store.renew_lease("e1", NOW + 1500, 1000)
    await store.sweep_edges(NOW + 3000, 10, "", read)
    assert await store.verify([("c", reply.epoch)]) == [Standing.OWNED]
    found = await store.changes(read, 100)
    assert EdgeLost("e1") in found.changes
    await store.sweep_edges(NOW + 3500, 10, "", found.positions)
    assert await store.verify([("c", reply.epoch)]) == [Standing.TAKEN]


# Edges


async def test_sessions_of_an_edge_without_lease_are_lost(store: RedisStore) -> None:
    await store.renew_lease("dead", NOW, 1000)
    await store.renew_lease("alive", NOW, 60_000)
    lost = await attach(store, "lost", edge="dead", will=b"w")
    late = await attach(store, "late", edge="dead", will=b"later", delay=5)
    gone = await attach(store, "gone", edge="dead", expiry=0, will=b"x")
    await attach(store, "kept", edge="alive", will=b"k")
    assert (await store.sweep_edges(NOW + 999, 10)).wills == []
    found = await store.sweep_edges(NOW + 1000, 10)
    assert sorted(wills(found.wills)) == [b"w", b"x"]
    assert found.ended == []
    assert (await store.sweep_edges(NOW + 1000, 10)).wills == []
    assert b"later" in wills((await store.sweep_due(NOW + 6000, 10)).wills)
    # Should the edge be alive after all, it owns nothing any more.
    for client_id, reply in (("lost", lost), ("late", late), ("gone", gone)):
        assert (await detach(store, reply.epoch, client_id)).fenced
        assert not await store.complete(client_id, reply.epoch, [1])
    resumed = await attach(store, "lost", edge="alive")
    assert resumed.session_present
    assert resumed.sent_uncertain
    assert resumed.previous_edge == ""


async def test_an_edge_that_never_had_a_lease_is_swept(store: RedisStore) -> None:
    reply = await attach(store, expiry=0, will=b"w")
    assert not reply.session_present
    assert wills((await store.sweep_edges(NOW, 10)).wills) == [b"w"]


async def test_a_durable_session_that_ends_with_its_edge_is_reported(store: RedisStore) -> None:
    first = await attach(store)
    await detach(store, first.epoch)
    await attach(store, expiry=0)
    assert (await store.sweep_edges(NOW, 10)).ended == [EndedSession("c", first.incarnation)]


async def test_an_ended_lease_needs_no_waiting(store: RedisStore) -> None:
    await store.renew_lease("e1", NOW, 60_000)
    await attach(store, will=b"w")
    assert (await store.sweep_edges(NOW, 10)).wills == []
    await store.end_lease("e1")
    assert wills((await store.sweep_edges(NOW, 10)).wills) == [b"w"]


async def test_edge_sweeps_are_bounded_and_find_each_session_once(
    store: RedisStore, server: AnyStore
) -> None:
    for number in range(25):
        await attach(store, f"c{number}", expiry=0, will=b"%d" % number)
    sweeps = await asyncio.gather(*(store.sweep_edges(NOW, 10) for _ in range(4)))
    assert max(len(found.wills) for found in sweeps) <= 10
    found = [will for sweep in sweeps for will in sweep.wills]
    assert sorted(wills(found)) == sorted(b"%d" % number for number in range(25))
    await store.will_published([will.will_id for will in found])
    assert server.key_names() == []


# Retained messages


async def test_retained_messages_are_replaced_and_removed(store: RedisStore) -> None:
    await store.set_retained("a/b", b"1", 0)
    await store.set_retained("ä", b"2", 0)
    await store.set_retained("a/b", b"3", 0)
    assert await store.get_retained(["ä", "none", "a/b"]) == [b"2", None, b"3"]
    await store.set_retained("a/b", None, 0)
    assert await store.get_retained(["a/b"]) == [None]
    assert [name async for page in store.retained_topics() for name in page] == ["ä"]
    assert await store.get_retained([]) == []


@pytest.mark.parametrize("records", [(b"1", b"2"), (None, b"2"), (b"1", None)])
async def test_a_retained_message_that_comes_again_replaces_nothing_newer(
    store: RedisStore, records: tuple[bytes | None, bytes | None]
) -> None:
    """Its router has ended before it confirmed it, and another one has it."""
    older, newer = records
    await store.set_retained("t", b"0", 0)
    assert await store.set_retained("t", older, 0, None, ["older"]) is None
    assert await store.get_retained(["t"]) == [older]
    assert await store.set_retained("t", newer, 0, None, ["newer"]) is None
    assert await store.set_retained("t", older, 0, None, ["older"]) == RetainedBefore(1)
    assert await store.get_retained(["t"]) == [newer]
    # As often as the same is published by others.
    assert await store.set_retained("t", b"3", 0) is None
    assert await store.set_retained("t", b"3", 0) is None


async def test_identities_of_retained_messages_are_those_of_the_model(store: RedisStore) -> None:
    """What tests/property/test_retained_once.py takes for the store."""
    chance = random.Random(1)
    known: set[str] = set()
    kept: bytes | None = None
    for number in range(500):
        names = [chance.choice(["", *map(str, range(number // 10, number // 10 + 8))])]
        names += chance.choices(["", *map(str, range(number // 5))], k=chance.randrange(3))
        record = chance.choice([b"%d" % number, None])
        count = len([*takewhile(known.__contains__, names)])
        result = await store.set_retained("t", record, 0, None, names)
        assert result == (RetainedBefore(count) if count else None)
        if not count:
            kept = record
            known.update({*names} - {""})
        assert await store.get_retained(["t"]) == [kept]


async def test_identities_of_retained_messages_are_bounded(
    store: RedisStore, server: AnyStore
) -> None:
    for first in range(0, 12_000, 400):
        names = [f"client|1|{number}|0" for number in range(first + 400, first, -1)]
        assert await store.set_retained("t", b"x", 0, None, names) is None
    (key,) = (name for name in server.key_names() if name.endswith(b"}:retained-x"))
    count, left_s = server.command("ZCARD", key), server.command("TTL", key)
    assert isinstance(count, int)
    assert isinstance(left_s, int)
    assert 4096 <= count <= 4096 + 64
    assert 86_000 < left_s <= 86_400
    names = ["client|1|12000|0", "client|1|8000|0", "client|1|1|0"]
    assert await store.set_retained("t", b"x", 0, None, names) == RetainedBefore(2)


async def test_all_retained_topics_are_listed(store: RedisStore) -> None:
    names = [f"topic/{number}" for number in range(3000)]
    await asyncio.gather(*(store.set_retained(name, b"x" * 100, 0) for name in names))
    found = [name async for page in store.retained_topics() for name in page]
    assert set(found) == set(names)
    assert await store.get_retained(names[:250]) == [b"x" * 100] * 250


async def test_large_retained_messages_come_in_several_replies(store: RedisStore) -> None:
    records = [bytes([number]) * 700_000 for number in range(5)]
    for number, record in enumerate(records):
        await store.set_retained(f"t{number}", record, 0)
    assert await store.get_retained([f"t{number}" for number in range(5)]) == records


async def test_retained_messages_expire_in_bounded_steps(store: RedisStore) -> None:
    for number in range(10):
        await store.set_retained(f"t{number}", b"x", NOW + number)
    await store.set_retained("t0", b"y", 0)
    await store.set_retained("t1", b"y", NOW + 1000)
    first = await store.expired_retained(NOW + 5, 3)
    rest = await store.expired_retained(NOW + 5, 3)
    assert len(first) == 3
    assert sorted(first + rest) == ["t2", "t3", "t4", "t5"]
    assert await store.get_retained(["t0", "t1", "t2"]) == [b"y", b"y", None]
    assert await store.expired_retained(NOW + 1000, 100) != []
    assert await store.get_retained(["t0"]) == [b"y"]


# The layout


async def test_another_count_of_partitions_is_refused(store: RedisStore, server: AnyStore) -> None:
    with pytest.raises(StoreRefused, match=r"64 partitions.* 32 partitions"):
        await connect(server, partitions=32)


async def test_another_format_is_refused(server: AnyStore) -> None:
    server.command("SET", "tg:{g}:format", "99:64")
    try:
        with pytest.raises(StoreRefused, match="format version 99"):
            await connect(server)
    finally:
        server.command("FLUSHALL")


async def test_a_server_that_throws_data_away_is_refused(server: AnyStore) -> None:
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreRefused, match="noeviction"):
            await connect(server)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_every_key_of_a_client_carries_one_hash_tag(
    store: RedisStore, server: AnyStore, tmp_path: Path
) -> None:
    reply = await attach(store, will=b"w")
    await store.subscribe("c", reply.epoch, [("a", OPTIONS)])
    await store.append([Append("c", reply.incarnation, b"1", "identity")])
    await store.release("c", reply.epoch, [1])
    await store.receipt("c", reply.epoch, 1, 1)
    await detach(store, reply.epoch)
    tags = {name.split(b"}")[0] for name in server.key_names()}
    assert len(tags) == 1


# Retained messages that are still to be sent


def _options(handling: int) -> SubscriptionOptions:
    return SubscriptionOptions(1, False, False, handling)


async def test_subscriptions_keep_which_retained_messages_are_to_be_sent(store: RedisStore) -> None:
    session = await attach(store, "c")
    wanted = [(f"f{handling}", _options(handling)) for handling in range(3)]
    await store.subscribe("c", session.epoch, [*wanted, ("$share/g/f", _options(0))], "1.1")
    session = await attach(store, "c")
    assert sorted(session.replays) == [("f0", "1.1", ""), ("f1", "1.1", "")]
    # Retain Handling 1 asks for them when the subscription is new.
    await store.subscribe("c", session.epoch, wanted, "2.1")
    session = await attach(store, "c")
    assert sorted(session.replays) == [("f0", "2.1", ""), ("f1", "1.1", "")]
    assert await store.replayed("c", session.epoch, [("f0", "2.1", "a b"), ("f1", "1.1", "")])
    # An older SUBSCRIBE of the same filter does not end a newer one's, nor does another connection.
    assert await store.replayed("c", session.epoch, [("f0", "1.1", "")])
    assert not await store.replayed("c", session.epoch - 1, [("f0", "2.1", "")])
    session = await attach(store, "c")
    assert session.replays == [("f0", "2.1", "a b")]
    await store.unsubscribe("c", session.epoch, ["f0"])
    await store.subscribe("c", session.epoch, wanted)
    session = await attach(store, "c")
    assert session.replays == []
    await store.subscribe("c", session.epoch, wanted, "9.1+")
    session = await attach(store, "c")
    assert sorted(session.replays) == [("f0", "9.1+", ""), ("f1", "9.1+", "")]


async def test_what_is_to_be_sent_ends_with_the_session(store: RedisStore) -> None:
    session = await attach(store, "c")
    await store.subscribe("c", session.epoch, [("f", _options(0))], "1.1")
    session = await attach(store, "c", clean=True)
    session = await attach(store, "c")
    assert session.session_present
    assert session.replays == []
