"""The record: what has happened to clients, and why one gets nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query

from tidegate.console.access import VIEWER
from tidegate.console.broker.why import Reasons
from tidegate.console.errors import invalid
from tidegate.console.models.common import After, Limit
from tidegate.console.models.events import Event, EventPage
from tidegate.console.models.why import Sentence, Why
from tidegate.console.parts import Parts, PartsOf
from tidegate.console.routes.clients import ClientId, MountPoint, named
from tidegate.core.session_key import session_key
from tidegate.record.events import Kind
from tidegate.store import record_store
from tidegate.store.record_store import RecordStore

router = APIRouter(tags=["events"])

#: No name of a client or a mount point has U+0000.
_NAME = r"^[^\x00]*$"


@router.get("/events", dependencies=[VIEWER])
async def events(
    parts: PartsOf,
    kind: Annotated[list[Kind] | None, Query(description="Only these; may be repeated.")] = None,
    client: Annotated[str, Query(max_length=65_535, pattern=_NAME)] = "",
    after: After = "",
    limit: Limit = 100,
) -> EventPage:
    """List what has happened to all clients, the newest first.

    With `kind` or `client` a page may be short, or empty, though there is a next one.
    """
    return await _page(
        lambda store: store.events(after, limit, kinds=kind or (), client=client), parts
    )


@router.get("/events/newer", dependencies=[VIEWER])
async def newer_events(parts: PartsOf, after: After = "", limit: Limit = 100) -> EventPage:
    """List events after one, the oldest first, for who follows them.

    `next` is where to go on, also when there are none yet; without `after` it is from now on.
    """
    return await _page(lambda store: store.newer(after, limit), parts)


@router.get("/clients/{client_id}/events", dependencies=[VIEWER])
async def client_events(
    client_id: ClientId,
    parts: PartsOf,
    mount_point: MountPoint = "",
    after: After = "",
    limit: Limit = 100,
) -> EventPage:
    """List what has happened to one client, the newest first."""
    key = session_key(mount_point, named(client_id))
    return await _page(lambda store: store.client_events(key, after, limit), parts)


@router.get("/clients/{client_id}/why", dependencies=[VIEWER])
async def why(
    client_id: ClientId,
    parts: PartsOf,
    mount_point: MountPoint = "",
    topic: Annotated[
        str,
        Query(
            max_length=65_535,
            pattern=_NAME,
            description="Topic of which it should get messages.",
        ),
    ] = "",
) -> Why:
    """Say why a client gets nothing, or is not there, and what to do."""
    name, missing = named(client_id), list[str]()
    reasons = Reasons(parts.nodes, parts.store, parts.config())
    found = await reasons.of(name, mount_point, topic, missing)
    return Why(
        client_id=name,
        mount_point=mount_point,
        sentences=[
            Sentence(
                text=each.text,
                severity=each.severity,
                advice=each.advice,
                at=each.at,
                kind=each.kind,
            )
            for each in found
        ],
        missing=missing,
    )


async def _page(
    read: Callable[[RecordStore], Awaitable[record_store.EventPage]], parts: Parts
) -> EventPage:
    try:
        found = await read(RecordStore(parts.store.access.partitions))
    except ValueError:
        raise invalid("after is not what `next` of a page was") from None
    return EventPage(
        items=[Event.model_validate(event.to_json()) for event in found.items], next=found.next
    )
