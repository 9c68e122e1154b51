"""Log lines of work that is repeated: one when it begins to fail, one when it succeeds again.

Used by the tasks of the router that try again at an interval. Owns what has been logged since the
last success, and nothing else.
"""

from __future__ import annotations

import logging

from tidegate.link.interfaces import RouterUnavailable
from tidegate.store.api import StoreUnavailable


class FailureLog:
    """Logs ``work`` as failed once for each kind of error between two successes."""

    __slots__ = ("_kinds", "_log", "_work")

    def __init__(self, log: logging.Logger, work: str) -> None:
        """``work`` begins the lines: "sweep" for "sweep failed, retrying"."""
        self._log = log
        self._work = work
        self._kinds: set[type[Exception]] = set()

    def failed(self, error: Exception) -> bool:
        """Log a failure, unless its kind has been; True for a fault, which has a traceback."""
        is_fault = not isinstance(error, StoreUnavailable | RouterUnavailable)
        kind = type(error) if is_fault else StoreUnavailable
        if kind not in self._kinds:
            self._kinds.add(kind)
            if is_fault:
                self._log.error("%s failed, retrying", self._work, exc_info=error)
            else:
                reason = {"reason": str(error)}
                self._log.warning("%s failed, retrying", self._work, extra=reason)
        return is_fault

    def succeeded(self) -> None:
        """Log that the work succeeds again, if it had failed."""
        if self._kinds:
            self._kinds.clear()
            self._log.info("%s succeeds again", self._work)
