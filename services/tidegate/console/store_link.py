"""The console's connection to the store: opened beside everything else, and again until it works.

Made by ``roles.console``. ``access`` raises StoreUnavailable until then; afterwards connections are
the store's business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tidegate.runtime.config.model import StoreConfig
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.failures import StoreRefused
from tidegate.store.inspection.access import StoreAccess

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5
#: Longest time of one operation: a person waits, and a page is cut into short ones.
TIMEOUT_S: Final = 5.0


class StoreLink:
    """See the module's docstring."""

    def __init__(self, store: StoreConfig) -> None:
        assert store.url is not None
        self._url = store.url
        timeout_s = min(TIMEOUT_S, store.operation_timeout_s)
        self._store = store.model_copy(update={"operation_timeout_s": timeout_s})
        self._access: StoreAccess | None = None
        #: Why there is no connection yet.
        self.problem = "the console has not connected yet"

    @property
    def access(self) -> StoreAccess:
        """The connections. Raises StoreUnavailable until there are some."""
        if self._access is None:
            raise StoreUnavailable(self.problem)
        return self._access

    async def run(self) -> None:
        """Connect, with retries."""
        while self._access is None:
            try:
                access = await StoreAccess.connect(self._url, self._store)
                try:
                    await access.check_layout()
                except BaseException:
                    await access.close()
                    raise
            except (StoreUnavailable, StoreRefused) as error:
                if str(error) != self.problem:
                    self.problem = str(error)
                    log.warning("store unavailable, retrying", extra={"reason": self.problem})
                await asyncio.sleep(RETRY_S)
            else:
                self.problem = ""
                self._access = access

    async def close(self) -> None:
        """Close the connections."""
        if self._access is not None:
            await self._access.close()
