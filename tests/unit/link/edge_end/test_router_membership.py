"""Routers that come, go, come back and leave, as an edge sees it: the order is kept (G4).

Inputs: routers that the test plays (``support.fake_link``), publishes. Observed: which router is
sent what, and when. The same over real gRPC with real routers: tests/integration/link.
"""

from __future__ import annotations

import asyncio

import pytest

from support.fake_link import MOMENT_S, FakeEdge, FakeOrigin, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time, turns
from tidegate.core.rendezvous import owner
from tidegate.link.edge_end.endings import FENCE_TIMEOUT_S
from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.edge_end.router_membership import RECONNECT_GRACE_S
from tidegate.link.edge_end.router_peer import State
from tidegate.link.edge_end.session_requests import ROUTER_WAIT_S
from tidegate.link.edge_end.verification import WAIT_FACTOR
from tidegate.link.edge_end.will_publisher import CLAIM_S
from tidegate.link.interfaces import (
    FENCED,
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    RouterUnavailable,
)
from tidegate.link.messages import write_message
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish


def _topic_of(name: str, *names: str) -> str:
    """A topic that is ``name``'s among ``names``."""
    return next(
        topic for topic in (f"t/{number}" for number in range(1000)) if owner(topic, names) == name
    )


#: Topics that stay with r1, and that go to r2 when it comes.
STAYS, MOVES = _topic_of("r1", "r1", "r2"), _topic_of("r2", "r1", "r2")


class Harness:
    """A router client with fake routers, and a publisher that numbers what it publishes."""

    def __init__(self, *names: str, credit_bytes: int = 1_000_000) -> None:
        self.edge = FakeEdge()
        self.router_client: RouterClient = fleet_of(self.edge)
        self.held: list[bool] = []
        self.router_client.publish_dispatcher.on_paused = lambda: self.held.append(True)
        self.router_client.publish_dispatcher.on_resumed = lambda: self.held.append(False)
        self.origin = FakeOrigin()
        self.routers = [FakeRouter(self.router_client, name, credit_bytes) for name in names]

    def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False
    ) -> int | None:
        """Publish."""
        message = Publish(topic, payload, qos, retain=retain, packet_id=5)
        return self.router_client.publish(self.origin, message)

    def states(self) -> dict[str, State]:
        """The members and their states."""
        return {name: channel.state for name, channel in self.router_client.routers.members.items()}

    async def joined(self) -> None:
        """Have all routers join, one after the other."""
        for router in self.routers:
            await router.join()

    @property
    def dropped(self) -> int:
        """Publishes that are counted as lost with the link."""
        return self.router_client.counters.dropped["link_lost"]


def _edges(*edge_ids: str) -> pb.Reply:
    return pb.Reply(edges=pb.EdgesReply(edge_ids=edge_ids))


# Coming


@in_virtual_time
async def test_the_first_router_is_used_at_once() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    harness.publish("t", b"a")
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"a"]
    assert not router.of("barrier")


@in_virtual_time
async def test_a_router_that_comes_gets_its_topics_once_the_barriers_are_done() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    harness.publish(MOVES, b"before")
    first.silent_about = {"barrier"}
    await second.join()
    await asyncio.sleep(MOMENT_S)
    assert harness.states() == {"r1": State.OPEN, "r2": State.GATED}
    harness.publish(MOVES, b"after")
    harness.publish(STAYS, b"other")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"before", b"other"]
    assert second.payloads == []
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"after"]
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}


@in_virtual_time
async def test_qos_0_waits_for_the_barriers_too() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.silent_about = {"barrier"}
    await second.join()
    assert harness.publish(MOVES, b"a", 0) == 0
    harness.publish(MOVES, b"b", 1)
    harness.publish(MOVES, b"c", 0)
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == []
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"a", b"b", b"c"]


@in_virtual_time
async def test_a_router_that_joins_is_sent_the_snapshot_first() -> None:
    harness = Harness("r1")
    router_client, (router,) = harness.router_client, harness.routers
    for number in range(1200):
        router_client.add_interest("edge-1", [f"f/{number}"])
    router_client.add_interest("edge-1", ["gone"])
    router_client.remove_interest("edge-1", ["gone"])
    await router.join()
    kinds = [kind for kind, _ in router.operations]
    told = {name for operation in router.of("interest") for name in operation.added}
    assert told == {f"f/{number}" for number in range(1200)}
    assert kinds.index("synced") > max(
        place for place, kind in enumerate(kinds) if kind == "interest"
    )


@in_virtual_time
async def test_a_router_that_comes_is_not_used_before_the_other_edges_have_come_to_it() -> None:
    # It would not know what their clients subscribe to: messages would be lost without a word.
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.replies["edges"] = _edges("edge-1", "edge-2")
    second.replies["edges"] = _edges("edge-1")
    await second.join()
    await asyncio.sleep(1)
    harness.publish(MOVES, b"early")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"early"]
    assert harness.states() == {"r1": State.OPEN}
    second.replies["edges"] = _edges("edge-1", "edge-2")
    await asyncio.sleep(1)
    harness.publish(MOVES, b"late")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"late"]
    assert not harness.held


@in_virtual_time
async def test_an_edge_that_cannot_come_to_a_router_is_not_waited_for_for_ever() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.replies["edges"] = _edges("edge-1", "edge-2")
    second.replies["edges"] = _edges("edge-1")
    await second.join()
    config = harness.router_client.config
    await asyncio.sleep(2 * config.discovery_interval_s + config.timeout_s + 1)
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}


