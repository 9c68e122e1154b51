"""What an edge asks of routers, and tells them: whom, in which order, and what becomes of failures.

Inputs: calls of ``RouterLink`` on a real router client, routers that the test plays. Observed:
requests, and what the caller gets. Routers that come and go: test_members.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import pytest

from support.fake_link import MOMENT_S, FakeEdge, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time, turns
from tidegate.core.rendezvous import owner
from tidegate.link.edge_end.lease import DEGRADED_S
from tidegate.link.edge_end.requests import RETRY_S
from tidegate.link.edge_end.retained_reads import TIMEOUT_S, TOPICS
from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.edge_end.router_membership import RECONNECT_GRACE_S
from tidegate.link.edge_end.router_peer import State
from tidegate.link.edge_end.snapshot import OPERATION_FILTERS
from tidegate.link.edge_end.verification import VERIFY_PAGE
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachSession,
    RetainedForQueue,
    RetainedPage,
    RouterUnavailable,
    SessionFenced,
    SessionLost,
)
from tidegate.link.messages import (
    read_message,
    read_replays,
    write_attached,
    write_message,
    write_options,
)
from tidegate.link.records import PUSH, encode_message
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions

QOS1 = SubscriptionOptions(1)


def _client_of(name: str, *names: str) -> str:
    """A client identifier that is ``name``'s among ``names``."""
    clients = (f"client-{number}" for number in range(1000))
    return next(client for client in clients if owner(client, names) == name)


FIRST, SECOND = _client_of("r1", "r1", "r2"), _client_of("r2", "r1", "r2")


async def _harness(*names: str) -> tuple[RouterClient, list[FakeRouter]]:
    router_client = fleet_of(FakeEdge())
    routers = [FakeRouter(router_client, name) for name in names]
    for router in routers:
        await router.join()
    await asyncio.sleep(1)  # the barriers, too
    return router_client, routers


def _edge(router_client: RouterClient) -> FakeEdge:
    edge = router_client.frame_handler.edge
    assert isinstance(edge, FakeEdge)
    return edge


def _failure(failure: pb.Failure, text: str = "") -> pb.Reply:
    return pb.Reply(failure=failure, text=text)


async def _calls(router_client: RouterClient) -> list[Awaitable[Any]]:
    """Every request whose caller can be told that there is nobody."""
    return [
        router_client.attach("edge-1", AttachSession("c", False, 100)),
        router_client.subscribe("edge-1", "c", 1, 1, [("t", QOS1)]),
        router_client.unsubscribe("edge-1", "c", 1, 1, ["t"]),
        router_client.fetch("c", 1, 1, 0, 10, 1000),
        router_client.release("c", 1, [1]),
        router_client.complete_receipt("c", 1, 1, 1),
        router_client.return_entries("c", 1, 1, [1], 0),
        router_client.read_retained(["t"]),
        router_client.read_retained(["#"]),
    ]


# Whom


@in_virtual_time
async def test_session_work_goes_to_the_router_of_the_client_identifier() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    await router_client.release(FIRST, 1, [1])
    await router_client.release(SECOND, 1, [1])
    assert [one.client_id for one in first.of("release")] == [FIRST]
    assert [one.client_id for one in second.of("release")] == [SECOND]


@in_virtual_time
async def test_a_router_that_leaves_gets_no_new_session_work() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"barrier"}
    second.say(leaving=pb.Leaving())
    await asyncio.sleep(MOMENT_S)
    await router_client.release(SECOND, 1, [1])
    assert [one.client_id for one in first.of("release")] == [SECOND]


@in_virtual_time
async def test_a_request_whose_router_goes_away_is_asked_of_another() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"fetch"}
    asked = asyncio.create_task(router_client.fetch(SECOND, 5, 7, 3, 10, 1000))
    await asyncio.sleep(MOMENT_S)
    assert len(second.of("fetch")) == 1
    first.replies["fetch"] = pb.Reply(fetch=pb.FetchReply(entries=[_entry(4, b"x")]))
    second.lose()
    assert [(seq, message.payload) for seq, message in await asked] == [(4, b"x")]
    (request,) = first.of("fetch")
    assert (request.client_id, request.epoch) == (SECOND, 5)
    assert (request.incarnation, request.after_seq) == (7, 3)
    assert (request.max_count, request.max_bytes) == (10, 1000)


@in_virtual_time
async def test_a_queue_comes_as_records_too() -> None:
    router_client, (router,) = await _harness("r1")
    queued = [(4, Publish("t", b"x", 1)), (6, Publish("u", b"y", 2, properties=b"p"))]
    records = [encode_message(message, "", seq, 0, PUSH) for seq, message in queued]
    router.replies["fetch"] = pb.Reply(fetch=pb.FetchReply(records=b"".join(records)))
    assert await router_client.fetch("c", 5, 7, 3, 10, 1000) == queued


@in_virtual_time
async def test_a_repeated_connect_says_how_often_it_was_sent() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"attach"}
    asked = asyncio.ensure_future(router_client.attach("edge-1", AttachSession(SECOND, False, 0)))
    await asyncio.sleep(MOMENT_S)
    first.replies["attach"] = pb.Reply()
    write_attached(first.replies["attach"].attach, AttachedSession(5, 0, False))
    second.lose()
    await asked
    (sent,), (again,) = second.of("attach"), first.of("attach")
    assert (sent.tries, again.tries) == (0, 1)
    assert sent.number == again.number
    await router_client.attach("edge-1", AttachSession(FIRST, False, 0))
    assert first.of("attach")[-1].number == sent.number + 1
    assert first.of("attach")[-1].tries == 0
    assert not first.of("withdraw_connects")


