"""A router in a cluster: what it confirms, where it pushes, and how an instance is fenced.

Inputs: a played store, played edges, publishes and operations of edges. Observed: what the store is
asked, what publishers and edges are told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from support.played_link import MOMENT_S, PlayedEdge, PlayedOrigin, in_virtual_time, turns
from support.played_store import PlayedStore
from tidegate.link.interfaces import AttachSession, RouterUnavailable, SessionFenced
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.membership import MAX_LEASE_S
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    RetainedAdded,
    RetainedRemoved,
    SessionEnded,
    SessionSubscribed,
    StoredSubscriptions,
    WriterFenced,
)
from tidegate.store.client.lanes import StoreFault

QOS1 = SubscriptionOptions(1)


class Scene:
    """A router on a played store, one edge, one publisher."""

    def __init__(self) -> None:
        self.store = PlayedStore()
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
        self.edge = PlayedEdge()
        self.origin = PlayedOrigin()

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


async def _scene(*subscribed: str) -> Scene:
    scene = Scene()
    for client_id in subscribed:
        scene.store.subscriptions.append(StoredSubscriptions(client_id, 1, "", 0, [("t", QOS1)]))
    await scene.start()
    return scene


# While it is not current


@in_virtual_time
async def test_a_publish_without_durable_subscriber_is_answered_at_once() -> None:
    scene = await _scene()
    assert scene.publish(b"a") == 0x10
    scene.router.add_interest("edge-1", "t")
    assert scene.publish(b"b") == 0
    assert scene.edge.payloads == [b"b"]


@in_virtual_time
async def test_a_router_that_may_be_behind_confirms_nothing() -> None:
    scene = await _scene()
    scene.router.add_interest("edge-1", "t")
    await scene.lapse()
    assert scene.publish(b"one", 1) is None
    assert scene.publish(b"two", 2) is None
    # Connected clients do not wait for that, and QoS 0 promises nothing.
    assert scene.publish(b"zero", 0) == 0
    assert scene.edge.payloads == [b"one", b"two", b"zero"]
    await asyncio.sleep(5)
    assert scene.origin.answers == []
    scene.back()
    await asyncio.sleep(1)
    assert scene.origin.answers == [(b"one", 0), (b"two", 0)]
    # They were delivered once.
    assert scene.edge.payloads == [b"one", b"two", b"zero"]


@in_virtual_time
async def test_what_waited_reaches_a_session_that_subscribed_meanwhile() -> None:
    scene = await _scene()
    await scene.lapse()
    scene.subscribed("late", "t")
    assert scene.publish(b"a") is None
    scene.back()
    await asyncio.sleep(1)
    assert scene.store.appended == [("late", b"a")]
    assert scene.origin.answers == [(b"a", 0)]


@in_virtual_time
async def test_a_delayed_publish_without_subscriber_is_answered_so() -> None:
    scene = await _scene()
    await scene.lapse()
    assert scene.publish(b"a") is None
    scene.back()
    await asyncio.sleep(1)
    assert scene.origin.answers == [(b"a", 0x10)]
    assert scene.counters.dropped["no_subscriber"] == 1


@in_virtual_time
async def test_what_waited_is_queued_before_what_has_come_since() -> None:
    scene = await _scene("durable")
    await scene.lapse()
    for number in range(5):
        scene.publish(b"%d" % number)
    scene.back()
    number = 5
    while not scene.router.current:
        scene.publish(b"%d" % number)
        number += 1
        await asyncio.sleep(0.05)
    scene.publish(b"%d" % number)
    await asyncio.sleep(1)
    assert scene.store.appended == [("durable", b"%d" % one) for one in range(number + 1)]
    assert [payload for payload, _ in scene.origin.answers] == [
        payload for _, payload in scene.store.appended
    ]


# What others have changed


@in_virtual_time
async def test_what_waited_behind_a_message_that_cannot_be_routed_is_routed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = await _scene("c")
    await scene.lapse()
    for payload in (b"before", b"bad", b"behind"):
        assert scene.publish(payload) is None
    origin: Any = scene.origin
    known = origin.identity

    def identity(message: Publish) -> str:
        if message.payload == b"bad":
            raise ValueError("nobody has thought of this")
        return str(known(message))

    origin.identity = identity
    with caplog.at_level(logging.CRITICAL):
        scene.back()
        await asyncio.sleep(2)
    scene.publish(b"after")
    await asyncio.sleep(MOMENT_S)
    assert [payload for _, payload in scene.store.appended] == [b"before", b"behind", b"after"]
    assert sorted(scene.origin.answers) == [
        (b"after", 0),
        (b"bad", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR),
        (b"before", 0),
        (b"behind", 0),
    ]
    assert scene.counters.internal_errors == 1


@in_virtual_time
async def test_a_publish_whose_receipt_the_store_calls_wrong_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = await _scene("c")

    store: Any = scene.store
    origin: Any = scene.origin

    async def receipt(*_: object) -> bool:
        raise StoreFault("WRONGTYPE")

    store.receipt = receipt
    origin.receipt = lambda _message: 1
    with caplog.at_level(logging.CRITICAL):
        assert scene.publish(b"x", 2) is None
        await asyncio.sleep(MOMENT_S)
    assert scene.origin.answers == [(b"x", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)]
    assert scene.counters.internal_errors == 1


@in_virtual_time
async def test_what_others_have_changed_is_routed_by_after_a_catch_up() -> None:
    scene = await _scene()
    scene.subscribed("other", "t")
    assert scene.publish(b"early") == 0x10
    await scene.router.catch_up()
    assert scene.publish(b"late") is None
    await asyncio.sleep(MOMENT_S)
    assert scene.store.appended == [("other", b"late")]
    scene.store.logs[scene.store.partition("other")].append(SessionEnded("other", 1))
    await scene.router.catch_up()
    assert scene.publish(b"gone") == 0x10


@in_virtual_time
async def test_a_change_of_an_earlier_incarnation_is_not_applied() -> None:
    scene = await _scene()
    log = scene.store.logs[scene.store.partition("c")]
    log += [SessionSubscribed("c", 7, (("t", QOS1),)), SessionEnded("c", 6)]
    log.append(SessionSubscribed("c", 6, (("old", QOS1),)))
    await scene.router.catch_up()
    scene.publish(b"a")
    assert scene.publish(b"b", topic="old") == 0x10
    await asyncio.sleep(MOMENT_S)
    assert scene.store.appended == [("c", b"a")]


@in_virtual_time
async def test_a_subscribe_waits_until_all_others_know_it() -> None:
    scene = await _scene()
    scene.store.registered["r2.x"] = (scene.store.now_ms() + 2000, [0] * 2)
    asked = asyncio.create_task(
        scene.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], ["r3.x"])
    )
    await asyncio.sleep(1)
    assert not asked.done()
    # It is applied here already, by the log as everywhere.
    scene.publish(b"a")
    await asyncio.sleep(1.5)
    await asked
    assert scene.store.appended == [("c", b"a")]


@in_virtual_time
async def test_a_subscribe_does_not_wait_for_those_that_the_edge_tells() -> None:
    scene = await _scene()
    scene.store.registered["r2.x"] = (scene.store.now_ms() + 60_000, [0] * 2)
    began_s = asyncio.get_running_loop().time()
    await scene.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)], ["r2.x"])
    await scene.router.unsubscribe("edge-1", "c", 1, 1, ["t"], ["r2.x"])
    assert asyncio.get_running_loop().time() - began_s < 1
    assert scene.publish(b"a") == 0x10


@in_virtual_time
async def test_a_subscribe_of_an_older_connection_is_refused() -> None:
    scene = await _scene()
    with pytest.raises(SessionFenced):
        await scene.router.subscribe("edge-1", "c", -1, 1, [("t", QOS1)])
    assert scene.publish(b"a") == 0x10


@in_virtual_time
async def test_a_subscribe_without_the_store_fails() -> None:
    scene = await _scene()
    for failing in ("subscribe", "changes", "routers"):
        scene.store.fails = {failing}
        with pytest.raises(RouterUnavailable):
            await scene.router.subscribe("edge-1", "c", 1, 1, [("t", QOS1)])


@in_virtual_time
async def test_a_list_of_retained_topics_knows_what_others_have_stored() -> None:
    scene = await _scene()
    scene.store.logs[0].append(RetainedAdded("theirs"))
    pages = [page async for page in scene.router.match_retained("#")]
    assert pages == [["theirs"]]
    scene.store.logs[0].append(RetainedRemoved("theirs"))
    assert [page async for page in scene.router.match_retained("#")] == []


@in_virtual_time
async def test_what_others_say_of_a_retained_topic_does_not_undo_what_is_being_written() -> None:
    scene = await _scene()
    scene.router.publish(scene.origin, Publish("mine", b"x", 1, True))
    scene.router.retained.apply("mine", False)
    assert scene.router.retained.match("#") == ["mine"]
    await asyncio.sleep(1)
    scene.router.publish(scene.origin, Publish("mine", b"", 1, True))
    scene.router.retained.apply("mine", True)
    assert scene.router.retained.match("#") == []
    await asyncio.sleep(1)
    assert scene.origin.answers == [(b"x", 0x10), (b"", 0x10)]


# Pushes


@in_virtual_time
async def test_a_queued_message_is_pushed_where_the_store_says_that_its_session_is() -> None:
    scene = await _scene("c")
    # This router has heard of an older connection only; the store knows better.
    scene.router.set_session_location("edge-1", "c", 3, 1, False)
    other = PlayedEdge("edge-2")
    scene.router.attach_edge(other)
    scene.store.locations[("c", 1)] = ("edge-2", 4)
    scene.publish(b"a")
    await asyncio.sleep(MOMENT_S)
    assert scene.edge.pushed == []
    ((client_id, epoch, seq, message),) = other.pushed
    assert (client_id, epoch, seq, message.payload) == ("c", 4, 1, b"a")


@in_virtual_time
async def test_a_message_for_a_session_at_an_edge_that_is_not_here_is_queued_only() -> None:
    scene = await _scene("c")
    scene.store.locations[("c", 1)] = ("edge-9", 4)
    scene.publish(b"a")
    await asyncio.sleep(MOMENT_S)
    assert scene.origin.answers == [(b"a", 0)]
    assert scene.edge.pushed == []


# Edges that come and go


@in_virtual_time
async def test_a_detached_edge_has_no_interest() -> None:
    scene = await _scene("c")
    scene.router.add_interest("edge-1", "u")
    scene.router.set_session_location("edge-1", "c", 3, 1, False)
    assert scene.publish(b"a", topic="u") == 0
    scene.router.detach_edge(scene.edge)
    assert scene.publish(b"b", topic="u") == 0x10
    assert scene.router.table.sessions["c"].edge is None
    # The durable session is there still.
    assert scene.publish(b"c") is None


@in_virtual_time
async def test_an_edge_that_attaches_again_has_no_interest_yet() -> None:
    scene = await _scene()
    scene.router.add_interest("edge-1", "t")
    again = PlayedEdge("edge-1")
    scene.router.attach_edge(again)
    assert scene.publish(b"a") == 0x10
    scene.router.add_interest("edge-1", "t")
    scene.publish(b"b")
    # What is said of the first one now does nothing to the second.
    scene.router.detach_edge(scene.edge)
    scene.publish(b"c")
    assert scene.edge.payloads == []
    assert again.payloads == [b"b", b"c"]


@in_virtual_time
async def test_the_newest_connection_of_a_session_counts() -> None:
    scene = await _scene("c")
    other = PlayedEdge("edge-2")
    scene.router.attach_edge(other)
    sessions = scene.router.table.sessions
    scene.router.set_session_location("edge-2", "c", 5, 1, False)
    scene.router.set_session_location("edge-1", "c", 4, 1, False)
    assert sessions["c"].edge is other
    scene.router.set_session_location("edge-1", "c", 4, 1, True)
    assert sessions["c"].edge is other
    scene.router.set_session_location("edge-2", "c", 5, 1, True)
    assert sessions["c"].edge is None


@in_virtual_time
async def test_a_session_attached_here_is_known_here_at_once() -> None:
    scene = await _scene()
    await scene.router.attach("edge-1", AttachSession("c", False, 60))
    assert scene.router.table.sessions["c"].edge is scene.edge


@in_virtual_time
async def test_a_young_router_names_the_edges_that_may_still_come() -> None:
    scene = Scene()
    now_ms = scene.store.now_ms()
    # No router was there for a minute: a lease that has run out says nothing of its edge.
    scene.store.leases = {
        "here": now_ms + 1000,
        "just lapsed": now_ms - 1000,
        "long lapsed": now_ms - 60_000,
    }
    await scene.start()
    assert await scene.router.leased_edges() == ["here", "just lapsed", "long lapsed"]
    # Running edges have attached after the length of a lease; edges that die later are left out.
    await asyncio.sleep(10)
    scene.store.leases = {"died": scene.store.now_ms() + 5000}
    assert await scene.router.leased_edges() == []


# Shared subscriptions of clients that change their sessions


SHARED = "$share/g/t"


def _member(scene: Scene) -> tuple[int, bool] | None:
    """The epoch of c's connection in the group, and whether it is connected; None: not there."""
    shared = scene.router.table.shared
    member = shared.member("g", "t", "c")
    return (member.epoch, shared.has_connected("g", "t")) if member is not None else None


