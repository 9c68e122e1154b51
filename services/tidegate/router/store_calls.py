"""Calls of the store: once, or until the store has done it.

Used by every part of the router that calls the store; owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.store.api import StoreUnavailable

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 2.0

R = TypeVar("R")


class Backoff:
    """Pauses between attempts: jittered, doubled with each failure, bounded."""

    __slots__ = ("_longest_s",)

    def __init__(self) -> None:
        self._longest_s = RETRY_FIRST_S

    async def pause(self, operation: str, reason: str) -> None:
        """Wait before the next attempt; the store's client logs once that it is unavailable."""
        pause_s = self._longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._longest_s = min(self._longest_s * 2, RETRY_MAX_S)
        log.debug(
            "store unavailable, retrying in %.2f s",
            pause_s,
            extra={"operation": operation, "reason": reason},
        )
        await asyncio.sleep(pause_s)

    def reset(self) -> None:
        """Begin with the shortest pause again: an attempt has succeeded."""
        self._longest_s = RETRY_FIRST_S


async def call_once(call: Awaitable[R]) -> R:
    """Call once. Raises RouterUnavailable."""
    try:
        return await call
    except StoreUnavailable as error:
        raise RouterUnavailable(str(error)) from error


async def call_fenced(call: Coroutine[Any, Any, int]) -> int:
    """Make a fenced write once; its result. Raises SessionFenced, RouterUnavailable."""
    result = await call_once(call)
    if not result:
        raise SessionFenced
    return result


async def retry_until_stored(
    call: Callable[[], Awaitable[R]], operation: str, failed_for: str = ""
) -> R:
    """Repeat a call until the store has done it; ``operation`` is for the log.

    ``failed_for`` is why it has failed already, "" if it has not.
    """
    backoff = None
    if failed_for:
        backoff = Backoff()
        await backoff.pause(operation, failed_for)
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            backoff = backoff or Backoff()
            await backoff.pause(operation, str(error))
