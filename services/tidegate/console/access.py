"""The dependencies that say which role a route needs.

A route names one of ``VIEWER``, ``OPERATOR`` and ``ADMIN`` in ``dependencies``, or takes the caller
as a parameter (``Viewer``, ``Operator``, ``Admin``). One that names none is open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends, Request, Security
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


def require(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency that admits callers with at least this role."""

    async def caller_of(
        request: Request,
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