@in_virtual_time
async def test_repeated_changes_of_subscriptions_say_how_often_they_were_sent() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"subscribe", "unsubscribe"}
    subscribing = asyncio.create_task(
        router_client.subscribe("edge-1", SECOND, 1, 1, [("t", QOS1)])
    )
    removing = asyncio.create_task(router_client.unsubscribe("edge-1", SECOND, 1, 1, ["t"]))
    await asyncio.sleep(MOMENT_S)
    second.lose()
    await asyncio.gather(subscribing, removing)
    for kind in ("subscribe", "unsubscribe"):
        tries = [one.tries for one in second.of(kind) + first.of(kind)]
        assert tries[:2] == [0, 1]
        assert 0 not in tries[1:]
    assert first.of("unsubscribe")[0].number == first.of("subscribe")[0].number + 1


@in_virtual_time
@pytest.mark.parametrize("how", ["client gone", "refused"])
async def test_a_connect_whose_outcome_is_unknown_is_withdrawn(how: str) -> None:
    """A router that hung, or the store, may bring it at last: it must not have a session then."""
    router_client, (first, second) = await _harness("r1", "r2")
    wanted = True
    request = AttachSession(SECOND, False, 0, is_wanted=lambda: wanted)
    if how == "refused":
        second.replies["attach"] = _failure(pb.FAILURE_UNAVAILABLE)
    else:
        second.silent_about = {"attach"}
    asked = asyncio.ensure_future(router_client.attach("edge-1", request))
    await asyncio.sleep(MOMENT_S)
    if how == "client gone":
        wanted = False
        second.lose()
    with pytest.raises(RouterUnavailable):
        await asked
    await asyncio.sleep(1)
    (withdrawn,) = first.of("withdraw_connects") + second.of("withdraw_connects")[-1:]
    (sent,) = second.of("attach")
    assert list(withdrawn.client_ids) == [SECOND]
    assert list(withdrawn.numbers) == [sent.number]
    assert withdrawn.tries[0] > sent.tries


@in_virtual_time
async def test_a_connect_that_reached_no_router_is_not_withdrawn() -> None:
    router_client, (router,) = await _harness("r1")
    with pytest.raises(RouterUnavailable):
        await router_client.attach("edge-1", AttachSession("c", False, 0, is_wanted=lambda: False))
    await asyncio.sleep(1)
    assert not router.of("withdraw_connects")


@in_virtual_time
@pytest.mark.parametrize("failure", [pb.FAILURE_UNAVAILABLE, pb.FAILURE_UNSUPPORTED])
async def test_withdrawing_goes_on_until_a_router_has_stored_it(failure: pb.Failure) -> None:
    """Unless routers are of a version that cannot."""
    router_client, (router,) = await _harness("r1")
    router.replies["attach"] = _failure(pb.FAILURE_UNAVAILABLE)
    router.replies["withdraw_connects"] = _failure(failure)
    for _ in range(2):
        with pytest.raises(RouterUnavailable):
            await router_client.attach("edge-1", AttachSession("c", False, 0))
    await asyncio.sleep(1)
    asked = router.of("withdraw_connects")
    assert (len(asked) > 2) == (failure == pb.FAILURE_UNAVAILABLE)
    del router.replies["withdraw_connects"]
    await asyncio.sleep(1)
    known = len(router.of("withdraw_connects"))
    assert list(router.of("withdraw_connects")[-1].numbers) == [router.of("attach")[-1].number]
    await asyncio.sleep(5)
    assert len(router.of("withdraw_connects")) == known


def _entry(seq: int, payload: bytes) -> pb.QueuedMessage:
    entry = pb.QueuedMessage(seq=seq)
    write_message(entry.message, Publish("t", payload, 1))
    return entry


@in_virtual_time
async def test_a_change_of_subscriptions_waits_for_a_router_for_a_while() -> None:
    router_client, (router,) = await _harness("r1")
    router.lose()
    change = asyncio.create_task(router_client.subscribe("edge-1", "c", 1, 1, [("t", QOS1)]))
    await asyncio.sleep(router_client.config.timeout_s / 2)
    assert not change.done()
    await router.join()
    await change
    assert [one.client_id for one in router.of("subscribe")] == ["c"]


@in_virtual_time
async def test_a_session_that_the_store_has_lost_is_not_one_that_was_taken_over() -> None:
    router_client, (router,) = await _harness("r1")
    for is_lost in (False, True):
        reply = pb.Reply(failure=pb.FAILURE_FENCED, session_lost=is_lost)
        router.replies["release"] = reply
        with pytest.raises(SessionFenced) as error:
            await router_client.release("c", 1, [1])
        assert isinstance(error.value, SessionLost) == is_lost


@in_virtual_time
async def test_routers_that_come_and_go_are_not_asked_for_ever() -> None:
    router_client, (router,) = await _harness("r1")
    router.silent_about = {"release"}
    asked = asyncio.create_task(router_client.release("c", 1, [1]))
    for _ in range(10):
        await asyncio.sleep(MOMENT_S)
        router.lose()
        await router.join()
        if asked.done():
            break
    with pytest.raises(RouterUnavailable):
        await asked


@in_virtual_time
async def test_without_a_router_requests_fail() -> None:
    for call in await _calls(fleet_of(FakeEdge())):
        with pytest.raises(RouterUnavailable):
            await call


