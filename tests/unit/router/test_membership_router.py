"""A router in a cluster: what it confirms, where it pushes, and how an instance is fenced.

Inputs: a fake store, fake edges, publishes and operations of edges. Observed: what the store is
asked, what publishers and edges are told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from support.fake_link import MOMENT_S, FakeEdge, FakeOrigin
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import (
    FENCED,
    AttachSession,
    DetachSession,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.router.membership import MAX_LEASE_S
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    ConnectionFenced,
    DetachReply,
    DueWill,
    DueWork,
    EdgeLost,
    RetainedAdded,
    RetainedRemoved,
    SessionEnded,
    SessionSubscribed,
    StoredSubscriptions,
    WriterFenced,
)
from tidegate.store.client.lanes import StoreFault
from tidegate.store.records import encode_will

QOS1 = SubscriptionOptions(1)


class Harness:
    """A router on a fake store, one edge, one publisher."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.counters = Counters()
        self.fenced = 0
        store: Any = self.store
        self.router = Router(
            store,
            LimitsConfig(),
            FeaturesConfig(),
            self.counters,
            self.store.now_ms,
            alone=False,
            name="r1",
            on_fenced=self._on_fenced,
        )
        self.edge = FakeEdge()
        self.origin = FakeOrigin()

    def _on_fenced(self) -> None:
        self.fenced += 1

    async def start(self) -> None:
        """Start the router, attach the edge."""
        await self.router.start()
        self.router.attach_edge(self.edge)

    async def lapse(self) -> None:
        """Take the store away for longer than the lease."""
        self.store.fails = {"changes", "renew_router"}
        await asyncio.sleep(2 * MAX_LEASE_S)
        assert not self.router.current

    def back(self) -> None:
        """The store is back."""
        self.store.fails = set()

    def subscribed(self, client_id: str, *filters: str) -> None:
        """Another router has stored subscriptions of a durable session."""
        options = tuple((topic_filter, QOS1) for topic_filter in filters)
        log = self.store.logs[self.store.partition(client_id)]
        log.append(SessionSubscribed(client_id, 1, options))

    def publish(self, payload: bytes, qos: int = 1, topic: str = "t") -> int | None:
        """Publish."""
        return self.router.publish(self.origin, Publish(topic, payload, qos))


async def _harness(*subscribed: str) -> Harness:
    harness = Harness()
    for client_id in subscribed:
        harness.store.subscriptions.append(StoredSubscriptions(client_id, 1, "", 0, [("t", QOS1)]))
    await harness.start()
    return harness


# While it is not current


@in_virtual_time
async def test_a_publish_without_durable_subscriber_is_answered_at_once() -> None:
    harness = await _harness()
    assert harness.publish(b"a") == 0x10
    harness.router.add_interest("edge-1", ["t"])
    assert harness.publish(b"b") == 0
    assert harness.edge.payloads == [b"b"]


@in_virtual_time
async def test_a_router_that_may_be_behind_routes_qos_0_only() -> None:
    """It may not know that the publisher's session has been taken over."""
    harness = await _harness()
    harness.router.add_interest("edge-1", ["t"])
    await harness.lapse()
    assert harness.publish(b"one", 1) is None
    assert harness.publish(b"two", 2) is None
    assert harness.publish(b"zero", 0) == 0
    assert harness.edge.payloads == [b"zero"]
    await asyncio.sleep(5)
    assert harness.origin.answers == []
    harness.back()
    await asyncio.sleep(1)
    assert harness.origin.answers == [(b"one", 0), (b"two", 0)]
    assert harness.edge.payloads == [b"zero", b"one", b"two"]


@in_virtual_time
@pytest.mark.statement("MQTT-4.3.3-10")
async def test_edges_are_given_the_identity_of_what_another_router_may_bring_again() -> None:
    harness = await _harness()
    harness.router.add_interest("edge-1", ["t"])
    harness.publish(b"one", 1)
    harness.publish(b"two", 2)
    assert harness.edge.payloads == [b"one", b"two"]
    assert harness.edge.identities == ["publisher/0"]


