"""Logins, tokens, and the audit."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from tidegate.console.access import ADMIN, Admin, Viewer, is_secure, set_cookie
from tidegate.console.auth.authority import COOKIE, check_origin
from tidegate.console.auth.tokens import Token
from tidegate.console.caller import Caller
from tidegate.console.errors import ApiError, invalid
from tidegate.console.models.auth import (
    AuditEntry,
    AuditPage,
    CreatedToken,
    Login,
    Me,
    NewToken,
    TokenInfo,
    TokenPage,
)
from tidegate.console.models.common import After, Limit
from tidegate.console.paging import decode_cursor, encode_cursor
from tidegate.console.parts import PartsOf

router = APIRouter(tags=["access"])

_ENTRY_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")


@router.post("/login")
async def login(request: Request, response: Response, body: Login, parts: PartsOf) -> Me:
    """Begin a session: the answer sets its cookie."""
    check_origin(request)
    who = body.user or "token"
    try:
        if body.token:
            caller, cookie = await parts.authority.login_with_token(request, body.token)
        else:
            caller, cookie = await parts.authority.login(request, body.user, body.password)
    except ApiError as error:
        await parts.audit.note(request, "login", outcome=error.reason.value, user=who)
        raise
    set_cookie(request, response, cookie, parts.config().console.session_lifetime_s)
    request.state.caller = caller
    await parts.audit.note(request, "login")
    return _me(caller)


@router.post("/logout", status_code=HTTPStatus.NO_CONTENT)
async def logout(request: Request, response: Response, caller: Viewer, parts: PartsOf) -> None:
    """End the session of the cookie."""
    await parts.authority.logout(request)
    response.delete_cookie(
        COOKIE, path="/", secure=is_secure(request), httponly=True, samesite="strict"
    )
    if caller.session:
        await parts.audit.note(request, "logout")


@router.get("/me")
async def me(caller: Viewer) -> Me:
    """Say who makes the request."""
    return _me(caller)


@router.get("/tokens", dependencies=[ADMIN])
async def tokens(parts: PartsOf) -> TokenPage:
    """List tokens, without their secrets."""
    return TokenPage(items=[_shown(token) for token in await parts.authority.tokens()])


@router.post("/tokens", status_code=HTTPStatus.CREATED)
async def create_token(
    request: Request, body: NewToken, caller: Admin, parts: PartsOf
) -> CreatedToken:
    """Make a token. Its secret is in this answer and nowhere else."""
    expires_at = time.time() + body.lifetime_s if body.lifetime_s is not None else 0.0
    token, secret = await parts.authority.make_token(body.name, body.role, caller.name, expires_at)
    await parts.audit.note(
        request, "create token", token.name, detail={"id": token.id, "role": token.role.value}
    )
    return CreatedToken(**_shown(token).model_dump(), token=secret)


@router.delete("/tokens/{token_id}", status_code=HTTPStatus.NO_CONTENT, dependencies=[ADMIN])
async def delete_token(
    request: Request, token_id: Annotated[str, Path(max_length=64)], parts: PartsOf
) -> None:
    """Delete a token; sessions that it has begun end."""
    token = await parts.authority.delete_token(token_id)
    await parts.audit.note(request, "delete token", token.name, detail={"id": token.id})


@router.get("/audit", dependencies=[ADMIN])
async def audit(parts: PartsOf, after: After = "", limit: Limit = 100) -> AuditPage:
    """List what has been changed with the console, the newest first."""
    before = decode_cursor(after)
    if before is not None and not (isinstance(before, str) and _ENTRY_ID.fullmatch(before)):
        raise invalid("after is not what `next` of a page was")
    found = await parts.audit.read(before or "", limit + 1)
    shown = [
        AuditEntry(
            id=entry.id,
            at=entry.at,
            user=entry.user,
            role=entry.role,
            action=entry.action,
            target=entry.target,
            outcome=entry.outcome,
            address=entry.address,
            detail=dict(entry.detail),
        )
        for entry in found[:limit]
    ]
    more = len(found) > limit
    return AuditPage(items=shown, next=encode_cursor(shown[-1].id) if more else None)


def _me(caller: Caller) -> Me:
    return Me(
        user=caller.name, role=caller.role, csrf=caller.csrf, can_log_out=bool(caller.session)
    )


def _shown(token: Token) -> TokenInfo:
    return TokenInfo(
        id=token.id,
        name=token.name,
        role=token.role,
        created_at=token.created_at or None,
        created_by=token.created_by,
        expires_at=token.expires_at or None,
        from_file=token.id.startswith("file-"),
    )