@in_virtual_time
async def test_where_all_routers_restart_the_edges_with_a_lease_are_waited_for() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    waiting = pb.EdgesReply(edge_ids=["edge-1"], living=["edge-1", "edge-2"])
    first.replies["edges"] = pb.Reply(edges=waiting)
    await first.join()
    harness.publish("t", b"a")
    await asyncio.sleep(1)
    assert all(request.living for request in first.of("edges"))
    assert harness.states() == {}
    assert harness.held == [True]
    # What belongs to the store goes on meanwhile.
    await harness.router_client.release("client", 1, [1])
    first.replies["edges"].edges.edge_ids.append("edge-2")
    await asyncio.sleep(1)
    assert first.payloads == [b"a"]
    assert harness.held == [True, False]
    # A second router is compared with the first one: leases say nothing more.
    second.replies["edges"] = _edges("edge-1", "edge-2")
    await second.join()
    assert not any(request.living for request in second.of("edges"))
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}


@in_virtual_time
async def test_a_router_that_cannot_read_the_leases_is_asked_again() -> None:
    """The store is away for a moment just when all routers have restarted."""
    harness = Harness("r1")
    (router,) = harness.routers
    router.replies["edges"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    await router.join()
    harness.publish("t", b"a")
    await asyncio.sleep(1)
    assert router.payloads == []
    waiting = pb.EdgesReply(edge_ids=["edge-1"], living=["edge-1", "edge-2"])
    router.replies["edges"] = pb.Reply(edges=waiting)
    await asyncio.sleep(1)
    assert router.payloads == []
    waiting.edge_ids.append("edge-2")
    router.replies["edges"] = pb.Reply(edges=waiting)
    await asyncio.sleep(1)
    assert router.payloads == [b"a"]


@in_virtual_time
async def test_a_router_that_is_too_old_to_report_leases_is_used() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    router.replies["edges"] = pb.Reply(failure=pb.FAILURE_UNSUPPORTED)
    await router.join()
    await asyncio.sleep(MOMENT_S)
    assert harness.states() == {"r1": State.OPEN}


@in_virtual_time
async def test_of_routers_that_restart_together_none_relies_on_the_others() -> None:
    harness = Harness("r1", "r2")
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    for router in harness.routers:
        router.lose()
        # The other edge has come to neither; each of them knows only this one.
        waiting = pb.EdgesReply(edge_ids=["edge-1"], living=["edge-1", "edge-2"])
        router.replies["edges"] = pb.Reply(edges=waiting)
    harness.publish(STAYS, b"a")
    harness.publish(MOVES, b"b")
    for router in harness.routers:
        router.connect("b")
    await asyncio.sleep(2)
    assert [router.payloads for router in harness.routers] == [[], []]
    for router in harness.routers:
        router.replies["edges"].edges.edge_ids.append("edge-2")
    await asyncio.sleep(2)
    assert [router.payloads for router in harness.routers] == [[b"a"], [b"b"]]


@in_virtual_time
async def test_a_router_too_old_to_name_its_edges_is_used_at_once() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    for router in harness.routers:
        router.replies["edges"] = pb.Reply(failure=pb.FAILURE_UNSUPPORTED)
    await first.join()
    await second.join()
    await asyncio.sleep(MOMENT_S)
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}


@in_virtual_time
async def test_who_is_gone_while_its_barrier_is_awaited_does_not_stop_the_newcomer() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    harness.publish(MOVES, b"a")
    await asyncio.sleep(MOMENT_S)
    first.silent_about = {"barrier"}
    await second.join()
    harness.publish(MOVES, b"b")
    first.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    # r1 was given up; what it had, and what came after it, are r2's, in their order.
    assert harness.states() == {"r2": State.OPEN}
    assert second.payloads == [b"a", b"b"]


# Going, and coming back


@in_virtual_time
async def test_a_router_that_comes_back_gets_what_it_has_not_answered_again_in_order() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    for payload in (b"a", b"b", b"c"):
        harness.publish("t", payload)
    await asyncio.sleep(MOMENT_S)
    router.settle(b"b")
    router.lose()
    harness.publish("t", b"d")
    await asyncio.sleep(RECONNECT_GRACE_S / 2)
    await router.join()
    assert not router.of("fence")
    harness.publish("t", b"e")
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"a", b"c", b"d", b"e"]
    router.settle()
    assert harness.origin.answers == [(one, 0) for one in (b"b", b"a", b"c", b"d", b"e")]


@in_virtual_time
async def test_a_new_instance_of_a_router_gets_nothing_before_the_old_one_is_fenced() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join("a")
    harness.publish("t", b"a")
    await asyncio.sleep(MOMENT_S)
    router.lose()
    router.silent_about = {"fence"}
    await router.join("b")
    await asyncio.sleep(MOMENT_S)
    (request,) = router.of("fence")
    assert request.instance == "r1.a"
    assert router.payloads == []
    router.answer_all("fence")
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"a"]


@in_virtual_time
async def test_every_instance_that_may_still_write_is_fenced() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join("a")
    harness.publish("t", b"a")
    await asyncio.sleep(MOMENT_S)
    router.lose()
    router.silent_about = {"fence"}
    await router.join("b")
    router.lose()
    router.silent_about = set()
    await router.join("c")
    await asyncio.sleep(MOMENT_S)
    assert sorted(fence.instance for fence in router.of("fence")) == ["r1.a", "r1.b"]
    assert router.payloads == [b"a"]


