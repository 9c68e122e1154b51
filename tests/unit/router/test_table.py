"""Members of shared subscriptions that move between edges, and change their options."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from typing import Any

import pytest

from support.fake_link import FakeEdge
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.router.table import RoutingTable, SharedMember

FILTER = "$share/g/t"


def _member(table: RoutingTable) -> SharedMember | None:
    return table.shared.member("g", "t", "c")


def test_a_lost_edge_does_not_take_members_with_it_that_have_moved_to_another() -> None:
    table = RoutingTable()
    old: Any = FakeEdge("old")
    new: Any = FakeEdge("new")
    table.join_group(old, "c", 1, FILTER, SubscriptionOptions(1))
    table.join_group(new, "c", 2, FILTER, SubscriptionOptions(1))
    table.drop_edge(old)
    member = _member(table)
    assert member is not None
    assert member.edge is not None
    assert member.edge.edge_id == "new"
    table.drop_edge(new)
    assert _member(table) is None


def test_a_member_that_subscribes_again_has_its_new_options() -> None:
    table = RoutingTable()
    edge: Any = FakeEdge()
    for qos in (1, 2, 0):
        table.join_group(edge, "c", 5, FILTER, SubscriptionOptions(qos))
        member = _member(table)
        assert member is not None
        assert member.options.qos == qos
    # A word of an older connection that comes late changes nothing.
    table.join_group(edge, "c", 4, FILTER, SubscriptionOptions(2))
    member = _member(table)
    assert member is not None
    assert (member.epoch, member.options.qos) == (5, 0)


def test_a_route_follows_what_its_topic_matches() -> None:
    table = RoutingTable()
    edge: Any = FakeEdge("one")
    groups = [("g", "t")]
    assert (table.route("t").edges, table.route("t").groups) == ((), ())
    table.join_group(edge, "c", 1, FILTER, SubscriptionOptions(1))
    assert list(table.route("t").groups) == groups
    assert table.route("t") is table.route("t")
    assert table.route("other").groups == ()
    table.add_interest(edge, ["t"])
    assert (table.route("t").edges, list(table.route("t").groups)) == ((edge,), groups)
    assert table.route("t") is table.route("t")
    table.leave_group("c", 1, FILTER)
    assert (table.route("t").edges, table.route("t").groups) == ((edge,), ())
    table.remove_interest(edge, ["t"])
    assert (table.route("t").edges, table.route("t").groups) == ((), ())


def test_only_messages_of_qos_0_go_to_an_edge_that_needs_no_others() -> None:
    table = RoutingTable()
    one: Any = FakeEdge("one")
    two: Any = FakeEdge("two")
    table.add_interest(one, ["t", "u"], only_qos0=True)
    table.add_interest(two, ["t"])
    assert (table.route("t").edges, table.route("t").windowed_edges) == ((one, two), (two,))
    assert (table.route("u").edges, table.route("u").windowed_edges) == ((one,), ())
    # Another filter that matches, or the same one, with everything.
    table.add_interest(one, ["+"])
    assert table.route("u").windowed_edges == (one,)
    table.remove_interest(one, ["+"])
    assert table.route("u").windowed_edges == ()
    table.add_interest(one, ["u"])
    assert table.route("u").windowed_edges == (one,)
    table.add_interest(one, ["u"], only_qos0=True)
    assert table.route("u").windowed_edges == ()


def test_no_route_holds_an_edge_that_has_detached_or_a_session_that_has_ended() -> None:
    table = RoutingTable()
    edge: Any = FakeEdge("one")
    table.add_interest(edge, ["edges/#"])
    session = table.session("c", 1)
    table.subscribe_durable(session, "sessions/+", SubscriptionOptions(1))
    table.set_connected(session, edge, 1)
    table.join_group(edge, "d", 1, FILTER, SubscriptionOptions(1))
    for topic in ("edges/1", "sessions/1", "t", "none"):
        table.route(topic)
    gone = weakref.ref(edge)
    gc.disable()
    try:
        table.drop_edge(edge)
        del edge
        assert gone() is None
        table.drop_session("c", 1)
        assert sys.getrefcount(session) == 2, "this test's own and the argument"
    finally:
        gc.enable()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_offline_is_counted_as_it_changes(seed: int) -> None:
    """Whatever happens to sessions, the counts are what counting anew would find."""
    chance = random.Random(seed)
    table = RoutingTable()
    edges: list[Any] = [FakeEdge("one"), FakeEdge("two")]
    filters = ["a", "b/#", FILTER]
    incarnation = 1
    for step in range(400):
        session = table.session(chance.choice("cdef"), incarnation)
        match chance.randrange(6):
            case 0 | 1:
                options = SubscriptionOptions(chance.randrange(3))
                table.subscribe_durable(session, chance.choice(filters), options)
            case 2:
                table.unsubscribe_durable(session, chance.choice(filters))
            case 3:
                table.set_connected(session, chance.choice([*edges, None]), step)
            case 4:
                table.drop_session(session.client_id, chance.choice([incarnation, 0]))
                incarnation += chance.randrange(2)
            case _:
                table.drop_edge(chance.choice(edges))
        offline = [one for one in table.sessions.values() if one.edge is None]
        assert table.offline_session_count == len(offline)
        assert table.offline_subscription_count == sum(len(one.subscriptions) for one in offline)
