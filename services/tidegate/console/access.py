"""The dependencies that say which role a route needs.

A route names one of ``VIEWER``, ``OPERATOR`` and ``ADMIN`` in ``dependencies``, or takes the caller
as a parameter (``Viewer``, ``Operator``, ``Admin``). One that names none is open.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from tidegate.console.auth.authority import COOKIE
from tidegate.console.caller import Caller, Role
from tidegate.console.errors import ApiError, Reason
from tidegate.console.parts import parts_of

#: For the OpenAPI document; ``Authority`` looks at the request itself.
_BEARER: Final = HTTPBearer(auto_error=False, description="A token of the console.")
_COOKIE: Final = APIKeyCookie(
    name=COOKIE, auto_error=False, description="The session of a user who has logged in."
)


def set_cookie(request: Request, response: Response, cookie: str, lifetime_s: int) -> None:
    """Have the browser keep the cookie of a session."""
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=lifetime_s,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )


def is_secure(request: Request) -> bool:
    """Whether the browser uses TLS, to here or to a proxy before the console."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or forwarded.strip().lower() == "https"


def require(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency that admits callers with at least this role."""

    async def caller_of(
        request: Request,
        response: Response,
        _bearer: Annotated[object, Security(_BEARER)] = None,
        _cookie: Annotated[object, Security(_COOKIE)] = None,
    ) -> Caller:
        caller = await parts_of(request).authority.identify(request)
        if not caller.role.includes(role):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                Reason.NOT_PERMITTED,
                f"this needs the role {role.value}; {caller.name} has {caller.role.value}",
            )
        request.state.caller = caller
        renewed = getattr(request.state, "renewed_cookie", None)
        if renewed is not None:
            cookie, expires_at = renewed
            set_cookie(request, response, cookie, max(1, round(expires_at - time.time())))
        return caller

    return caller_of


_viewer, _operator, _admin = require(Role.VIEWER), require(Role.OPERATOR), require(Role.ADMIN)

#: For ``dependencies`` of a route.
VIEWER: Final = Depends(_viewer)
OPERATOR: Final = Depends(_operator)
ADMIN: Final = Depends(_admin)

#: The same as a parameter.
Viewer = Annotated[Caller, Depends(_viewer)]
Operator = Annotated[Caller, Depends(_operator)]
Admin = Annotated[Caller, Depends(_admin)]