@in_virtual_time
async def test_the_end_of_a_session_that_is_learned_late_leaves_its_successor_in_the_group() -> (
    None
):
    scene = await _scene()
    scene.subscribed("c", SHARED)
    await scene.router.catch_up()
    scene.router.set_session_location("edge-1", "c", 1, 1, False)
    # It comes again without a durable session, through another router and another edge.
    other = PlayedEdge("edge-2")
    scene.router.attach_edge(other)
    scene.router.join_groups("edge-2", "c", 5, [(SHARED, QOS1)])
    assert _member(scene) == (5, True)
    scene.router.set_session_location("edge-1", "c", 1, 1, True)
    assert _member(scene) == (5, True)
    scene.store.logs[scene.store.partition("c")].append(SessionEnded("c", 1))
    await scene.router.catch_up()
    assert _member(scene) == (5, True)
    scene.router.leave_groups("c", 5, [SHARED])
    assert _member(scene) is None


@in_virtual_time
async def test_what_an_edge_says_late_of_a_connection_that_was_taken_over_counts_no_more() -> None:
    """It could not be told of the takeover; it tells all again when it comes to a router."""
    scene = await _scene()
    scene.router.attach_edge(PlayedEdge("edge-2"))
    scene.router.join_groups("edge-2", "c", 5, [(SHARED, QOS1)])
    scene.router.join_groups("edge-1", "c", 4, [(SHARED, QOS1)])
    assert _member(scene) == (5, True)
    scene.router.leave_groups("c", 4, [SHARED])
    scene.router.detach_edge(scene.edge)
    assert _member(scene) == (5, True)


