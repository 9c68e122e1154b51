"""Members of shared subscriptions that move between edges, and change their options."""

from __future__ import annotations

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
