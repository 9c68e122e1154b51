"""What all consoles of one broker share, in its store: the key of cookies, tokens, ended sessions.

Read again after two seconds; while the store is away the last state counts, so that people can
still look at the broker. Used by ``authority``. Keys are in docs/storage.md.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tidegate.console.auth.tokens import Token, decode, encode
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.keys import GLOBAL_PREFIX

log = logging.getLogger(__name__)

#: String: the key that cookies are signed with.
SECRET_KEY: Final = GLOBAL_PREFIX + b"console-key"
#: Hash: identifier of a token → its record as JSON, without the secret.
TOKENS_KEY: Final = GLOBAL_PREFIX + b"console-tokens"
#: Sorted set: sessions that were ended by a logout, by their end in seconds since 1970.
ENDED_KEY: Final = GLOBAL_PREFIX + b"console-ended"

#: How long what was read counts as current.
FRESH_S: Final = 2.0
#: The same for a failure before it was read for the first time.
RETRY_S: Final = 0.1
#: How long a request waits for the store.
WAIT_S: Final = 1.0
MAX_TOKENS: Final = 1000


@dataclass(slots=True)
class SharedState:
    """The last state that was read."""

    #: Keys of cookies: the first one signs. It is random until the store has another, and stays
    #: valid here afterwards, so that nobody is logged out by the store.
    keys: tuple[bytes, ...] = field(default_factory=lambda: (secrets.token_bytes(32),))
    tokens: dict[str, Token] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    #: Whether the store has been read since the start.
    is_read: bool = False


class Shared:
    """See the module's docstring."""

    def __init__(self, access: Callable[[], StoreAccess]) -> None:
        """``access`` raises StoreUnavailable."""
        self._access = access
        self._state = SharedState()
        self._own_key = self._state.keys[0]
        self._read_s = -FRESH_S
        self._reading: asyncio.Task[None] | None = None

    async def state(self, *, at_once: bool = False) -> SharedState:
        """Return the state, read now if the last one is old and the store answers.

        ``at_once``: also shortly after it could not be read for the first time.
        """
        retry_s = 0.0 if at_once else RETRY_S
        if time.monotonic() - self._read_s >= (FRESH_S if self._state.is_read else retry_s):
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.wait([self._reading], timeout=WAIT_S)
        return self._state

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            access = self._access()
            now = str(time.time()).encode()
            key, tokens, ended = await asyncio.gather(
                access.read(GLOBAL_PREFIX, b"GET", SECRET_KEY),
                access.read(GLOBAL_PREFIX, b"HGETALL", TOKENS_KEY),
                access.read(GLOBAL_PREFIX, b"ZRANGEBYSCORE", ENDED_KEY, now, b"+inf"),
            )
            if key is None:
                key = await self._new_key(access)
        except StoreUnavailable:
            # The last state counts; the store's own client logs the reason.
            self._read_s = time.monotonic()
            return
        except Exception:
            log.exception("state of the consoles unreadable")
            self._read_s = time.monotonic()
            return
        found = [decode(raw) for raw in tokens[1::2]]
        self._state = SharedState(
            (bytes(key), self._own_key),
            {token.id: token for token in found if token is not None},
            {name.decode() for name in ended} | self._state.ended,
            is_read=True,
        )
        self._read_s = time.monotonic()

    async def _new_key(self, access: StoreAccess) -> bytes:
        """Make the key, unless another console has just made it."""
        await access.command(GLOBAL_PREFIX, b"SET", SECRET_KEY, secrets.token_bytes(32), b"NX")
        key: bytes = await access.read(GLOBAL_PREFIX, b"GET", SECRET_KEY)
        return key

    async def add_token(self, token: Token) -> None:
        """Keep a new token. Raises StoreUnavailable."""
        await self._access().command(
            GLOBAL_PREFIX, b"HSET", TOKENS_KEY, token.id.encode(), encode(token)
        )
        self._state.tokens[token.id] = token

    async def delete_token(self, identifier: str) -> bool:
        """Delete a token; return whether there was one. Raises StoreUnavailable."""
        count = await self._access().command(
            GLOBAL_PREFIX, b"HDEL", TOKENS_KEY, identifier.encode()
        )
        self._state.tokens.pop(identifier, None)
        return bool(int(count))

    async def end_session(self, identifier: str, expires_at: float) -> None:
        """Refuse a session's cookie from now on, here at once and everywhere when the store has it.

        Ended sessions whose cookies have expired are forgotten.
        """
        self._state.ended.add(identifier)
        try:
            access, score = self._access(), str(expires_at).encode()
            now = str(time.time()).encode()
            await asyncio.gather(
                access.command(GLOBAL_PREFIX, b"ZADD", ENDED_KEY, score, identifier.encode()),
                access.command(GLOBAL_PREFIX, b"ZREMRANGEBYSCORE", ENDED_KEY, b"-inf", now),
            )
        except StoreUnavailable as error:
            log.warning("logout not stored", extra={"reason": str(error)})
