"""Who makes a request: a bearer token, or the cookie of a session, which a login has begun.

Made by ``roles.console``, called by ``console.access`` for each request and by the routes of
logins and tokens.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from tidegate.console.auth.attempts import Attempts
from tidegate.console.auth.sessions import Session, csrf_of, new_session, seal, unseal
from tidegate.console.auth.shared import MAX_TOKENS, Shared, SharedState
from tidegate.console.auth.tokens import Token, digest_of, new_secret, read_tokens
from tidegate.console.auth.users import TooManyLogins, Users
from tidegate.console.caller import Caller, Role
from tidegate.console.errors import ApiError, Reason, conflict, not_found

log = logging.getLogger(__name__)

COOKIE: Final = "tidegate_session"
CSRF_HEADER: Final = "X-CSRF-Token"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Authority:
    """See the module's docstring."""

    def __init__(
        self, users: Users, tokens_file: Path | None, shared: Shared, lifetime_s: int
    ) -> None:
        self._users = users
        self._tokens_file = tokens_file
        self._shared = shared
        self._lifetime_s = lifetime_s
        self._attempts = Attempts()
        self._file_problem = ""

    # Each request

    async def identify(self, request: Request) -> Caller:
        """Return the caller. Raises ApiError 401 or 403; 503 while nobody can be judged yet.

        A session that was begun before the store was read is signed with this console's own key.
        ``request.state.renewed_cookie`` is then its cookie for all consoles, and its end.
        """
        state = await self._shared.state()
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = self._token(secret.strip(), state)
            if token is None and not state.is_read:
                raise _not_ready()
            if token is None:
                raise _not_authenticated("this token is not valid: it is unknown, or has expired")
            return Caller(f"token:{token.name}", token.role)
        session = self._session(request, state)
        if session is None and COOKIE in request.cookies and not state.is_read:
            raise _not_ready()
        if session is None:
            raise _not_authenticated(
                "log in, or send a token of the console (Authorization: Bearer TOKEN)"
            )
        caller = self._caller(session, state)
        if caller is None:
            raise _not_authenticated(
                "the user or the token that this session was begun with is not valid any more"
            )
        if state.is_read and unseal(request.cookies[COOKIE], state.keys[:1], time.time()) is None:
            request.state.renewed_cookie = seal(session, state.keys[0]), session.expires_at
        if request.method not in SAFE_METHODS:
            check_origin(request)
            given = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode(), caller.csrf.encode()):
                raise ApiError(
                    HTTPStatus.FORBIDDEN,
                    Reason.CSRF,
                    f"the header {CSRF_HEADER} must have the value `csrf` of /api/v1/me",
                )
        return caller

    def _session(self, request: Request, state: SharedState) -> Session | None:
        session = unseal(request.cookies.get(COOKIE, ""), state.keys, time.time())
        return None if session is None or session.id in state.ended else session

    def _caller(self, session: Session, state: SharedState) -> Caller | None:
        csrf = csrf_of(session.id)
        if session.user:
            role = self._users.role_of(session.user)
            return None if role is None else Caller(session.user, role, csrf, session.id)
        token = self._tokens(state).get(session.token)
        if token is None or not token.is_valid(time.time()):
            return None
        return Caller(f"token:{token.name}", token.role, csrf, session.id)

    def _token(self, secret: str, state: SharedState) -> Token | None:
        digest, now_s = digest_of(secret), time.time()
        return next(
            (
                token
                for token in self._tokens(state).values()
                if hmac.compare_digest(token.digest, digest) and token.is_valid(now_s)
            ),
            None,
        )

    def _tokens(self, state: SharedState) -> dict[str, Token]:
        return {token.id: token for token in self._of_file()} | state.tokens

    def _of_file(self) -> list[Token]:
        if self._tokens_file is None:
            return []
        try:
            found = read_tokens(self._tokens_file)
        except (OSError, ValueError) as error:
            if str(error) != self._file_problem:
                self._file_problem = str(error)
                log.warning("tokens file unusable", extra={"reason": self._file_problem})
            return []
        self._file_problem = ""
        return found

    # Logins

    async def login(self, request: Request, user: str, password: str) -> tuple[Caller, str]:
        """Begin a session of a user; return the cookie. Raises ApiError."""
        self._check_attempts(request, user)
        try:
            role = await self._users.verify(user, password)
        except TooManyLogins:
            raise _too_many(5) from None
        if role is None:
            self._failed(request, user)
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                Reason.WRONG_CREDENTIALS,
                "the user name or the password is wrong",
            )
        return await self._begin(user, "")

    async def login_with_token(self, request: Request, secret: str) -> tuple[Caller, str]:
        """Begin a session of a token; return the cookie. Raises ApiError."""
        self._check_attempts(request, "")
        state = await self._shared.state(at_once=True)
        token = self._token(secret, state)
        if token is None and not state.is_read:
            # No failure of whoever tries: the token may be one of the store.
            raise _not_ready()
        if token is None:
            self._failed(request, "")
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                Reason.WRONG_CREDENTIALS,
                "this token is not valid: it is unknown, or has expired",
            )
        return await self._begin("", token.id)

    async def logout(self, request: Request) -> None:
        """End the session of a request."""
        session = self._session(request, await self._shared.state())
        if session is not None:
            await self._shared.end_session(session.id, session.expires_at)

    async def _begin(self, user: str, token: str) -> tuple[Caller, str]:
        state = await self._shared.state()
        session = new_session(user, token, time.time() + self._lifetime_s)
        caller = self._caller(session, state)
        if caller is None:
            raise _not_authenticated("the user or the token has just been removed")
        return caller, seal(session, state.keys[0])

    def _check_attempts(self, request: Request, user: str) -> None:
        now_s = time.monotonic()
        wait_s = max(self._attempts.wait_s(name, now_s) for name in _names(request, user))
        if wait_s > 0:
            raise _too_many(wait_s)

    def _failed(self, request: Request, user: str) -> None:
        for name in _names(request, user):
            self._attempts.failed(name, time.monotonic())

    # Tokens

    async def tokens(self) -> list[Token]:
        """Return all tokens, those of the file first."""
        return sorted(
            self._tokens(await self._read_state()).values(),
            key=lambda token: (token.created_at, token.id),
        )

    async def make_token(
        self, name: str, role: Role, by: str, expires_at: float
    ) -> tuple[Token, str]:
        """Make a token; return it and its secret. Raises ApiError, StoreUnavailable."""
        state = await self._read_state()
        if len(state.tokens) >= MAX_TOKENS:
            raise conflict(f"there are {MAX_TOKENS} tokens: delete some first")
        secret = new_secret()
        token = Token(
            id=secrets.token_hex(6),
            name=name,
            role=role,
            digest=digest_of(secret),
            created_at=time.time(),
            created_by=by,
            expires_at=expires_at,
        )
        await self._shared.add_token(token)
        return token, secret

    async def delete_token(self, identifier: str) -> Token:
        """Delete a token, which ends the sessions that it has begun. Raises ApiError."""
        tokens = self._tokens(await self._read_state())
        token = tokens.get(identifier)
        if token is None:
            raise not_found(f"there is no token {identifier}")
        if identifier.startswith("file-"):
            raise conflict("this token is in console.tokens_file: delete its line there")
        await self._shared.delete_token(identifier)
        return token

    async def _read_state(self) -> SharedState:
        """Return the state, which has been read at least once. Raises ApiError."""
        state = await self._shared.state(at_once=True)
        if not state.is_read:
            raise _not_ready()
        return state


def check_origin(request: Request) -> None:
    """Raise ApiError for a request that a browser sends for another site's page."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    if urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise ApiError(
            HTTPStatus.FORBIDDEN, Reason.CSRF, f"requests from pages of {origin[:200]} are refused"
        )


def address_of(request: Request) -> str:
    """Return the peer's IP address."""
    return request.client.host if request.client is not None else ""


def _names(request: Request, user: str) -> list[str]:
    names = [f"address {address_of(request)}"]
    return [*names, f"user {user}"] if user else names


def _not_authenticated(sentence: str) -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        Reason.NOT_AUTHENTICATED,
        sentence,
        {"WWW-Authenticate": "Bearer"},
    )


def _not_ready() -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        "the console has just started and has not read its store yet: whether this token or "
        "session is valid is not known until the store answers",
        {"Retry-After": "1"},
    )


def _too_many(wait_s: float) -> ApiError:
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        Reason.TOO_MANY,
        f"too many logins have failed; the next may be made in {wait_s:.0f} s",
        {"Retry-After": f"{max(1, round(wait_s))}"},
    )