@in_virtual_time
async def test_only_what_edges_alone_get_is_forwarded_unread() -> None:
    harness = await _harness("durable")
    router, edge = harness.router, harness.edge
    router.add_interest("edge-1", ["live"])
    router.add_interest("edge-1", ["t"])
    router.add_interest("edge-1", ["low"], only_qos0=True)
    router.join_groups("edge-1", "c", 1, [("$share/g/shared", QOS1)])
    assert [router.edges_only("low", qos) for qos in (0, 1)] == [(edge,), ()]
    assert [router.edges_only("live", qos) for qos in (0, 1)] == [(edge,), (edge,)]
    assert [list(router.edges_only(topic, 0)) for topic in ("t", "shared", "nobody")] == [[]] * 3
    await harness.lapse()
    assert router.edges_only("live", 0) == (edge,)
    assert router.edges_only("live", 1) == ()
    assert harness.publish(b"waits", 1, "live") is None
    harness.back()
    await asyncio.sleep(1)
    assert router.edges_only("live", 1) == (edge,)


@in_virtual_time
async def test_what_waited_reaches_a_session_that_subscribed_meanwhile() -> None:
    harness = await _harness()
    await harness.lapse()
    harness.subscribed("late", "t")
    assert harness.publish(b"a") is None
    harness.back()
    await asyncio.sleep(1)
    assert harness.store.appended == [("late", b"a")]
    assert harness.origin.answers == [(b"a", 0)]


@in_virtual_time
async def test_a_delayed_publish_without_subscriber_is_answered_so() -> None:
    harness = await _harness()
    await harness.lapse()
    assert harness.publish(b"a") is None
    harness.back()
    await asyncio.sleep(1)
    assert harness.origin.answers == [(b"a", 0x10)]
    assert harness.counters.dropped["no_subscriber"] == 1


@in_virtual_time
async def test_what_waited_is_queued_before_what_has_come_since() -> None:
    harness = await _harness("durable")
    await harness.lapse()
    for number in range(5):
        harness.publish(b"%d" % number)
    harness.back()
    number = 5
    while not harness.router.current:
        harness.publish(b"%d" % number)
        number += 1
        await asyncio.sleep(0.05)
    harness.publish(b"%d" % number)
    await asyncio.sleep(1)
    assert harness.store.appended == [("durable", b"%d" % one) for one in range(number + 1)]
    assert [payload for payload, _ in harness.origin.answers] == [
        payload for _, payload in harness.store.appended
    ]


# What others have changed


@in_virtual_time
async def test_what_waited_behind_a_message_that_cannot_be_routed_is_routed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = await _harness("c")
    await harness.lapse()
    for payload in (b"before", b"bad", b"behind"):
        assert harness.publish(payload) is None
    origin: Any = harness.origin
    known = origin.identity

    def identity(message: Publish) -> str:
        if message.payload == b"bad":
            raise ValueError("nobody has thought of this")
        return str(known(message))

    origin.identity = identity
    with caplog.at_level(logging.CRITICAL):
        harness.back()
        await asyncio.sleep(2)
    harness.publish(b"after")
    await asyncio.sleep(MOMENT_S)
    assert [payload for _, payload in harness.store.appended] == [b"before", b"behind", b"after"]
    assert sorted(harness.origin.answers) == [
        (b"after", 0),
        (b"bad", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR),
        (b"before", 0),
        (b"behind", 0),
    ]
    assert harness.counters.internal_errors == 1


@in_virtual_time
async def test_a_publish_whose_receipt_the_store_calls_wrong_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = await _harness("c")

    store: Any = harness.store
    origin: Any = harness.origin

    async def receipt(*_: object) -> bool:
        raise StoreFault("WRONGTYPE")

    store.receipt = receipt
    origin.receipt = lambda _message: 1
    with caplog.at_level(logging.CRITICAL):
        assert harness.publish(b"x", 2) is None
        await asyncio.sleep(MOMENT_S)
    assert harness.origin.answers == [(b"x", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)]
    assert harness.counters.internal_errors == 1


@in_virtual_time
async def test_what_others_have_changed_is_routed_by_after_a_catch_up() -> None:
    harness = await _harness()
    harness.subscribed("other", "t")
    assert harness.publish(b"early") == 0x10
    await harness.router.catch_up()
    assert harness.publish(b"late") is None
    await asyncio.sleep(MOMENT_S)
    assert harness.store.appended == [("other", b"late")]
    harness.store.logs[harness.store.partition("other")].append(SessionEnded("other", 1))
    await harness.router.catch_up()
    assert harness.publish(b"gone") == 0x10