@in_virtual_time
async def test_a_durable_session_takes_the_place_of_an_earlier_connection_in_a_group() -> None:
    scene = await _scene()
    scene.router.join_groups("edge-1", "c", 1, [(SHARED, QOS1)])
    log = scene.store.logs[scene.store.partition("c")]
    log.append(SessionSubscribed("c", 2, ((SHARED, QOS1),)))
    await scene.router.catch_up()
    scene.router.join_groups("edge-1", "c", 1, [(SHARED, QOS1)])
    scene.router.leave_groups("c", 1, [SHARED])
    member = scene.router.table.shared.member("g", "t", "c")
    assert member is not None
    assert member.session is scene.router.table.sessions["c"]


# The end of a life


@in_virtual_time
async def test_a_fenced_router_restarts_as_a_new_instance() -> None:
    scene = await _scene("c")
    old = scene.router.instance
    scene.store.fenced.add(old)
    assert scene.publish(b"a") is None
    scene.publish(b"b")
    await turns()
    assert scene.fenced == 1
    assert scene.router.instance != old
    assert not scene.router.current
    # Nothing of it was written, and nobody is told that it was: edges send it again.
    await asyncio.sleep(5)
    assert scene.store.appended == []
    assert scene.origin.answers == []
    assert scene.router.current
    scene.publish(b"again")
    await asyncio.sleep(MOMENT_S)
    assert scene.store.appended == [("c", b"again")]
    assert scene.origin.answers == [(b"again", 0)]