@in_virtual_time
async def test_a_store_that_is_away_fails_requests() -> None:
    router_client, (router,) = await _harness("r1")
    for kind in [
        "attach",
        "subscribe",
        "unsubscribe",
        "fetch",
        "release",
        "receipt",
        "return_entries",
        "read_retained",
    ]:
        router.replies[kind] = _failure(pb.FAILURE_UNAVAILABLE, "the store is away")
    for call in await _calls(router_client):
        with pytest.raises(RouterUnavailable, match="the store is away"):
            await call


@in_virtual_time
async def test_an_attach_waits_for_the_lease_of_the_edge() -> None:
    # A session of an edge without a lease would be swept as lost.
    router_client, (router,) = await _harness("r1")
    router_client.lease.until_s = 0.0
    router.silent_about = {"lease"}
    keeping = asyncio.create_task(router_client.lease.keep())
    asked = asyncio.ensure_future(router_client.attach("edge-1", AttachSession("c", False, 0)))
    await asyncio.sleep(1)
    assert not router.of("attach")
    router.answer_all("lease")
    await asked
    assert len(router.of("attach")) == 1
    keeping.cancel()


# Fences


@in_virtual_time
async def test_a_newer_connection_fences_the_older_one() -> None:
    router_client, (router,) = await _harness("r1")
    for kind in ["subscribe", "unsubscribe", "release", "receipt", "return_entries"]:
        router.replies[kind] = _failure(pb.FAILURE_FENCED)
    for call in (
        router_client.subscribe("edge-1", "c", 1, 1, [("t", QOS1)]),
        router_client.unsubscribe("edge-1", "c", 1, 1, ["t"]),
        router_client.release("c", 1, [1]),
        router_client.complete_receipt("c", 1, 1, 1),
        router_client.return_entries("c", 1, 1, [1], 0),
    ):
        with pytest.raises(SessionFenced):
            await call


# Asked until there is an answer


@in_virtual_time
async def test_the_end_of_a_connection_is_sent_until_the_store_has_it() -> None:
    router_client, (router,) = await _harness("r1")
    router.replies["detach"] = _failure(pb.FAILURE_UNAVAILABLE)
    told = asyncio.ensure_future(router_client.detach(DetachSession("c", 3, True, 60, 17)))
    await asyncio.sleep(10 * RETRY_S)
    assert not told.done()
    router.lose()
    await asyncio.sleep(10 * RETRY_S)
    del router.replies["detach"]
    await router.join()
    await told
    request = router.of("detach")[-1]
    assert (request.client_id, request.epoch, request.publish_will) == ("c", 3, True)
    assert (request.session_expiry_s, request.sent_seq) == (60, 17)


# Sessions


@in_virtual_time
async def test_an_attached_session_arrives_whole_and_is_sent_to_every_router() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    session = AttachedSession(9, 4, True, 12, True, 15, [13], b"\1\2", {3: 2}, [("a/#", QOS1)])
    for router in (first, second):
        write_attached(router.replies.setdefault("attach", pb.Reply()).attach, session)
    assert await router_client.attach("edge-1", AttachSession(FIRST, False, 300)) == session
    await asyncio.sleep(MOMENT_S)
    for router in (first, second):
        (hold,) = router.of("hold")
        assert (hold.client_id, hold.epoch, hold.incarnation, hold.ended) == (FIRST, 9, 4, False)
    await router_client.detach(DetachSession(FIRST, 9, False))
    await asyncio.sleep(MOMENT_S)
    for router in (first, second):
        assert [hold.ended for hold in router.of("hold")] == [False, True]


@in_virtual_time
async def test_a_router_that_comes_later_is_sent_the_sessions_that_are_here_now() -> None:
    router_client, (first,) = await _harness("r1")
    for client_id, epoch in (("stays", 1), ("goes", 2), ("ephemeral", 3)):
        session = AttachedSession(epoch, 0 if client_id == "ephemeral" else 5, False)
        first.replies["attach"] = pb.Reply()
        write_attached(first.replies["attach"].attach, session)
        await router_client.attach("edge-1", AttachSession(client_id, False, 300))
    await router_client.detach(DetachSession("goes", 2, False))
    second = FakeRouter(router_client, "r2")
    await second.join()
    assert [(hold.client_id, hold.epoch) for hold in second.of("hold")] == [("stays", 1)]


@in_virtual_time
async def test_the_end_of_an_older_connection_does_not_end_the_newer_one() -> None:
    router_client, (router,) = await _harness("r1")
    for epoch in (1, 2):
        router.replies["attach"] = pb.Reply()
        write_attached(router.replies["attach"].attach, AttachedSession(epoch, 5, True))
        await router_client.attach("edge-1", AttachSession("c", False, 300))
    await router_client.detach(DetachSession("c", 1, False))
    await asyncio.sleep(MOMENT_S)
    assert [(hold.epoch, hold.ended) for hold in router.of("hold")] == [(1, False), (2, False)]


@in_virtual_time
async def test_a_late_answer_to_an_older_connection_does_not_replace_the_newer_one() -> None:
    router_client, (router,) = await _harness("r1")
    for epoch in (2, 1):
        router.replies["attach"] = pb.Reply()
        write_attached(router.replies["attach"].attach, AttachedSession(epoch, 5, True))
        await router_client.attach("edge-1", AttachSession("c", False, 300))
    late = FakeRouter(router_client, "r2")
    await late.join()
    for one in (router, late):
        assert [(hold.epoch, hold.ended) for hold in one.of("hold")] == [(2, False)]


