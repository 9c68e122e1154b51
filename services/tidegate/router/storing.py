"""How the store is asked: once, or until it has taken it.

Used by every part of the router that calls the store; owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.store.api import StoreUnavailable

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 2.0

R = TypeVar("R")


async def available(call: Coroutine[Any, Any, R]) -> R:
    """Ask once. Raises RouterUnavailable."""
    try:
        return await call
    except StoreUnavailable as error:
        raise RouterUnavailable(str(error)) from error


async def fenced(call: Coroutine[Any, Any, int]) -> int:
    """Ask once for a fenced write; its result. Raises SessionFenced, RouterUnavailable."""
    result = await available(call)
    if not result:
        raise SessionFenced
    return result


async def insist(call: Callable[[], Coroutine[Any, Any, R]], what: str) -> R:
    """Repeat what must happen until the store has done it; ``what`` is for the log."""
    delay = RETRY_FIRST_S
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            log.warning("cannot %s, will retry", what, extra={"reason": str(error)})
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay = min(delay * 2, RETRY_MAX_S)