@in_virtual_time
async def test_fencing_is_repeated_until_the_store_has_done_it() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join("a")
    router.lose()
    router.replies["fence"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    await router.join("b")
    await asyncio.sleep(1)
    assert harness.states() == {"r1": State.DOWN}
    router.replies.clear()
    await asyncio.sleep(1)
    assert harness.states() == {"r1": State.OPEN}


@in_virtual_time
async def test_a_router_that_does_not_come_back_is_fenced_through_another_and_given_up() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    harness.publish(MOVES, b"a")
    harness.publish(STAYS, b"x")
    await asyncio.sleep(MOMENT_S)
    second.lose()
    harness.publish(MOVES, b"b")
    first.silent_about = {"fence"}
    await asyncio.sleep(RECONNECT_GRACE_S / 2)
    assert not first.of("fence")
    await asyncio.sleep(RECONNECT_GRACE_S)
    (request,) = first.of("fence")
    assert request.instance == "r2.a"
    assert first.payloads == [b"x"]
    harness.publish(MOVES, b"c")
    first.answer_all("fence")
    await asyncio.sleep(MOMENT_S)
    harness.publish(MOVES, b"d")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"x", b"a", b"b", b"c", b"d"]
    assert harness.states() == {"r1": State.OPEN}


@in_virtual_time
async def test_a_router_that_is_back_while_it_is_being_fenced_is_not_given_up() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    harness.publish(MOVES, b"a")
    await asyncio.sleep(MOMENT_S)
    second.lose()
    first.replies["fence"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    asked = len(first.of("fence"))
    await second.join("a")
    await asyncio.sleep(5)
    # Nobody goes on fencing a router that is there.
    assert len(first.of("fence")) <= asked + 1
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}
    assert second.payloads == [b"a"]


@in_virtual_time
async def test_a_new_instance_takes_its_topics_like_any_newcomer() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    harness.publish(MOVES, b"a")
    await asyncio.sleep(MOMENT_S)
    second.lose()
    harness.publish(MOVES, b"b")
    first.replies["edges"] = _edges("edge-1", "edge-2")
    second.replies["edges"] = _edges("edge-1")
    await second.join("b")
    await asyncio.sleep(MOMENT_S)
    # Its old instance is fenced, and until the other edges are there too, r1 has its topics.
    assert [fence.instance for fence in second.of("fence")] == ["r2.a"]
    assert first.payloads == [b"a", b"b"]
    second.replies["edges"] = _edges("edge-1", "edge-2")
    first.silent_about = {"barrier"}
    await asyncio.sleep(1)
    harness.publish(MOVES, b"c")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == []
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"c"]
    assert first.payloads == [b"a", b"b"]


@in_virtual_time
async def test_completions_that_are_not_confirmed_are_sent_to_another_router() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    client = _topic_of("r2", "r1", "r2")
    done: list[int] = []
    harness.router_client.complete(client, 3, [1, 2], lambda: done.append(1))
    await asyncio.sleep(MOMENT_S)
    assert [list(one.seqs) for one in second.of("complete")] == [[1, 2]]
    second.lose()
    harness.router_client.complete(client, 3, [3], lambda: done.append(2))
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    assert [list(one.seqs) for one in first.of("complete")] == [[3], [1, 2]]
    first.send(pb.RouterFrame(done_ids=[one.id for one in first.of("complete")], done_codes=[0, 0]))
    assert sorted(done) == [1, 2]


@in_virtual_time
async def test_completions_sent_to_a_router_that_never_joined_are_sent_again() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    router.replies["edges"] = pb.Reply(edges=pb.EdgesReply(living=["edge-2"]))
    await router.join()
    assert harness.states() == {}
    harness.router_client.complete("client", 3, [1, 2])
    await asyncio.sleep(MOMENT_S)
    assert len(router.of("complete")) == 1
    router.lose()
    router.replies.clear()
    await router.join()
    assert [list(one.seqs) for one in router.of("complete")] == [[1, 2]]


@in_virtual_time
async def test_qos_0_that_was_sent_to_a_lost_router_is_counted() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    for payload in (b"a", b"b", b"c"):
        harness.publish("t", payload, 0)
    await asyncio.sleep(MOMENT_S)
    router.send(pb.RouterFrame(unacknowledged_done=1, credit_bytes=102))
    router.lose()
    assert harness.dropped == 2
    assert harness.router_client.counters.published == 2
    # What is published while there is nobody waits: it is not lost.
    harness.publish("t", b"d", 0)
    await router.join()
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"d"]
    assert harness.dropped == 2


@in_virtual_time
async def test_pushes_may_be_lost_when_a_router_goes_and_when_it_comes() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    assert harness.edge.pushes_lost_count == 1
    router.lose()
    assert harness.edge.pushes_lost_count == 2
    await router.join()
    assert harness.edge.pushes_lost_count == 3
    router.say(pushes_lost=pb.PushesLost())
    assert harness.edge.pushes_lost_count == 4


@in_virtual_time
async def test_connections_are_verified_when_a_router_has_been_away() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    harness.router_client.verification.connections = lambda: [("one", 4), ("two", 5), ("three", 6)]
    router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[True, False, True]))
    await router.join()
    await asyncio.sleep(MOMENT_S)
    (request,) = router.of("verify")
    assert list(request.client_ids) == ["one", "two", "three"]
    assert [(client_id, epoch) for client_id, epoch, _ in harness.edge.kicked] == [("two", 5)]


# Nobody there


@in_virtual_time
async def test_publishes_without_any_router_wait_for_the_first_one_and_hold_publishers() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    harness.publish("t", b"a", 0)
    harness.publish("t", b"b", 1)
    assert harness.held == [True]
    await router.join()
    harness.publish("t", b"c", 1)
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"a", b"b", b"c"]
    assert harness.held == [True, False]


