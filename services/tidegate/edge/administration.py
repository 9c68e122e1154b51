"""The edge's part of the admin API: status, clients, drain, shed, and readings for /metrics.

Called by ``roles``, which passes the result to the admin server. Reads the edge and its clients;
changes nothing but through ``Drainer``, ``Shedder`` and ``Client.disconnect``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tidegate.core.session_key import SEPARATOR, session_key
from tidegate.edge.drain.shed import Shedder
from tidegate.edge.inspection.description import (
    describe,
    describe_exchange,
    describe_filter,
    time_of,
)
from tidegate.edge.inspection.pages import handlers_of
from tidegate.edge.inspection.search import first_keys
from tidegate.link.interfaces import AttachSession, DetachSession, RouterUnavailable
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.admin.control import AmbiguousClient, Control, Json
from tidegate.runtime.admin.pieces import DESCRIBED, first_of, pieces
from tidegate.runtime.telemetry.metrics import CallbackMetrics

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.drain.drain import Drainer
    from tidegate.edge.edge import Edge

#: Subscriptions listed of one client.
MAX_LISTED: Final = 1000
#: Messages in flight listed of one client.
MAX_IN_FLIGHT: Final = 100


def control_of(edge: Edge, drainer: Drainer, status: Callable[[], Json]) -> Control:
    """Return an edge's ``Control``. ``status`` returns what is known of the process."""
    pages = _Pages(edge, drainer, status)
    return Control(
        pages.status,
        pages.drain,
        pages.progress,
        pages.clients,
        pages.client,
        pages.disconnect,
        pages.shed,
        pages.shedding,
        pages.end_session,
        handlers=handlers_of(edge),
    )


def readings_of(edge: Edge) -> CallbackMetrics:
    """Return the readings for /metrics of what waits for a router or a thread."""
    return CallbackMetrics(
        (
            (
                "publishing_held",
                "1 while no router accepts publishes.",
                [],
                lambda: [([], int(edge.context.is_publishing_paused))],
            ),
            (
                "clients_held",
                "Clients with a packet that waits for a router.",
                [],
                lambda: [([], len(edge.context.waiting_for_router))],
            ),
            (
                "passwords_waiting",
                "Password hashes that wait for a thread.",
                [],
                lambda: [([], edge.context.authenticator.waiting_count)],
            ),
        )
    )


class _Pages:
    __slots__ = ("_drainer", "_edge", "_process_status", "_shedder")

    def __init__(self, edge: Edge, drainer: Drainer, status: Callable[[], Json]) -> None:
        self._edge = edge
        self._drainer = drainer
        self._shedder = Shedder(edge, drainer)
        self._process_status = status

    def status(self) -> Json:
        """Return the status of the process, then that of the edge."""
        edge = self._edge
        return {
            **self._process_status(),
            "edge_id": edge.edge_id,
            "clients": len(edge.clients),
            "connecting": len(edge.registry.connecting),
            "subscriptions": edge.registry.subscription_count,
            "holding": edge.context.is_publishing_paused,
            "held": len(edge.context.waiting_for_router),
            "drain": self.progress(),
            "shedding": self.shedding(),
        }

    def drain(self, reason: str) -> Json:
        self._drainer.start(reason)
        return self.progress()

    def progress(self) -> Json:
        progress = self._drainer.progress()
        return {
            "draining": progress.is_draining,
            "done": progress.is_done,
            "reason": progress.reason or None,
            "since": time_of(progress.since_s),
            "clients_at_start": progress.clients_at_start,
            "clients_left": progress.clients_left,
        }

    async def clients(self, count: int, after: str) -> list[Json]:
        """Describe the next ``count`` clients in the order of their session keys."""
        clients = self._edge.clients
        found: list[Json] = []
        while missing := count - len(found):
            keys = await first_keys(clients, after, missing)
            if not keys:
                break
            async for part in pieces(keys, DESCRIBED):
                found += [describe(clients[key]) for key in part if key in clients]
            # Those that have left meanwhile make room for the ones behind.
            after = keys[-1]
        return found

    async def client(self, client_id: str, mount_point: str | None) -> Json | None:
        """Describe one client with its subscriptions."""
        client = self._find(client_id, mount_point)
        if client is None:
            return None
        filters: list[Json] = []
        names = await first_of(list(client.subscriptions), MAX_LISTED, lambda part: part)
        async for part in pieces(names, DESCRIBED):
            filters += [
                describe_filter(client, name) for name in part if name in client.subscriptions
            ]
        return {
            **describe(client),
            "keep_alive_s": client.keep_alive_s,
            "session_expiry_s": client.session_expiry_s,
            "idle_s": round(max(0.0, self._edge.context.time_s() - client.queue.seen_s), 1),
            "filters": filters,
            "receive_maximum": client.max_in_flight,
            "window": [
                describe_exchange(one) for one in client.delivery.unacknowledged(MAX_IN_FLIGHT)
            ],
        }

    def disconnect(self, client_id: str, mount_point: str | None) -> bool:
        """Disconnect a client with 0x98; its will is published by its rules."""
        client = self._find(client_id, mount_point)
        if client is None:
            return False
        client.disconnect(ReasonCode.ADMINISTRATIVE_ACTION)
        return True

    async def end_session(self, client_id: str, mount_point: str) -> bool | None:
        """End a session, whoever owns it; its client is disconnected; see ``Control``."""
        edge, key = self._edge, session_key(mount_point, client_id)
        router, client = edge.context.router, edge.clients.get(key)
        if client is not None:
            client.disconnect(ReasonCode.ADMINISTRATIVE_ACTION)
        ending = edge.registry.detaching.get(key)
        if ending is not None:
            router.hasten(key)
            await asyncio.wait([ending])
        own_epoch = client.epoch if client is not None else 0
        request = AttachSession(key, clean_start=True, session_expiry_s=0, own_epoch=own_epoch)
        try:
            session = await router.attach(edge.edge_id, request)
        except RouterUnavailable:
            return None
        await router.detach(DetachSession(key, session.epoch, publish_will=False))
        return client is not None or session.has_discarded

    def _find(self, client_id: str, mount_point: str | None) -> Client | None:
        """Return a client; see ``Control``. Raises AmbiguousClient."""
        clients = self._edge.clients
        client = clients.get(session_key(mount_point or "", client_id))
        if client is not None or mount_point is not None:
            return client
        suffix = SEPARATOR + client_id
        keys = [key for key in clients if key.endswith(suffix)]
        if len(keys) > 1:
            raise AmbiguousClient
        return clients[keys[0]] if keys else None

    def shed(self, count: int) -> int | None:
        """Shed clients; return how many, None while the edge drains."""
        return self._shedder.start(count)

    def shedding(self) -> int:
        return self._shedder.remaining
