"""The edges that are attached to this router.

Owns the list of edges; their interest, members of shared subscriptions and connections are kept in
the routing table. Called by the link (or by the one edge of this process) with what an edge
reports; other parts look edges up here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tidegate.link.interfaces import EdgeLink
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.router.table import RoutingTable


class Edges:
    """See the module's docstring."""

    __slots__ = ("_table", "by_id", "on_attached")

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self.by_id: dict[str, EdgeLink] = {}
        #: Called with each edge that is attached.
        self.on_attached: Callable[[EdgeLink], None] = _nothing

    def attach_edge(self, edge: EdgeLink) -> None:
        """Attach an edge (see RouterService)."""
        before = self.by_id.get(edge.edge_id)
        if before is not None:
            self.detach_edge(before)
        self.by_id[edge.edge_id] = edge
        self.on_attached(edge)

    def detach_edge(self, edge: EdgeLink) -> None:
        """Detach an edge (see RouterService)."""
        if self.by_id.get(edge.edge_id) is not edge:
            return
        del self.by_id[edge.edge_id]
        self._table.drop_edge(edge)

    def add_interest(
        self, edge_id: str, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """Send this edge what matches (see RouterLink)."""
        self._table.add_interest(self.by_id[edge_id], filters, only_qos0=only_qos0)

    def remove_interest(self, edge_id: str, filters: Sequence[str]) -> None:
        """Send this edge no more of it (see RouterLink)."""
        self._table.remove_interest(self.by_id[edge_id], filters)

    def join_groups(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        """Make a connection a member of shared subscriptions (see RouterService)."""
        for topic_filter, options in subscriptions:
            self._table.join_group(self.by_id[edge_id], client_id, epoch, topic_filter, options)

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Remove a connection from its groups (see RouterLink)."""
        for topic_filter in filters:
            self._table.leave_group(client_id, epoch, topic_filter)

    def set_session_location(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, ended: bool
    ) -> None:
        """Set where a durable session is connected (see RouterService)."""
        if self._table.is_outdated(client_id, incarnation):
            return
        if ended and client_id not in self._table.sessions:
            return
        session = self._table.session(client_id, incarnation)
        if epoch < session.epoch:
            return
        edge = self.by_id.get(edge_id)
        if not ended:
            self._table.set_connected(session, edge, epoch)
        elif epoch == session.epoch:
            self._table.set_connected(session, None, epoch)

    def fence(self, client_id: str, edge_id: str, epoch: int) -> None:
        """Apply that a newer connection has a session: what that edge still sends is refused."""
        edge = self.by_id.get(edge_id)
        if edge is not None:
            self._table.drop_members(edge, client_id, epoch)
            edge.fence(client_id, epoch)

    def lost(self, edge_id: str) -> None:
        """Apply that the lease of an edge has ended: its sessions are going to be given up."""
        edge = self.by_id.get(edge_id)
        if edge is not None:
            edge.give_up()

    def all_lost(self) -> None:
        """Apply that any edge may have been lost, or fenced: what was logged is not known."""
        for edge in list(self.by_id.values()):
            edge.give_up()

    def will_publisher(self) -> EdgeLink | None:
        """An edge that publishes the wills that a sweep finds; None: there is none."""
        able = [edge for edge in self.by_id.values() if edge.publishes_wills]
        return random.choice(able) if able else None  # noqa: S311 - any of them

    def are_old(self) -> bool:
        """Whether there are edges, but none that will ever publish wills: this router does."""
        edges = self.by_id.values()
        return bool(edges) and not any(edge.knows_wills for edge in edges)

    def kick(self, client_id: str, epoch: int) -> None:
        """End this connection, wherever it is: a newer one owns the session."""
        for edge in self.by_id.values():
            edge.kick(client_id, epoch, ReasonCode.SESSION_TAKEN_OVER)

    def session_lost(self, client_id: str, epoch: int) -> None:
        """End this connection, wherever it is: the store has lost its session."""
        for edge in list(self.by_id.values()):
            edge.session_lost(client_id, epoch)


def _nothing(_edge: EdgeLink) -> None:
    pass
