"""What `tidegate doctor` finds about the store, found again every half minute beside requests.

Made by ``roles.console``, read by ``routes.overview``. The examination is the doctor's own: it
opens a connection of its own, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tidegate.console.models.overview import Finding
from tidegate.doctor.store import examine_store
from tidegate.runtime.config.model import Config

log = logging.getLogger(__name__)

INTERVAL_S: Final = 30.0


class StoreHealth:
    """See the module's docstring."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self.findings: list[Finding] = []

    async def run(self) -> None:
        """Examine the store again and again."""
        while True:
            await self.examine()
            await asyncio.sleep(INTERVAL_S)

    async def examine(self) -> None:
        """Examine it once."""
        try:
            found, _ = await asyncio.to_thread(examine_store, self._config())
        except Exception:
            log.exception("store not examined")
            return
        self.findings = [
            Finding(area=each.area, level=each.level.value, text=each.text, change=each.change)
            for each in found
        ]