# Subscriptions


@in_virtual_time
async def test_a_durable_subscription_is_stored_once_and_learned_by_every_router() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"catch_up"}
    options = SubscriptionOptions(2, True, False, 1, 77)
    asked = asyncio.create_task(
        router_client.subscribe("edge-1", FIRST, 3, 4, [("a/+", options), ("$share/g/b", QOS1)])
    )
    await asyncio.sleep(MOMENT_S)
    (request,) = first.of("subscribe")
    assert (request.client_id, request.epoch, request.incarnation) == (FIRST, 3, 4)
    assert [one.topic_filter for one in request.subscriptions] == ["a/+", "$share/g/b"]
    assert set(request.told) == {"r1.a", "r2.a"}
    assert not second.of("subscribe")
    assert len(first.of("catch_up")) == len(second.of("catch_up")) == 1
    assert not asked.done(), "a router does not know it yet"
    second.answer_all("catch_up")
    await asked


@in_virtual_time
async def test_a_router_lost_before_it_has_learned_a_subscription_is_waited_for() -> None:
    # It may serve other edges still: a publish through it would miss the new subscription (G1).
    router_client, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"catch_up"}
    asked = asyncio.create_task(router_client.subscribe("edge-1", FIRST, 3, 4, [("a", QOS1)]))
    await asyncio.sleep(MOMENT_S)
    first.silent_about = {"subscribe"}
    second.lose()
    await asyncio.sleep(MOMENT_S)
    # Whoever stores it is asked again, and this time the other router is not told by this edge.
    once, again = first.of("subscribe")
    assert set(once.told) == {"r1.a", "r2.a"}
    assert set(again.told) == {"r1.a"}
    assert not asked.done()
    first.answer_all("subscribe")
    await asked


@in_virtual_time
async def test_a_router_that_cannot_learn_a_subscription_fails_it() -> None:
    router_client, (_, second) = await _harness("r1", "r2")
    second.replies["catch_up"] = _failure(pb.FAILURE_UNAVAILABLE, "the store is away")
    with pytest.raises(RouterUnavailable, match="the store is away"):
        await router_client.subscribe("edge-1", FIRST, 3, 4, [("a", QOS1)])


@in_virtual_time
async def test_a_durable_unsubscription_is_learned_by_every_router() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    await router_client.unsubscribe("edge-1", SECOND, 3, 4, ["a", "b"])
    (request,) = second.of("unsubscribe")
    assert list(request.topic_filters) == ["a", "b"]
    assert (request.client_id, request.epoch, request.incarnation) == (SECOND, 3, 4)
    assert len(first.of("catch_up")) == len(second.of("catch_up")) == 1


@in_virtual_time
async def test_interest_is_synced_when_every_router_has_applied_it() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    for router in (first, second):
        router.operations.clear()
    second.silent_about = {"synced"}
    router_client.add_interest("edge-1", ["a"])
    settled = asyncio.create_task(router_client.interest_synced())
    await asyncio.sleep(MOMENT_S)
    for router in (first, second):
        assert [kind for kind, _ in router.operations] == ["interest", "synced"]
    assert not settled.done()
    second.say(applied=pb.Applied(id=second.of("synced")[0].id))
    await settled


@in_virtual_time
async def test_interest_is_synced_without_a_router_that_goes_away() -> None:
    router_client, (_, second) = await _harness("r1", "r2")
    second.silent_about = {"synced"}
    router_client.add_interest("edge-1", ["a"])
    settled = asyncio.create_task(router_client.interest_synced())
    await asyncio.sleep(MOMENT_S)
    second.lose()
    await settled


@in_virtual_time
async def test_a_router_that_is_about_to_join_is_sent_new_interest_too() -> None:
    router_client, _ = await _harness("r1")
    second = FakeRouter(router_client, "r2")
    second.silent_about = {"synced"}
    await second.join()
    assert list(router_client.routers.members) == ["r1"]
    router_client.add_interest("edge-1", ["new"])
    router_client.remove_interest("edge-1", ["new"])
    await asyncio.sleep(MOMENT_S)
    assert [list(one.added) for one in second.of("interest")] == [["new"], []]
    assert [list(one.removed) for one in second.of("interest")] == [[], ["new"]]


@in_virtual_time
async def test_filters_of_which_only_qos_0_is_needed_are_added_as_such() -> None:
    """Routers that do not know the flag send everything, as they did."""
    router_client, (first,) = await _harness("r1")
    first.operations.clear()
    router_client.add_interest("edge-1", ["a", "b"], only_qos0=True)
    router_client.add_interest("edge-1", ["b", "c"])
    await asyncio.sleep(MOMENT_S)
    added = [(list(one.added), one.only_qos0) for one in first.of("interest")]
    assert added == [(["a", "b"], True), (["b", "c"], False)]
    late = FakeRouter(router_client, "r2")
    await late.join()
    added = [(sorted(one.added), one.only_qos0) for one in late.of("interest")]
    assert added == [(["b", "c"], False), (["a"], True)]


@in_virtual_time
async def test_a_large_snapshot_goes_in_parts() -> None:
    router_client = fleet_of(FakeEdge())
    count = 3 * OPERATION_FILTERS + 1
    for number in range(count):
        router_client.add_interest("edge-1", [f"f/{number}"])
    router = FakeRouter(router_client, "r1")
    await router.join()
    parts = [len(one.added) for one in router.of("interest")]
    assert sum(parts) == count
    assert max(parts) == OPERATION_FILTERS


