"""Members of shared subscriptions that move between edges, and change their options."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

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
    table.add_interest(edge, "t")
    assert (table.route("t").edges, list(table.route("t").groups)) == ((edge,), groups)
    assert table.route("t") is table.route("t")
    table.leave_group("c", 1, FILTER)
    assert (table.route("t").edges, table.route("t").groups) == ((edge,), ())
    table.remove_interest(edge, "t")
    assert (table.route("t").edges, table.route("t").groups) == ((), ())


def test_no_route_holds_an_edge_that_has_detached_or_a_session_that_has_ended() -> None:
    table = RoutingTable()
    edge: Any = FakeEdge("one")
    table.add_interest(edge, "edges/#")
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
