"""Figures of the whole broker: every router learns what all edges and routers count.

Both ends own what the others have last said. Routers do not speak to each other, so edges pass on
what they have heard: ``lease`` has an edge tell its figures again and again, and ``frame_handler``
has a router take them and answer with its own.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.edge_end.router_frames import RouterFrameHandler
from tidegate.link.edge_end.router_peer import SMALL, RouterPeer
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import RouterService
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.v1 import link_pb2 as pb


class EdgeFigures:
    """See the module's docstring."""

    __slots__ = ("_edge_id", "_of_routers", "_routers", "own")

    def __init__(
        self, edge_id: str, routers: RouterTable, frame_handler: RouterFrameHandler
    ) -> None:
        self._edge_id = edge_id
        self._routers = routers
        #: By instance.
        self._of_routers: dict[str, dict[str, int]] = {}
        #: What this edge adds to the figures of the whole broker; nothing: it tells none.
        self.own: Callable[[], dict[str, int]] = dict
        frame_handler.on("figures", self._heard)

    def _heard(self, channel: RouterPeer, operation: pb.Figures) -> None:
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


class RouterFigures:
    """See the module's docstring."""

    __slots__ = ("_edges", "_known", "_router", "own")

    def __init__(self, router: RouterService, edges: AttachedEdges) -> None:
        self._router = router
        self._edges = edges
        #: By life: the instance of a router, the identifier of an edge.
        self._known: dict[str, dict[str, int]] = {}
        #: What this router adds to the figures of the whole broker; nothing: it tells none.
        self.own: Callable[[], dict[str, int]] = dict

    def heard(self, attached: AttachedEdge, told: pb.Figures) -> None:
        """An edge tells figures: answer its own with this router's."""
        self._known[told.life] = dict(told.values)
        peer = attached.peer
        own = self.own()
        if own and told.life == peer.edge_id:
            operation = peer.outbox.frame.operations.add().figures
            operation.life = self._router.instance
            operation.values.update(own)
            peer.outbox.grew(SMALL * len(own))

    def everybody(self) -> dict[str, dict[str, int]]:
        """The figures of every process that is there, as far as they are known, by its life."""
        lives = {*self._edges.by_id, *self._router.live_routers()}
        self._known = {life: found for life, found in self._known.items() if life in lives}
        return {**self._known, self._router.instance: self.own()}