# Shared subscriptions


@in_virtual_time
async def test_members_without_a_durable_session_are_sent_to_every_router() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    filters = [("$share/g/a", QOS1), ("plain", QOS1), ("$share/g/b", QOS1)]
    await router_client.subscribe("edge-1", "c", 3, 0, filters)
    await asyncio.sleep(MOMENT_S)
    for router in (first, second):
        (member,) = router.of("shared_member")
        assert (member.client_id, member.epoch) == ("c", 3)
        told = [one.topic_filter for one in member.subscriptions]
        assert told == ["$share/g/a", "$share/g/b"]
    router_client.leave_groups("c", 2, ["$share/g/a"])  # an older connection of the same name
    await router_client.unsubscribe("edge-1", "c", 3, 0, ["$share/g/a", "$share/g/other"])
    await asyncio.sleep(MOMENT_S)
    for router in (first, second):
        (left,) = router.of("leave_groups")
        assert (left.epoch, list(left.topic_filters)) == (3, ["$share/g/a"])
    third = FakeRouter(router_client, "r3")
    await third.join()
    (member,) = third.of("shared_member")
    assert [one.topic_filter for one in member.subscriptions] == ["$share/g/b"]


def _shared(number: int, payload: bytes = b"x") -> pb.Shared:
    shared = pb.Shared(client_id="c", epoch=3, group="$share/g/a", id=number)
    write_message(shared.message, Publish("a", payload, 1))
    write_options(shared.options, SubscriptionOptions(1, subscription_identifier=9))
    return shared


def _done(router: FakeRouter) -> list[int]:
    return [number for frame in router.received for number in frame.shared_done]


@in_virtual_time
async def test_a_shared_message_is_given_to_its_member_and_its_end_is_reported() -> None:
    router_client, (router,) = await _harness("r1")
    edge = _edge(router_client)
    router.say(shared=_shared(5))
    ((client_id, epoch, message, group, options),) = edge.shared
    assert (client_id, epoch, group) == ("c", 3, "$share/g/a")
    assert (message.payload, options.subscription_identifier) == (b"x", 9)
    assert _done(router) == []
    edge.receipts[0].done()
    await asyncio.sleep(MOMENT_S)
    assert _done(router) == [5]
    assert not router.of("shared_returned")


@in_virtual_time
async def test_a_shared_message_that_was_not_acknowledged_goes_back() -> None:
    router_client, (router,) = await _harness("r1")
    router.say(shared=_shared(5))
    _edge(router_client).receipts[0].returned()
    await asyncio.sleep(MOMENT_S)
    assert [one.id for one in router.of("shared_returned")] == [5]


@in_virtual_time
async def test_a_shared_message_without_a_member_goes_back_at_once() -> None:
    router_client, (router,) = await _harness("r1")
    _edge(router_client).has_member = False
    router.say(shared=_shared(5))
    router.say(shared=_shared(0, b"untracked"))
    await asyncio.sleep(MOMENT_S)
    assert [one.id for one in router.of("shared_returned")] == [5]
    (again,) = router.of("redispatch")
    assert (again.topic_filter, again.message.payload) == ("$share/g/a", b"untracked")


@in_virtual_time
async def test_a_shared_message_whose_router_is_gone_goes_to_another_router() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    for router in (first, second):
        router.say(shared=_shared(5, router.name.encode()))
    first.lose()
    edge = _edge(router_client)
    for receipt in edge.receipts:
        receipt.returned()
    await asyncio.sleep(MOMENT_S)
    # The one that has lost its router is dispatched anew; the number means nothing elsewhere.
    assert [one.message.payload for one in second.of("redispatch")] == [b"r1"]
    assert [one.id for one in second.of("shared_returned")] == [5]


@in_virtual_time
async def test_the_end_of_a_shared_message_whose_connection_is_gone_is_not_reported() -> None:
    router_client, (router,) = await _harness("r1")
    router.say(shared=_shared(5))
    router.lose()
    await router.join()
    _edge(router_client).receipts[0].done()
    await asyncio.sleep(MOMENT_S)
    assert _done(router) == []


@in_virtual_time
async def test_a_shared_message_waits_for_a_router_that_knows_its_members() -> None:
    router_client = fleet_of(FakeEdge())
    router_client.redispatch("$share/g/a", Publish("a", b"x", 1))
    router = FakeRouter(router_client, "r1")
    router.replies["edges"] = pb.Reply(edges=pb.EdgesReply(living=["edge-2"]))
    await router.join()
    router_client.redispatch("$share/g/a", Publish("a", b"y", 1))
    await asyncio.sleep(MOMENT_S)
    assert not router.of("redispatch")
    router.replies.clear()
    await asyncio.sleep(1)
    assert [one.message.payload for one in router.of("redispatch")] == [b"x", b"y"]
    assert not router_client.counters.dropped["link_lost"]


@in_virtual_time
async def test_a_shared_message_of_qos_0_without_a_member_is_counted() -> None:
    router_client = fleet_of(FakeEdge())
    router_client.redispatch("$share/g/a", Publish("a", b"x"))
    assert router_client.counters.dropped["link_lost"] == router_client.counters.published == 1


