"""Notices that this process did not run for a while: it was stopped, or had no processor.

Owned by ``link_server``, which asks it before it reads what lay in its sockets meanwhile: its edges
have given the router up by then, and have sent their publishes to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class PauseWatch:
    """Measures the time between two calls of ``pause_s``, which is called all the time.

    ``limit_s`` is the longest pause that edges do not notice.
    """

    __slots__ = ("_called_s", "_limit_s", "now_s")

    def __init__(self, limit_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self.now_s = now_s
        self._called_s = now_s()

    def pause_s(self) -> float:
        """Return the time since the last call in seconds if it is too long; 0 otherwise."""
        now_s = self.now_s()
        since_s = now_s - self._called_s
        self._called_s = now_s
        return since_s if since_s > self._limit_s else 0.0
