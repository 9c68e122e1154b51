"""What an edge sends without waiting: publishes, completed deliveries, redispatched messages.

Owns the order in which the edge called, what has no router yet (unrouted), and whether publishers
are paused. The edge calls ``publish``, ``complete`` and ``redispatch`` through the router client,
without a call in between, for this is the hot path; ``router_frames`` calls ``resume`` when routers
return credit, ``router_membership`` calls ``reroute`` with what a removed router had not confirmed.
What a router has been sent and has not confirmed is in its ``RouterPeer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.link.edge_end.router_peer import (
    RouterPeer,
    State,
    Unconfirmed,
    UnconfirmedRedispatch,
)
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import PUBLISHED, Origin
from tidegate.link.messages import size_of
from tidegate.mqtt.packets import Publish
from tidegate.runtime.telemetry.counters import Counters


class PublishDispatcher:
    """See the module's docstring."""

    __slots__ = (
        "_counters",
        "_order",
        "_owners",
        "_routers",
        "_unrouted",
        "is_paused",
        "on_paused",
        "on_resumed",
    )

    def __init__(self, routers: RouterTable, counters: Counters) -> None:
        self._routers = routers
        self._owners = routers.owners.recent
        self._counters = counters
        self._order = 0
        self._unrouted: list[Unconfirmed] = []
        #: Whether publishers have been paused.
        self.is_paused = False
        #: Called when publishers must wait, and when they may continue.
        self.on_paused: Callable[[], None] = _nothing
        self.on_resumed: Callable[[], None] = _nothing

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        peer = self._owners.get(message.topic) or self._find_owner(message.topic)
        qos = message.qos
        if not qos and peer is not None and peer.state is State.OPEN:
            peer.publish_qos0(message, origin.client_id, origin.epoch)
        else:
            self._order += 1
            entry = Unconfirmed(origin.client_id, origin.epoch, self._order, size_of(message))
            entry.origin = origin
            entry.message = message
            if qos == 2:
                entry.receipt = origin.receipt(message)
                entry.identity = origin.identity(message)
            if peer is None:
                self._unrouted.append(entry)
                self.pause()
            else:
                peer.publish(entry)
        if peer is not None and peer.outstanding_bytes >= peer.credit_bytes:
            self.pause()
        return None if qos else PUBLISHED

    def _find_owner(self, topic: str) -> RouterPeer | None:
        """Return the router of a topic that is not among those used last."""
        peer = self._routers.owner(topic)
        self._owners = self._routers.owners.recent
        return peer

    def publish_will(self, origin: Origin, message: Publish) -> None:
        """Route the will of a connection that has ended; its outcome follows at every QoS."""
        self._order += 1
        entry = Unconfirmed(origin.client_id, origin.epoch, self._order, size_of(message))
        entry.origin = origin
        entry.message = message
        entry.identity = origin.identity(message)
        peer = self._routers.owner(message.topic)
        if peer is None:
            self._unrouted.append(entry)
        else:
            peer.publish(entry)

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Remove completed deliveries (see RouterLink)."""
        self._order += 1
        entry = Unconfirmed(client_id, epoch, self._order, 0)
        entry.seqs = seqs
        entry.done = done
        self._complete(entry)

    def _complete(self, entry: Unconfirmed) -> None:
        peer = self._routers.session_router(entry.client_id)
        if peer is None:
            self._unrouted.append(entry)
        else:
            peer.complete(entry)

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a message to another member (see RouterLink)."""
        self._order += 1
        self._redispatch(UnconfirmedRedispatch(topic_filter, message, self._order))

    def _redispatch(self, entry: UnconfirmedRedispatch) -> None:
        peer = self._routers.session_router(entry.group)
        # A router that has not joined does not know the members on other edges.
        if peer is not None and peer.state is not State.DOWN:
            peer.redispatch(entry)
        elif entry.message is not None and entry.message.qos:
            self._unrouted.append(entry)
        else:
            self._counters.dropped["link_lost"] += 1
            self._counters.published += 1

    def has_unrouted(self, client_id: str) -> bool:
        """Whether publishes of a client wait for a router."""
        return any(
            entry.client_id == client_id and entry.message is not None for entry in self._unrouted
        )

    # When routers join and leave

    def reroute(self, left: Sequence[Unconfirmed] = ()) -> None:
        """Send what has no router, and ``left`` by a removed one, to the connected routers."""
        unrouted, self._unrouted = [*self._unrouted, *left], []
        unrouted.sort(key=lambda entry: entry.order)
        for entry in unrouted:
            if isinstance(entry, UnconfirmedRedispatch):
                self._redispatch(entry)
                continue
            if entry.message is None:
                self._complete(entry)
                continue
            if entry.is_superseded:
                self._drop(entry)
                continue
            peer = self._routers.owner(entry.message.topic)
            if peer is None:
                self._unrouted.append(entry)
            else:
                peer.publish(entry)

    def _drop(self, entry: Unconfirmed) -> None:
        """A newer connection has the session: the publish must not take effect any more."""
        if entry.message is not None and not entry.message.qos:
            self._counters.published += 1
            self._counters.dropped["superseded"] += 1

    def pause(self) -> None:
        """Pause publishers."""
        if not self.is_paused:
            self.is_paused = True
            self.on_paused()

    def resume(self) -> None:
        """Resume publishers if there is a router, and every router has credit."""
        if (
            self.is_paused
            and self._routers.reachable()
            and all(member.has_credit() for member in self._routers.members.values())
        ):
            self.is_paused = False
            self.on_resumed()


def _nothing() -> None:
    pass
