"""Clients: lists, one of them, and what can be done to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from tidegate.console.access import ADMIN, OPERATOR, VIEWER
from tidegate.console.broker.clients import Clients, Search
from tidegate.console.errors import invalid
from tidegate.console.models.clients import (
    Cleared,
    ClientDetail,
    ClientFilter,
    ClientPage,
    Done,
    QueuePage,
    SubscriptionPage,
)
from tidegate.console.models.common import After, Limit
from tidegate.console.parts import PartsOf
from tidegate.console.segments import whole
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import validate_topic_filter

router = APIRouter(tags=["clients"])

#: A name as it may be part of a session key.
_NAME = r"^[^\x00]*$"
ClientId = Annotated[
    str,
    Path(max_length=200_000, description="Client identifier, percent-encoded (a slash is %2F)."),
]
MountPoint = Annotated[
    str,
    Query(max_length=65_535, pattern=_NAME, description="Of the client's listener; empty: none."),
]
Text = Annotated[str | None, Query(max_length=65_535, pattern=_NAME)]
QueueAfter = Annotated[
    str,
    Query(pattern=r"^[0-9]{0,15}$", description="`next` of the page before; empty: the oldest."),
]


def clients_of(parts: PartsOf) -> Clients:
    """Return what finds clients."""
    return Clients(parts.nodes, parts.store)


ClientsOf = Annotated[Clients, Depends(clients_of)]


def named(client_id: str) -> str:
    """Return a client identifier of a path. Raises ApiError."""
    found = whole(client_id)
    if "\0" in found or not found:
        raise invalid("this cannot be a client identifier")
    return found


@router.get("/clients", dependencies=[VIEWER])
async def list_clients(  # one for each thing that is searched
    clients: ClientsOf,
    prefix: Annotated[str, Query(max_length=65_535, pattern=_NAME)] = "",
    user: Text = None,
    address: Text = None,
    listener: Text = None,
    mount_point: Text = None,
    state: ClientFilter = ClientFilter.ALL,
    limit: Limit = 100,
    after: After = "",
) -> ClientPage:
    """List clients: connected ones, then offline ones.

    `prefix` is the beginning of the identifier, `address` that of the address. A client without a
    connection has no address and no listener.
    """
    search = Search(prefix, mount_point, user, address, listener, state)
    return await clients.page(search, after, limit)


@router.get("/clients/{client_id}", dependencies=[VIEWER])
async def get_client(
    client_id: ClientId, clients: ClientsOf, mount_point: MountPoint = ""
) -> ClientDetail:
    """One client: its connection, its session, its will, and what is in flight to it."""
    return await clients.client(named(client_id), mount_point)


@router.get("/clients/{client_id}/queue", dependencies=[VIEWER])
async def get_queue(
    client_id: ClientId,
    clients: ClientsOf,
    mount_point: MountPoint = "",
    after: QueueAfter = "",
    limit: Limit = 100,
) -> QueuePage:
    """Messages that wait in the store for a client, the oldest first."""
    return await clients.queue(named(client_id), mount_point, int(after or 0), limit)


@router.get("/clients/{client_id}/subscriptions", dependencies=[VIEWER])
async def get_client_subscriptions(
    client_id: ClientId,
    clients: ClientsOf,
    mount_point: MountPoint = "",
    after: After = "",
    limit: Limit = 100,
) -> SubscriptionPage:
    """Subscriptions of a client, in the order of their filters."""
    return await clients.subscriptions(named(client_id), mount_point, after, limit)


@router.post("/clients/{client_id}/disconnect", dependencies=[OPERATOR])
async def disconnect_client(
    request: Request,
    client_id: ClientId,
    clients: ClientsOf,
    parts: PartsOf,
    mount_point: MountPoint = "",
) -> Done:
    """Disconnect a client (MQTT 5: 0x98). Its session stays, and it may connect again at once."""
    edges = await clients.disconnect(named(client_id), mount_point)
    detail = {"mount_point": mount_point, "edges": edges}
    await parts.audit.note(request, "disconnect client", named(client_id), detail=detail)
    return Done(detail=f"disconnected at {', '.join(edges)}")


@router.delete("/clients/{client_id}/session", dependencies=[ADMIN])
async def end_session(
    request: Request,
    client_id: ClientId,
    clients: ClientsOf,
    parts: PartsOf,
    mount_point: MountPoint = "",
) -> Done:
    """End a session with its queue and subscriptions; its client is disconnected first."""
    await clients.end_session(named(client_id), mount_point)
    detail = {"mount_point": mount_point}
    await parts.audit.note(request, "end session", named(client_id), detail=detail)
    return Done(detail="the session has ended")


@router.delete("/clients/{client_id}/queue", dependencies=[ADMIN])
async def clear_queue(
    request: Request,
    client_id: ClientId,
    clients: ClientsOf,
    parts: PartsOf,
    mount_point: MountPoint = "",
) -> Cleared:
    """Delete what waits for a client.

    QoS 2 messages whose delivery may have begun stay, since their packet identifiers are in use;
    while the client is connected, those are all QoS 2 messages.
    """
    deleted = await clients.clear_queue(named(client_id), mount_point)
    parts.counters.queued -= deleted
    parts.counters.dropped["queue_cleared"] += deleted
    detail = {"mount_point": mount_point, "deleted": deleted}
    await parts.audit.note(request, "clear queue", named(client_id), detail=detail)
    return Cleared(deleted=deleted)


@router.get("/subscriptions", dependencies=[VIEWER])
async def list_subscriptions(  # what is searched, and the page
    clients: ClientsOf,
    filter: Annotated[str | None, Query(max_length=65_535, pattern=_NAME)] = None,  # noqa: A002
    client: Annotated[str | None, Query(max_length=65_535, pattern=_NAME)] = None,
    mount_point: MountPoint = "",
    after: After = "",
    limit: Limit = 100,
) -> SubscriptionPage:
    """Subscriptions with exactly this `filter` (under its mount point), or of one `client`."""
    if (filter is None) == (client is None):
        raise invalid("give filter or client: who has this filter, or what this client has")
    if client is not None:
        return await clients.subscriptions(client, mount_point, after, limit)
    assert filter is not None
    try:
        validate_topic_filter(filter)
    except MqttError as error:
        raise invalid(f"filter: {error}") from None
    return await clients.subscribers(filter, after, limit)
