"""What this edge is sent: the filters of its clients, and which messages of each.

Owned by ``ClientRegistry``, which says when a client, a replay or a sample begins and ends to need
what matches filters. What the edge as a whole needs is announced to the routers when it changes,
all filters of a change together; that it needs less of a filter than before only after a moment:
each SUBSCRIBE of a durable session needs everything until it has taken effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.edge.client.context import EdgeContext
    from tidegate.mqtt.packets import SubscriptionOptions

#: After so long it is announced that only messages of QoS 0 are needed, of so many filters at once.
LOWER_S: Final = 0.5
LOWERED_AT_ONCE: Final = 1_000


def needs_only_qos0(incarnation: int, options: SubscriptionOptions) -> bool:
    """Whether a subscription needs only messages of QoS 0 (``incarnation`` 0: is not durable).

    What is published with another QoS reaches a durable session by its queue; but with QoS 0 it is
    sent a copy of it (see ``fan_out``).
    """
    return incarnation > 0 and options.qos > 0


class Interest:
    """See the module's docstring."""

    __slots__ = ("_context", "_everything", "_is_lowering", "_qos0", "_too_much")

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        #: By filter: how many need everything, and how many only messages of QoS 0.
        self._everything: dict[str, int] = {}
        self._qos0: dict[str, int] = {}
        #: Filters of which everything is announced, but only QoS 0 needed.
        self._too_much: dict[str, None] = {}
        self._is_lowering = False

    def hold(self, filters: Iterable[str]) -> None:
        """Have this edge sent everything that matches; ``release`` must follow."""
        everything, too_much = self._everything, self._too_much
        new = []
        for name in filters:
            count = everything.get(name, 0)
            everything[name] = count + 1
            if count:
                continue
            if name in too_much:
                del too_much[name]
            else:
                new.append(name)
        if new:
            self._context.router.add_interest(self._context.edge_id, new)

    def release(self, filters: Iterable[str]) -> None:
        """End that, unless others need it."""
        everything, qos0 = self._everything, self._qos0
        removed: list[str] = []
        for name in filters:
            left = everything[name] - 1
            if left:
                everything[name] = left
                continue
            del everything[name]
            if name in qos0:
                self._too_much[name] = None
            else:
                removed.append(name)
        if removed:
            self._context.router.remove_interest(self._context.edge_id, removed)
        if self._too_much:
            self._lower_later()

    def hold_qos0(self, filters: Iterable[str]) -> None:
        """Have this edge sent at least what has QoS 0; ``release_qos0`` must follow."""
        everything, qos0 = self._everything, self._qos0
        new = []
        for name in filters:
            count = qos0.get(name, 0)
            qos0[name] = count + 1
            if not count and name not in everything:
                new.append(name)
        if new:
            self._context.router.add_interest(self._context.edge_id, new, only_qos0=True)

    def release_qos0(self, filters: Iterable[str]) -> None:
        """End that, unless others need it."""
        everything, qos0 = self._everything, self._qos0
        removed = []
        for name in filters:
            left = qos0[name] - 1
            if left:
                qos0[name] = left
                continue
            del qos0[name]
            if name not in everything:
                self._too_much.pop(name, None)
                removed.append(name)
        if removed:
            self._context.router.remove_interest(self._context.edge_id, removed)

    def _lower_later(self) -> None:
        if not self._is_lowering:
            self._is_lowering = True
            self._context.later(LOWER_S, self._lower)

    def _lower(self) -> None:
        """Announce of what only messages of QoS 0 are needed."""
        self._is_lowering = False
        too_much = self._too_much
        filters = list(islice(too_much, LOWERED_AT_ONCE))
        if not filters:
            return
        for name in filters:
            del too_much[name]
        self._context.router.add_interest(self._context.edge_id, filters, only_qos0=True)
        if too_much:
            self._lower_later()
