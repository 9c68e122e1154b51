"""An event loop whose time passes only when everybody waits, and then at once.

For tests of what takes time without sockets: pacing, deadlines, keep alive. ``run_virtual`` runs a
coroutine on such a loop; an hour of it costs as much as the work that is done in that hour.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Does not wait for a timeout: it lets the time of the loop pass instead."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; nobody else is there to wait for."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the test waits for something that never comes")
        if not ready and timeout is not None and timeout > 0:
            self.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's docstring."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds; a thousand have passed at the start."""
        return 1000.0 + self._virtual.passed_s


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
