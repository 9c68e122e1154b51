"""Why a client gets nothing: what is known of it, collected for the sentences of ``record.why``.

Called by ``routes.why``. Knows no sentence. What cannot be read is in ``missing`` and left out of
the sentences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from tidegate.bans.ban import Ban
from tidegate.bans.ban_list import BanList
from tidegate.console.broker.clients import Clients
from tidegate.console.broker.shapes import without_mount_point
from tidegate.console.errors import ApiError
from tidegate.console.models.clients import ClientDetail, ClientState
from tidegate.console.nodes.pool import Nodes
from tidegate.console.store_link import StoreLink
from tidegate.core.session_key import session_key
from tidegate.record.events import Event
from tidegate.record.state import BanState, QueueState, SessionState, SubscriptionState
from tidegate.record.timeline import host
from tidegate.record.why import Client, Finding, sentences
from tidegate.runtime.config.model import Config
from tidegate.store.api import StoreUnavailable
from tidegate.store.ban_store import BanStore
from tidegate.store.record_store import RecordStore

#: Events and subscriptions that are looked at.
_EVENTS = 200
_SUBSCRIPTIONS = 1000


class Reasons:
    """See the module's docstring."""

    def __init__(self, nodes: Nodes, store: StoreLink, config: Config) -> None:
        self._clients = Clients(nodes, store)
        self._nodes = nodes
        self._store = store
        self._config = config

    async def of(
        self, client_id: str, mount_point: str, topic: str, missing: list[str]
    ) -> list[Finding]:
        """Return the sentences about a client, also about one that is not known at all."""
        detail = await self._detail(client_id, mount_point, missing)
        events = await self._events(client_id, mount_point, missing)
        known = Client(
            client=client_id,
            events=events,
            session=None if detail is None else _session(detail),
            subscriptions=await self._subscriptions(detail, client_id, mount_point, missing),
            queue=None if detail is None else self._queue(detail),
            bans=await self._bans(client_id, mount_point, events, missing),
        )
        missing[:] = dict.fromkeys(missing)
        return sentences(known, time.time(), topic=topic)

    async def _detail(
        self, client_id: str, mount_point: str, missing: list[str]
    ) -> ClientDetail | None:
        try:
            detail = await self._clients.client(client_id, mount_point)
        except ApiError as error:
            if error.status != 404:
                missing.append(error.sentence)
            return None
        missing += detail.missing
        return detail

    async def _events(self, client_id: str, mount_point: str, missing: list[str]) -> list[Event]:
        try:
            record = RecordStore(self._store.access.partitions)
            page = await record.client_events(session_key(mount_point, client_id), limit=_EVENTS)
        except StoreUnavailable as error:
            missing.append(f"store: {error}")
            return []
        return page.items

    async def _subscriptions(
        self, detail: ClientDetail | None, client_id: str, mount_point: str, missing: list[str]
    ) -> list[SubscriptionState] | None:
        """Return them with what the ACL lets the client read of each, where its edge says so."""
        if detail is None:
            return []
        readable: Mapping[str, str] = {}
        if detail.connection is not None:
            readable = await self._readable(client_id, mount_point)
        try:
            page = await self._clients.subscriptions(client_id, mount_point, "", _SUBSCRIPTIONS)
        except ApiError as error:
            if error.status == 404:
                return []
            missing.append(error.sentence)
            return None
        except StoreUnavailable as error:
            missing.append(f"store: {error}")
            return None
        return [_subscription(each.filter, each.qos, readable) for each in page.items]

    async def _readable(self, client_id: str, mount_point: str) -> Mapping[str, str]:
        answer = await self._clients.connected(client_id, mount_point, [])
        filters = answer.body["filters"] if answer is not None else []
        return {
            without_mount_point(each["filter"], mount_point): each.get("readable", "unknown")
            for each in filters
        }

    def _queue(self, detail: ClientDetail) -> QueueState | None:
        session = detail.session
        if session is None:
            return None
        queue = session.queue
        return QueueState(
            length=queue.length,
            limit=self._config.limits.max_queued_messages,
            size_bytes=queue.size_bytes,
            oldest_at=queue.oldest_at,
        )

    async def _bans(
        self, client_id: str, mount_point: str, events: Sequence[Event], missing: list[str]
    ) -> list[BanState]:
        """Return bans that name the client, or the user and address that it had last."""
        try:
            stored = await BanStore(self._store.access.partitions).stored()
        except StoreUnavailable as error:
            missing.append(f"store: {error}")
            return []
        bans = BanList(ban for each in stored if (ban := Ban.decode(each)) is not None)
        user = next((event.user for event in events if event.user), None)
        address = next((host(event.address) for event in events if event.address), "")
        found = bans.find(mount_point, client_id, user, address, time.time())
        if found is None:
            return []
        return [BanState(found.kind.value, found.value, found.reason, found.until)]


def _session(detail: ClientDetail) -> SessionState | None:
    session = detail.session
    connection = detail.connection
    if session is None and connection is None:
        return None
    return SessionState(
        is_connected=detail.state is ClientState.CONNECTED,
        edge=connection.edge if connection is not None else "",
        is_durable=session is not None and bool(session.incarnation),
        session_expiry_s=session.expiry_s if session is not None else None,
        ends_at=session.ends_at if session is not None else None,
        user=detail.user or "",
    )


def _subscription(name: str, qos: int, readable: Mapping[str, str]) -> SubscriptionState:
    found = readable.get(name, "unknown")
    match found:
        case "all" | "some" | "none":
            return SubscriptionState(name, qos, found)
    return SubscriptionState(name, qos)