async def _redispatched(router: FakeRouter, qos: int) -> RouterClient:
    """A router client that has sent r2 a shared message for another member."""
    router_client = router.router_client
    group = next(
        group
        for group in (f"$share/{number}/a" for number in range(1000))
        if owner(group, ["r1", "r2"]) == router.name
    )
    router_client.redispatch(group, Publish("a", b"x", qos))
    await asyncio.sleep(MOMENT_S)
    assert [one.message.payload for one in router.of("redispatch")] == [b"x"]
    return router_client


@in_virtual_time
async def test_a_shared_message_on_its_way_to_a_router_that_is_lost_goes_to_another() -> None:
    _, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"synced"}
    router_client = await _redispatched(second, 1)
    second.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    assert [one.message.payload for one in first.of("redispatch")] == [b"x"]
    assert not router_client.counters.dropped["link_lost"]


@in_virtual_time
async def test_a_shared_message_that_a_router_has_taken_is_its_own() -> None:
    _, (first, second) = await _harness("r1", "r2")
    router_client = await _redispatched(second, 1)
    second.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    assert not first.of("redispatch")
    assert not router_client.counters.dropped["link_lost"]


@in_virtual_time
async def test_a_shared_message_of_qos_0_on_its_way_to_a_router_that_is_lost_is_counted() -> None:
    _, (first, second) = await _harness("r1", "r2")
    second.silent_about = {"synced"}
    router_client = await _redispatched(second, 0)
    second.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    assert not first.of("redispatch")
    assert router_client.counters.dropped["link_lost"] == router_client.counters.published == 1


# Retained messages


def _retained(*topics: str, after: str = "", list_number: int = 0) -> pb.Reply:
    reply = pb.Reply(read_retained=pb.ReadRetainedReply(after=after, list_number=list_number))
    for topic in topics:
        write_message(reply.read_retained.messages.add(), Publish(topic, b"x", 0, True))
    return reply


def _topics(page: RetainedPage) -> list[str]:
    return [message.topic for message in page.messages]


@in_virtual_time
async def test_a_wildcard_is_read_from_every_router_up_to_where_all_have_read() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    first.replies["read_retained"] = _retained("a", "c", "e", after="e", list_number=7)
    second.replies["read_retained"] = _retained("b", "d", after="d", list_number=8)
    page = await router_client.read_retained(["#"])
    assert (_topics(page), page.after) == (["a", "b", "c", "d"], "d")
    first.replies["read_retained"] = _retained("e", "f", after="f", list_number=7)
    second.replies["read_retained"] = _retained()
    page = await router_client.read_retained(["#"], page)
    assert (_topics(page), page.after) == (["e", "f"], "f")
    first.replies["read_retained"] = _retained()
    page = await router_client.read_retained(["#"], page)
    assert (_topics(page), page.after) == ([], None)
    for router, number in ((first, 7), (second, 8)):
        requests = router.of("read_retained")
        assert [(one.after, one.list_number) for one in requests[:2]] == [("", 0), ("d", number)]
        assert {one.name for one in requests} == {router.name}
        assert [list(one.names) for one in requests] == [["r1", "r2"]] * 3


@in_virtual_time
async def test_a_topic_is_read_from_the_router_that_writes_it_and_the_others_know_the_interest(
) -> None:  # fmt: skip
    router_client, routers = await _harness("r1", "r2")
    topics = [f"t/{number}" for number in range(20)]
    for router in routers:
        mine = [topic for topic in topics if owner(topic, ["r1", "r2"]) == router.name]
        router.replies["read_retained"] = _retained(*mine)
    assert _topics(await router_client.read_retained(topics)) == sorted(topics)
    for router in routers:
        (request,) = router.of("read_retained")
        assert {owner(topic, ["r1", "r2"]) for topic in request.topic_filters} == {router.name}
    asked, other = routers if owner("t", ["r1", "r2"]) == "r1" else reversed(routers)
    other.silent_about = {"synced"}
    router_client.add_interest("edge-1", ["t"])
    reading = asyncio.create_task(router_client.read_retained(["t"]))
    await asyncio.sleep(MOMENT_S)
    assert len(asked.of("read_retained")) == 2
    assert len(other.of("read_retained")) == 1
    assert not reading.done()
    other.lose()
    await reading


@in_virtual_time
async def test_what_a_reply_has_is_said_before_what_the_router_sent_behind_it() -> None:
    """Topics up to the reply's last one, of the router that writes them."""
    router_client, routers = await _harness("r1", "r2")
    for router in routers:
        router.silent_about = {"read_retained"}
    said: list[list[str]] = []
    topics = [f"t/{number}" for number in range(20)]
    reading = asyncio.create_task(
        router_client.read_retained(
            ["#"], None, lambda is_read: said.append([one for one in topics if is_read(one)])
        )
    )
    await asyncio.sleep(MOMENT_S)
    mine = [topic for topic in sorted(topics) if owner(topic, ["r1", "r2"]) == "r1"]
    reply = _retained(after="t/15", list_number=1)
    reply.read_retained.is_of_now = True
    for router, answer in zip(routers, (reply, _retained()), strict=True):
        answer.id = next(number for kind, number in router.unanswered if kind == "read_retained")
        router.say(reply=answer)
        # At once, and not for a router of an earlier version.
        assert said == [[topic for topic in mine if topic <= "t/15"]]
    await reading
    # A reply that nobody waits for any more says nothing: another read may have been answered.
    reading = asyncio.create_task(router_client.read_retained(["#"], None, said.append))  # type: ignore[arg-type]
    await asyncio.sleep(MOMENT_S)
    reading.cancel()
    await asyncio.sleep(MOMENT_S)
    for router in routers:
        router.replies["read_retained"] = reply
        router.answer_all("read_retained")
    await asyncio.sleep(MOMENT_S)
    assert len(said) == 1