@in_virtual_time
async def test_a_retained_message_of_a_fenced_instance_is_not_confirmed() -> None:
    scene = await _scene()
    scene.store.fenced.add(scene.router.instance)
    assert scene.router.publish(scene.origin, Publish("kept", b"x", 1, True)) is None
    await asyncio.sleep(5)
    assert scene.fenced == 1
    assert scene.origin.answers == []


@in_virtual_time
async def test_delayed_publishes_are_cancelled_with_their_instance() -> None:
    scene = await _scene("c")
    await scene.lapse()
    scene.publish(b"waits")
    scene.store.fenced.add(scene.router.instance)
    scene.router._was_fenced()
    scene.back()
    await asyncio.sleep(5)
    assert scene.store.appended == []
    assert scene.origin.answers == []


@in_virtual_time
async def test_messages_that_an_edge_enqueues_fail_when_the_instance_is_fenced() -> None:
    # The edge asks again elsewhere; without an answer it would wait for ever.
    scene = await _scene("c")
    scene.store.fenced.add(scene.router.instance)
    asked = [
        asyncio.create_task(scene.router.enqueue("c", 1, [Publish("t", b"%d" % number, 1)]))
        for number in range(2)
    ]
    await turns(1)
    # One of the publishes goes with the first call, the other one waits behind it.
    assert scene.publish(b"p") is None
    await asyncio.sleep(MOMENT_S)
    for task in asked:
        assert task.done()
        assert isinstance(task.exception(), RouterUnavailable)
    assert scene.origin.answers == []
    await scene.router.enqueue("c", 1, [Publish("t", b"again", 1)])
    assert scene.store.appended == [("c", b"again")]


