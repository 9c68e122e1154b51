"""What a router says of the whole broker under ``$SYS``, however many sessions there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from support.fake_link import FakeEdge
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.sys_publisher import SysPublisher
from tidegate.router.table import DurableSession, RoutingTable


class _Many(dict[str, DurableSession]):
    """Sessions of which there are too many to look at each of them."""

    def __iter__(self) -> Any:
        raise AssertionError("all sessions are looked at")

    values = items = keys = __iter__


async def test_sessions_and_subscriptions_are_not_counted_anew() -> None:
    table, edge = RoutingTable(), FakeEdge("one")
    for name in ("a", "b", "c"):
        session = table.session(name, 1)
        for topic_filter in ("t", name):
            table.subscribe_durable(session, topic_filter, SubscriptionOptions(1))
    table.set_connected(session, edge, 1)
    table.sessions = _Many(table.sessions)
    published: dict[str, bytes] = {}

    def publish(_origin: object, message: Publish) -> None:
        published[message.topic] = message.payload

    router: Any = SimpleNamespace(table=table, retained=(), publish=publish)
    publisher = SysPublisher(router, dict, "1.0", 10.0)
    publisher.publish_changed(leads=True, full=True)
    assert published["$SYS/broker/clients/disconnected"] == b"2"
    assert published["$SYS/broker/subscriptions/count"] == b"4"
