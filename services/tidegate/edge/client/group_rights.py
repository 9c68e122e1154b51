"""Shared subscriptions of one client that it may not read: it is a member of no such group.

A member that may not read what it is given would swallow acknowledged messages. ``subscribe`` and
``connect`` report subscriptions, ``Edge`` a changed ACL and messages that were under way. Owns
which shared subscriptions are without membership, and the one task that tells routers and store.
The subscription itself stays until UNSUBSCRIBE or the end of the connection: when the client may
read it again, it is a member again (a durable session only while it stays connected).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from tidegate.edge.auth.acl import Readable
from tidegate.link.interfaces import RouterUnavailable, SessionFenced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidegate.edge.client.client import Client, GroupRights
    from tidegate.mqtt.packets import Publish

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5


class ClientGroupRights:
    """See the module's docstring. Made for clients that have such a subscription."""

    __slots__ = ("_changing", "_client", "_leaving", "_waiting", "left")

    def __init__(self, client: Client) -> None:
        self._client = client
        #: Shared subscriptions (``$share/…``, under the mount point) without membership.
        self.left: set[str] = set()
        #: Those of a durable session that the store has still to remove.
        self._leaving: set[str] = set()
        self._changing: asyncio.Task[None] | None = None
        #: QoS 0 messages for another member, until this one has left: (subscription, message).
        self._waiting: list[tuple[str, Publish]] = []

    def subscribed(self, names: Iterable[str], unjoined: Iterable[str]) -> None:
        """SUBSCRIBE was granted for these; routers do not know those that are ``unjoined``."""
        self.left.difference_update(names)
        self.left.update(unjoined)

    def unsubscribed(self, names: Iterable[str]) -> None:
        """UNSUBSCRIBE was granted for these."""
        self.left.difference_update(names)

    async def settled(self) -> None:
        """Return when no change of memberships is in progress."""
        if self._changing is not None:
            await asyncio.wait([self._changing])

    def look(self) -> None:
        """Leave the groups that the client may not read, and join those that it may read again."""
        self._leave()
        if self._changing is None and (self._leaving or self._readable_again()):
            self._changing = self._client.context.spawn(self._change())

    def take_back(self, name: str, message: Publish) -> bool:
        """Take a message for another member; False when the caller is to pass it on at once.

        It must not come back before routers have the end of this membership.
        """
        client = self._client
        if not client.incarnation:
            return False  # that it has left has been sent before
        if self._changing is None:
            client.context.router.redispatch(name, message)
        elif len(self._waiting) < client.context.limits.max_queued_messages:
            self._waiting.append((name, message))
        else:
            client.count_unreadable(message.topic)
        return True

    def _leave(self) -> None:
        """End memberships: here at once, at the routers at once or in ``_change``."""
        client = self._client
        names = [
            name
            for name in client.subscriptions
            if name.startswith("$share/")
            and name not in self.left
            and client.readable(name) is not Readable.ALL
        ]
        if not names:
            return
        self.left.update(names)
        for name in names:
            client.context.counters.acl_denied["subscribe"] += 1
            log.info(
                "client removed from shared subscription: not authorized to read all of it",
                extra=subject(client) | {"topic_filter": name},
            )
        if client.incarnation:
            self._leaving.update(names)
        else:
            client.context.router.leave_groups(client.session_key, client.epoch, names)

    def _readable_again(self) -> list[str]:
        readable = self._client.readable
        return [name for name in self.left if readable(name) is Readable.ALL]

    async def _change(self) -> None:
        """Tell the routers, and for a durable session the store, until they have it."""
        client = self._client
        try:
            while not client.is_closed:
                self._leave()  # the ACL may have changed meanwhile
                leaving, joining = list(self._leaving), self._readable_again()
                if not leaving and not joining:
                    break
                try:
                    await self._apply(leaving, joining)
                except SessionFenced as error:
                    client.fenced(error)
                except RouterUnavailable:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._changing = None
            waiting, self._waiting = self._waiting, []
            for name, message in waiting:
                client.context.router.redispatch(name, message)

    async def _apply(self, leaving: list[str], joining: list[str]) -> None:
        client = self._client
        router, edge_id = client.context.router, client.context.edge_id
        session = (client.session_key, client.epoch, client.incarnation)
        if leaving:
            await router.unsubscribe(edge_id, *session, leaving)
            self._leaving.difference_update(leaving)
        if joining:
            # UNSUBSCRIBE waits for this: they are there still.
            found = [(name, client.subscriptions[name]) for name in joining]
            await router.subscribe(edge_id, *session, found)
            self.left.difference_update(joining)


def rights_of(client: Client) -> GroupRights:
    """Return a client's, made when it is needed first."""
    rights = client.group_rights
    if rights is None:
        rights = client.group_rights = ClientGroupRights(client)
    return rights


def look_at_groups(client: Client) -> None:
    """Compare memberships with the ACL; to be called when either has changed."""
    if client.group_rights is not None or (
        client.acl is not None and any(name.startswith("$share/") for name in client.subscriptions)
    ):
        rights_of(client).look()


def subject(client: Client) -> dict[str, str]:
    """Who was denied something, for the log."""
    return {"client_id": client.client_id, "username": client.username or ""}
