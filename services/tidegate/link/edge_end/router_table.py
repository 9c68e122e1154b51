"""Which routers there are, and which of them gets what: the table that all of an edge's end reads.

Owns the members (routers that topics are spread over, here or not), the connections, and what is
remembered of who owns which topic or client. Only ``membership`` changes it. A topic belongs to the
member that rendezvous hashing names, a client identifier to the connected router that it names.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tidegate.core.rendezvous import owner
from tidegate.link.edge_end.router_peer import RouterPeer, State

MAX_OWNERS: Final = 20_000


class RouterTable:
    """See the module's docstring."""

    __slots__ = ("_changed", "_connected", "_session_routers", "members", "owners")

    def __init__(self) -> None:
        #: By name; change it with ``add`` and ``remove``.
        self.members: dict[str, RouterPeer] = {}
        #: By topic: what ``owner`` has found. The same object for ever, so that who publishes may
        #: look into it without a call.
        self.owners: dict[str, RouterPeer] = {}
        #: By client identifier; any router that is there would do as well.
        self._session_routers: dict[str, RouterPeer] = {}
        self._connected: list[RouterPeer] = []
        self._changed = asyncio.Event()

    # What there is

    def is_member(self, peer: RouterPeer) -> bool:
        """Whether topics are spread over this router too."""
        return self.members.get(peer.name) is peer

    def reachable(self) -> list[RouterPeer]:
        """The members that are there now."""
        return [peer for peer in self.members.values() if peer.attached]

    def connected(self) -> list[RouterPeer]:
        """Every router with a connection, also one that is about to join."""
        return self._connected.copy()

    def others(self, peer: RouterPeer) -> list[RouterPeer]:
        """Members that are there, and stay, beside this one."""
        return [
            one for one in self.reachable() if one is not peer and one.state is not State.LEAVING
        ]

    def serving(self, peer: RouterPeer) -> list[RouterPeer]:
        """Members beside this one that take publishes: they know what all edges want."""
        return [one for one in self.others(peer) if one.state is State.OPEN]

    def find_connected(self, name: str, instance: str = "") -> RouterPeer | None:
        """The channel with a connection to a router (only to that life, if one is named)."""
        for peer in self._connected:
            if peer.name == name and instance in {"", peer.instance}:
                return peer
        return None

    # Who gets what

    def owner(self, topic: str) -> RouterPeer | None:
        """Find the member that a topic belongs to; look into ``owners`` first."""
        members = self.members
        if not members:
            return None
        peer = members[owner(topic, members)]
        if len(self.owners) >= MAX_OWNERS:
            self.owners.clear()
        self.owners[topic] = peer
        return peer

    def session_router(self, key: str) -> RouterPeer | None:
        """The router for a client's session work: one that is there.

        If need be one that has not joined yet: it may not route, but leases and sessions are the
        store's, and must not run out while edges are waited for.
        """
        known = self._session_routers.get(key)
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
        if len(self._session_routers) >= MAX_OWNERS:
            self._session_routers.clear()
        peer = self._session_routers[key] = there[owner(key, there)]
        return peer

    # What changes

    def connect(self, peer: RouterPeer) -> None:
        """There is a connection to this router."""
        self._connected.append(peer)

    def disconnect(self, peer: RouterPeer) -> None:
        """There is none any more, or none that anything may be asked over."""
        if peer in self._connected:
            self._connected.remove(peer)
        self._forget_owners()
        self._changed.set()

    def add(self, peer: RouterPeer) -> None:
        """Spread topics over this router too."""
        self.members[peer.name] = peer
        self._forget_owners()

    def remove(self, peer: RouterPeer) -> None:
        """Spread its topics over the others."""
        del self.members[peer.name]
        self._forget_owners()
        self._changed.set()

    def _forget_owners(self) -> None:
        """Routers have come or gone: what belongs to whom is found anew."""
        self.owners.clear()
        self._session_routers.clear()

    def notify_changed(self) -> None:
        """Wake those who wait: a router has changed its state, or something else they look at."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait until a router has come, gone, or changed its state."""
        self._changed.clear()
        await self._changed.wait()

    async def wait_disconnected(self, peer: RouterPeer) -> None:
        """Return when a connection that there is now is there no more."""
        outbox = peer.outbox
        while peer.attached and peer.outbox is outbox:
            await self.wait_changed()
