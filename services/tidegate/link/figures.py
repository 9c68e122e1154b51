"""Figures of the whole broker, as an edge passes them on: its own, and those of other routers.

Owns what routers have last said. Routers do not speak to each other, so each learns from the edges
what the others count. The lease tells them again and again.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.channel import SMALL, RouterChannel
from tidegate.link.receiving import Receiving
from tidegate.link.routers import Routers
from tidegate.link.v1 import link_pb2 as pb


class Figures:
    """See the module's docstring."""

    __slots__ = ("_edge_id", "_of_routers", "_routers", "own")

    def __init__(self, edge_id: str, routers: Routers, receiving: Receiving) -> None:
        self._edge_id = edge_id
        self._routers = routers
        #: By instance.
        self._of_routers: dict[str, dict[str, int]] = {}
        #: What this edge adds to the figures of the whole broker; nothing: it tells none.
        self.own: Callable[[], dict[str, int]] = dict
        receiving.on("figures", self._heard)

    def _heard(self, channel: RouterChannel, operation: pb.Figures) -> None:
        self._of_routers[channel.instance] = dict(operation.values)

    def tell(self) -> None:
        """Tell every router this edge's figures, and those of the routers it does not speak to."""
        there = self._routers.reachable()
        lives = {channel.instance for channel in there}
        known = {life: self._of_routers.get(life, {}) for life in lives}
        self._of_routers = known
        parts = [(self._edge_id, self.own()), *known.items()]
        for channel in there:
            assert channel.outbox is not None
            for life, values in parts:
                if values and life != channel.instance:
                    operation = channel.outbox.frame.operations.add().figures
                    operation.life = life
                    operation.values.update(values)
                    channel.outbox.grew(SMALL * len(values))
