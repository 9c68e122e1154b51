"""A router's part in the figures of the whole broker (``$SYS``).

Owns what each edge and each other router has last said, through edges. Called by ``edge_frames``
with what edges send, which is answered with this router's own figures, and by the publisher of
``$SYS`` for those of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.interfaces import RouterService
from tidegate.link.messages import SMALL_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.v1 import link_pb2 as pb


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

    def on_figures(self, attached: AttachedEdge, figures: pb.Figures) -> None:
        """An edge tells figures: answer its own with this router's."""
        self._known[figures.life] = dict(figures.values)
        peer = attached.peer
        own = self.own()
        if own and figures.life == peer.edge_id:
            operation = peer.outbox.frame.operations.add().figures
            operation.life = self._router.instance
            operation.values.update(own)
            peer.outbox.grew(SMALL_BYTES * len(own))

    def all_processes(self) -> dict[str, dict[str, int]]:
        """The figures of every process that is there, as far as they are known, by its life."""
        processes = {*self._edges.by_id, *self._router.live_routers()}
        self._known = {
            process: found for process, found in self._known.items() if process in processes
        }
        return {**self._known, self._router.instance: self.own()}