@in_virtual_time
async def test_when_the_last_router_goes_publishers_are_held_until_one_is_back() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    first.lose()
    assert harness.held == []
    second.lose()
    assert harness.held == [True]
    await asyncio.sleep(10)
    # With nobody to fence them through, nobody is given up.
    assert harness.states() == {"r1": State.DOWN, "r2": State.DOWN}
    await first.join()
    await asyncio.sleep(MOMENT_S)
    assert harness.held == [True, False]


# Credit


@in_virtual_time
async def test_publishers_are_held_while_a_router_takes_no_more() -> None:
    harness = Harness("r1", credit_bytes=1000)
    (router,) = harness.routers
    await router.join()
    harness.publish("t", b"x" * 400)
    assert harness.held == []
    harness.publish("t", b"y" * 400)
    assert harness.held == [True]
    await asyncio.sleep(MOMENT_S)
    assert len(router.payloads) == 2  # what was taken is sent: the bound is on what follows
    router.settle(b"x" * 400)
    assert harness.held == [True, False]


@in_virtual_time
async def test_publishers_go_on_only_when_every_router_takes_something() -> None:
    harness = Harness("r1", "r2", credit_bytes=500)
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    harness.publish(STAYS, b"x" * 500)
    harness.publish(MOVES, b"y" * 500)
    await asyncio.sleep(MOMENT_S)
    assert harness.held == [True]
    first.settle()
    assert harness.held == [True]
    second.settle()
    assert harness.held == [True, False]


# Leaving


@in_virtual_time
async def test_a_router_that_leaves_is_emptied_before_others_get_its_topics() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    harness.publish(MOVES, b"a")
    harness.publish(MOVES, b"b", 0)
    await asyncio.sleep(MOMENT_S)
    second.silent_about = {"barrier"}
    second.say(leaving=pb.Leaving())
    await turns()
    harness.publish(MOVES, b"c")
    harness.publish(MOVES, b"d", 0)
    harness.publish(STAYS, b"x")
    await asyncio.sleep(MOMENT_S)
    (request,) = second.of("barrier")
    assert request.last
    assert second.payloads == [b"a", b"b"]
    assert first.payloads == [b"x"]
    second.settle(b"a")
    second.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"x", b"c", b"d"]
    assert harness.states() == {"r1": State.OPEN}
    assert not harness.held
    # All that it was sent has reached it, also what it did not find the time to say so of.
    second.lose()
    assert harness.dropped == 0


@in_virtual_time
async def test_completions_on_their_way_to_a_router_that_leaves_are_sent_to_another() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    harness.router_client.complete(_topic_of("r2", "r1", "r2"), 3, [1])
    await asyncio.sleep(MOMENT_S)
    assert len(second.of("complete")) == 1
    second.say(leaving=pb.Leaving())
    await asyncio.sleep(MOMENT_S)
    assert [list(one.seqs) for one in first.of("complete")] == [[1]]


@in_virtual_time
async def test_the_only_router_may_not_leave_until_another_is_there() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.say(leaving=pb.Leaving())
    await asyncio.sleep(10)
    harness.publish("t", b"a")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"a"]
    first.settle()
    await second.join()
    await asyncio.sleep(MOMENT_S)
    harness.publish("t", b"b")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"b"]
    assert harness.states() == {"r2": State.OPEN}


@in_virtual_time
async def test_the_next_instance_of_a_router_is_not_asked_to_leave_with_the_last_one() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join("a")
    first.say(leaving=pb.Leaving())
    await asyncio.sleep(1)
    first.lose()
    await first.join("b")
    await second.join()
    await asyncio.sleep(1)
    assert harness.states() == {"r1": State.OPEN, "r2": State.OPEN}


@in_virtual_time
async def test_of_two_routers_that_leave_at_the_same_time_one_is_kept_to_its_end() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    for router in harness.routers:
        router.say(leaving=pb.Leaving())
    await asyncio.sleep(MOMENT_S)
    assert len(harness.router_client.routers.members) == 1
    harness.publish("t", b"a")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads + second.payloads == [b"a"]


@in_virtual_time
async def test_a_router_that_leaves_before_it_was_open_is_never_opened() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.silent_about = {"barrier"}
    await second.join()
    harness.publish(MOVES, b"a")
    second.silent_about = {"barrier"}
    second.say(leaving=pb.Leaving())
    await asyncio.sleep(MOMENT_S)
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == []
    second.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == []
    assert first.payloads == [b"a"]
    assert harness.states() == {"r1": State.OPEN}


@in_virtual_time
async def test_a_router_that_dies_while_it_leaves_is_treated_as_lost() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    harness.publish(MOVES, b"a")
    await asyncio.sleep(MOMENT_S)
    second.silent_about = {"barrier"}
    second.say(leaving=pb.Leaving())
    await turns()
    harness.publish(MOVES, b"b")
    second.lose()
    await asyncio.sleep(RECONNECT_GRACE_S + 1)
    assert [fence.instance for fence in first.of("fence")] == ["r2.a"]
    assert first.payloads == [b"a", b"b"]


@in_virtual_time
async def test_a_router_that_is_back_after_it_left_joins_again() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    second.say(leaving=pb.Leaving())
    await asyncio.sleep(MOMENT_S)
    assert harness.states() == {"r1": State.OPEN}
    second.lose()
    await second.join("b")
    await asyncio.sleep(MOMENT_S)
    harness.publish(MOVES, b"a")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"a"]
    assert len(first.of("barrier")) == 2


