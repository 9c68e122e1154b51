"""What is forgotten when everything is read once more, after a gap in the change log."""

from __future__ import annotations

from typing import Any, cast

from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.router.edges import Edges
from tidegate.router.replays import Replays
from tidegate.router.replica import Replica
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import RoutingTable
from tidegate.store.api import StoredSubscriptions

QOS1 = SubscriptionOptions(1)


def _sessions_of(table: RoutingTable, topic: str) -> set[str]:
    return {target.session.client_id for target in table.route(topic).durable}


@in_virtual_time
async def test_what_is_not_in_the_store_any_more_is_forgotten() -> None:
    played = FakeStore()
    store: Any = played
    table = RoutingTable()
    retained = RetainedMessages(store, played.now_ms, lambda: None)
    replica = Replica(
        store, table, retained, Edges(table), Replays(table, retained, cast(Any, None))
    )
    played.subscriptions = [
        StoredSubscriptions("stays", 1, "", 0, [("kept", QOS1), ("dropped", QOS1)]),
        StoredSubscriptions("ends", 2, "", 0, [("kept", QOS1)]),
        StoredSubscriptions("begins anew", 3, "", 0, [("dropped", QOS1)]),
    ]
    played.retained = {"kept", "dropped"}
    await replica.load()
    assert _sessions_of(table, "kept") == {"stays", "ends"}
    assert _sessions_of(table, "dropped") == {"stays", "begins anew"}
    played.subscriptions = [
        StoredSubscriptions("stays", 1, "", 0, [("kept", QOS1)]),
        StoredSubscriptions("begins anew", 9, "", 0, [("kept", QOS1)]),
    ]
    played.retained = {"kept"}
    await replica.load()
    assert _sessions_of(table, "kept") == {"stays", "begins anew"}
    assert _sessions_of(table, "dropped") == set()
    assert retained.match("#") == ["kept"]