@in_virtual_time
async def test_a_router_that_has_just_joined_is_waited_for() -> None:
    """Others may have publishes of its topics that are not stored."""
    router_client, (first,) = await _harness("r1")
    first.silent_about = {"barrier"}
    second = FakeRouter(router_client, "r2")
    await second.join()
    reading = asyncio.create_task(router_client.read_retained(["#"]))
    await asyncio.sleep(MOMENT_S)
    assert not first.of("read_retained") + second.of("read_retained")
    first.answer_all("barrier")
    await reading
    assert first.of("read_retained")
    assert second.of("read_retained")


@in_virtual_time
async def test_retained_messages_are_waited_for_in_bounded_time() -> None:
    router_client, (router,) = await _harness("r1")
    router.silent_about = {"read_retained"}
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    with pytest.raises(RouterUnavailable, match="in time"):
        await router_client.read_retained(["t"])
    assert loop.time() - started_s == pytest.approx(TIMEOUT_S)
    router.silent_about = set()
    await router_client.read_retained(["t"])


@in_virtual_time
async def test_lists_of_routers_are_not_used_when_the_routers_have_changed() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    for router in (first, second):
        router.replies["read_retained"] = _retained("a", after="a", list_number=7)
    page = await router_client.read_retained(["#"])
    second.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    await router_client.read_retained(["#"], page)
    request = first.of("read_retained")[-1]
    assert (request.after, request.list_number, list(request.names)) == ("a", 0, ["r1"])


@in_virtual_time
async def test_retained_messages_whose_routers_go_away_fail() -> None:
    router_client, routers = await _harness("r1", "r2")
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
    for router in routers:
        router.silent_about = {"read_retained"}
    asked = asyncio.create_task(router_client.read_retained(["#"]))
    await asyncio.sleep(MOMENT_S)
    for router in routers:
        assert router.of("read_retained")
        router.lose()
    with pytest.raises(RouterUnavailable):
        await asked
    del asked
    await turns()
    gc.collect()
    # Each of the answers was looked at: none is reported as forgotten.
    assert not unheard


@in_virtual_time
async def test_routers_of_the_version_before_are_asked_for_names_and_then_for_messages() -> None:
    router_client, routers = await _harness("r1", "r2")
    names = [f"{number:03}" for number in range(TOPICS + 10)]
    for router in routers:
        router.replies["read_retained"] = _failure(pb.FAILURE_UNSUPPORTED, "unknown request")
        found = pb.MatchRetainedReply(topics=reversed(names))
        router.replies["match_retained"] = pb.Reply(match_retained=found)
        reply = router.replies["get_retained"] = pb.Reply()
        write_message(reply.get_retained.messages.add(), Publish(router.name, b"x", retain=True))
    page = await router_client.read_retained(["#"])
    assert (_topics(page), page.after) == (["r1", "r2"], names[TOPICS - 1])
    page = await router_client.read_retained(["#"], page)
    assert (_topics(page), page.after) == (["r1", "r2"], None)
    asked = [one for router in routers for one in router.of("get_retained")]
    assert sorted(topic for one in asked for topic in one.topics) == names
    assert sum(len(router.of("match_retained")) for router in routers) == 1


def _for_queue(*topics: str) -> list[RetainedForQueue]:
    options = SubscriptionOptions(1, subscription_identifier=7)
    return [
        RetainedForQueue("#", options, Publish(topic, b"x", 2, True, properties=b"\x01\x01"))
        for topic in topics
    ]


@in_virtual_time
async def test_retained_messages_are_queued_by_the_routers_that_write_them() -> None:
    router_client, routers = await _harness("r1", "r2")
    topics = [f"t/{number}" for number in range(20)]
    await router_client.queue_retained("c", 4, _for_queue(*topics))
    for router in routers:
        (request,) = router.of("queue_retained")
        assert (request.client_id, request.incarnation) == ("c", 4)
        assert {owner(item.topic, ["r1", "r2"]) for item in request.items} == {router.name}
        subscription = request.items[0].subscription
        assert (subscription.topic_filter, subscription.options.flags) == ("#", 1)
        assert subscription.options.subscription_identifier == 7
    assert sum(len(router.of("queue_retained")[0].items) for router in routers) == 20
    routers[0].lose()
    with pytest.raises(RouterUnavailable):
        await router_client.queue_retained("c", 4, _for_queue(*topics))


@in_virtual_time
async def test_routers_of_the_version_before_queue_what_has_been_read() -> None:
    router_client, (router,) = await _harness("r1")
    router.replies["queue_retained"] = _failure(pb.FAILURE_UNSUPPORTED, "unknown request")
    await router_client.queue_retained("c", 4, _for_queue("a", "b"))
    (request,) = router.of("enqueue")
    assert (request.client_id, request.incarnation) == ("c", 4)
    assert [read_message(one) for one in request.messages] == [
        Publish(topic, b"x", 1, True, properties=b"\x01\x01", subscription_identifiers=(7,))
        for topic in "ab"
    ]