@in_virtual_time
async def test_a_change_of_an_earlier_incarnation_is_not_applied() -> None:
    harness = await _harness()
    log = harness.store.logs[harness.store.partition("c")]
    log += [SessionSubscribed("c", 7, (("t", QOS1),)), SessionEnded("c", 6)]
    log.append(SessionSubscribed("c", 6, (("old", QOS1),)))
    await harness.router.catch_up()
    harness.publish(b"a")
    assert harness.publish(b"b", topic="old") == 0x10
    await asyncio.sleep(MOMENT_S)
    assert harness.store.appended == [("c", b"a")]


@in_virtual_time
async def test_a_subscribe_waits_until_all_others_know_it() -> None:
    harness = await _harness()
    harness.store.registered["r2.x"] = (harness.store.now_ms() + 2000, [0] * 2)
    asked = asyncio.create_task(
        harness.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], ["r3.x"])
    )
    await asyncio.sleep(1)
    assert not asked.done()
    # It is applied here already, by the log as everywhere.
    harness.publish(b"a")
    await asyncio.sleep(1.5)
    await asked
    assert harness.store.appended == [("c", b"a")]


@in_virtual_time
async def test_a_subscribe_does_not_wait_for_those_that_the_edge_tells() -> None:
    harness = await _harness()
    harness.store.registered["r2.x"] = (harness.store.now_ms() + 60_000, [0] * 2)
    began_s = asyncio.get_running_loop().time()
    await harness.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], ["r2.x"])
    await harness.router.unsubscribe("edge-1", "c", 1, 1, ["t"], ["r2.x"])
    assert asyncio.get_running_loop().time() == began_s
    assert harness.publish(b"a") == 0x10


@in_virtual_time
async def test_the_log_is_read_once_where_the_edge_waits_for_this_router_too() -> None:
    harness = await _harness()
    router, calls = harness.router, harness.store.calls
    for excluded, reads in (([], 1), ([router.instance], 0)):
        calls.clear()
        await router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], excluded)
        await router.unsubscribe("edge-1", "c", 1, 1, ["t"], excluded)
        await router.settle("c", 1, excluded)
        assert calls.count("changes") == 3 * reads
    await router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], [router.instance])
    await router.catch_up()
    harness.publish(b"a")
    await turns()
    assert harness.store.appended == [("c", b"a")]


@in_virtual_time
async def test_a_subscribe_of_an_older_connection_is_refused() -> None:
    harness = await _harness()
    with pytest.raises(SessionFenced):
        await harness.router.subscribe("edge-1", "c", -1, 1, [("t", QOS1)])
    assert harness.publish(b"a") == 0x10


@in_virtual_time
async def test_a_subscribe_without_the_store_fails() -> None:
    harness = await _harness()
    for failing in ("subscribe", "changes", "routers"):
        harness.store.fails = {failing}
        with pytest.raises(RouterUnavailable):
            await harness.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)])


@in_virtual_time
async def test_a_list_of_retained_topics_knows_what_others_have_stored() -> None:
    harness = await _harness()
    harness.store.logs[0].append(RetainedAdded("theirs"))
    pages = [page async for page in harness.router.match_retained("#")]
    assert pages == [["theirs"]]
    harness.store.logs[0].append(RetainedRemoved("theirs"))
    assert [page async for page in harness.router.match_retained("#")] == []


@in_virtual_time
async def test_what_others_say_of_a_retained_topic_does_not_undo_what_is_being_written() -> None:
    harness = await _harness()
    harness.router.publish(harness.origin, Publish("mine", b"x", 1, True))
    harness.router.retained.apply("mine", False)
    assert harness.router.retained.match("#") == ["mine"]
    await asyncio.sleep(1)
    harness.router.publish(harness.origin, Publish("mine", b"", 1, True))
    harness.router.retained.apply("mine", True)
    assert harness.router.retained.match("#") == []
    await asyncio.sleep(1)
    assert harness.origin.answers == [(b"x", 0x10), (b"", 0x10)]


# Pushes


@in_virtual_time
async def test_a_queued_message_is_pushed_where_the_store_says_that_its_session_is() -> None:
    harness = await _harness("c")
    # This router has heard of an older connection only; the store knows better.
    harness.router.set_session_location("edge-1", "c", 3, 1, False)
    other = FakeEdge("edge-2")
    harness.router.attach_edge(other)
    harness.store.locations[("c", 1)] = ("edge-2", 4)
    harness.publish(b"a")
    await asyncio.sleep(MOMENT_S)
    assert harness.edge.pushed == []
    ((client_id, epoch, seq, message),) = other.pushed
    assert (client_id, epoch, seq, message.payload) == ("c", 4, 1, b"a")


