"""An edge's part in the figures of the whole broker (``$SYS``).

Owns the last figures of each router. Routers have no connections among themselves, so an edge sends
each of them the figures of the others, with its own. Called by ``lease`` at each renewal, and by
``router_frames`` with the figures of a router.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.edge_end.router_frames import RouterFrameHandler
from tidegate.link.edge_end.router_peer import RouterPeer
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.messages import SMALL_BYTES
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
        #: This edge's own figures; none are sent while it returns nothing.
        self.own: Callable[[], dict[str, int]] = dict
        frame_handler.on("figures", self._on_figures)

    def _on_figures(self, peer: RouterPeer, operation: pb.Figures) -> None:
        self._of_routers[peer.instance] = dict(operation.values)

    def send(self) -> None:
        """Send every router this edge's figures, and those of the other routers."""
        reachable = self._routers.reachable()
        instances = {peer.instance for peer in reachable}
        known = {process: self._of_routers.get(process, {}) for process in instances}
        self._of_routers = known
        parts = [(self._edge_id, self.own()), *known.items()]
        for peer in reachable:
            assert peer.outbox is not None
            for process, values in parts:
                if values and process != peer.instance:
                    operation = peer.outbox.operation().figures
                    operation.life = process
                    operation.values.update(values)
                    peer.outbox.grew(SMALL_BYTES * len(values))
