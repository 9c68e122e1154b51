"""Which messages have been delivered that may come once more: QoS 2 messages and wills.

When a router dies, what it has not confirmed is sent again to another one, which delivers it again.
Owned by ``edge``, which asks for every message that has an identity. Bounded by count: it holds who
was given the last messages, for as long as it takes to send them again. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

#: A client identifier and the epoch of its connection.
Connection: TypeAlias = tuple[str, int]

MAX_MESSAGES: Final = 16_384

_NOBODY: Final[frozenset[Connection]] = frozenset()


class DeliveredOnce:
    """See the module's docstring."""

    __slots__ = ("_delivered",)

    def __init__(self) -> None:
        #: By identity, the newest last. Most share one set: that of the topic's fan-out.
        self._delivered: OrderedDict[str, frozenset[Connection]] = OrderedDict()

    def add(
        self, identity: str, connections: frozenset[Connection]
    ) -> frozenset[Connection] | None:
        """Note who is given a message now; return who was given it before, None if it is new."""
        delivered = self._delivered
        earlier = delivered.get(identity)
        if earlier is None:
            delivered[identity] = connections
            if len(delivered) > MAX_MESSAGES:
                delivered.popitem(last=False)
            return None
        if not connections <= earlier:
            delivered[identity] = earlier | connections
        return earlier