@in_virtual_time
async def test_a_message_for_a_session_at_an_edge_that_is_not_here_is_queued_only() -> None:
    harness = await _harness("c")
    harness.store.locations[("c", 1)] = ("edge-9", 4)
    harness.publish(b"a")
    await asyncio.sleep(MOMENT_S)
    assert harness.origin.answers == [(b"a", 0)]
    assert harness.edge.pushed == []


# Edges that come and go


@in_virtual_time
async def test_a_detached_edge_has_no_interest() -> None:
    harness = await _harness("c")
    harness.router.add_interest("edge-1", ["u"])
    harness.router.set_session_location("edge-1", "c", 3, 1, False)
    assert harness.publish(b"a", topic="u") == 0
    harness.router.detach_edge(harness.edge)
    assert harness.publish(b"b", topic="u") == 0x10
    assert harness.router.table.sessions["c"].edge is None
    # The durable session is there still.
    assert harness.publish(b"c") is None


@in_virtual_time
async def test_an_edge_that_attaches_again_has_no_interest_yet() -> None:
    harness = await _harness()
    harness.router.add_interest("edge-1", ["t"])
    again = FakeEdge("edge-1")
    harness.router.attach_edge(again)
    assert harness.publish(b"a") == 0x10
    harness.router.add_interest("edge-1", ["t"])
    harness.publish(b"b")
    # What is said of the first one now does nothing to the second.
    harness.router.detach_edge(harness.edge)
    harness.publish(b"c")
    assert harness.edge.payloads == []
    assert again.payloads == [b"b", b"c"]


@in_virtual_time
async def test_the_newest_connection_of_a_session_counts() -> None:
    harness = await _harness("c")
    other = FakeEdge("edge-2")
    harness.router.attach_edge(other)
    sessions = harness.router.table.sessions
    harness.router.set_session_location("edge-2", "c", 5, 1, False)
    harness.router.set_session_location("edge-1", "c", 4, 1, False)
    assert sessions["c"].edge is other
    harness.router.set_session_location("edge-1", "c", 4, 1, True)
    assert sessions["c"].edge is other
    harness.router.set_session_location("edge-2", "c", 5, 1, True)
    assert sessions["c"].edge is None


@in_virtual_time
async def test_a_session_attached_here_is_known_here_at_once() -> None:
    harness = await _harness()
    await harness.router.attach("edge-1", AttachSession("c", False, 60))
    assert harness.router.table.sessions["c"].edge is harness.edge


@in_virtual_time
async def test_a_young_router_names_the_edges_that_may_still_come() -> None:
    harness = Harness()
    now_ms = harness.store.now_ms()
    # No router was there for a minute: a lease that has run out says nothing of its edge.
    harness.store.leases = {
        "here": now_ms + 1000,
        "just lapsed": now_ms - 1000,
        "long lapsed": now_ms - 60_000,
    }
    await harness.start()
    assert await harness.router.leased_edges() == ["here", "just lapsed", "long lapsed"]
    # Running edges have attached after the length of a lease; edges that die later are left out.
    await asyncio.sleep(10)
    harness.store.leases = {"died": harness.store.now_ms() + 5000}
    assert await harness.router.leased_edges() == []


# Shared subscriptions of clients that change their sessions


SHARED = "$share/g/t"


def _member(harness: Harness) -> tuple[int, bool] | None:
    """The epoch of c's connection in the group, and whether it is connected; None: not there."""
    shared = harness.router.table.shared
    member = shared.member("g", "t", "c")
    return (member.epoch, shared.has_connected("g", "t")) if member is not None else None


@in_virtual_time
async def test_the_end_of_a_session_that_is_learned_late_leaves_its_successor_in_the_group() -> (
    None
):
    harness = await _harness()
    harness.subscribed("c", SHARED)
    await harness.router.catch_up()
    harness.router.set_session_location("edge-1", "c", 1, 1, False)
    # It comes again without a durable session, through another router and another edge.
    other = FakeEdge("edge-2")
    harness.router.attach_edge(other)
    harness.router.join_groups("edge-2", "c", 5, [(SHARED, QOS1)])
    assert _member(harness) == (5, True)
    harness.router.set_session_location("edge-1", "c", 1, 1, True)
    assert _member(harness) == (5, True)
    harness.store.logs[harness.store.partition("c")].append(SessionEnded("c", 1))
    await harness.router.catch_up()
    assert _member(harness) == (5, True)
    harness.router.leave_groups("c", 5, [SHARED])
    assert _member(harness) is None


