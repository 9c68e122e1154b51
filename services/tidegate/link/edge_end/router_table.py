"""Which routers there are, and which of them gets what: read by all parts of the edge's end.

Owns the members (routers that topics are spread over, connected or not), the connections, and
caches of the owners of topics and clients. Only ``router_membership`` changes it. A topic belongs
to the member that rendezvous hashing names, a client identifier to the connected router that it
names.
"""

from __future__ import annotations

import asyncio

from tidegate.core.rendezvous import owner
from tidegate.core.second_chance import LONGEST_TOPIC, SecondChance
from tidegate.core.topic_index import CACHED_TOPICS
from tidegate.link.edge_end.router_peer import RouterPeer, State


class RouterTable:
    """See the module's docstring."""

    __slots__ = ("_changed", "_connected", "_session_routers", "members", "owners")

    def __init__(self) -> None:
        #: By name; change it with ``add`` and ``remove``.
        self.members: dict[str, RouterPeer] = {}
        #: By topic: what ``owner`` has returned; ``publish_dispatch`` reads it without a call.
        self.owners: SecondChance[str, RouterPeer] = SecondChance(CACHED_TOPICS)
        #: By client identifier; any connected router can do session work.
        self._session_routers: SecondChance[str, RouterPeer] = SecondChance(CACHED_TOPICS)
        self._connected: list[RouterPeer] = []
        self._changed = asyncio.Event()

    # Members and connections

    def is_member(self, peer: RouterPeer) -> bool:
        """Whether this router owns topics."""
        return self.members.get(peer.name) is peer

    def reachable(self) -> list[RouterPeer]:
        """Return the members that are connected."""
        return [peer for peer in self.members.values() if peer.attached]

    def connected(self) -> list[RouterPeer]:
        """Return every connected router, including those that have not joined yet."""
        return self._connected.copy()

    def others(self, peer: RouterPeer) -> list[RouterPeer]:
        """Return the other connected members that are not leaving."""
        return [
            one for one in self.reachable() if one is not peer and one.state is not State.LEAVING
        ]

    def serving(self, peer: RouterPeer) -> list[RouterPeer]:
        """Return the other members in state OPEN: they know the interest of all edges."""
        return [one for one in self.others(peer) if one.state is State.OPEN]

    def find_connected(self, name: str, instance: str = "") -> RouterPeer | None:
        """Return the connected router of this name (only that instance, if one is given)."""
        for peer in self._connected:
            if peer.name == name and instance in {"", peer.instance}:
                return peer
        return None

    # Owners of topics and sessions

    def owner(self, topic: str) -> RouterPeer | None:
        """Return the member that owns a topic; look into ``owners.recent`` before."""
        peer = self.owners.find(topic)
        members = self.members
        if peer is None and members:
            peer = members[owner(topic, members)]
            if len(topic) <= LONGEST_TOPIC:
                self.owners.add(topic, peer)
        return peer

    def session_router(self, key: str) -> RouterPeer | None:
        """Return the connected router for a client's session work.

        If there is no other, one that has not joined yet: it does not route, but leases and
        sessions are in the store, and must not expire while it waits for edges.
        """
        known = self._session_routers.find(key)
        if known is not None and known.attached and known.state is not State.LEAVING:
            return known
        there = {peer.name: peer for peer in self.reachable() or self._connected}
        if len(there) > 1:
            staying = {
                name: peer for name, peer in there.items() if peer.state is not State.LEAVING
            }
            there = staying or there
        if not there:
            return None
        peer = there[owner(key, there)]
        self._session_routers.discard(key)
        if len(key) <= LONGEST_TOPIC:
            self._session_routers.add(key, peer)
        return peer

    # Changes

    def connect(self, peer: RouterPeer) -> None:
        """Add a connection."""
        self._connected.append(peer)

    def disconnect(self, peer: RouterPeer) -> None:
        """Remove a connection."""
        if peer in self._connected:
            self._connected.remove(peer)
        self._forget_owners()
        self._changed.set()

    def add(self, peer: RouterPeer) -> None:
        """Make a router a member."""
        self.members[peer.name] = peer
        self._forget_owners()

    def remove(self, peer: RouterPeer) -> None:
        """Remove a member: its topics belong to others."""
        del self.members[peer.name]
        self._forget_owners()
        self._changed.set()

    def _forget_owners(self) -> None:
        """Clear the caches: routers have joined or left."""
        self.owners.clear()
        self._session_routers.clear()

    def limit_caches(self, topics: int) -> None:
        """Keep the owners of so many topics, and of as many clients, from now on."""
        self.owners.limit = self._session_routers.limit = topics

    def notify_changed(self) -> None:
        """Wake the tasks in ``wait_changed``."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait until a router joins, leaves or changes its state, or the lease is renewed."""
        self._changed.clear()
        await self._changed.wait()

    async def wait_disconnected(self, peer: RouterPeer) -> None:
        """Return when the present connection has ended."""
        outbox = peer.outbox
        while peer.attached and peer.outbox is outbox:
            await self.wait_changed()