# Frames


@in_virtual_time
async def test_what_a_newer_router_says_beyond_our_knowledge_is_skipped() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    frame = pb.RouterFrame(
        operations=[
            pb.RouterOperation(deliver=pb.Deliver(message=pb.Message(topic="t", payload=b"a"))),
            pb.RouterOperation(deliver=pb.Deliver(message=pb.Message(topic="t", payload=b"b"))),
        ]
    )
    # Between the two: an operation with a field number that is not known here.
    first, second = (one.SerializeToString() for one in frame.operations)
    unknown = b"\xfa\x06\x03abc"  # field 111, three bytes
    data = b"".join(
        b"\x12" + bytes([len(part)]) + part for part in (first, unknown, second + unknown)
    )
    router.send(pb.RouterFrame.FromString(data + unknown))
    assert harness.edge.payloads == [b"a", b"b"]


@pytest.mark.parametrize("code", [0x8E, 0x00, 0xFE])
def test_a_kick_reaches_the_edge_whatever_its_reason(code: int) -> None:
    @in_virtual_time
    async def kick() -> None:
        harness = Harness("r1")
        (router,) = harness.routers
        await router.join()
        router.say(kick=pb.Kick(client_id="c", epoch=4, reason_code=code))
        ((client_id, epoch, reason),) = harness.edge.kicked
        assert (client_id, epoch) == ("c", 4)
        # A newer router may know reasons that this edge does not.
        assert reason == (code if code != 0xFE else 0x80)

    kick()


# Superseded connections


@in_virtual_time
async def test_what_waits_of_a_superseded_connection_is_never_sent() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.silent_about = {"barrier"}
    await second.join()
    harness.publish(MOVES, b"qos 0", 0)
    harness.publish(MOVES, b"old")
    newer = FakeOrigin("publisher", 9)
    harness.router_client.publish(newer, Publish(MOVES, b"new", 1, packet_id=5))
    harness.origin.is_superseded = True
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == [b"new"]
    counters = harness.router_client.counters
    assert counters.dropped["superseded"] == counters.published == 1


@in_virtual_time
async def test_what_a_removed_router_had_of_a_superseded_connection_is_not_sent_again() -> None:
    harness = Harness("r1", "r2")
    await harness.joined()
    await asyncio.sleep(MOMENT_S)
    first, second = harness.routers
    harness.publish(STAYS, b"old")
    await asyncio.sleep(MOMENT_S)
    assert first.payloads == [b"old"]
    harness.origin.is_superseded = True
    first.lose()
    await asyncio.sleep(5)
    assert b"old" not in second.payloads


@in_virtual_time
async def test_connections_are_verified_before_a_router_is_used_again() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.lose()
    harness.publish("t", b"old")
    router.silent_about = {"verify"}
    harness.router_client.verification.connections = lambda: [("publisher", 1)]
    await router.join()
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == []
    router.answer_all("verify")
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"old"]


@in_virtual_time
async def test_an_unverified_router_gets_live_messages_of_qos_0_only() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    client = harness.router_client
    client.verification.connections = lambda: [("publisher", 1)]
    router.replies["verify"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    await router.join()
    harness.publish("t", b"live", qos=0)
    harness.publish("t", b"acknowledged", qos=1)
    harness.publish("t", b"kept", qos=0, retain=True)
    await asyncio.sleep(WAIT_FACTOR * client.config.timeout_s - 1)
    assert router.payloads == []
    await asyncio.sleep(2)
    assert router.payloads == [b"live"]
    harness.publish("t", b"more", qos=0)
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"live", b"more"]
    router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[True]))
    await asyncio.sleep(1)
    assert router.payloads == [b"live", b"more", b"acknowledged", b"kept"]


@in_virtual_time
async def test_what_an_unverified_connection_published_is_dropped_if_it_is_superseded() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    client = harness.router_client
    client.verification.connections = lambda: [("publisher", 1)]
    router.replies["verify"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    await router.join()
    harness.publish("t", b"old", qos=1)
    await asyncio.sleep(WAIT_FACTOR * client.config.timeout_s + 1)
    router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[False]))
    harness.origin.is_superseded = True  # as a connection is that has been closed so
    await asyncio.sleep(1)
    assert harness.edge.kicked[0][:2] == ("publisher", 1)
    assert router.payloads == []


@in_virtual_time
async def test_a_fence_is_applied_and_answered_in_order() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    harness.publish("t", b"before")
    router.say(fence=pb.Fence(client_id="publisher", epoch=5))
    await asyncio.sleep(MOMENT_S)
    assert harness.edge.fenced == [("publisher", 5)]
    kinds = [kind for kind, _ in router.operations if kind in {"publish", "fenced"}]
    assert kinds == ["publish", "fenced"]
    (fenced,) = router.of("fenced")
    assert (fenced.client_id, fenced.epoch) == ("publisher", 5)