@in_virtual_time
async def test_what_an_edge_says_late_of_a_connection_that_was_taken_over_counts_no_more() -> None:
    """It could not be told of the takeover; it tells all again when it comes to a router."""
    harness = await _harness()
    harness.router.attach_edge(FakeEdge("edge-2"))
    harness.router.join_groups("edge-2", "c", 5, [(SHARED, QOS1)])
    harness.router.join_groups("edge-1", "c", 4, [(SHARED, QOS1)])
    assert _member(harness) == (5, True)
    harness.router.leave_groups("c", 4, [SHARED])
    harness.router.detach_edge(harness.edge)
    assert _member(harness) == (5, True)


@in_virtual_time
async def test_a_durable_session_takes_the_place_of_an_earlier_connection_in_a_group() -> None:
    harness = await _harness()
    harness.router.join_groups("edge-1", "c", 1, [(SHARED, QOS1)])
    log = harness.store.logs[harness.store.partition("c")]
    log.append(SessionSubscribed("c", 2, ((SHARED, QOS1),)))
    await harness.router.catch_up()
    harness.router.join_groups("edge-1", "c", 1, [(SHARED, QOS1)])
    harness.router.leave_groups("c", 1, [SHARED])
    member = harness.router.table.shared.member("g", "t", "c")
    assert member is not None
    assert member.session is harness.router.table.sessions["c"]


# The end of a life


@in_virtual_time
async def test_a_fenced_router_restarts_as_a_new_instance() -> None:
    harness = await _harness("c")
    old = harness.router.instance
    harness.store.fenced.add(old)
    assert harness.publish(b"a") is None
    harness.publish(b"b")
    await turns()
    assert harness.fenced == 1
    assert harness.router.instance != old
    assert not harness.router.current
    # Nothing of it was written, and nobody is told that it was: edges send it again.
    await asyncio.sleep(5)
    assert harness.store.appended == []
    assert harness.origin.answers == []
    assert harness.router.current
    harness.publish(b"again")
    await asyncio.sleep(MOMENT_S)
    assert harness.store.appended == [("c", b"again")]
    assert harness.origin.answers == [(b"again", 0)]


@in_virtual_time
async def test_a_fenced_router_that_writes_nothing_restarts_at_a_connect() -> None:
    """A CONNECT may be all that comes; it is refused once, not until something is queued."""
    harness = await _harness()
    old = harness.router.instance
    harness.store.fenced.add(old)
    with pytest.raises(RouterUnavailable):
        await harness.router.attach("edge-1", AttachSession("c", True, 0))
    assert harness.fenced == 1
    assert harness.router.instance != old
    await asyncio.sleep(5)
    assert (await harness.router.attach("edge-1", AttachSession("c", True, 0))).epoch


@in_virtual_time
async def test_a_retained_message_of_a_fenced_instance_is_not_confirmed() -> None:
    harness = await _harness()
    harness.store.fenced.add(harness.router.instance)
    assert harness.router.publish(harness.origin, Publish("kept", b"x", 1, True)) is None
    await asyncio.sleep(5)
    assert harness.fenced == 1
    assert harness.origin.answers == []


@in_virtual_time
async def test_delayed_publishes_are_cancelled_with_their_instance() -> None:
    harness = await _harness("c")
    await harness.lapse()
    harness.publish(b"waits")
    harness.store.fenced.add(harness.router.instance)
    harness.router._was_fenced()
    harness.back()
    await asyncio.sleep(5)
    assert harness.store.appended == []
    assert harness.origin.answers == []


@in_virtual_time
async def test_messages_that_an_edge_enqueues_fail_when_the_instance_is_fenced() -> None:
    # The edge asks again elsewhere; without an answer it would wait for ever.
    harness = await _harness("c")
    harness.store.fenced.add(harness.router.instance)
    asked = [
        asyncio.create_task(harness.router.enqueue("c", 1, [Publish("t", b"%d" % number, 1)]))
        for number in range(2)
    ]
    await turns(1)
    # One of the publishes goes with the first call, the other one waits behind it.
    assert harness.publish(b"p") is None
    await asyncio.sleep(MOMENT_S)
    for task in asked:
        assert task.done()
        assert isinstance(task.exception(), RouterUnavailable)
    assert harness.origin.answers == []
    await harness.router.enqueue("c", 1, [Publish("t", b"again", 1)])
    assert harness.store.appended == [("c", b"again")]