@in_virtual_time
async def test_every_router_notes_that_retained_messages_are_sent_again() -> None:
    router_client, routers = await _harness("r1", "r2")
    await router_client.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], generation="1.1", again=["t"])
    (request,) = [one for router in routers for one in router.of("subscribe")]
    assert request.generation == "1.1"
    for router in routers:
        (caught_up,) = router.of("catch_up")
        assert (caught_up.client_id, list(caught_up.topic_filters)) == ("c", ["t"])
    await router_client.replayed("c", 3, [("t", "1.1", "a")])
    (replayed,) = [one for router in routers for one in router.of("replayed")]
    assert (replayed.client_id, replayed.epoch) == ("c", 3)
    assert read_replays(replayed.replays) == [("t", "1.1", "a")]


# Deliveries


@in_virtual_time
async def test_deliveries_pushes_and_kicks_reach_the_edge_in_their_order() -> None:
    router_client, (router,) = await _harness("r1")
    edge = _edge(router_client)
    frame = pb.RouterFrame()
    for number in range(3):
        deliver = frame.operations.add().deliver
        deliver.publisher_id = "p"
        write_message(deliver.message, Publish("t", b"%d" % number))
    push = frame.operations.add().push
    push.client_id, push.epoch, push.seq = "c", 3, 17
    write_message(push.message, Publish("t", b"queued", 1))
    frame.operations.add().kick.CopyFrom(
        pb.Kick(client_id="c", epoch=3, reason_code=ReasonCode.SESSION_TAKEN_OVER)
    )
    router.send(frame)
    assert edge.payloads == [b"0", b"1", b"2"]
    assert edge.publishers == ["p"] * 3
    ((client_id, epoch, seq, message),) = edge.pushed
    assert (client_id, epoch, seq, message.payload, message.qos) == ("c", 3, 17, b"queued", 1)
    assert edge.kicked == [("c", 3, ReasonCode.SESSION_TAKEN_OVER)]


@in_virtual_time
async def test_an_echo_comes_back_after_everything_before_it_was_acted_on() -> None:
    router_client, (router,) = await _harness("r1")
    frame = pb.RouterFrame()
    write_message(frame.operations.add().deliver.message, Publish("t", b"x"))
    frame.operations.add().echo.id = 12
    router.send(frame)
    assert _edge(router_client).payloads == [b"x"]
    await asyncio.sleep(MOMENT_S)
    assert [echo.id for echo in router.of("echo")] == [12]


# Leases


@in_virtual_time
async def test_a_lease_that_had_run_out_has_every_connection_verified() -> None:
    router_client, (router,) = await _harness("r1")
    count = VERIFY_PAGE + 3
    router_client.verification.connections = lambda: [
        (f"c{number}", number) for number in range(count)
    ]
    keeping = asyncio.create_task(router_client.lease.keep())
    await asyncio.sleep(MOMENT_S)
    assert router.of("lease")
    assert not router.of("verify")
    router.replies["lease"] = pb.Reply(lease=pb.LeaseReply(was_lost=True))
    router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[True, False]))
    await asyncio.sleep(router_client.lease.duration_s / 4)
    await asyncio.sleep(MOMENT_S)
    keeping.cancel()
    assert [len(one.client_ids) for one in router.of("verify")] == [VERIFY_PAGE, 3]
    kicked = [client_id for client_id, _, _ in _edge(router_client).kicked]
    assert kicked == ["c1", f"c{VERIFY_PAGE + 1}"]


@in_virtual_time
async def test_while_a_living_router_cannot_be_reached_its_pushes_are_looked_for() -> None:
    router_client, (router,) = await _harness("r1")
    edge = _edge(router_client)
    router.replies["lease"] = pb.Reply(lease=pb.LeaseReply(routers=["r1.a", "r2.a"]))
    tasks = [
        asyncio.create_task(router_client.lease.keep()),
        asyncio.create_task(router_client.lease.watch_unreachable()),
    ]
    await asyncio.sleep(10 * DEGRADED_S)
    assert edge.pushes_lost_count >= 9
    await FakeRouter(router_client, "r2").join()
    await asyncio.sleep(1)
    before = edge.pushes_lost_count
    await asyncio.sleep(10 * DEGRADED_S)
    assert edge.pushes_lost_count == before
    for task in tasks:
        task.cancel()


@in_virtual_time
async def test_an_edge_ends_its_lease_after_all_it_published_is_confirmed() -> None:
    router_client, (first, second) = await _harness("r1", "r2")
    for router in (first, second):
        router.silent_about = {"barrier"}
        router.operations.clear()
    stopping = asyncio.create_task(router_client.stop())
    await asyncio.sleep(MOMENT_S)
    assert not first.of("end_lease") + second.of("end_lease")
    for router in (first, second):
        router.answer_all("barrier")
    await stopping
    assert len(first.of("end_lease") + second.of("end_lease")) == 1


@in_virtual_time
async def test_an_edge_ends_in_time_also_when_no_router_answers() -> None:
    router_client, (router,) = await _harness("r1")
    router.silent_about = {"barrier", "end_lease"}
    began_s = asyncio.get_running_loop().time()
    await router_client.stop()
    assert asyncio.get_running_loop().time() - began_s == router_client.config.timeout_s
    # Nothing is left that would go on after the end.
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_an_edge_that_ends_while_a_router_joins_leaves_nothing_behind() -> None:
    router_client, (first,) = await _harness("r1")
    second = FakeRouter(router_client, "r2")
    first.silent_about = {"barrier"}
    await second.join()
    assert router_client.routers.members["r2"].state is State.GATED
    await router_client.stop()
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