@in_virtual_time
async def test_a_takeover_is_complete_when_every_router_has_read_of_it() -> None:
    harness = Harness("r1", "r2")
    await harness.joined()
    first, second = harness.routers
    await asyncio.sleep(MOMENT_S)
    will = pb.PublishWill(will_id="4:c", client_id="c", epoch=4)
    write_message(will.message, Publish("w", b"gone", 0, retain=True))
    for router in harness.routers:
        reply = pb.AttachReply(epoch=5, fence_position=77, wills=[will])
        router.replies["attach"] = pb.Reply(attach=reply)
        router.silent_about = {"catch_up"}
    attaching = asyncio.ensure_future(
        harness.router_client.attach("edge-1", AttachSession("c", True, 0))
    )
    await asyncio.sleep(MOMENT_S)
    (settle,) = first.of("settle") + second.of("settle")
    assert (settle.client_id, settle.position) == ("c", 77)
    assert set(settle.told) == {first.instance, second.instance}
    first.answer_all("catch_up")
    await asyncio.sleep(MOMENT_S)
    assert not attaching.done()
    assert first.payloads + second.payloads == []
    second.answer_all("catch_up")
    await asyncio.sleep(MOMENT_S)
    # The will is on its way before the connection is accepted, and is stored first.
    assert not attaching.done()
    (publish,) = first.of("publish") + second.of("publish")
    assert (publish.client_id, publish.epoch, publish.identity) == ("c", 5, "will|4:c")
    for router in harness.routers:
        router.settle()
    assert (await attaching).epoch == 5
    await asyncio.sleep(MOMENT_S)
    (published,) = first.of("wills_published") + second.of("wills_published")
    assert list(published.will_ids) == ["4:c"]


@in_virtual_time
async def test_a_connect_supersedes_only_who_is_known_to_have_the_session() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.replies["attach"] = pb.Reply(attach=pb.AttachReply(taken_epoch=8))
    router.silent_about = {"attach"}
    is_open = True
    request = AttachSession("c", True, 0, is_wanted=lambda: is_open, own_epoch=3)
    attaching = asyncio.ensure_future(harness.router_client.attach("edge-1", request))
    await asyncio.sleep(MOMENT_S)
    router.answer_all("attach")
    router.silent_about = {"attach"}
    await asyncio.sleep(MOMENT_S)
    assert [one.supersedes for one in router.of("attach")] == [3, 8]
    # Its client does not wait any more: it must take nobody's session.
    is_open = False
    router.answer_all("attach")
    await asyncio.sleep(MOMENT_S)
    with pytest.raises(RouterUnavailable):
        await attaching
    assert len(router.of("attach")) == 2


@in_virtual_time
async def test_a_connect_of_a_client_that_has_gone_is_not_repeated() -> None:
    harness = Harness("r1", "r2")
    await harness.joined()
    for router in harness.routers:
        router.silent_about = {"attach"}
    is_open = True
    request = AttachSession("c", True, 0, is_wanted=lambda: is_open)
    attaching = asyncio.ensure_future(harness.router_client.attach("edge-1", request))
    await asyncio.sleep(MOMENT_S)
    is_open = False
    (first,) = [router for router in harness.routers if router.of("attach")]
    first.lose()
    await asyncio.sleep(MOMENT_S)
    with pytest.raises(RouterUnavailable):
        await attaching
    assert sum(len(router.of("attach")) for router in harness.routers) == 1


@in_virtual_time
async def test_a_connect_waits_a_moment_for_routers_whose_streams_were_closed() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.lose()
    await asyncio.sleep(MOMENT_S)
    attaching = asyncio.ensure_future(
        harness.router_client.attach("edge-1", AttachSession("c", True, 0))
    )
    await asyncio.sleep(MOMENT_S)
    assert not attaching.done()
    await router.join()
    await attaching
    router.lose()
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(RouterUnavailable, match="no router reachable"):
        await harness.router_client.attach("edge-1", AttachSession("d", True, 0))
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(ROUTER_WAIT_S)


@in_virtual_time
async def test_a_connection_ends_when_routers_have_what_it_has_published() -> None:
    harness = Harness("r1", "r2")
    await harness.joined()
    first, second = harness.routers
    await asyncio.sleep(MOMENT_S)
    harness.publish(STAYS, b"a", 0)
    harness.publish(MOVES, b"b", 1)
    first.silent_about = second.silent_about = {"synced"}
    request = DetachSession("publisher", 1, False, publisher=harness.origin)
    ending = asyncio.ensure_future(harness.router_client.detach(request))
    await asyncio.sleep(MOMENT_S)
    assert len(first.of("synced")) + len(second.of("synced")) >= 2
    assert first.of("detach") + second.of("detach") == []
    for router in harness.routers:
        for synced in router.of("synced"):
            router.say(applied=pb.Applied(id=synced.id))
    await ending
    assert len(first.of("detach") + second.of("detach")) == 1


@pytest.mark.parametrize("end", ["confirmed", "superseded", "back"])
def test_a_connection_ends_when_what_it_has_published_is_confirmed(end: str) -> None:
    """A router that has it is lost before that: it is sent again, and must not be too late."""

    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1")
        (router,) = harness.routers
        await router.join()
        harness.publish("t", b"a", 1)
        harness.origin.under_way = True
        request = DetachSession("publisher", 1, False, publisher=harness.origin)
        ending = asyncio.ensure_future(harness.router_client.detach(request))
        await asyncio.sleep(MOMENT_S)
        assert router.of("synced")
        assert router.of("detach") == []
        if end == "superseded":
            router.say(fence=pb.Fence(client_id="publisher", epoch=2))
        elif end == "back":
            harness.router_client.hasten("publisher")
        else:
            harness.origin.under_way = False
            assert harness.origin.on_settled is not None
            harness.origin.on_settled()
        await ending
        assert len(router.of("detach")) == 1
        assert harness.origin.is_superseded == (end == "superseded")

    play()


