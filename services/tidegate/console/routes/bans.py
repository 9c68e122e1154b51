"""Bans of clients, users and addresses."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request

from tidegate.bans.ban import Ban, BanKind
from tidegate.console.access import ADMIN, VIEWER, Admin
from tidegate.console.errors import conflict, invalid, not_found
from tidegate.console.models.bans import BanInfo, BanPage, NewBan
from tidegate.console.models.common import After, Limit
from tidegate.console.parts import Parts, PartsOf
from tidegate.store.ban_store import BanStore, TooManyBans

router = APIRouter(tags=["bans"])

_BAN_ID: Final = re.compile(r"[0-9a-f]{16}")


@router.get("/bans", dependencies=[VIEWER])
async def bans(parts: PartsOf, after: After = "", limit: Limit = 100) -> BanPage:
    """List bans that are in force, the newest first."""
    if after and not _BAN_ID.fullmatch(after):
        raise invalid("after is not what `next` of a page was")
    found, more = await _store(parts).list(time.time(), after, limit)
    return BanPage(items=[_shown(ban) for ban in found], next=more or None)


@router.post("/bans", status_code=HTTPStatus.CREATED)
async def ban(request: Request, body: NewBan, caller: Admin, parts: PartsOf) -> BanInfo:
    """Ban a client identifier, a user, or an address or network, at every edge within a second.

    Connections that it names are closed. One that names the same is replaced.
    """
    kind, value = _named(body)
    now = time.time()
    try:
        made = Ban.make(
            kind,
            value,
            mount_point=body.mount_point,
            reason=body.reason,
            until=body.until,
            at=now,
            by=caller.name,
        )
        await _store(parts).add(made)
    except ValueError as error:
        raise invalid(str(error)) from None
    except TooManyBans as error:
        raise conflict(str(error)) from None
    detail = {"reason": made.reason, "until": made.until, "mount_point": made.mount_point}
    await parts.audit.note(request, "ban", f"{kind.value} {made.value}", detail=detail)
    return _shown(made)


@router.delete("/bans/{ban_id}", status_code=HTTPStatus.NO_CONTENT, dependencies=[ADMIN])
async def delete_ban(
    request: Request,
    ban_id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="`id` of a ban.")],
    parts: PartsOf,
) -> None:
    """End a ban, at every edge within a second."""
    store = _store(parts)
    found = next((each for each in await _all(store) if each.id == ban_id), None)
    if not await store.delete(ban_id) or found is None:
        raise not_found(f"there is no ban {ban_id}")
    await parts.audit.note(request, "end ban", f"{found.kind.value} {found.value}")


async def _all(store: BanStore) -> list[Ban]:
    decoded = (Ban.decode(stored) for stored in await store.stored())
    return [each for each in decoded if each is not None]


def _store(parts: Parts) -> BanStore:
    return BanStore(parts.store.access.partitions)


def _named(body: NewBan) -> tuple[BanKind, str]:
    if body.client is not None:
        return BanKind.CLIENT, body.client
    if body.user is not None:
        return BanKind.USER, body.user
    assert body.address is not None
    return BanKind.ADDRESS, body.address


def _shown(found: Ban) -> BanInfo:
    return BanInfo.model_validate(found.to_json())
