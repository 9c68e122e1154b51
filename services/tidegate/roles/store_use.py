"""That one broker uses a store: taken at the start, kept while it runs, given up at the end.

Of ``tidegate serve``, which shares the store with no other: another one, or a router of a cluster,
waits until its lease has ended, and then says who uses the store. Used by ``serve`` and
``supervisor``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from tidegate.runtime.config.model import Config
from tidegate.store.api import StoreInUse, StoreUnavailable
from tidegate.store.redis_store import RedisStore

log = logging.getLogger(__name__)

#: Exit code when another broker has taken the store, since this one could not renew its lease.
EXIT_STORE_LOST: Final = 1
#: As long as the lease of a router: what follows a crash waits so long.
LEASE_S: Final = 3.0
RENEW_S: Final = LEASE_S / 4
#: How often it is tried to take the store.
POLL_S: Final = 0.25


def patience_s(config: Config) -> float:
    """How long the broker that is replaced may take to stop, if it is configured alike."""
    return config.drain.deadline_s + config.shutdown_timeout_s + LEASE_S


class StoreUse:
    """See the module's docstring. ``take`` before anything is read, ``give_up`` at the end."""

    def __init__(self, store: RedisStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def take(self, within_s: float) -> None:
        """Take the store as soon as nobody uses it. Raises StoreInUse, StoreUnavailable."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        waiting = False
        while True:
            try:
                await self._hold(LEASE_S)
            except StoreInUse as error:
                if loop.time() >= end_s:
                    raise
                if not waiting:
                    waiting = True
                    log.warning("waiting until the store is free", extra={"reason": str(error)})
            else:
                return
            await asyncio.sleep(POLL_S)

    async def keep(self, lost: Callable[[str], None]) -> None:
        """Keep it until cancelled; ``lost`` gets who has taken it after a lease that had ended."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._hold(LEASE_S)
            except StoreInUse as error:
                lost(str(error))
                return
            except StoreUnavailable as error:
                log.debug("lease of the store not renewed", extra={"reason": str(error)})

    async def give_up(self) -> None:
        """Let others have it at once."""
        with contextlib.suppress(StoreUnavailable):
            await self._hold(0)

    async def _hold(self, seconds: float) -> None:
        await self._store.hold(self._now_ms(), int(seconds * 1000))
