"""The routing table: which edges and which durable sessions a topic goes to.

Owns subscriptions and interest in memory; all of it can be rebuilt from the store and from the
attached edges. Called by the parts of the router. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tidegate.core.overlap import Overlap
from tidegate.core.shared import SharedGroups
from tidegate.core.topic_index import CACHED_TOPICS, TopicIndex
from tidegate.link.interfaces import EdgeLink
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.mqtt.topics import parse_shared


class DurableSession:
    """A session with state in the store, and the edge that holds its connection, if any."""

    __slots__ = (
        "client_id",
        "edge",
        "epoch",
        "incarnation",
        "live_topics",
        "shared",
        "subscriptions",
    )

    def __init__(self, client_id: str, incarnation: int) -> None:
        self.client_id = client_id
        self.incarnation = incarnation
        self.edge: EdgeLink | None = None
        self.epoch = 0
        self.subscriptions: dict[str, SubscriptionOptions] = {}
        #: Those of them that are shared, as they are named there; None: there are none.
        self.shared: set[str] | None = None
        #: While retained messages of a SUBSCRIBE are queued: by filter, the topics of which a
        #: message with RETAIN has been queued since. Kept by ``replays``; None: none are queued.
        self.live_topics: dict[str, set[str] | None] | None = None


class SharedMember:
    """One member of a shared subscription: a durable session, or a connection on an edge."""

    __slots__ = ("client_id", "edge", "epoch", "options", "session")

    def __init__(
        self,
        client_id: str,
        options: SubscriptionOptions,
        session: DurableSession | None,
        edge: EdgeLink | None,
        epoch: int,
    ) -> None:
        self.client_id = client_id
        self.options = options
        self.session = session
        self.edge = edge
        self.epoch = epoch


class DurableTarget(Overlap):
    """How one durable session gets a topic, by all of its matching subscriptions."""

    __slots__ = ("session",)

    def __init__(self, session: DurableSession) -> None:
        super().__init__()
        self.session = session


class Route:
    """Where messages of a topic go: what is derived from its matches, and free with them."""

    __slots__ = ("durable", "edges", "groups", "windowed_edges")

    def __init__(self) -> None:
        #: Edges that get messages of QoS 0, and those of them that get the others, too: where
        #: only durable sessions match, these are not sent to the edge, but queued.
        self.edges: tuple[EdgeLink, ...] = ()
        self.windowed_edges: tuple[EdgeLink, ...] = ()
        self.durable: tuple[DurableTarget, ...] = ()
        self.groups: tuple[tuple[str, str], ...] = ()


_Key: TypeAlias = "EdgeLink | DurableSession | str"
_Value: TypeAlias = "SubscriptionOptions | bool | str"


class RoutingTable:
    """filter → edges, filter → durable sessions, filter → shared groups."""

    def __init__(self, cached_topics: int = CACHED_TOPICS) -> None:
        """``cached_topics``: topics whose routes are kept."""
        self.sessions: dict[str, DurableSession] = {}
        #: Those that are not connected, and their subscriptions: kept, for to count them anew takes
        #: the event loop as long as there are many.
        self.offline_session_count = 0
        self.offline_subscription_count = 0
        #: A key is an edge (the value is whether it is to be sent only QoS 0), a durable session
        #: (the value is its options), or a share name (the value is the topic filter).
        self._index: TopicIndex[_Key, _Value] = TopicIndex(cached_topics)
        self.shared: SharedGroups[SharedMember] = SharedGroups(self._index)
        #: What each edge has added, to be removed when it detaches.
        self._interest: dict[EdgeLink, set[str]] = {}
        self._members: dict[EdgeLink, dict[str, set[str]]] = {}

    def route(self, topic: str) -> Route:
        """Return where messages of ``topic`` go now."""
        matches = self._index.match(topic)
        route: Route | None = matches.derived  # type: ignore[assignment]  # set below only
        if route is None:
            route = matches.derived = self._build(matches.pairs)
        return route

    @staticmethod
    def _build(matches: list[tuple[_Key, _Value]]) -> Route:
        route = Route()
        edges: dict[str, EdgeLink] = {}
        windowed: dict[str, EdgeLink] = {}
        durable: dict[str, DurableTarget] = {}
        groups: list[tuple[str, str]] = []
        for key, value in matches:
            if isinstance(key, DurableSession):
                target = durable.get(key.client_id)
                if target is None:
                    target = durable[key.client_id] = DurableTarget(key)
                assert isinstance(value, SubscriptionOptions)
                target.include(value)
            elif isinstance(key, str):
                assert isinstance(value, str)
                groups.append((key, value))
            else:
                edges[key.edge_id] = key
                if not value:
                    windowed[key.edge_id] = key
        route.edges = tuple(edges.values())
        route.windowed_edges = tuple(windowed.values())
        route.durable = tuple(durable.values())
        route.groups = tuple(groups)
        return route

    def add_interest(
        self, edge: EdgeLink, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """Add filters to an edge's interest, or replace what it is sent of them."""
        index = self._index
        for topic_filter in filters:
            index.add(topic_filter, edge, only_qos0)
        self._interest.setdefault(edge, set()).update(filters)

    def remove_interest(self, edge: EdgeLink, filters: Sequence[str]) -> None:
        """Remove filters from an edge's interest."""
        index = self._index
        for topic_filter in filters:
            index.remove(topic_filter, edge)
        self._interest.get(edge, set()).difference_update(filters)

    def drop_edge(self, edge: EdgeLink) -> None:
        """Remove an edge with all it had added; durable sessions stay, not connected."""
        for topic_filter in self._interest.pop(edge, ()):
            self._index.remove(topic_filter, edge)
        for client_id in list(self._members.get(edge, ())):
            self.drop_members(edge, client_id)
        self._members.pop(edge, None)
        for session in self.sessions.values():
            if session.edge is edge:
                self.set_connected(session, None, session.epoch)

    def drop_members(self, edge: EdgeLink, client_id: str, epoch: int = 0) -> None:
        """Remove a client's connections to an edge (0: any, else older ones) from their groups."""
        filters = self._members.get(edge, {}).get(client_id)
        for topic_filter in list(filters or ()):
            share = parse_shared(topic_filter)
            member = self.shared.member(*share, client_id) if share is not None else None
            if share is None or member is None or member.edge is not edge:
                self._forget_member(edge, client_id, topic_filter)
            elif not epoch or member.epoch < epoch:
                self.shared.unsubscribe(*share, client_id)
                self._forget_member(edge, client_id, topic_filter)

    def _forget_member(self, edge: EdgeLink, client_id: str, topic_filter: str) -> None:
        members = self._members.get(edge, {})
        filters = members.get(client_id)
        if filters is not None:
            filters.discard(topic_filter)
            if not filters:
                del members[client_id]

    def is_outdated(self, client_id: str, incarnation: int) -> bool:
        """Whether a later incarnation of a session is known already."""
        session = self.sessions.get(client_id)
        return session is not None and session.incarnation > incarnation

    def session(self, client_id: str, incarnation: int) -> DurableSession:
        """Return the durable session of this incarnation, new or known."""
        session = self.sessions.get(client_id)
        if session is None or session.incarnation != incarnation:
            if session is not None:
                self.drop_session(client_id, session.incarnation)
            session = self.sessions[client_id] = DurableSession(client_id, incarnation)
            self.offline_session_count += 1
        return session

    def drop_session(self, client_id: str, incarnation: int) -> None:
        """Remove a durable session with its subscriptions."""
        session = self.sessions.get(client_id)
        if session is None or session.incarnation != incarnation:
            return
        for topic_filter in list(session.subscriptions):
            self.unsubscribe_durable(session, topic_filter)
        del self.sessions[client_id]
        if session.edge is None:
            self.offline_session_count -= 1

    def subscribe_durable(
        self, session: DurableSession, topic_filter: str, options: SubscriptionOptions
    ) -> None:
        """Add or replace a subscription of a durable session."""
        if session.edge is None and topic_filter not in session.subscriptions:
            self.offline_subscription_count += 1
        session.subscriptions[topic_filter] = options
        share = parse_shared(topic_filter)
        if share is None:
            self._index.add(topic_filter, session, options)
            return
        if session.shared is None:
            session.shared = set()
        session.shared.add(topic_filter)
        if not self._has_newer_member(share, session.client_id, session.incarnation):
            member = SharedMember(session.client_id, options, session, None, 0)
            self.shared.subscribe(*share, session.client_id, member, session.edge is not None)

    def unsubscribe_durable(self, session: DurableSession, topic_filter: str) -> None:
        """Remove a subscription of a durable session."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return
        if session.edge is None:
            self.offline_subscription_count -= 1
        share = parse_shared(topic_filter)
        if share is None:
            self._index.remove(topic_filter, session)
            return
        if session.shared is not None:
            session.shared.discard(topic_filter)
        if self._is_member(share, session):
            self.shared.unsubscribe(*share, session.client_id)

    def join_group(
        self,
        edge: EdgeLink,
        client_id: str,
        epoch: int,
        topic_filter: str,
        options: SubscriptionOptions,
    ) -> None:
        """Add a connection without a durable session to a shared subscription."""
        share = parse_shared(topic_filter)
        if share is None or self._has_newer_member(share, client_id, epoch):
            return
        member = SharedMember(client_id, options, None, edge, epoch)
        self.shared.subscribe(*share, client_id, member, True)
        members = self._members.setdefault(edge, {})
        members.setdefault(client_id, set()).add(topic_filter)

    def leave_group(self, client_id: str, epoch: int, topic_filter: str) -> None:
        """Remove it from a shared subscription."""
        share = parse_shared(topic_filter)
        member = self.shared.member(*share, client_id) if share is not None else None
        if share is None or member is None or member.session is not None or member.epoch != epoch:
            return
        self.shared.unsubscribe(*share, client_id)
        if member.edge is not None:
            self._forget_member(member.edge, client_id, topic_filter)

    def _has_newer_member(self, share: tuple[str, str], client_id: str, epoch: int) -> bool:
        """Whether a later connection, or a later session, of the client is a member already.

        Connections are reported by edges, sessions by the store's log: either may be late.
        """
        member = self.shared.member(*share, client_id)
        if member is None:
            return False
        # A session's incarnation is the epoch of its first connection.
        return epoch < (member.epoch if member.session is None else member.session.incarnation)

    def _is_member(self, share: tuple[str, str], session: DurableSession) -> bool:
        """Whether the client is a member by this session, not by a later one."""
        member = self.shared.member(*share, session.client_id)
        return member is not None and member.session is session

    def set_connected(self, session: DurableSession, edge: EdgeLink | None, epoch: int) -> None:
        """Set the edge that holds the session's connection (None: not connected)."""
        if (session.edge is None) is not (edge is None):
            change = 1 if edge is None else -1
            self.offline_session_count += change
            self.offline_subscription_count += change * len(session.subscriptions)
        session.edge = edge
        session.epoch = epoch
        for topic_filter in session.shared or ():
            share = parse_shared(topic_filter)
            if share is not None and self._is_member(share, session):
                self.shared.set_connected(*share, session.client_id, edge is not None)

    def subscription_count(self) -> int:
        """Entries of the index: interest of edges and subscriptions of durable sessions."""
        return len(self._index) - self.shared.group_count

    def limit_cache(self, topics: int) -> None:
        """Keep the routes of so many topics from now on."""
        self._index.limit_cache(topics)