@pytest.mark.parametrize("reason", ["superseded", "fence", "back", "verified"])
def test_an_end_waits_no_longer_than_it_has_to(reason: str) -> None:
    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1", "r2")
        first, second = harness.routers
        await first.join()
        first.silent_about = {"barrier"}
        await second.join()
        harness.publish(MOVES, b"waits")
        request = DetachSession("publisher", 1, False, publisher=harness.origin)
        ending = asyncio.ensure_future(harness.router_client.detach(request))
        await asyncio.sleep(MOMENT_S)
        assert not ending.done()
        if reason == "back":
            harness.router_client.hasten("publisher")
        elif reason == "fence":
            first.say(fence=pb.Fence(client_id="publisher", epoch=2))
        elif reason == "verified":
            dead = pb.Reply(verify=pb.VerifyReply(live=[False]))
            first.replies["verify"] = second.replies["verify"] = dead
            harness.router_client.verification.start()
        else:
            harness.router_client.endings.supersede("publisher", 1)
        await asyncio.sleep(MOMENT_S)
        assert ending.done()
        assert harness.origin.is_superseded == (reason != "back")
        first.answer_all("barrier")
        await asyncio.sleep(MOMENT_S)
        assert second.payloads == ([b"waits"] if reason == "back" else [])

    play()


@in_virtual_time
async def test_what_is_under_way_of_a_client_that_was_back_here_can_still_be_superseded() -> None:
    """It has connected here and then elsewhere, while this edge hung: nothing of it is sent."""
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.lose()
    harness.publish("t", b"waits")
    request = DetachSession("publisher", 1, False, publisher=harness.origin)
    ending = asyncio.ensure_future(harness.router_client.detach(request))
    await asyncio.sleep(0)
    harness.router_client.hasten("publisher")
    await asyncio.sleep(0)
    router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[False]))
    await router.join()
    await asyncio.sleep(MOMENT_S)
    (verify,) = router.of("verify")
    assert list(zip(verify.client_ids, verify.epochs, strict=True)) == [("publisher", 1)]
    assert router.payloads == []
    await ending


@in_virtual_time
async def test_an_end_that_comes_too_late_supersedes_what_is_under_way() -> None:
    harness = Harness("r1", "r2")
    first, second = harness.routers
    await first.join()
    first.silent_about = {"barrier"}
    await second.join()
    harness.publish(MOVES, b"waits")
    for router in harness.routers:
        router.replies["detach"] = pb.Reply(detach=pb.DetachReply(fenced=True))
    request = DetachSession("publisher", 1, False, publisher=harness.origin)
    ending = asyncio.ensure_future(harness.router_client.detach(request))
    await asyncio.sleep(0)
    harness.router_client.hasten("publisher")
    await ending
    first.answer_all("barrier")
    await asyncio.sleep(MOMENT_S)
    assert second.payloads == []


@in_virtual_time
async def test_the_end_of_a_connection_that_published_nothing_waits_for_nothing() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.silent_about = {"synced"}
    harness.publish("t", b"of another client")
    await harness.router_client.detach(DetachSession("c", 1, False))
    assert len(router.of("detach")) == 1


# Wills


def _will(payload: bytes = b"gone", qos: int = 1) -> pb.PublishWill:
    will = pb.PublishWill(will_id="4:c", client_id="c", epoch=4)
    write_message(will.message, Publish(STAYS, payload, qos))
    return will


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_is_published_by_the_router_of_its_topic(qos: int) -> None:
    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1", "r2")
        await harness.joined()
        first, second = harness.routers
        await asyncio.sleep(MOMENT_S)
        second.say(publish_will=_will(qos=qos))
        await asyncio.sleep(MOMENT_S)
        assert (first.payloads, second.payloads) == ([b"gone"], [])
        assert first.of("wills_published") + second.of("wills_published") == []
        first.settle()
        await asyncio.sleep(MOMENT_S)
        assert len(first.of("wills_published") + second.of("wills_published")) == 1

    play()


@in_virtual_time
async def test_a_will_that_is_refused_or_late_is_left_to_the_next_claim() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.say(publish_will=_will())
    await asyncio.sleep(MOMENT_S)
    router.settle(code=FENCED)
    await asyncio.sleep(MOMENT_S)
    assert router.of("wills_published") == []
    router.say(publish_will=_will(b"waits"))
    await asyncio.sleep(MOMENT_S)
    router.lose()
    await asyncio.sleep(CLAIM_S + 1)
    await router.join()
    await asyncio.sleep(MOMENT_S)
    # By now another edge publishes it.
    assert router.payloads == []
    assert len(harness.router_client.wills._under_way) == 0


@in_virtual_time
async def test_a_will_of_a_client_that_is_back_elsewhere_is_not_sent_again() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    router.say(publish_will=_will())
    await asyncio.sleep(MOMENT_S)
    router.say(fence=pb.Fence(client_id="c", epoch=5))
    await asyncio.sleep(MOMENT_S)
    router.lose()
    await router.join()
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == []


@pytest.mark.parametrize("brought_by", ["CONNECT", "end", "sweep"])
@pytest.mark.parametrize("is_taken", [False, True])
@pytest.mark.statement("MQTT-3.3.1-5")
def test_a_new_stream_gets_no_will_that_another_connection_has_taken(
    is_taken: bool, brought_by: str
) -> None:
    """The fence was sent over the stream that was lost; the store still has the connection."""

    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1")
        (router,) = harness.routers
        await router.join()
        client = harness.router_client
        work: asyncio.Future[AttachedSession] | asyncio.Future[DetachedSession] | None = None
        if brought_by == "CONNECT":
            attach = pb.AttachReply(epoch=5, wills=[_will()])
            router.replies["attach"] = pb.Reply(attach=attach)
            work = asyncio.ensure_future(client.attach("edge-1", AttachSession("c", True, 0)))
        elif brought_by == "end":
            router.replies["detach"] = pb.Reply(detach=pb.DetachReply(wills=[_will()]))
            work = asyncio.ensure_future(client.detach(DetachSession("c", 4, True)))
        else:
            router.say(publish_will=_will())
        await asyncio.sleep(MOMENT_S)
        assert router.payloads == [b"gone"]
        router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=[False], lost=[False]))
        router.replies["verify_wills"] = pb.Reply(
            verify_wills=pb.VerifyWillsReply(here=[not is_taken])
        )
        router.lose()
        await router.join()
        await asyncio.sleep(MOMENT_S)
        assert [list(one.will_ids) for one in router.of("verify_wills")] == [[_will().will_id]]
        assert router.payloads == ([] if is_taken else [b"gone"])
        if work is not None:
            work.cancel()

    play()


