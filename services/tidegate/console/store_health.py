"""What `tidegate doctor` finds about the store, found again every half minute beside requests,
and every five seconds as long as there is a problem.

Where all processes are on this machine, also what it finds about clocks and limits here. Made by
``roles.console``, read by ``routes.overview``. The examinations are the doctor's own, in a thread:
that of the store opens a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tidegate.console.models.overview import Finding
from tidegate.console.nodes.client import UNIX
from tidegate.doctor import findings as about
from tidegate.doctor.clocks import examine_clocks
from tidegate.doctor.limits import examine_limits
from tidegate.doctor.store import examine_store
from tidegate.runtime.config.model import Config

log = logging.getLogger(__name__)

INTERVAL_S: Final = 30.0
#: The same after a problem was found, which may be over by then.
PROBLEM_INTERVAL_S: Final = 5.0


class StoreHealth:
    """See the module's docstring."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        addresses = [*config().console.edges, *config().console.routers]
        self._is_local = bool(addresses) and all(each.startswith(UNIX) for each in addresses)
        self.findings: list[Finding] = []

    async def run(self) -> None:
        """Examine the store again and again."""
        while True:
            await self.examine()
            has_problem = any(each.level == "problem" for each in self.findings)
            await asyncio.sleep(PROBLEM_INTERVAL_S if has_problem else INTERVAL_S)

    async def examine(self) -> None:
        """Examine it once."""
        try:
            found = await asyncio.to_thread(_examine, self._config(), self._is_local)
        except Exception:
            log.exception("store not examined")
            return
        self.findings = [
            Finding(area=each.area, level=each.level.value, text=each.text, change=each.change)
            for each in found
        ]


def _examine(config: Config, is_local: bool) -> list[about.Finding]:
    found, facts = examine_store(config)
    if not is_local:
        return found
    ahead_s = None if facts is None else facts.clock_ahead_s
    return [*found, *examine_clocks(ahead_s), *examine_limits(config, "serve")]
