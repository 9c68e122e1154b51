"""The clients of an edge: which are connecting, which are connected, and what they subscribe to.

Owned by ``Edge``; changed by ``connect`` and ``subscribe`` and at the end of a connection. Keeps
the edge's interest (``interest``), which is announced to the routers, and the ends of connections
that no router has confirmed yet. Pure bookkeeping, but for those calls of the link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tidegate.core.topic_index import TopicIndex
from tidegate.edge.client.client import Client
from tidegate.edge.client.interest import Interest, needs_only_qos0
from tidegate.edge.client.observers import Observers
from tidegate.link.interfaces import DetachedSession, DetachSession
from tidegate.mqtt.packets import SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.context import EdgeContext

log = logging.getLogger(__name__)


class Attaching:
    """Connections of one session key that wait for their session."""

    __slots__ = ("count", "lost_epoch")

    def __init__(self) -> None:
        self.count = 0
        #: The newest epoch that is over: it may be one whose reply has not been looked at yet.
        self.lost_epoch = 0


class ClientRegistry:
    """See the module's docstring."""

    __slots__ = (
        "_context",
        "_generations",
        "attaching",
        "clients",
        "connecting",
        "detaching",
        "index",
        "interest",
        "newcomers",
        "observers",
        "subscription_count",
    )

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        #: Connected clients, by session key.
        self.clients: dict[str, Client] = {}
        #: Connections that have not been accepted yet, with no session key to go by.
        self.connecting: set[Client] = set()
        #: Ends of connections that the router has not confirmed, by session key.
        self.detaching: dict[str, asyncio.Future[DetachedSession]] = {}
        self.attaching: dict[str, Attaching] = {}
        #: Those of ``attaching`` that have no client yet, or none any more: they have its place.
        self.newcomers: set[str] = set()
        self.index: TopicIndex[Client, SubscriptionOptions] = TopicIndex(
            context.limits.max_cached_topics
        )
        self.subscription_count = 0
        self._generations = 0
        self.interest = Interest(context)
        #: Replays of retained messages that are still to be sent; samples (``edge.inspection``).
        self.observers = Observers(self.interest)

    # Connections

    def is_full_for(self, session_key: str) -> bool:
        """Whether no more may come; one that takes its own connection over needs no place."""
        most = self._context.limits.max_connections
        return (
            0 < most <= len(self.clients) + len(self.newcomers)
            and session_key not in self.clients
            and session_key not in self.newcomers
        )

    def attach_begins(self, session_key: str) -> Attaching:
        """A connection asks for its session; ``attach_ends`` must follow."""
        attaching = self.attaching.setdefault(session_key, Attaching())
        attaching.count += 1
        if session_key not in self.clients:
            self.newcomers.add(session_key)
        return attaching

    def attach_ends(self, session_key: str) -> None:
        """It has been answered, or given up."""
        attaching = self.attaching[session_key]
        attaching.count -= 1
        if not attaching.count:
            del self.attaching[session_key]
            self.newcomers.discard(session_key)

    def add(self, client: Client) -> None:
        """Take a client that was accepted, in the place of an older connection."""
        self.connecting.discard(client)
        self.clients[client.session_key] = client
        self.newcomers.discard(client.session_key)
        counters = self._context.counters
        counters.connections_accepted += 1
        counters.connections_open += 1
        counters.clients_maximum = max(counters.clients_maximum, len(self.clients))

    def remove(self, client: Client, reason: str, was_connected: bool) -> None:
        """Forget a connection that has ended, and count why."""
        self.connecting.discard(client)
        counters = self._context.counters
        if not was_connected:
            if reason:
                counters.refused["abandoned"] += 1
            return
        counters.closed[reason if reason in counters.closed else "lost"] += 1
        counters.connections_open -= 1
        session_key = client.session_key
        if self.clients.get(session_key) is client:
            del self.clients[session_key]
            if session_key in self.attaching:
                self.newcomers.add(session_key)
        if client.subscriptions:
            shared = [name for name in client.subscriptions if name.startswith("$share/")]
            self._remove(client, client.subscriptions.items())
            if shared and not client.incarnation:
                self._context.router.leave_groups(session_key, client.epoch, shared)

    def detach(self, request: DetachSession) -> None:
        """Report the end of a connection to the router."""
        context, session_key = self._context, request.client_id
        detaching = asyncio.ensure_future(context.router.detach(request))
        self.detaching[session_key] = detaching

        def done(ended: asyncio.Future[DetachedSession]) -> None:
            if self.detaching.get(session_key) is ended:
                del self.detaching[session_key]
            if not ended.cancelled() and ended.exception() is not None:
                log.error("end of a connection not stored", exc_info=ended.exception())

        context.follow(detaching, done)

    # Subscriptions of connected clients

    def subscribe(
        self, client: Client, subscriptions: Iterable[tuple[str, SubscriptionOptions]]
    ) -> None:
        """Add or replace a client's subscriptions; of shared ones routers send it messages."""
        known = client.own_subscriptions()
        incarnation, add = client.incarnation, self.index.add
        all_new: list[str] = []
        qos0_new: list[str] = []
        all_old: list[str] = []
        qos0_old: list[str] = []
        for topic_filter, options in subscriptions:
            before = known.get(topic_filter)
            known[topic_filter] = options
            if topic_filter.startswith("$share/"):
                continue
            add(topic_filter, client, options)
            only_qos0 = needs_only_qos0(incarnation, options)
            if before is None:
                self.subscription_count += 1
            elif needs_only_qos0(incarnation, before) is only_qos0:
                continue
            else:
                (all_old if only_qos0 else qos0_old).append(topic_filter)
            (qos0_new if only_qos0 else all_new).append(topic_filter)
        interest = self.interest
        interest.hold(all_new)
        interest.hold_qos0(qos0_new)
        if all_old or qos0_old:
            interest.release(all_old)
            interest.release_qos0(qos0_old)

    def unsubscribe(self, client: Client, filters: Iterable[str]) -> None:
        """Remove a client's subscriptions; it has them."""
        known = client.subscriptions
        self._remove(client, [(name, known.pop(name)) for name in filters])

    def _remove(
        self, client: Client, subscriptions: Iterable[tuple[str, SubscriptionOptions]]
    ) -> None:
        incarnation, remove = client.incarnation, self.index.remove
        all_old: list[str] = []
        qos0_old: list[str] = []
        for topic_filter, options in subscriptions:
            if topic_filter.startswith("$share/") or not remove(topic_filter, client):
                continue
            self.subscription_count -= 1
            only_qos0 = needs_only_qos0(incarnation, options)
            (qos0_old if only_qos0 else all_old).append(topic_filter)
        self.interest.release(all_old)
        self.interest.release_qos0(qos0_old)

    def next_generation(self, client: Client) -> str:
        """Name a SUBSCRIBE, among all of its session."""
        self._generations += 1
        return f"{client.epoch}.{self._generations}"