@in_virtual_time
async def test_a_new_instance_does_not_write_what_the_old_one_was_trying_to_queue() -> None:
    scene = await _scene("c")
    scene.store.fails = {"append"}
    assert scene.publish(b"old") is None
    asked = asyncio.create_task(scene.router.enqueue("c", 1, [Publish("t", b"asked", 1)]))
    await asyncio.sleep(MOMENT_S)
    # It is the write of a retained message that tells the router.
    scene.store.fenced.add(scene.router.instance)
    scene.router.publish(scene.origin, Publish("kept", b"x", 1, True))
    await turns()
    assert scene.fenced == 1
    assert isinstance(asked.exception(), RouterUnavailable)
    assert scene.publish(b"new") is None
    scene.store.fails = set()
    await asyncio.sleep(5)
    assert scene.store.appended == [("c", b"new")]
    assert scene.origin.answers == [(b"new", 0)]
    assert scene.fenced == 1


@in_virtual_time
async def test_a_new_instance_does_not_write_what_the_old_one_was_trying_to_retain() -> None:
    scene = await _scene("c")
    answer = _hold_back(scene.store, "set_retained")
    scene.router.publish(scene.origin, Publish("kept", b"old", 1, True))
    await turns()
    scene.store.fenced.add(scene.router.instance)
    assert scene.publish(b"a") is None
    await turns()
    assert scene.fenced == 1
    # Only now does the store fail to answer the old life.
    scene.store.fails = {"set_retained"}
    answer.set()
    await turns()
    scene.store.fails = set()
    await asyncio.sleep(5)
    assert RetainedAdded("kept") not in [change for log in scene.store.logs for change in log]
    assert scene.origin.answers == []
    assert scene.fenced == 1


@in_virtual_time
async def test_the_retained_index_is_verified_after_an_instance_is_fenced() -> None:
    scene = Scene()
    scene.store.retained = {"stays", "goes"}
    await scene.start()
    scene.store.fenced.add(scene.router.instance)
    # QoS 0: nobody sends these again.
    scene.router.publish(scene.origin, Publish("stays", b"", 0, True))
    scene.router.publish(scene.origin, Publish("goes", b"", 0, True))
    scene.router.publish(scene.origin, Publish("new", b"x", 0, True))
    scene.store.fails = {"get_retained"}
    await asyncio.sleep(3)
    assert scene.fenced == 1
    # Another router removes one of them; of the others only the store can say.
    scene.store.retained.remove("goes")
    scene.store.logs[0].append(RetainedRemoved("goes"))
    scene.store.fails = set()
    await asyncio.sleep(3)
    assert [page async for page in scene.router.match_retained("#")] == [["stays"]]


@in_virtual_time
async def test_an_instance_is_fenced_once_however_many_of_its_writes_are_refused() -> None:
    scene = await _scene("c")
    answers = [_hold_back(scene.store, what) for what in ("append", "set_retained")]
    scene.publish(b"a")
    scene.router.publish(scene.origin, Publish("kept", b"x", 1, True))
    await turns()
    scene.store.fenced.add(scene.router.instance)
    answers[0].set()
    await turns()
    new = scene.router.instance
    assert scene.fenced == 1
    answers[1].set()
    await asyncio.sleep(5)
    assert scene.fenced == 1
    assert scene.router.instance == new
    assert scene.origin.answers == []


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