@in_virtual_time
async def test_a_new_instance_does_not_write_what_the_old_one_was_trying_to_queue() -> None:
    harness = await _harness("c")
    harness.store.fails = {"append"}
    assert harness.publish(b"old") is None
    asked = asyncio.create_task(harness.router.enqueue("c", 1, [Publish("t", b"asked", 1)]))
    await asyncio.sleep(MOMENT_S)
    # It is the write of a retained message that tells the router.
    harness.store.fenced.add(harness.router.instance)
    harness.router.publish(harness.origin, Publish("kept", b"x", 1, True))
    await turns()
    assert harness.fenced == 1
    assert isinstance(asked.exception(), RouterUnavailable)
    assert harness.publish(b"new") is None
    harness.store.fails = set()
    await asyncio.sleep(5)
    assert harness.store.appended == [("c", b"new")]
    assert harness.origin.answers == [(b"new", 0)]
    assert harness.fenced == 1


@in_virtual_time
async def test_a_new_instance_does_not_write_what_the_old_one_was_trying_to_retain() -> None:
    harness = await _harness("c")
    answer = _hold_back(harness.store, "set_retained")
    harness.router.publish(harness.origin, Publish("kept", b"old", 1, True))
    await turns()
    harness.store.fenced.add(harness.router.instance)
    assert harness.publish(b"a") is None
    await turns()
    assert harness.fenced == 1
    # Only now does the store fail to answer the old life.
    harness.store.fails = {"set_retained"}
    answer.set()
    await turns()
    harness.store.fails = set()
    await asyncio.sleep(5)
    assert RetainedAdded("kept") not in [change for log in harness.store.logs for change in log]
    assert harness.origin.answers == []
    assert harness.fenced == 1


@in_virtual_time
async def test_the_retained_index_is_verified_after_an_instance_is_fenced() -> None:
    harness = Harness()
    harness.store.retained = {"stays", "goes"}
    await harness.start()
    harness.store.fenced.add(harness.router.instance)
    # QoS 0: nobody sends these again.
    harness.router.publish(harness.origin, Publish("stays", b"", 0, True))
    harness.router.publish(harness.origin, Publish("goes", b"", 0, True))
    harness.router.publish(harness.origin, Publish("new", b"x", 0, True))
    harness.store.fails = {"get_retained"}
    await asyncio.sleep(3)
    assert harness.fenced == 1
    # Another router removes one of them; of the others only the store can say.
    harness.store.retained.remove("goes")
    harness.store.logs[0].append(RetainedRemoved("goes"))
    harness.store.fails = set()
    await asyncio.sleep(3)
    assert [page async for page in harness.router.match_retained("#")] == [["stays"]]


@in_virtual_time
async def test_an_instance_is_fenced_once_however_many_of_its_writes_are_refused() -> None:
    harness = await _harness("c")
    answers = [_hold_back(harness.store, what) for what in ("append", "set_retained")]
    harness.publish(b"a")
    harness.router.publish(harness.origin, Publish("kept", b"x", 1, True))
    await turns()
    harness.store.fenced.add(harness.router.instance)
    answers[0].set()
    await turns()
    new = harness.router.instance
    assert harness.fenced == 1
    answers[1].set()
    await asyncio.sleep(5)
    assert harness.fenced == 1
    assert harness.router.instance == new
    assert harness.origin.answers == []


def _hold_back(store: Any, call: str) -> asyncio.Event:
    """Let a call of the store wait for the event; it is refused if its life has ended by then."""
    proceed = asyncio.Event()
    original = getattr(store, call)

    async def held(*arguments: Any) -> Any:
        writer = store.writer
        await proceed.wait()
        if writer in store.fenced and call not in store.fails:
            raise WriterFenced
        return await original(*arguments)

    setattr(store, call, held)
    return proceed


# Superseded connections