@pytest.mark.parametrize("end", ["lost", "DISCONNECT", "superseded"])
@pytest.mark.statement("MQTT-3.14.4-3")
def test_an_edge_withdraws_the_will_of_a_connection_whose_end_is_not_stored(end: str) -> None:
    """If it has ended with DISCONNECT: that of one that is superseded is published."""

    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1")
        (router,) = harness.routers
        await router.join()
        router.silent_about = {"detach"}
        ending = asyncio.ensure_future(
            harness.router_client.detach(
                DetachSession("c", 4, end == "lost", is_superseded=end == "superseded")
            )
        )
        await asyncio.sleep(MOMENT_S)
        router.say(fence=pb.Fence(client_id="c", epoch=5))
        router.say(fence=pb.Fence(client_id="other", epoch=5))
        await asyncio.sleep(MOMENT_S)
        withdrawn = [(one.client_id, one.withdrawn) for one in router.of("fenced")]
        assert withdrawn == [("c", 4 if end == "DISCONNECT" else 0), ("other", 0)]
        # Where the end comes too late, the fence may come even later.
        router.replies["detach"] = pb.Reply(detach=pb.DetachReply(fenced=True))
        router.answer_all("detach")
        await ending
        router.say(fence=pb.Fence(client_id="c", epoch=6))
        await asyncio.sleep(MOMENT_S)
        assert router.of("fenced")[-1].withdrawn == (4 if end == "DISCONNECT" else 0)
        await asyncio.sleep(FENCE_TIMEOUT_S)
        router.say(fence=pb.Fence(client_id="c", epoch=7))
        await asyncio.sleep(MOMENT_S)
        assert router.of("fenced")[-1].withdrawn == 0

    play()


@pytest.mark.parametrize("silent_about", ["catch_up", "withdrawn"])
def test_a_will_that_the_next_connection_takes_before_it_is_published_is_left_to_it(
    silent_about: str,
) -> None:
    """A router does not answer, so the client has left, and has connected at another edge."""

    @in_virtual_time
    async def play() -> None:
        harness = Harness("r1")
        (router,) = harness.routers
        await router.join()
        wills = [_will(), _will(b"other")]
        wills[1].will_id, wills[1].epoch = "9:c", 9
        reply = pb.AttachReply(epoch=5, fence_position=7, wills=wills)
        router.replies["attach"] = pb.Reply(attach=reply)
        router.silent_about = {silent_about}
        attaching = asyncio.ensure_future(
            harness.router_client.attach("edge-1", AttachSession("c", True, 0))
        )
        await asyncio.sleep(MOMENT_S)
        assert router.of(silent_about)
        router.say(fence=pb.Fence(client_id="c", epoch=6))
        router.answer_all(silent_about)
        await asyncio.sleep(MOMENT_S)
        assert router.payloads == [b"other"]
        router.settle()
        assert (await attaching).epoch == 5
        assert harness.router_client.wills.claimed() == []

    play()


@in_virtual_time
async def test_a_fence_of_an_earlier_connection_that_comes_late_takes_no_will() -> None:
    """It took the will from this edge, and the connection that begins now took it back."""
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    will = _will()
    will.will_id, will.epoch = "3:c", 3
    reply = pb.AttachReply(epoch=5, fence_position=7, wills=[will])
    router.replies["attach"] = pb.Reply(attach=reply)
    router.silent_about = {"catch_up"}
    attaching = asyncio.ensure_future(
        harness.router_client.attach("edge-1", AttachSession("c", True, 0))
    )
    await asyncio.sleep(MOMENT_S)
    router.say(fence=pb.Fence(client_id="c", epoch=4))
    router.answer_all("catch_up")
    await asyncio.sleep(MOMENT_S)
    # The router that still has the fence takes it, too.
    (publish,) = router.of("publish")
    assert (publish.message.payload, publish.identity, publish.epoch) == (b"gone", "will|3:c", 5)
    router.settle()
    assert (await attaching).epoch == 5


@in_virtual_time
async def test_withdrawn_wills_are_not_published_at_a_takeover() -> None:
    harness = Harness("r1")
    (router,) = harness.routers
    await router.join()
    wills = [_will(), _will(b"other")]
    wills[1].will_id = "3:c"
    reply = pb.AttachReply(epoch=5, fence_position=7, wills=wills)
    router.replies["attach"] = pb.Reply(attach=reply)
    router.replies["withdrawn"] = pb.Reply(withdrawn=pb.WithdrawnReply(will_ids=["4:c"]))
    attaching = asyncio.ensure_future(
        harness.router_client.attach("edge-1", AttachSession("c", True, 0))
    )
    await asyncio.sleep(MOMENT_S)
    assert router.payloads == [b"other"]
    router.settle()
    assert (await attaching).epoch == 5
