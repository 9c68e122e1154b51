"""The clients of an edge: which are connecting, which are connected, and what they subscribe to.

Owned by ``Edge``; changed by ``connect`` and ``subscribe`` and at the end of a connection. Keeps
the edge's interest, which is announced to the routers, and the ends of connections that no router
has confirmed yet. Pure bookkeeping, but for those calls of the link.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from tidegate.core.topic_index import TopicIndex
from tidegate.edge.client.client import Client
from tidegate.link.interfaces import DetachSession
from tidegate.mqtt.packets import Publish, SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.context import EdgeContext


class Observer(Protocol):
    """Who is shown the messages of topics before clients get them (see ``Edge.deliver``)."""

    @property
    def connection(self) -> tuple[str, int]:
        """The session's key and the epoch of a connection."""

    def note(self, message: Publish) -> bool:
        """Look at a message; True: this connection is not to be given it besides."""


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
        "_interest",
        "attaching",
        "clients",
        "connecting",
        "detaching",
        "index",
        "newcomers",
        "replaying",
        "replays",
        "subscription_count",
    )

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        #: Connected clients, by session key.
        self.clients: dict[str, Client] = {}
        #: Connections that have not been accepted yet, with no session key to go by.
        self.connecting: set[Client] = set()
        #: Ends of connections that the router has not confirmed, by session key.
        self.detaching: dict[str, asyncio.Task[None]] = {}
        self.attaching: dict[str, Attaching] = {}
        #: Those of ``attaching`` that have no client yet, or none any more: they have its place.
        self.newcomers: set[str] = set()
        self.index: TopicIndex[Client, SubscriptionOptions] = TopicIndex()
        self.subscription_count = 0
        self._generations = 0
        #: Filters of which retained messages are still to be sent, and the replays that do it;
        #: and those of samples (``edge.inspection``).
        self.replays: TopicIndex[Observer, tuple[str, SubscriptionOptions]] = TopicIndex()
        self.replaying: set[Observer] = set()
        #: How many clients have a filter, or are about to.
        self._interest: dict[str, int] = {}

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
        shared = [name for name in client.subscriptions if name.startswith("$share/")]
        for topic_filter in client.subscriptions:
            if not topic_filter.startswith("$share/"):
                self.unsubscribe(client, topic_filter)
        if shared and not client.incarnation:
            self._context.router.leave_groups(session_key, client.epoch, shared)

    def detach(self, request: DetachSession) -> None:
        """Report the end of a connection to the router."""
        context, session_key = self._context, request.client_id

        async def detach() -> None:
            await context.router.detach(request)

        task = context.spawn(detach())
        self.detaching[session_key] = task

        def done(ended: asyncio.Task[None]) -> None:
            if self.detaching.get(session_key) is ended:
                del self.detaching[session_key]

        task.add_done_callback(done)

    # Subscriptions of connected clients

    def subscribe(self, client: Client, topic_filter: str, options: SubscriptionOptions) -> None:
        """Add or replace a client's subscription (not a shared one)."""
        if self.index.add(topic_filter, client, options):
            self.subscription_count += 1
            self.hold_interest(topic_filter)

    def unsubscribe(self, client: Client, topic_filter: str) -> None:
        """Remove a client's subscription (not a shared one)."""
        if not self.index.remove(topic_filter, client):
            return
        self.subscription_count -= 1
        self.release_interest(topic_filter)

    def next_generation(self, client: Client) -> str:
        """Name a SUBSCRIBE, among all of its session."""
        self._generations += 1
        return f"{client.epoch}.{self._generations}"

    def hold_interest(self, topic_filter: str) -> None:
        """Have this edge sent what matches a filter; ``release_interest`` must follow."""
        count = self._interest.get(topic_filter, 0)
        self._interest[topic_filter] = count + 1
        if not count:
            self._context.router.add_interest(self._context.edge_id, topic_filter)

    def release_interest(self, topic_filter: str) -> None:
        """End that, unless others have the filter."""
        count = self._interest[topic_filter] - 1
        if count:
            self._interest[topic_filter] = count
        else:
            del self._interest[topic_filter]
            self._context.router.remove_interest(self._context.edge_id, topic_filter)