@in_virtual_time
async def test_what_waited_of_a_superseded_connection_is_refused() -> None:
    harness = await _harness("c")
    harness.router.add_interest("edge-1", ["t"])
    await harness.lapse()
    assert harness.publish(b"old", 1) is None
    harness.origin.is_superseded = True
    harness.back()
    await asyncio.sleep(1)
    assert harness.origin.answers == [(b"old", FENCED)]
    assert harness.store.appended == []
    assert harness.edge.payloads == []


@in_virtual_time
async def test_what_waited_is_refused_although_its_edge_has_lifted_the_fence() -> None:
    """It lifts it when it has applied it; the router becomes current with its next lease."""
    harness = await _harness("c")
    harness.router.add_interest("edge-1", ["t"])
    await harness.lapse()
    assert harness.publish(b"old", 1) is None
    loop = asyncio.get_running_loop()

    def fence(client_id: str, epoch: int) -> None:
        harness.origin.is_superseded = client_id == harness.origin.client_id
        loop.call_soon(setattr, harness.origin, "is_superseded", False)

    harness.edge.fence = fence  # type: ignore[method-assign]
    log = harness.store.logs[harness.store.partition("publisher")]
    log.append(ConnectionFenced("publisher", "edge-1", 5))
    harness.back()
    await asyncio.sleep(1)
    assert harness.origin.answers == [(b"old", FENCED)]
    assert harness.store.appended == []
    assert harness.edge.payloads == []


@in_virtual_time
async def test_fences_and_lost_edges_are_read_from_the_log() -> None:
    harness = await _harness()
    harness.router.join_groups("edge-1", "p", 4, [("$share/g/t", QOS1)])
    harness.router.join_groups("edge-1", "q", 4, [("$share/g/t", QOS1)])
    log = harness.store.logs[harness.store.partition("p")]
    log.append(ConnectionFenced("p", "edge-1", 5))
    log.append(ConnectionFenced("p", "of another router", 5))
    await harness.router.catch_up()
    assert harness.edge.fenced == [("p", 5)]
    assert harness.edge.given_up_count == 0
    # A member that is superseded swallows no message any more.
    shared = harness.router.table.shared
    assert shared.member("g", "t", "p") is None
    assert shared.member("g", "t", "q") is not None
    log.append(EdgeLost("edge-1"))
    log.append(EdgeLost("of another router"))
    await harness.router.catch_up()
    assert harness.edge.given_up_count == 1


@in_virtual_time
async def test_wills_are_left_to_edges() -> None:
    """Each topic has one writer, and only an edge has a way to all of them."""
    harness = await _harness()
    record = encode_will(Will("t", b"gone"), "c", None)
    due = DueWill("4:c", "c", 4, record)
    harness.store.detach_reply = DetachReply(False, None, [due])
    (will,) = (await harness.router.detach(DetachSession("c", 4, True))).wills
    assert (will.will_id, will.epoch, will.message.payload) == ("4:c", 4, b"gone")
    harness.store.due = DueWork(wills=[due])
    harness.edge.knows_wills = harness.edge.publishes_wills = True
    await harness.router.sweeper.sweep()
    assert [one.will_id for one in harness.edge.wills] == ["4:c"]


@in_virtual_time
async def test_a_router_that_no_edge_is_attached_to_yet_claims_no_wills() -> None:
    """It has just started, say: the topic's writer may be another router."""
    harness = await _harness()
    due = DueWork(wills=[DueWill("4:c", "c", 4, encode_will(Will("t", b"gone"), "c", None))])
    harness.store.due = due
    harness.edge.knows_wills = True  # what was sent to it before is still under way
    harness.router.add_interest("edge-1", ["t"])
    await harness.router.sweeper.sweep()
    harness.router.detach_edge(harness.edge)
    await harness.router.sweeper.sweep()
    assert harness.store.due is due
    assert harness.edge.payloads == []
    harness.router.attach_edge(harness.edge)
    harness.edge.publishes_wills = True
    await harness.router.sweeper.sweep()
    assert [one.will_id for one in harness.edge.wills] == ["4:c"]


@in_virtual_time
async def test_edges_that_publish_no_wills_leave_them_to_a_router() -> None:
    """All of an earlier version: better by this router than late."""
    harness = await _harness()
    record = encode_will(Will("t", b"gone"), "c", None)
    harness.store.due = DueWork(wills=[DueWill("4:c", "c", 4, record)])
    harness.router.add_interest("edge-1", ["t"])
    await harness.router.sweeper.sweep()
    assert harness.edge.payloads == [b"gone"]
