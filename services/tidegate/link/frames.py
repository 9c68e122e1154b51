"""The operations of a frame: each becomes a call of the function that is registered for its kind.

Owns the table of these functions. Both ends have one, filled by ``router_frames`` at the edge's end
and by ``edge_frames`` at the router's. Operations are handled in their order, and none of them
waits; those of an unknown kind are skipped, for the peer may be newer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)


class Named(Protocol):
    """A peer, as log lines name it."""

    @property
    def name(self) -> str:
        """The name of its process."""


P = TypeVar("P", bound=Named)


class OperationTable(Generic[P]):
    """See the module's docstring. ``P`` is what functions are given as the sender of a frame."""

    __slots__ = ("_counters", "_essential", "_handlers")

    def __init__(
        self,
        counters: Counters,
        handlers: Mapping[str, Callable[[P, Any], None]],
        essential: Collection[str] = (),
    ) -> None:
        """``essential``: kinds without which the connection is of no use: their failure ends it."""
        self._counters = counters
        self._essential = essential
        self._handlers = dict(handlers)

    def on(self, kind: str, handle: Callable[[P, Any], None]) -> None:
        """Have ``handle`` called with the sender and every operation of this kind."""
        self._handlers[kind] = handle

    def dispatch(self, sender: P, operations: Iterable[Any]) -> None:
        """Handle the operations of a frame. Raises what a function for an essential kind raises."""
        handlers = self._handlers
        for operation in operations:
            kind = operation.WhichOneof("kind")
            handle = handlers.get(kind)
            if handle is not None:
                try:
                    handle(sender, getattr(operation, kind))
                except Exception:
                    if kind in self._essential:
                        raise
                    # A fault of ours in one of them: the rest of the frame is for other clients.
                    log.exception(
                        "operation of a frame failed", extra={"peer": sender.name, "kind": kind}
                    )
                    self._counters.internal_errors += 1
