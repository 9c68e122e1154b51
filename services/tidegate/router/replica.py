"""Replica of the store's durable subscriptions and retained topics in memory.

Owns nothing: it writes to the routing table and to the index of retained topics, and fences edges.
Called by ``membership`` in a cluster, for every change in the store's logs, and to reload
everything after a gap in them; a router that is alone loads once.
"""

from __future__ import annotations

from tidegate.router.edges import Edges
from tidegate.router.replays import Replays
from tidegate.router.retained import RetainedMessages
from tidegate.router.table import RoutingTable
from tidegate.store.api import (
    Change,
    ConnectionFenced,
    EdgeLost,
    RetainedAdded,
    RetainedRemoved,
    SessionEnded,
    SessionSubscribed,
    Store,
)


class Replica:
    """See the module's docstring."""

    __slots__ = ("_edges", "_replays", "_retained", "_store", "_table")

    def __init__(
        self,
        store: Store,
        table: RoutingTable,
        retained: RetainedMessages,
        edges: Edges,
        replays: Replays,
    ) -> None:
        self._store = store
        self._edges = edges
        self._table = table
        self._retained = retained
        self._replays = replays

    async def load(self) -> None:
        """Read all durable subscriptions and the names of all retained topics.

        Remove what is no longer in the store. Raises StoreUnavailable.
        """
        table = self._table
        known = list(table.sessions.values())
        seen: dict[str, set[str]] = {}
        async for sessions in self._store.stored_subscriptions():
            for stored in sessions:
                session = table.session(stored.client_id, stored.incarnation)
                for topic_filter, options in stored.subscriptions:
                    table.subscribe_durable(session, topic_filter, options)
                seen[stored.client_id] = {name for name, _ in stored.subscriptions}
        for session in known:
            stored_filters = seen.get(session.client_id)
            if stored_filters is None:
                table.drop_session(session.client_id, session.incarnation)
                continue
            for topic_filter in [
                name for name in session.subscriptions if name not in stored_filters
            ]:
                table.unsubscribe_durable(session, topic_filter)
        await self._retained.load()
        # Fences may have been among what is not known.
        self._edges.all_lost()

    def apply(self, change: Change) -> None:
        """Apply a change that another router (or this one) has stored."""
        table = self._table
        if isinstance(change, RetainedAdded | RetainedRemoved):
            self._retained.apply(change.topic, isinstance(change, RetainedAdded))
        elif isinstance(change, ConnectionFenced):
            self._edges.fence(change.client_id, change.edge_id, change.epoch)
        elif isinstance(change, EdgeLost):
            self._edges.lost(change.edge_id)
        elif isinstance(change, SessionEnded):
            table.drop_session(change.client_id, change.incarnation)
        elif table.is_outdated(change.client_id, change.incarnation):
            return
        elif isinstance(change, SessionSubscribed):
            session = table.session(change.client_id, change.incarnation)
            self._replays.subscribed(session, change.subscriptions)
            for topic_filter, options in change.subscriptions:
                table.subscribe_durable(session, topic_filter, options)
        else:
            session = table.session(change.client_id, change.incarnation)
            for topic_filter in change.topic_filters:
                table.unsubscribe_durable(session, topic_filter)
